"""Films the embedded line: simulated camera, tags and feeder speed in, footage out."""

import multiprocessing
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple

import numpy as np

from experiments.cli import check_holdout, main, progress
from experiments.runfolder import provenance
from experiments.workers import processes
from runtime.line.camera import THIS_LINE, another_look
from runtime.line.cartons import TAIL_RATE
from runtime.line.line import SPEC, Line
from runtime.line.operator import schedule
from wm.data.footage import FootageWriter, training_lengths
from wm.errors import InputError

TOLD_FRAMES = 100


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.record."""

    out: Path
    """The folder of footage to make."""
    minutes: float
    """Simulated minutes of each episode."""
    episodes: int = 1
    """How many episodes; episode i films the line of seed + i."""
    seed: int = 0
    """Seed of the first episode."""
    tail_rate: float = TAIL_RATE
    """Chance that a carton arrives badly: 0 for footage without a jam."""
    wear_per_hour: float = 0.0
    """How fast the guide wears; at a wear of 1 it is rough and 4 mm thinner."""
    varied: bool = False
    """Let every episode show another line: camera, colours and lamps are drawn from its seed."""
    vary: bool = True
    """Let the operator's speed setpoint vary, so that the model learns what speed does."""
    holdout: float = 0.2
    """The last share of all time that is held out from training, for calibration."""
    jobs: int = 2
    """Processes that film at the same time."""


class Take(NamedTuple):
    """What one process films: an episode, into the files `path`.*.npy."""

    seed: int
    frames: int
    tail_rate: float
    wear_per_hour: float
    varied: bool
    vary: bool
    path: Path

    def file(self, name: str) -> Path:
        return self.path.with_suffix(f".{name}.npy")


def film(take: Take, filmed: "Queue[int]") -> dict[str, Any]:
    """Films one episode into the files of the take, saying every 10 s how many frames were added.

    Returns:
      The seed, and what the oracle saw: for scoring only.
    """
    speeds = schedule(take.seed, take.frames, SPEC.rate_hz) if take.vary else np.ones(take.frames, np.float32)
    assert SPEC.image is not None
    frames = np.lib.format.open_memmap(take.file("frames"), "w+", np.uint8, (take.frames, *SPEC.image))
    sensors = np.empty((take.frames, len(SPEC.tags)), np.float32)
    actions = np.empty((take.frames, len(SPEC.actions)), np.float32)
    times = np.empty(take.frames)
    look = another_look(take.seed) if take.varied else THIS_LINE
    with Line(take.seed, tail_rate=take.tail_rate, wear_per_hour=take.wear_per_hour, look=look) as line:
        for t, speed in enumerate(speeds):
            line.operator_speed = float(speed)
            frames[t], sensors[t], actions[t], times[t], _ = line.step()
            if (t + 1) % TOLD_FRAMES == 0:
                filmed.put(TOLD_FRAMES)
    filmed.put(take.frames % TOLD_FRAMES)
    frames.flush()
    for name, array in (("sensors", sensors), ("actions", actions), ("times", times)):
        np.save(take.file(name), array)
    return {
        "seed": take.seed,
        "onsets": [onset._asdict() for onset in line.events.onsets],
        "blocks": [block._asdict() for block in line.events.blocks],
    }


def record(flags: Flags) -> None:
    """Films the embedded line."""
    check_holdout(flags.holdout)
    frames = round(flags.minutes * 60 * SPEC.rate_hz)
    if min(frames, flags.episodes, flags.jobs) < 1:
        raise InputError("--minutes, --episodes and --jobs must be greater than 0")
    if flags.wear_per_hour < 0:
        raise InputError(f"--wear-per-hour is 0 or more, not {flags.wear_per_hour:g}")
    if not 0 <= flags.tail_rate <= 1:
        raise InputError(f"--tail-rate is a chance from 0 to 1, not {flags.tail_rate}")
    with (
        FootageWriter(flags.out, SPEC, provenance(flags)) as writer,
        tempfile.TemporaryDirectory(dir=flags.out.parent, prefix=f".{flags.out.name}.takes.") as folder,
        multiprocessing.get_context("spawn").Manager() as manager,
        processes(flags.jobs) as pool,
        progress() as bar,
    ):
        seeds = range(flags.seed, flags.seed + flags.episodes)
        takes = [
            Take(
                seed,
                frames,
                flags.tail_rate,
                flags.wear_per_hour,
                flags.varied,
                flags.vary,
                Path(folder) / str(seed),
            )
            for seed in seeds
        ]
        task = bar.add_task("record", total=frames * flags.episodes, unit="frames")
        filmed = manager.Queue()
        filming = [pool.submit(film, take, filmed) for take in takes]
        events = []
        for take, future, training in zip(
            takes, filming, training_lengths([frames] * flags.episodes, flags.holdout), strict=True
        ):
            while not future.done() or not filmed.empty():
                with suppress(Empty):
                    bar.advance(task, filmed.get(timeout=0.5))
            events.append(future.result())
            add(writer, take, training)
        writer.metadata["events"] = events


def add(writer: FootageWriter, take: Take, training: int) -> None:
    """Moves a finished take into the footage: `training` frames for training, the rest held out."""
    arrays = {name: np.load(take.file(name), mmap_mode="r") for name in ("frames", "sensors", "actions", "times")}
    for split, part in (("train", slice(training)), ("holdout", slice(training, None))):
        with writer.episode(split, f"line, seed {take.seed}") as episode:
            for frame, sensors, action, time in zip(*(array[part] for array in arrays.values()), strict=True):
                episode.append(frame, sensors, action, float(time))
    for name in arrays:
        take.file(name).unlink()


if __name__ == "__main__":
    main(record)
