"""The one artefact that is deployed: a folder with everything that the monitor needs and nothing of the footage.

    arrays/         Orbax: parameters, normaliser, calibration, view, actor and critic
    bundle.json     model, monitor, alarm and behaviour configuration, the footage's spec, the recipe that made it
    card.md         the same in plain words
    checksums.json  SHA-256 of every other file

It loads on a CPU whatever it was trained on; a damaged one is refused by name.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array
from numpy.typing import ArrayLike

from wm import actor, model, surprise
from wm.actor import Behavior
from wm.config import (
    ActionSpace,
    AlarmConfig,
    BehaviorConfig,
    FootageSpec,
    ModelConfig,
    MonitorConfig,
    RewardConfig,
    from_json,
    to_json,
)
from wm.errors import InputError
from wm.files import checksums, sync
from wm.nets import expected
from wm.surprise import Calibration, MonitorState, Surprise, Told
from wm.types import Normaliser, Observation

FORMAT = 6


@dataclass(frozen=True)
class Bundle:
    """A world model with its monitor, ready to watch.

    Attributes:
      spec: the pictures, tags and actions that it expects.
      calibration: None until `experiments.calibrate` has run.
      recipe: how it was made: commands, seeds, fingerprint of the footage, metrics.
      view: `[H, W]` float32, the mean picture of the footage that it was calibrated on, in grey levels; None without a
        camera or before `experiments.calibrate` has run.
      behavior: an actor and its critic that have learnt in the dreams of this model, None before `experiments.learn`.
    """

    spec: FootageSpec
    config: ModelConfig
    variables: model.Variables
    calibration: Calibration | None = None
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    alarm: AlarmConfig = field(default_factory=AlarmConfig)
    recipe: dict[str, Any] = field(default_factory=dict)
    view: Array | None = None
    behavior: Behavior | None = None

    def start(self) -> MonitorState:
        """The monitor's state before the first frame."""
        return surprise.start(self.config, self.monitor, self.spec.rate_hz)

    def observation(self, image: ArrayLike | None, sensors: ArrayLike | None = None) -> Observation:
        """A frame with its tags; tags that are not known are neither seen nor scored."""
        unknown = jnp.full(len(self.spec.tags), jnp.nan, jnp.float32)
        return Observation(
            None if image is None else jnp.asarray(image),
            unknown if sensors is None else jnp.asarray(sensors, jnp.float32),
        )

    def action(self) -> Array:
        """The action that was usual in the footage, `[A]`."""
        return self.variables["normaliser"].action_mean

    def watch(self, state: MonitorState, observation: Observation, action: Array) -> tuple[MonitorState, Surprise]:
        """One frame through `wm.surprise.watch`, compiled once.

        Raises:
          InputError: the bundle is not calibrated.
        """
        return _watch(*self._static(), self.variables, self._calibrated(), state, observation, action)

    def watch_all(
        self, states: MonitorState, observations: Observation, actions: Array
    ) -> tuple[MonitorState, Surprise]:
        """One frame of each of several like cameras, all with a leading axis, in one compiled step."""
        return _watch_all(*self._static(), self.variables, self._calibrated(), states, observations, actions)

    def look_ahead(self, state: MonitorState, action: Array) -> Array | None:
        """The pictures to come, see `wm.surprise.look_ahead`."""
        return _look_ahead(*self._static(), self.variables, state, action)

    def coast(self, state: MonitorState, action: Array) -> MonitorState:
        """A frame that never came: the state one frame later, see `wm.surprise.coast`."""
        return _coast(*self._static(), self.variables, state, action)

    def replay(self, state: MonitorState, observations: Observation, actions: Array) -> tuple[MonitorState, Told]:
        """`[T]` frames through the same function under scan. Without a calibration scores and drifts mean nothing, and
        the errors are right.
        """
        calibration = self.calibration or surprise.uncalibrated(*self._static())
        return _replay(*self._static(), self.variables, calibration, state, observations, actions)

    def predict(self, state: MonitorState, actions: Array) -> model.Prediction:
        """What follows the present under `[K, A]` actions: pictures `[K, H, W, C]` and sensors `[K, S]`."""
        return _predict(self.config, self.variables, state, actions)

    def _static(self) -> tuple[ModelConfig, MonitorConfig, float]:
        return self.config, self.monitor, self.spec.rate_hz

    def _calibrated(self) -> Calibration:
        if self.calibration is None:
            raise InputError("this bundle is not calibrated; run experiments.calibrate on normal footage first.")
        return self.calibration


_watch = jax.jit(surprise.watch, static_argnums=(0, 1, 2))
_watch_all = jax.jit(
    jax.vmap(surprise.watch, in_axes=(None, None, None, None, None, 0, 0, 0)), static_argnums=(0, 1, 2)
)
_look_ahead = jax.jit(surprise.look_ahead, static_argnums=(0, 1, 2))
_coast = jax.jit(surprise.coast, static_argnums=(0, 1, 2))
_replay = jax.jit(surprise.replay, static_argnums=(0, 1, 2))


@partial(jax.jit, static_argnums=0)
def _predict(config: ModelConfig, variables: model.Variables, state: MonitorState, actions: Array) -> model.Prediction:
    present = jax.tree.map(lambda x: x[None], state.latent)
    states, _ = model.imagine(config, variables, present, actions[None], draw=expected)
    return jax.tree.map(lambda x: x[0], model.decode(config, variables, states))


def digest(path: Path) -> str:
    """What tells a bundle's folder from any other: SHA-256 of the checksums of its files."""
    return hashlib.sha256((path / "checksums.json").read_bytes()).hexdigest()


def save(bundle: Bundle, path: Path) -> None:
    """Writes the folder; it appears at `path` whole or not at all. Of several processes, only one may call it.

    Raises:
      InputError: something is there already.
    """
    if path.exists():
        raise InputError(f"{path} exists already; choose another folder for the bundle or remove it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        here = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(here, active_processes={here}, barrier_sync_key_prefix=building.name)
        with ocp.StandardCheckpointer(multiprocessing_options=alone) as checkpointer:
            known: dict[str, Any] = {"calibration": bundle.calibration, "view": bundle.view}
            if bundle.behavior:
                known |= {"actor": bundle.behavior.actor, "critic": bundle.behavior.critic}
            arrays = bundle.variables | {name: value for name, value in known.items() if value is not None}
            checkpointer.save((building / "arrays").absolute(), _by_name(jax.tree.leaves_with_path(arrays)))
        (building / "bundle.json").write_text(json.dumps(_document(bundle), indent=2) + "\n")
        (building / "card.md").write_text(_card(bundle))
        (building / "checksums.json").write_text(json.dumps(checksums(building), indent=2) + "\n")
        for file in building.rglob("*"):
            sync(file)
        building.chmod(0o755)
        building.rename(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def verify(path: Path) -> None:
    """Checks every byte of a bundle.

    Raises:
      InputError: there is no bundle at `path`, or a file of it is missing, foreign or damaged; the message names it.
    """
    try:
        recorded = json.loads((path / "checksums.json").read_text())
    except OSError:
        raise InputError(
            f"{path} is not a bundle (it has no checksums.json); give the folder that experiments.train wrote."
        ) from None
    except ValueError:
        raise InputError(
            f"{path / 'checksums.json'} is damaged; copy the bundle again from where it was made."
        ) from None
    found = checksums(path)
    for name in sorted(recorded.keys() | found.keys()):
        if recorded.get(name) != found.get(name):
            state = "missing" if name not in found else "not part of the bundle" if name not in recorded else "damaged"
            raise InputError(f"{path / name} is {state}; copy the bundle again from where it was made.")


def load(path: str | Path) -> Bundle:
    """Reads a bundle after checking every byte of it.

    Raises:
      InputError: see `verify`, or it is of another format.
    """
    path = Path(path)
    verify(path)
    document = json.loads((path / "bundle.json").read_text())
    if document["format"] != FORMAT:
        raise InputError(f"{path} has bundle format {document['format']}, this version reads {FORMAT}; train it again.")
    spec = from_json(FootageSpec, document["spec"])
    config = from_json(ModelConfig, document["model"])
    monitor = from_json(MonitorConfig, document["monitor"])
    learnt = _learnt(document.get("behavior"))
    whole = jax.eval_shape(lambda: _template(spec, config, monitor, learnt, document))
    leaves, tree = jax.tree.flatten_with_path(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), whole))
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.restore((path / "arrays").absolute(), _by_name(leaves))
    arrays = jax.tree.unflatten(tree, [jnp.asarray(stored.get(_name(place), leaf)) for place, leaf in leaves])
    return Bundle(
        spec,
        config,
        {"params": arrays["params"], "normaliser": arrays["normaliser"]},
        arrays.get("calibration"),
        monitor,
        from_json(AlarmConfig, document["alarm"]),
        document["recipe"],
        arrays.get("view"),
        Behavior(**learnt, actor=arrays["actor"], critic=arrays["critic"]) if learnt else None,
    )


def _learnt(document: dict[str, Any] | None) -> dict[str, Any]:
    """How an actor learnt, empty where the bundle has none."""
    kinds = {"config": BehaviorConfig, "space": ActionSpace, "reward": RewardConfig}
    return {name: from_json(kind, document[name]) for name, kind in kinds.items()} if document else {}


def _template(
    spec: FootageSpec,
    config: ModelConfig,
    monitor: MonitorConfig,
    learnt: dict[str, Any],
    document: dict[str, Any],
) -> dict[str, Any]:
    normaliser = Normaliser(*(jnp.zeros(n) for n in (config.sensors, config.sensors, config.actions, config.actions)))
    variables = model.init(config, normaliser, jax.random.key(0))
    known: dict[str, Any] = {}
    if document["calibrated"]:
        known["calibration"] = surprise.uncalibrated(config, monitor, spec.rate_hz)
    if document["viewed"]:
        assert config.image
        known["view"] = jnp.zeros(config.image[:2])
    if learnt:
        known["actor"], known["critic"] = actor.fresh(config, learnt["config"], learnt["space"], jax.random.key(0))
    return variables | known


def _by_name(leaves: list[tuple[Any, Any]]) -> dict[str, Any]:
    """Leaves by their place in the tree; empty arrays, which Orbax does not take, are left out."""
    return {_name(place): leaf for place, leaf in leaves if leaf.size}


def _name(place: Any) -> str:
    return jax.tree_util.keystr(place, simple=True, separator=".")


def _document(bundle: Bundle) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "calibrated": bundle.calibration is not None,
        "viewed": bundle.view is not None,
        "spec": to_json(bundle.spec),
        "model": to_json(bundle.config),
        "monitor": to_json(bundle.monitor),
        "alarm": to_json(bundle.alarm),
        "behavior": bundle.behavior
        and {name: to_json(getattr(bundle.behavior, name)) for name in ("config", "space", "reward")},
        "recipe": bundle.recipe,
    }


def _card_of_actor(bundle: Bundle) -> list[str]:
    if (learnt := bundle.behavior) is None:
        return []
    bounds = ", ".join(
        f"{name} from {low:g} to {high:g}"
        for name, low, high in zip(bundle.spec.actions, learnt.space.low, learnt.space.high, strict=True)
    )
    worth = ", ".join(f"{weight:g} a unit of {tag}" for tag, weight in learnt.reward.tags.items())
    return [
        f"An actor that learnt in its dreams chooses {bounds}, for {worth}, less {learnt.reward.change:g} a change.",
        "",
    ]


def _card(bundle: Bundle) -> str:
    spec, parameters = bundle.spec, sum(x.size for x in jax.tree.leaves(bundle.variables["params"]))
    sees = f"{spec.image[1]}x{spec.image[0]} pixels" if spec.image else "no camera"
    lines = [
        "# Flinch bundle",
        "",
        f"A world model of {parameters:,} parameters that watches one line: {sees} at {spec.rate_hz:g} frames a "
        f"second, tags {', '.join(spec.tags) or 'none'}, actions {', '.join(spec.actions) or 'none'}.",
        "",
        "It knows only what its footage showed. It advises; the PLC keeps its interlocks and the last word.",
        "",
        "Calibrated." if bundle.calibration is not None else "Not calibrated: it cannot raise alarms yet.",
        "",
        *_card_of_actor(bundle),
        "## How it was made",
        "",
        "```json",
        json.dumps(bundle.recipe, indent=2),
        "```",
        "",
    ]
    return "\n".join(lines)
