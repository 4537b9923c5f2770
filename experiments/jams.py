"""Runs of the simulated line that jam while nobody watches: one carton is in trouble, and the physics decides."""

from collections.abc import Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import runfolder
from experiments.cli import progress
from experiments.workers import processes
from runtime import arms
from runtime.arms import NUMBERS, Trouble
from runtime.line.camera import THIS_LINE, Look
from runtime.line.cartons import TAILS, Tail
from runtime.line.line import Line
from runtime.line.plant import Plant
from runtime.line.scene import CARTON
from wm.bundle import Bundle
from wm.data.footage import Episode
from wm.surprise import Told
from wm.types import Observation

WHERE: Final = (-0.45, -0.05)  # metres along the line, in view and before the transfer
KINDS: Final[tuple[Tail, ...]] = (*TAILS, "slip")
Place = Literal["entry", "view"]
Wanted = tuple[Place, Tail, int]


class Run(NamedTuple):
    """A run that jams without anybody watching."""

    place: Place
    trouble: Trouble
    seed: int
    carton_length: float = CARTON[0]

    @property
    def name(self) -> str:
        return f"{self.place}-{self.trouble.kind}-{self.seed}"


class Film(NamedTuple):
    """What was seen of a run, and when trouble and jam began, in seconds."""

    seen: Episode
    onset: float
    block: float


def find(wanted: Sequence[Wanted], seed: int, jobs: int, carton_length: float = CARTON[0]) -> list[Run]:
    """The first seeds of every kind and place that jam, each tried in turn by the physics alone."""
    found: list[Run] = []
    with processes(jobs) as workers, progress() as bar:
        task = bar.add_task("find jams", total=sum(number for _, _, number in wanted), unit="jams")
        for group, (place, kind, number) in enumerate(wanted):
            first = seed + 10_000 * group
            jams: list[Run] = []
            for start in count(first, 2 * jobs):
                tried = [draw(place, kind, each, carton_length) for each in range(start, start + 2 * jobs)]
                fresh = [each for each, jam in zip(tried, workers.map(_blocks, tried), strict=True) if jam]
                bar.advance(task, min(len(fresh), number - len(jams)))
                jams += fresh
                if len(jams) >= number:
                    break
            found += jams[:number]
    return found


def kept(path: Path, wanted: Sequence[Wanted], seed: int, jobs: int, carton_length: float = CARTON[0]) -> list[Run]:
    """The same, from the file where an earlier start has written them."""
    runs = runfolder.kept(path, partial(find, wanted, seed, jobs, carton_length))
    return [Run(place, Trouble(*trouble), *rest) for place, trouble, *rest in runs]


def draw(place: Place, kind: Tail, seed: int, carton_length: float = CARTON[0]) -> Run:
    """The trouble of a run: a pure function of the seed."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    number, x = int(rng.choice(NUMBERS)), float(rng.uniform(*WHERE))
    return Run(place, Trouble(number, kind, x if place == "view" else None), seed, carton_length)


def _blocks(each: Run) -> bool:
    """Whether a run jams while nobody watches, within an arm."""
    events = unwatched(each.seed, each.trouble, each.carton_length).events
    return bool(events.blocks and events.onsets)


def unwatched(seed: int, trouble: Trouble | None, carton_length: float = CARTON[0]) -> Plant:
    """The plant at the end of an arm, at full speed, without a picture taken."""
    tails, mishaps = ({}, {}) if trouble is None else (trouble.tails, trouble.mishaps)
    with Line(seed, tail_rate=0.0, tails=tails, mishaps=mishaps, carton_length=carton_length) as line:
        while line.time < arms.RUN_IN_S + arms.WARM_UP_S + arms.ARM_S:
            line.scan()
        return line.plant


def film(each: Run, look: Look = THIS_LINE) -> Film:
    """The run as its camera sees it, from a little before the carton in trouble comes into view."""
    with Line(
        each.seed,
        tail_rate=0.0,
        tails=each.trouble.tails,
        mishaps=each.trouble.mishaps,
        carton_length=each.carton_length,
        look=look,
    ) as line:
        while line.time < arms.RUN_IN_S:
            line.scan()
        shots = [line.step() for _ in range(arms.frames(arms.WARM_UP_S + arms.ARM_S))]
        frames, sensors, actions, times = (
            np.stack([getattr(shot, name) for shot in shots]) for name in ("image", "sensors", "action", "time")
        )
        seen = Episode(frames, sensors, actions, times, each.name)
        return Film(seen, line.events.onsets[0].time, line.events.blocks[0].time)


def watch(model: Bundle, one: Film) -> Told:
    """What the monitor makes of a film."""
    observations = Observation(jnp.asarray(one.seen.frames), jnp.asarray(one.seen.sensors))
    return jax.device_get(model.replay(model.start(), observations, jnp.asarray(one.seen.actions))[1])


def lead(one: Film, raised: Sequence[int]) -> float | None:
    """From the alarm, one of those raised at these frames, to the jam; None where none of them meant it."""
    return arms.lead([float(one.seen.times[frame]) for frame in raised], one.onset, one.block)
