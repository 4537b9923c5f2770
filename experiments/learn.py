"""An actor that learns in the dream alone: from recorded footage, without a frame of the real line.

The world model filters the footage; every state that it came to is a place to dream on from. It does not learn here.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import orbax.checkpoint as ocp
from numpy.typing import NDArray
from rich.console import Console

from experiments import plots, runfolder
from experiments.cli import main, progress
from runtime.line.line import REWARD
from wm import behavior, bundle, calibrate, guard, model, rssm
from wm.behavior import Behavior, BehaviorState
from wm.bundle import Bundle
from wm.config import ActionSpace, BehaviorConfig, RewardConfig
from wm.data.footage import Footage
from wm.errors import InputError
from wm.nets import most_likely
from wm.reward import reward
from wm.types import LatentState, Observation

APART: Final = 4  # frames from one start to the next
EVERY: Final = 100  # steps from one report to the next
CHUNK: Final = 600
FITTED: Final = 10_000  # states that the guard is fitted to


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.learn."""

    bundle: Path
    """World model of the line, trained on the footage or on more."""
    footage: Path
    """Footage whose training split is dreamt on from."""
    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    steps: int = 3000
    """Steps of the actor and the critic."""
    low: tuple[float, ...] = (0.1,)
    """The least that each action may be."""
    high: tuple[float, ...] = (1.0,)
    """The most that it may be."""
    reward: RewardConfig = field(default_factory=lambda: REWARD)
    """What a frame is worth."""
    behavior: BehaviorConfig = field(default_factory=BehaviorConfig)
    """How actor and critic learn."""
    seed: int = 0
    """Seed of the actor, the critic and all dreams."""


@dataclass(frozen=True)
class Progress:
    """Means of the losses and of the dreams since the last report."""

    step: int
    means: dict[str, float]


class Starts:
    """Filtered states of the footage to dream on from, and the actions that led to them, on the host."""

    def __init__(self, states: LatentState, actions: NDArray[np.float32]) -> None:
        self._states, self._actions = states, actions

    def __len__(self) -> int:
        return len(self._actions)

    def drawn(self, seed: int, step: int, count: int) -> tuple[LatentState, NDArray[np.float32]]:
        """So many of them, a pure function of seed and step."""
        chosen = np.random.default_rng([seed, step]).integers(len(self), size=count)
        states = jax.tree.map(lambda x: x[chosen].astype(np.float32), self._states)
        return states, self._actions[chosen]


def run(flags: Flags) -> None:
    """Learns to act in the dream; writes progress.jsonl, metrics.json and a bundle that holds the actor."""
    one, footage = bundle.load(flags.bundle), Footage.open(flags.footage)
    calibrate.check(one, footage)
    space = ActionSpace(flags.low, flags.high)
    if not len(space.low) == len(space.high) == len(footage.spec.actions):
        raise InputError(f"--low and --high need a value for each of {', '.join(footage.spec.actions)}.")
    if not all(low < high for low, high in zip(space.low, space.high, strict=True)):
        raise InputError("--low must be below --high.")
    if flags.steps < 1:
        raise InputError("--steps must be at least 1.")
    reward(footage.spec, flags.reward)
    folder = runfolder.start(flags.out, flags, bundle_sha256=bundle.digest(flags.bundle))
    starts = filtered(one, footage)
    state, rows = _learnt(flags, one, space, starts, folder)
    learnt = Behavior(flags.behavior, space, flags.reward, *jax.device_get((state.actor, state.critic)))
    recipe = one.recipe | {"learn": runfolder.provenance(flags) | {"footage": footage.fingerprint}}
    if not (folder / "bundle").exists():
        bundle.save(replace(one, behavior=learnt, recipe=recipe), folder / "bundle")
    plots.learning([row.means for row in rows], [row.step for row in rows], folder / "learning.png")
    metrics = {**rows[-1].means, "starts": len(starts), "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics)
    Console(stderr=True).print(f"return {metrics['return']:.3f}\nwrote {folder}", highlight=False)


def filtered(one: Bundle, footage: Footage) -> Starts:
    """The states of the training split, `APART` frames apart, as the monitor would have them."""

    @jax.jit
    def observe(start: LatentState, frames: Any, sensors: Any, actions: Any) -> LatentState:
        embedding = model.encode(one.config, one.variables, Observation(frames, sensors))
        states, _ = model.observe(one.config, one.variables, start, embedding[None], actions[None], draw=most_likely)
        return jax.tree.map(lambda x: x[0], states)

    parts: list[tuple[LatentState, NDArray[np.float32]]] = []
    lengths = footage.lengths("train")
    with progress() as bar:
        task = bar.add_task("filter", total=sum(lengths), unit="frames")
        for number, length in enumerate(lengths):
            present = rssm.start(one.config, (1,))
            for first in range(0, length, CHUNK):
                seen = footage.read("train", number, first, min(CHUNK, length - first))
                states = observe(present, seen.frames, seen.sensors, seen.actions)
                present = jax.tree.map(lambda x: x[-1:], states)
                kept = jax.device_get(jax.tree.map(lambda x: x[APART - 1 :: APART], states))
                parts.append((kept.replace(stoch=kept.stoch.astype(bool)), seen.actions[APART - 1 :: APART]))
                bar.advance(task, len(seen.times))
    states = jax.tree.map(lambda *each: np.concatenate(each), *(states for states, _ in parts))
    return Starts(states, np.concatenate([actions for _, actions in parts]))


def _learnt(
    flags: Flags, one: Bundle, space: ActionSpace, starts: Starts, folder: Path
) -> tuple[BehaviorState, list[Progress]]:
    """All steps, from the newest checkpoint on: a run that was interrupted comes to the same actor."""
    worth, key = reward(one.spec, flags.reward), jax.random.key(flags.seed)
    known = guard.fit(one.variables, *starts.drawn(flags.seed, flags.steps, FITTED))
    step = partial(behavior.step, one.config, flags.behavior, space, worth, one.variables, known)
    state = behavior.init(one.config, flags.behavior, space, key)
    history = runfolder.History(folder / "progress.jsonl")
    keep = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager((folder / "checkpoints").absolute(), options=keep) as manager, progress() as bar:
        if (newest := manager.latest_step()) is not None:
            state = manager.restore(newest, args=ocp.args.StandardRestore(state))
        task = bar.add_task("learn", total=flags.steps, completed=int(state.step), unit="steps")
        while (done := int(state.step)) < flags.steps:
            told = []
            for number in range(done, min(done + EVERY, flags.steps)):
                state, metrics = step(state, *starts.drawn(flags.seed, number, flags.behavior.starts), key)
                told.append(metrics)
                bar.update(task, completed=number + 1, description=f"learn, return {float(metrics['return']):.2f}")
            means = {name: float(np.mean([metrics[name] for metrics in told])) for name in told[0]}
            history.append(Progress(int(state.step), means))
            manager.save(int(state.step), args=ocp.args.StandardSave(state))
            manager.wait_until_finished()
    return state, [Progress(**row) for row in history.rows()]


if __name__ == "__main__":
    main(run)
