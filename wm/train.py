"""Fits a world model: TrainState, one jitted step, and the loop with its checkpoints.

The whole state of a run is (params, optimiser state, step, position in the footage), all of it in every checkpoint, and
every random number is derived from the seed and the step: a resumed run equals the uninterrupted one bit for bit.

There is one code path from one CPU to many devices on many hosts: the state lies on every device, a batch is divided
among them, and the compiler puts in the communication.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import struct
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint.checkpoint_managers import preservation_policy

from wm import model, rssm
from wm.config import ModelConfig, TrainConfig
from wm.data.augment import augment
from wm.data.footage import Footage
from wm.data.loader import WindowSource, windows
from wm.errors import InputError
from wm.files import appearing, checksums
from wm.nets import expected, most_likely
from wm.types import Batch, Normaliser

HELD_OUT_WINDOWS = 32
EXPLODED = 10.0
CHECKSUMS = "checksums.json"

logger = logging.getLogger(__name__)


@struct.dataclass
class TrainState:
    """Everything that a step changes."""

    params: dict[str, Any]
    optimiser: optax.OptState
    step: Array


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    Attributes:
      step, steps: done and to do. rate: steps a second. seconds_left: at this rate.
      terms: loss and its terms, means over the steps since the last report.
      held_out: open-loop mean squared error on held-out windows, or None where nothing is held out.
      best: the step whose held-out error was the lowest. seconds: since the last report.
    """

    step: int
    steps: int
    rate: float
    seconds_left: float
    terms: dict[str, float]
    held_out: float | None
    best: int
    seconds: float


def check(footage: Footage, train: TrainConfig) -> None:
    """Raises InputError where no training episode is as long as a window."""
    WindowSource(footage, "train", train.length)


def normaliser_of(footage: Footage) -> Normaliser:
    """Mean and standard deviation of the training split's tags and actions; one that is constant, to the precision of
    float32, keeps its unit.
    """

    def moments(name: str) -> tuple[Any, Any]:
        found = footage.moments["train"][name]
        mean, std = np.array(found.mean, np.float32), np.array(found.std, np.float32)
        return mean, np.where(std <= 1e-6 * np.maximum(1.0, np.abs(mean)), np.float32(1.0), std)

    return Normaliser(*moments("sensors"), *moments("actions"))


def optimiser(train: TrainConfig) -> optax.GradientTransformation:
    """Adam under a cosine schedule, gradients clipped by their global norm."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, train.learning_rate, train.warmup, max(train.steps, train.warmup + 1)
    )
    return optax.chain(optax.clip_by_global_norm(train.clip), optax.adam(schedule))


def create(
    config: ModelConfig, train: TrainConfig, normaliser: Normaliser, seed: int, params: dict[str, Any] | None = None
) -> TrainState:
    """The state before the first step, with fresh parameters where none are given."""
    if params is None:
        params = model.init(config, normaliser, jax.random.key(seed))["params"]
    return TrainState(params, optimiser(train).init(params), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames=("config", "train"))
def train_step(
    config: ModelConfig, train: TrainConfig, state: TrainState, normaliser: Normaliser, batch: Batch, key: Array
) -> tuple[TrainState, dict[str, Array]]:
    """One gradient step on a `[B, T]` batch; `key` is the run's, folded with the step here."""
    augment_key, loss_key = jax.random.split(jax.random.fold_in(key, state.step))
    weight = jnp.minimum(1.0, (state.step + 1) / (train.ramp * train.steps))

    def loss(params: dict[str, Any]) -> tuple[Array, dict[str, Array]]:
        variables = {"params": params, "normaliser": normaliser}
        return model.loss(config, train, variables, augment(train, batch, augment_key), loss_key, weight)

    (value, terms), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, optimiser_state = optimiser(train).update(gradients, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, optimiser_state, state.step + 1), {"loss": value, **terms}


@partial(jax.jit, static_argnames=("config", "train"))
def open_loop_error(config: ModelConfig, train: TrainConfig, variables: model.Variables, batch: Batch) -> Array:
    """Mean squared error, in pictures where there are any and else in sensors, of predictions 1 to `open_loop` frames
    ahead: filtered with the most likely, rolled out with the expected values.
    """
    embedding = model.encode(config, variables, batch.observation)
    start = rssm.start(config, (batch.action.shape[0],))
    states, _ = model.observe(config, variables, start, embedding, batch.action, draw=most_likely)
    launch = jax.tree.map(lambda x: x[:, train.context - 1], states)
    ahead = jax.tree.map(lambda x: x[:, train.context :], batch)
    dream, _ = model.imagine(config, variables, launch, ahead.action, draw=expected)
    prediction = model.decode(config, variables, dream)
    if config.image:
        return model.image_error(prediction, ahead.observation).mean()
    return model.sensor_error(variables, prediction, ahead.observation).mean()


def fit(
    footage: Footage,
    config: ModelConfig,
    train: TrainConfig,
    checkpoints: Path,
    seed: int,
    report: Callable[[Progress], None],
    every: int = 200,
    given: model.Variables | None = None,
) -> model.Variables:
    """Trains from the newest sound checkpoint in `checkpoints`, or from the variables that are given, or from fresh
    ones, to `train.steps`, or until the held-out error has not improved for `train.patience` steps. Returns the
    variables with the lowest held-out error. What is usual in tags and actions is the footage's own, or the given one.

    Every `every` steps it measures the held-out error, reports and saves, in this order, so that what was saved has
    been reported. All devices of all processes share a batch.

    Raises:
      InputError: the footage is too short for one window, the batch cannot be divided among the devices, the loss
        explodes or is no longer finite, or the best checkpoint is damaged.
    """
    if train.batch % jax.device_count():
        raise InputError(
            f"a batch of {train.batch} windows cannot be divided among {jax.device_count()} devices; give a --batch "
            "that is a multiple of them."
        )
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    everywhere, divided = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("data"))
    share = {"process": jax.process_index(), "processes": jax.process_count()}
    batches = iter(windows(footage, "train", length=train.length, batch=train.batch, seed=seed, **share))
    normaliser = given["normaliser"] if given else normaliser_of(footage)
    held_out = _held_out(footage, train)
    key = jax.jit(jax.random.key, out_shardings=everywhere)(seed)
    fresh = jax.jit(create, static_argnums=(0, 1), out_shardings=everywhere)
    state = fresh(config, train, normaliser, seed, given and given["params"])

    with _Checkpoints(checkpoints) as saved:
        run = saved.newest(_Run(state, batches.get_state(), best=0, lowest=math.inf, reconstruction=math.inf))
        batches.set_state(run.loader)
        step = first = int(run.state.step)
        began = reported = time.monotonic()
        told: list[dict[str, Array]] = []
        while step < train.steps and (step % every or step - run.best < train.patience):
            batch = jax.tree.map(partial(jax.make_array_from_process_local_data, divided), next(batches))
            run.state, terms = train_step(config, train, run.state, normaliser, batch, key)
            told.append(terms)
            step += 1
            if step % every and step != train.steps:
                continue
            means = {name: float(np.mean([terms[name] for terms in told])) for name in told[0]}
            told.clear()
            variables = {"params": run.state.params, "normaliser": normaliser}
            error = float(open_loop_error(config, train, variables, held_out)) if held_out else None
            _check_health(run, step, saved.latest, means, error)
            run.reconstruction = min(run.reconstruction, _reconstruction(means))
            if error is None or error < run.lowest:
                run.best, run.lowest = step, math.inf if error is None else error
            run.loader = batches.get_state()
            now = time.monotonic()
            rate = (step - first) / (now - began)
            left = (train.steps - step) / rate
            report(Progress(step, train.steps, rate, left, means, error, run.best, now - reported))
            reported = now
            saved.save(run)
        if run.best != step:
            run = saved.read(run, run.best)
    return jax.device_get({"params": run.state.params, "normaliser": normaliser})


@dataclass
class _Run:
    """All that a checkpoint holds: the state, the place in the footage, the lowest held-out error with its step, and
    the lowest loss of reconstruction.
    """

    state: TrainState
    loader: dict[str, Any]
    best: int
    lowest: float
    reconstruction: float


def _check_health(run: _Run, step: int, latest: int | None, terms: dict[str, float], held_out: float | None) -> None:
    """Raises InputError where a run has gone astray, before it is saved."""
    values = [*terms.values(), *([] if held_out is None else [held_out])]
    reconstruction = _reconstruction(terms)
    if not all(map(math.isfinite, values)):
        trouble = "is no longer finite"
    elif reconstruction > EXPLODED * run.reconstruction:
        trouble = f"has exploded (reconstruction costs {reconstruction:.3g} after {run.reconstruction:.3g})"
    else:
        return
    raise InputError(
        f"the loss {trouble} at step {step}; the last good checkpoint is that of step {latest or 0}: start a new run "
        "with a lower --learning-rate."
    )


def _reconstruction(terms: dict[str, float]) -> float:
    return sum(value for name, value in terms.items() if name.endswith(("image", "sensors")))


class _Best(preservation_policy.PreservationPolicy):
    """Keeps one step."""

    step = 0

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class _Checkpoints:
    """The newest two checkpoints and the best, each with the SHA-256 of its files; a damaged one is passed over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._best = _Best()
        keep = preservation_policy.AnyPreservationPolicy([preservation_policy.LatestN(2), self._best])
        self._manager = ocp.CheckpointManager(
            self._folder, options=ocp.CheckpointManagerOptions(preservation_policy=keep)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        return self._manager.latest_step()

    def save(self, run: _Run) -> None:
        """Returns once the checkpoint is on the disk."""
        step, self._best.step = int(run.state.step), run.best
        rest = {"loader": run.loader, "best": run.best, "lowest": run.lowest, "reconstruction": run.reconstruction}
        content = ocp.args.Composite(state=ocp.args.StandardSave(run.state), run=ocp.args.JsonSave(rest))
        self._manager.save(step, args=content)
        self._manager.wait_until_finished()
        if jax.process_index() == 0:
            with appearing(self._folder / str(step) / CHECKSUMS) as file:
                file.write_text(json.dumps(checksums(self._folder / str(step))))

    def newest(self, run: _Run) -> _Run:
        """The newest sound checkpoint, or `run` where there is none; damaged ones are removed."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            if self._sound(step):
                return self.read(run, step)
            logger.warning("the checkpoint of step %d is damaged and is removed", step)
            self._manager.delete(step)
        return run

    def read(self, run: _Run, step: int) -> _Run:
        """The checkpoint of a step, laid out over the devices as `run` is.

        Raises:
          InputError: it is damaged.
        """
        if not self._sound(step):
            raise InputError(f"the checkpoint of step {step} in {self._folder} is damaged; start a new run.")
        content = ocp.args.Composite(state=ocp.args.StandardRestore(run.state), run=ocp.args.JsonRestore())
        restored = self._manager.restore(step, args=content)
        return _Run(restored.state, **restored.run)

    def _sound(self, step: int) -> bool:
        folder = self._folder / str(step)
        try:
            return json.loads((folder / CHECKSUMS).read_text()) == checksums(folder)
        except (FileNotFoundError, ValueError):
            return False


def _held_out(footage: Footage, train: TrainConfig) -> Batch | None:
    """The same windows whatever the seed, so that runs can be compared."""
    if max(footage.lengths("holdout"), default=0) < train.length:
        return None
    batches = windows(footage, "holdout", length=train.length, batch=HELD_OUT_WINDOWS, seed=0)
    return next(iter(batches))
