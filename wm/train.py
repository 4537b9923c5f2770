"""Fits a world model: TrainState, one jitted step, and the loop with its checkpoints.

The whole state of a run is (params, optimiser state, step, position in the footage), all of it in every checkpoint, and
every random number is derived from the seed and the step: a resumed run equals the uninterrupted one bit for bit.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import struct
from jax import Array

from wm import model, rssm
from wm.config import ModelConfig, TrainConfig
from wm.data.footage import Footage
from wm.data.loader import WindowSource, windows
from wm.errors import InputError
from wm.types import Batch, Normaliser

HELD_OUT_WINDOWS = 32


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
      terms: loss terms of the last step. held_out: open-loop mean squared error on held-out windows, or None between
        two measurements.
    """

    step: int
    steps: int
    rate: float
    seconds_left: float
    terms: dict[str, float]
    held_out: float | None


def check(footage: Footage, train: TrainConfig) -> None:
    """Raises InputError where no training episode is as long as a window."""
    WindowSource(footage, "train", train.length)


def normaliser_of(footage: Footage) -> Normaliser:
    """Mean and standard deviation of the training split's tags and actions; a constant one keeps its unit."""

    def moments(count: int, columns: Iterator[np.ndarray]) -> tuple[Array, Array]:
        total, total_squares, rows = np.zeros(count), np.zeros(count), 0
        for column in columns:
            total += column.sum(axis=0, dtype=np.float64)
            total_squares += np.square(column, dtype=np.float64).sum(axis=0)
            rows += len(column)
        mean = total / rows
        std = np.sqrt(np.maximum(total_squares / rows - mean**2, 0.0))
        return jnp.asarray(mean, jnp.float32), jnp.asarray(np.where(std < 1e-3, 1.0, std), jnp.float32)

    sensors = moments(len(footage.spec.tags), (episode.sensors for episode in footage.episodes("train")))
    actions = moments(len(footage.spec.actions), (episode.actions for episode in footage.episodes("train")))
    return Normaliser(*sensors, *actions)


def optimiser(train: TrainConfig) -> optax.GradientTransformation:
    """Adam under a cosine schedule, gradients clipped by their global norm."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, train.learning_rate, train.warmup, max(train.steps, train.warmup + 1)
    )
    return optax.chain(optax.clip_by_global_norm(train.clip), optax.adam(schedule))


def create(config: ModelConfig, train: TrainConfig, normaliser: Normaliser, seed: int) -> TrainState:
    """The state before the first step."""
    params = jax.jit(model.init, static_argnums=0)(config, normaliser, jax.random.key(seed))["params"]
    return TrainState(params, optimiser(train).init(params), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames=("config", "train"))
def train_step(
    config: ModelConfig, train: TrainConfig, state: TrainState, normaliser: Normaliser, batch: Batch, key: Array
) -> tuple[TrainState, dict[str, Array]]:
    """One gradient step on a `[B, T]` batch; `key` is the run's, folded with the step here."""

    def loss(params: dict[str, Any]) -> tuple[Array, dict[str, Array]]:
        variables = {"params": params, "normaliser": normaliser}
        return model.loss(config, train, variables, batch, jax.random.fold_in(key, state.step))

    (value, terms), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, optimiser_state = optimiser(train).update(gradients, state.optimiser, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(params, optimiser_state, state.step + 1), {"loss": value, **terms}


@partial(jax.jit, static_argnames=("config", "train"))
def open_loop_error(
    config: ModelConfig, train: TrainConfig, variables: model.Variables, batch: Batch, key: Array
) -> Array:
    """Mean squared error, in pictures where there are any and else in sensors, of predictions 1 to `open_loop` frames
    ahead.
    """
    observe_key, imagine_key = jax.random.split(key)
    embedding = model.encode(config, variables, batch.observation)
    start = rssm.start(config, (batch.action.shape[0],))
    states, _ = model.observe(config, variables, start, embedding, batch.action, observe_key)
    launch = jax.tree.map(lambda x: x[:, train.context - 1], states)
    ahead = jax.tree.map(lambda x: x[:, train.context :], batch)
    dream, _ = model.imagine(config, variables, launch, ahead.action, imagine_key)
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
) -> model.Variables:
    """Trains from the newest checkpoint in `checkpoints`, or from the start, to `train.steps`.

    Reports, measures the held-out error and saves every `every` steps.

    Raises:
      InputError: the footage is too short for one window, or the loss is no longer finite.
    """
    normaliser = normaliser_of(footage)
    state = create(config, train, normaliser, seed)
    key = jax.random.key(seed)
    batches = iter(windows(footage, "train", length=train.length, batch=train.batch, seed=seed))
    held_out = _held_out(footage, train, seed)

    with ocp.CheckpointManager(checkpoints.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=2)) as manager:
        if manager.latest_step() is not None:
            restored = manager.restore(
                manager.latest_step(),
                args=ocp.args.Composite(train=ocp.args.StandardRestore(state), loader=ocp.args.JsonRestore()),
            )
            state = restored.train
            batches.set_state(restored.loader)
        step = first = int(state.step)
        began = time.monotonic()
        while step < train.steps:
            state, terms = train_step(config, train, state, normaliser, next(batches), key)
            step += 1
            if step % every and step != train.steps:
                continue
            values = {name: float(value) for name, value in terms.items()}
            if not all(math.isfinite(value) for value in values.values()):
                raise InputError(
                    f"the loss is no longer finite at step {step}; the last good checkpoint is "
                    f"{manager.latest_step()}: lower the learning rate and start a new run."
                )
            manager.save(
                step,
                args=ocp.args.Composite(
                    train=ocp.args.StandardSave(state), loader=ocp.args.JsonSave(batches.get_state())
                ),
            )
            rate = (step - first) / (time.monotonic() - began)
            variables = {"params": state.params, "normaliser": normaliser}
            error = float(open_loop_error(config, train, variables, held_out, key)) if held_out else None
            report(Progress(step, train.steps, rate, (train.steps - step) / rate, values, error))
    return {"params": state.params, "normaliser": normaliser}


def _held_out(footage: Footage, train: TrainConfig, seed: int) -> Batch | None:
    if max(footage.lengths("holdout"), default=0) < train.length:
        return None
    batches = windows(footage, "holdout", length=train.length, batch=HELD_OUT_WINDOWS, seed=seed)
    return next(iter(batches))
