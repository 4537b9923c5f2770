"""An actor that learns in the dream alone: from recorded footage, without a frame of the real line.

The world model filters the footage; every state that it came to is a place to dream on from. It does not learn here.
"""

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

import jax
import numpy as np
import orbax.checkpoint as ocp
from numpy.typing import NDArray
from rich.console import Console

from experiments import dreamer, plots, runfolder
from experiments.cli import main, progress
from runtime.line.line import REWARD
from wm import behavior, bundle, calibrate, guard
from wm.actor import Behavior
from wm.behavior import BehaviorState
from wm.bundle import Bundle
from wm.config import ActionSpace, BehaviorConfig, RewardConfig
from wm.data.footage import Footage
from wm.data.loader import WindowSource
from wm.errors import InputError
from wm.reward import Reward, reward
from wm.types import Batch, LatentState, Observation

WINDOWS: Final = 4000  # of the footage, at most
KEPT: Final = 20  # frames of a window that count
APART: Final = 4  # frames from one start to the next
EVERY: Final = 100  # steps from one report to the next
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
    reward: dict[str, float] = field(default_factory=dict)
    """Tags and what a unit of each is worth in a frame; where none is given, those of the simulated line."""
    change: float = REWARD.change
    """Price of changing an action by one unit."""
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
    if not footage.spec.actions:
        raise InputError(f"the footage at {flags.footage} has no action that an actor could choose.")
    space = ActionSpace(flags.low, flags.high)
    if not len(space.low) == len(space.high) == len(footage.spec.actions):
        raise InputError(f"--low and --high need a value for each of {', '.join(footage.spec.actions)}.")
    if not all(low < high for low, high in zip(space.low, space.high, strict=True)):
        raise InputError("--low must be below --high.")
    if flags.steps < 1:
        raise InputError("--steps must be at least 1.")
    config = RewardConfig(flags.reward or REWARD.tags, flags.change)
    worth = reward(footage.spec, config)
    WindowSource(footage, "train", one.monitor.settle(footage.spec.rate_hz) + KEPT)
    folder = runfolder.start(flags.out, flags, bundle_sha256=bundle.digest(flags.bundle))
    starts = filtered(one, footage)
    state, rows = _learnt(flags, one, space, worth, starts, folder)
    learnt = Behavior(flags.behavior, space, config, *jax.device_get((state.actor, state.critic)))
    recipe = one.recipe | {"learn": runfolder.provenance(flags) | {"footage": footage.fingerprint}}
    if not (folder / "bundle").exists():
        bundle.save(replace(one, behavior=learnt, recipe=recipe), folder / "bundle")
    plots.learning([row.means for row in rows], [row.step for row in rows], folder / "learning.png")
    metrics = {**rows[-1].means, "starts": len(starts), "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics)
    Console(stderr=True).print(f"return {metrics['return']:.3f}\nwrote {folder}", highlight=False)


def filtered(one: Bundle, footage: Footage) -> Starts:
    """States of windows that are spread over the training split, once the filter has settled, `APART` frames apart.

    Raises:
      InputError: no episode is long enough for one.
    """
    settled = one.monitor.settle(footage.spec.rate_hz)
    source = WindowSource(footage, "train", settled + KEPT)
    numbers = np.unique(np.linspace(0, len(source) - 1, WINDOWS).round().astype(int))
    observe = jax.jit(partial(dreamer.filtered, one))
    states: list[LatentState] = []
    actions: list[NDArray[np.float32]] = []
    with progress() as bar:
        for number in bar.track(numbers, task_id=bar.add_task("filter", unit="windows")):
            seen = source[int(number)]
            window = Batch(Observation(seen.frames, seen.sensors), seen.actions)
            found = jax.device_get(observe(jax.tree.map(lambda x: x[None], window)))
            kept = jax.tree.map(lambda x: x[0, settled::APART], found)
            states.append(kept.replace(stoch=kept.stoch.astype(bool)))
            actions.append(seen.actions[settled::APART])
    return Starts(jax.tree.map(lambda *each: np.concatenate(each), *states), np.concatenate(actions))


def _learnt(
    flags: Flags, one: Bundle, space: ActionSpace, worth: Reward, starts: Starts, folder: Path
) -> tuple[BehaviorState, list[Progress]]:
    """All steps, from the newest checkpoint on: a run that was interrupted comes to the same actor."""
    init_key, dream_key = jax.random.split(jax.random.key(flags.seed))
    known = guard.fit(one.variables, *starts.drawn(flags.seed, flags.steps, FITTED))
    step = partial(behavior.step, one.config, flags.behavior, space, worth, one.variables, known)
    state = behavior.init(one.config, flags.behavior, space, init_key)
    history = runfolder.History(folder / "progress.jsonl")
    keep = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager((folder / "checkpoints").absolute(), options=keep) as manager, progress() as bar:
        if (newest := manager.latest_step()) is not None:
            state = manager.restore(newest, args=ocp.args.StandardRestore(state))
        task = bar.add_task("learn", total=flags.steps, completed=int(state.step), unit="steps")
        while (done := int(state.step)) < flags.steps:
            told = []
            for number in range(done, min(done + EVERY, flags.steps)):
                state, metrics = step(state, *starts.drawn(flags.seed, number, flags.behavior.starts), dream_key)
                told.append(metrics)
                bar.update(task, completed=number + 1, description=f"learn, return {float(metrics['return']):.2f}")
            means = {name: float(np.mean([metrics[name] for metrics in told])) for name in told[0]}
            history.append(Progress(int(state.step), means))
            manager.save(int(state.step), args=ocp.args.StandardSave(state))
            manager.wait_until_finished()
    return state, [Progress(**row) for row in history.rows()]


if __name__ == "__main__":
    main(run)
