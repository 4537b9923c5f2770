"""What nobody can know: the least error that any predictor could have on the simulated line.

The line is branched from one moment into many futures, which share all that the camera has seen and the speeds to come,
and differ in the cartons that nobody has seen. Their spread is what no model of the pictures can foretell. It is a
lower bound: the oracle also knows the masses, the clocks and the poses of what the camera does not see.
"""

import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from experiments import runfolder
from experiments.cli import main, progress
from experiments.predict import MEAN_FRAMES, MOVING, SECONDS
from experiments.record import DIE_AT_ONCE, SPEC, schedule
from runtime.line.line import Line, Snapshot
from wm.data.footage import Footage
from wm.errors import InputError

APART_S = 20.0
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.oracle."""

    footage: Path
    """Footage of the line, for its mean image, the best of the cheap predictors this far ahead."""
    out: Path
    """Folder of the run."""
    moments: int = 128
    """Moments to branch at, two on each line."""
    futures: int = 13
    """Futures of each."""
    seed: int = 900_000
    """Seed of the first line; every further one has the next."""
    jobs: int = 2
    """Lines that run at once."""
    report: Path | None = None
    """Folder for oracle.json, beside other reports."""


def run(flags: Flags) -> None:
    """Measures the error of an oracle on the simulated line; writes metrics.json."""
    if flags.moments < 1 or flags.futures < 3 or flags.jobs < 1:
        raise InputError("--moments and --jobs must be at least 1 and --futures at least 3.")
    footage = Footage.open(flags.footage)
    if footage.spec != SPEC:
        raise InputError(f"the footage at {flags.footage} is not of the simulated line; record some.")
    folder = runfolder.start(flags.out, flags)
    mean = (footage.sample("train", MEAN_FRAMES).mean(axis=0, dtype=np.float64) / 255).astype(np.float32)
    found = []
    seeds = range(flags.seed, flags.seed + (flags.moments + 1) // 2)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(flags.jobs, context, signal.signal, DIE_AT_ONCE) as pool, progress() as bar:
        task = bar.add_task("oracle", total=len(seeds), unit="lines")
        for moments in bar.track(pool.map(partial(branch, futures=flags.futures), seeds), task_id=task):
            found += [errors(pictures, mean) for pictures in moments]
    sums = np.array(found[: flags.moments])
    ratios = sums[..., 0, :].sum(axis=0) / sums[..., 1, :].sum(axis=0)
    again = np.random.default_rng(flags.seed).integers(len(sums), size=(1000, len(sums)))
    spread = (sums[again, :, 0].sum(axis=1) / sums[again, :, 1].sum(axis=1)).std(axis=0)
    summary = {
        f"{kind}_ratio_{second}s": {"value": float(ratios[row, column]), "standard_error": float(spread[row, column])}
        for row, kind in enumerate(("all", "moving"))
        for column, second in enumerate(SECONDS)
    }
    metrics = {**summary, "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics)
    if flags.report:
        flags.report.mkdir(parents=True, exist_ok=True)
        runfolder.write_json(flags.report / "oracle.json", metrics)
    said = ", ".join(f"{name} {one['value']:.3f} (se {one['standard_error']:.3f})" for name, one in summary.items())
    Console(stderr=True).print(f"{said}\nwrote {folder}", highlight=False, soft_wrap=True)


def branch(seed: int, futures: int) -> list[Array]:
    """Two moments of a line, each with pictures `[futures, seconds, 3, H, W, C]` of 1, 2 and 3 s later, in 0..1: the
    frame before, the frame, the frame after.
    """
    apart, horizon = round(APART_S * SPEC.rate_hz), round(max(SECONDS) * SPEC.rate_hz) + 1
    speeds = schedule(seed, 2 * apart + horizon, SPEC.rate_hz)
    others = np.random.default_rng(seed).integers(1 << 32, size=futures)
    found = []
    with Line(seed, tail_rate=0.0) as line:
        for start in (apart, 2 * apart):
            for _ in _advance(line, speeds[start - apart : start]):
                pass
            present = line.snapshot()
            ahead = speeds[start : start + horizon]
            found.append(np.stack([_future(line, present, ahead, int(other)) for other in others]))
            line.restore(present)
    return found


def errors(pictures: Array, mean: Array) -> NDArray[np.float64]:
    """Summed squared error of the oracle and of the mean image, `[2, 2, seconds]` (all and moving pixels; oracle and
    mean image), over the futures of one moment.

    The oracle is the mean of the other futures; what it lacks for their finite number is subtracted.
    """
    before, now, after = np.moveaxis(pictures, 2, 0)
    moving = (np.abs(now - before).max(axis=-1) > MOVING) | (np.abs(after - now).max(axis=-1) > MOVING)
    count = len(now)
    oracle = []
    for one in range(count):
        others = np.delete(now, one, axis=0)
        unsure = others.var(axis=0, ddof=1) / (count - 1)
        oracle.append(np.square(now[one] - others.mean(axis=0)) - unsure)
    both = np.stack([np.stack(oracle), np.square(now - mean)]).mean(axis=-1, dtype=np.float64)
    return np.stack([(both * mask).sum(axis=(1, 3, 4)) for mask in (np.ones_like(moving), moving)])


def _future(line: Line, present: Snapshot, speeds: Array, seed: int) -> Array:
    line.restore(present)
    line.plant.redraw(seed)
    pictures = np.stack([picture for picture in _advance(line, speeds)])
    frames = [round(second * SPEC.rate_hz) - 1 for second in SECONDS]
    return np.stack([pictures[frame - 1 : frame + 2] for frame in frames]).astype(np.float32) / 255


def _advance(line: Line, speeds: Array) -> Iterator[NDArray[np.uint8]]:
    for speed in speeds:
        line.operator_speed = float(speed)
        yield line.step().image


if __name__ == "__main__":
    main(run)
