"""If I do this, what happens? One recorded moment, and what a world model expects of it under every candidate action:
the pictures to come, the tags, and what they are worth; and the sequence that a planner would choose.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import plots, runfolder
from experiments.cli import main
from experiments.dreamer import Dreamer, stretch
from experiments.forecast import CONTEXT_S, Array
from runtime.line.line import REWARD
from wm import bundle, calibrate, planning
from wm.bundle import Bundle
from wm.config import PlanConfig, RewardConfig
from wm.data.footage import Footage
from wm.errors import InputError
from wm.model import Variables
from wm.planning import Constraints
from wm.reward import Reward, reward
from wm.types import LatentState


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.plan."""

    bundle: Path
    """World model of the line."""
    footage: Path
    """Footage of it, with a camera and one action."""
    out: Path
    """Folder of the run."""
    split: Literal["train", "holdout"] = "holdout"
    """Split of the footage."""
    episode: int = 0
    """Number of the episode."""
    time: float = 10.0
    """The moment, seconds into the episode."""
    seconds: float = 4.0
    """How far it is looked ahead."""
    candidates: tuple[float, ...] = (1.0, 0.75, 0.5, 0.25, 0.1)
    """Values of the action that are tried, each held."""
    low: float = 0.1
    """The least that the action may be."""
    high: float = 1.0
    """The most that it may be."""
    ramp: float = 0.2
    """The most by which it may change from one frame to the next."""
    reward: dict[str, float] = field(default_factory=dict)
    """Tags and what a unit of each is worth in a frame; where none is given, those of the simulated line."""
    change: float = REWARD.change
    """Price of changing the action by one unit."""
    method: Literal["cem", "mppi"] = "cem"
    """How the planner searches."""
    seed: int = 0
    """Seed of its search."""


def run(flags: Flags) -> None:
    """Tells what would happen; writes a video with a column a candidate, a strip of it, a plot and metrics.json."""
    one, footage = bundle.load(flags.bundle), Footage.open(flags.footage)
    _check(flags, one, footage)
    worth = reward(footage.spec, RewardConfig(flags.reward or REWARD.tags, flags.change))
    seen = stretch(footage, flags.split, flags.episode, flags.time, 0.0)
    folder = runfolder.start(flags.out, flags, bundle_sha256=bundle.digest(flags.bundle))
    rate_hz, dreamer = footage.spec.rate_hz, Dreamer(one)
    frames, context = round(flags.seconds * rate_hz), round(CONTEXT_S * rate_hz)
    states = dreamer.awake(seen)
    present = jax.tree.map(lambda x: x[-1], states)
    before = jnp.asarray(seen.actions[-1])
    constraints = Constraints(*(jnp.array([each]) for each in (flags.low, flags.high, flags.ramp)))
    config = PlanConfig(method=flags.method, horizon=frames)

    tried = {f"{value:g}": np.full((frames, 1), value, np.float32) for value in flags.candidates}
    sequences = {name: planning.project(constraints, before, jnp.asarray(each)) for name, each in tried.items()}
    sequences["planned"] = _planned(config, one, worth, constraints, present, before, flags.seed)
    rows, dreams = [], {}
    for name, sequence in sequences.items():
        dreams[name] = dreamer.dream(states, context - 1, np.asarray(sequence), "expected", jax.random.key(0))
        earlier = jnp.concatenate([before[None], sequence[:-1]])
        worths = np.asarray(worth(jnp.asarray(dreams[name].tags), sequence, earlier))
        rows.append(
            {
                "candidate": name,
                "return": float(worths @ config.discount ** np.arange(frames)),
                "actions": np.asarray(sequence)[:, 0].tolist(),
                "rewards": worths.tolist(),
                "tags": dict(zip(footage.spec.tags, dreams[name].tags.T.tolist(), strict=True)),
            }
        )
    plots.film(_beside([dream.pictures for dream in dreams.values()]), rate_hz, folder / "plan.mp4")
    plots.candidates(rows, rate_hz, folder / "plan.png")
    plots.branches({name: dream.pictures for name, dream in dreams.items()}, rate_hz, folder / "strip.png")
    runfolder.finish(folder, {"rows": rows, "provenance": runfolder.provenance(flags)})
    Console(stderr=True).print(_table(rows), f"wrote {folder}", sep="\n")


def _check(flags: Flags, one: Bundle, footage: Footage) -> None:
    calibrate.check(one, footage)
    if footage.spec.image is None or len(footage.spec.actions) != 1:
        raise InputError(f"the footage at {flags.footage} has not got a camera and a single action to be chosen.")
    if not flags.candidates or flags.ramp <= 0 or not flags.low < flags.high:
        raise InputError("--candidates needs a value, --ramp is above 0, --low is below --high.")
    if flags.seconds < 1:
        raise InputError("--seconds must be 1 or more.")


def _planned(
    config: PlanConfig,
    one: Bundle,
    worth: Reward,
    constraints: Constraints,
    present: LatentState,
    before: jax.Array,
    seed: int,
) -> jax.Array:
    """The sequence that a planner chooses."""

    @jax.jit
    def decide(variables: Variables, present: LatentState, before: jax.Array, key: jax.Array) -> jax.Array:
        objective = planning.objective(one.config, variables, worth, config.discount, present, before)
        last = planning.start(config, constraints, before)
        return planning.plan(config, objective, constraints, last, before, key)[1].sequence

    return decide(one.variables, present, before, jax.random.key(seed))


def _beside(pictures: list[Array]) -> Iterator[Array]:
    for each in zip(*pictures, strict=True):
        yield np.concatenate(each, axis=1)


def _table(rows: list[dict[str, Any]]) -> Table:
    best = max(rows, key=lambda row: row["return"])
    table = Table("candidate", "return", *rows[0]["tags"], title="what is expected, and of the tags at the end")
    for row in rows:
        ends = (f"{values[-1]:.2f}" for values in row["tags"].values())
        mark = " <" if row is best else ""
        table.add_row(row["candidate"], f"{row['return']:.3f}{mark}", *ends)
    return table


if __name__ == "__main__":
    main(run)
