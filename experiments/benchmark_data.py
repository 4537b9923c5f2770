"""Reads random training windows from footage of plant size, and watches rate and memory."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console

from experiments import runfolder
from experiments.cli import main, progress
from wm.config import FootageSpec, TrainConfig
from wm.data.footage import Footage, FootageWriter
from wm.data.loader import windows
from wm.errors import InputError

SPEC = FootageSpec(10.0, (64, 64, 3), ("a", "b", "c", "d", "e"), ("speed",))
EPISODE_FRAMES = 36_000
REPORTS = 10


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.benchmark_data."""

    out: Path
    """Folder of the run; the footage is made in it and removed at the end."""
    gigabytes: tuple[float, ...] = (0.5, 20.0)
    """Sizes of footage to compare."""
    batches: int = 1000
    """Batches to read of each."""
    report: Path | None = None
    """Folder for data.json, beside other reports."""


def run(flags: Flags) -> None:
    """Measures batches a second, cold and warm, and memory against the size of the footage; writes metrics.json."""
    if min(flags.gigabytes, default=0) <= 0 or flags.batches < REPORTS:
        raise InputError(f"--gigabytes must be above 0 and --batches at least {REPORTS}.")
    folder = runfolder.start(flags.out, flags)
    needed = max(flags.gigabytes) * 1e9
    if shutil.disk_usage(folder).free < 1.2 * needed:
        raise InputError(f"{folder} has no room for {needed / 1e9:.1f} GB of footage; choose smaller --gigabytes.")
    sizes = {str(size): _measure(folder / f"footage_{size:g}", size, flags.batches) for size in flags.gigabytes}
    metrics = {"sizes": sizes, "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics, flags.report and flags.report / "data.json")
    for size, told in sizes.items():
        Console(stderr=True).print(
            f"{size} GB: {told['cold_batches_a_second']:.0f} batches/s from a cold disk, "
            f"{told['warm_batches_a_second']:.0f} warm, memory {told['memory_mib'][0]:.0f} to "
            f"{told['memory_mib'][-1]:.0f} MiB",
            highlight=False,
        )


def _measure(path: Path, gigabytes: float, count: int) -> dict[str, Any]:
    shutil.rmtree(path, ignore_errors=True)
    frames = round(gigabytes * 1e9 / np.prod(SPEC.image or ()))
    try:
        footage = _make(path, frames)
        _chill(path)
        cold, _ = _read(footage, count, seed=0)
        warm, memory = _read(footage, count, seed=0)
    finally:
        shutil.rmtree(path, ignore_errors=True)
    return {
        "frames": frames,
        "hours": frames / SPEC.rate_hz / 3600,
        "cold_batches_a_second": cold,
        "warm_batches_a_second": warm,
        "memory_mib": memory,
    }


def _make(path: Path, frames: int) -> Footage:
    """Footage of noise, as fast as the disk takes it."""
    pictures = np.random.default_rng(0).integers(0, 256, (64, *(SPEC.image or ())), dtype=np.uint8)
    with progress() as bar, FootageWriter(path, SPEC) as writer:
        task = bar.add_task(f"make {path.name}", total=frames, unit="frames")
        for first in range(0, frames, EPISODE_FRAMES):
            with writer.episode("train", str(first)) as episode:
                for t in range(min(EPISODE_FRAMES, frames - first)):
                    episode.append(pictures[t % len(pictures)], np.full(5, t), (t,), t / SPEC.rate_hz)
                    bar.advance(task)
    return Footage.open(path)


def _chill(folder: Path) -> None:
    """Takes the files out of the system's memory, so that they are read from the disk."""
    for file in folder.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened)
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _read(footage: Footage, count: int, seed: int) -> tuple[float, list[float]]:
    """Batches a second, and the memory of this process in MiB at even distances."""
    settings = TrainConfig()
    batches = iter(windows(footage, "train", length=settings.length, batch=settings.batch, seed=seed))
    memory = []
    began = time.monotonic()
    for done in range(1, count + 1):
        next(batches)
        if done % (count // REPORTS) == 0:
            memory.append(psutil.Process().memory_info().rss / 2**20)
    return count / (time.monotonic() - began), memory


if __name__ == "__main__":
    main(run)
