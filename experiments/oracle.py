"""What nobody can know: the least error that any predictor could have on the simulated line.

The line is branched from one moment into many futures, which share all that the camera has seen and the speeds to come,
and differ in the cartons that nobody has seen. Their spread is what no model of the pictures can foretell. It is a
lower bound: the oracle also knows the light, the noise of the camera, the clocks and the poses of what is out of view.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from experiments import runfolder
from experiments.cli import main, progress
from experiments.forecast import SECONDS, Array, mean_image, moves
from experiments.workers import processes
from runtime.line.line import SPEC, Line, Snapshot
from runtime.line.operator import schedule
from wm.data.footage import Footage
from wm.errors import InputError

APART_S = 20.0


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.oracle."""

    footage: Path
    """Footage of the line, for its mean image."""
    out: Path
    """Folder of the run."""
    lines: int = 48
    """Lines, each branched at two moments."""
    futures: int = 25
    """Futures of each."""
    seed: int = 900_000
    """Seed of the first line; every further one has the next."""
    jobs: int = 2
    """Lines that run at once."""
    report: Path | None = None
    """Folder for oracle.json, beside other reports."""


def run(flags: Flags) -> None:
    """Measures the error of an oracle on the simulated line against that of the mean image; writes metrics.json."""
    if flags.lines < 1 or flags.futures < 3 or flags.jobs < 1:
        raise InputError("--lines and --jobs must be at least 1 and --futures at least 3.")
    footage = Footage.open(flags.footage)
    if footage.spec != SPEC:
        raise InputError(f"the footage at {flags.footage} is not of the simulated line; record some.")
    folder = runfolder.start(flags.out, flags)
    mean = mean_image(footage)
    found = []
    seeds = range(flags.seed, flags.seed + flags.lines)
    with processes(flags.jobs) as pool, progress() as bar:
        task = bar.add_task("oracle", total=len(seeds), unit="lines")
        for moments in bar.track(pool.map(partial(branch, futures=flags.futures), seeds), task_id=task):
            found.append(np.sum([errors(pictures, mean) for pictures in moments], axis=0))
    sums = np.array(found)
    again = np.random.default_rng(flags.seed).integers(len(sums), size=(1000, len(sums)))
    oracle, cheap, counted = sums.sum(axis=0)
    resampled = sums[again].sum(axis=1)
    ratios, spread = oracle / cheap, (resampled[:, 0] / resampled[:, 1]).std(axis=0)
    summary = {
        f"{kind}_ratio_{second}s": {"value": float(ratios[row, column]), "standard_error": float(spread[row, column])}
        for row, kind in enumerate(("all", "moving"))
        for column, second in enumerate(SECONDS)
    }
    squared = {"oracle": (oracle / counted).tolist(), "mean image": (cheap / counted).tolist()}
    metrics = {**summary, "error": squared, "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics, flags.report and flags.report / "oracle.json")
    said = ", ".join(f"{name} {one['value']:.3f} (se {one['standard_error']:.3f})" for name, one in summary.items())
    Console(stderr=True).print(f"{said}\nwrote {folder}", highlight=False, soft_wrap=True)


def branch(seed: int, futures: int) -> list[NDArray[np.uint8]]:
    """Two moments of a line, each with pictures `[futures, seconds, 3, H, W, C]` of 1, 2 and 3 s later: the frame
    before, the frame, the frame after.
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


def errors(pictures: NDArray[np.uint8], mean: Array) -> NDArray[np.float64]:
    """Over the futures of one moment, the summed squared error of the oracle, that of the mean image, and how many
    pixels were counted, of all and of moving ones: `[3, 2, seconds]`.

    For each pixel the oracle says the mean of the futures in which it counts, and knows that it moves in those; what is
    too little because a future is part of its own mean is made up for. A pixel that counts in a single future tells
    nothing of chance and is left out.
    """
    before, now, after = np.moveaxis(pictures, 2, 0)
    moving = moves(before, now) | moves(now, after)
    truth = now.astype(np.float32) / 255
    return np.stack([_errors(truth, mean, mask) for mask in (np.ones_like(moving), moving)], axis=1)


def _errors(truth: Array, mean: Array, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    mask = mask & (mask.sum(axis=0) > 1)
    counted = mask[..., None].astype(np.float64)
    count = counted.sum(axis=0)
    centre = (counted * truth).sum(axis=0) / np.maximum(count, 1)
    known = np.square(truth - centre) * count / np.maximum(count - 1, 1)
    squares = np.stack(np.broadcast_arrays(known, np.square(truth - mean), 1.0))
    return (counted * squares).mean(axis=-1).sum(axis=(1, 3, 4))


def _future(line: Line, present: Snapshot, speeds: Array, seed: int) -> NDArray[np.uint8]:
    line.restore(present)
    line.plant.redraw(seed)
    pictures = np.stack(list(_advance(line, speeds)))
    frames = [round(second * SPEC.rate_hz) - 1 for second in SECONDS]
    return np.stack([pictures[frame - 1 : frame + 2] for frame in frames])


def _advance(line: Line, speeds: Array) -> Iterator[NDArray[np.uint8]]:
    for speed in speeds:
        line.operator_speed = float(speed)
        yield line.step().image


if __name__ == "__main__":
    main(run)
