"""Experience of the simulated line and of its jams, for learning to run it: cartons come in trouble often, and the
operator turns the speed up and down at random.

The line is full when an episode begins; it ends a while after a jam, as somebody comes and clears it, or when its time
is up. Nobody says what a jam is: it is in the pictures and in the tags, for whoever can tell.
"""

from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np

from experiments.cli import check_holdout, main, progress
from experiments.jams import WHERE
from experiments.runfolder import provenance
from experiments.workers import processes
from runtime.arms import NUMBERS, RUN_IN_S
from runtime.line.cartons import TAILS, Tail
from runtime.line.line import SPEC, Line
from runtime.line.operator import schedule
from runtime.line.plant import Mishap
from wm.data.footage import SPLITS, Episode, FootageWriter
from wm.errors import InputError

CLEARED_S: Final = 15.0
LONGEST_MIN: Final = 10.0
MOST_CARTONS: Final = 1000  # more than come in this time
TROUBLE: Final = 0x7B0B  # keeps its random stream apart from the plant's and the schedule's


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.experience."""

    out: Path
    """The folder of footage to make."""
    minutes: float = 120.0
    """Simulated minutes in all; the minute in which a line fills is not filmed and not counted."""
    longest: float = 2.0
    """Minutes after which an episode ends that does not jam."""
    trouble: float = 0.03
    """Share of the cartons that are in trouble: half as they come, half in mid-view."""
    seed: int = 2_000_000
    """Seed of the first episode; every further one has the next."""
    holdout: float = 0.1
    """The last share of all time that is held out from training."""
    jobs: int = 2
    """Processes that run the line at the same time."""


def run(flags: Flags) -> None:
    """Runs the line from jam to jam and writes footage."""
    check_holdout(flags.holdout)
    due, longest = (round(minutes * 60 * SPEC.rate_hz) for minutes in (flags.minutes, flags.longest))
    if min(due, longest, flags.jobs) < 1 or not 0 <= flags.trouble <= 1 or flags.longest > LONGEST_MIN:
        raise InputError(
            f"--minutes and --longest must be above 0, --longest at most {LONGEST_MIN:g}, --jobs at least 1 and "
            "--trouble a share."
        )
    taught, filmed = round(due * (1 - flags.holdout)), 0
    with (
        FootageWriter(flags.out, SPEC, provenance(flags)) as writer,
        processes(flags.jobs) as workers,
        progress() as bar,
    ):
        task = bar.add_task("experience", total=due, unit="frames")
        for first in count(flags.seed, flags.jobs):
            seeds = range(first, first + flags.jobs)
            for one in workers.map(partial(lived, longest=longest, trouble=flags.trouble), seeds):
                length = min(len(one.times), due - filmed)
                for split, part in zip(SPLITS, parts(length, taught - filmed), strict=True):
                    with writer.episode(split, one.source) as episode:
                        for t in part:
                            episode.append(one.frames[t], one.sensors[t], one.actions[t], one.times[t])
                filmed += length
                bar.update(task, completed=filmed)
            if filmed >= due:
                break


def lived(seed: int, longest: int, trouble: float) -> Episode:
    """One episode of at most `longest` frames, from a line that has just filled."""
    speeds = schedule(seed, longest, SPEC.rate_hz)
    tails, mishaps = troubles(seed, trouble)
    shots = []
    with Line(seed, tail_rate=0.0, tails=tails, mishaps=mishaps) as line:
        while line.time < RUN_IN_S:
            line.scan()
        for speed in speeds:
            line.operator_speed = float(speed)
            shots.append(line.step())
            blocks = line.events.blocks
            if blocks and line.time > blocks[0].time + CLEARED_S:
                break
    frames, sensors, actions, times = (
        np.stack([getattr(shot, name) for shot in shots]) for name in ("image", "sensors", "action", "time")
    )
    return Episode(frames, sensors, actions, times, f"line, seed {seed}")


def troubles(seed: int, share: float) -> tuple[dict[int, Tail], dict[int, Mishap]]:
    """Which cartons of a run are in trouble, those that fill the line excepted: released badly, or befallen in view."""
    rng = np.random.default_rng((TROUBLE, seed))
    tails: dict[int, Tail] = {}
    mishaps: dict[int, Mishap] = {}
    for number in range(NUMBERS.start, MOST_CARTONS):
        kind = TAILS[int(rng.integers(len(TAILS)))]
        place, x = rng.random(), float(rng.uniform(*WHERE))
        if place < share / 2:
            tails[number] = kind
        elif place < share:
            mishaps[number] = Mishap(kind, x)
    return tails, mishaps


def parts(length: int, taught: int) -> tuple[range, range]:
    """The frames of an episode that are for training, where `taught` are still due, and those that are held out."""
    training = min(max(taught, 0), length)
    return range(training), range(training, length)


if __name__ == "__main__":
    main(run)
