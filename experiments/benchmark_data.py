"""Reads random training windows from footage of plant size: the rate beside that of the training step, and memory."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
from rich.console import Console

from experiments import runfolder
from experiments.cli import main, progress
from experiments.workers import processes
from wm import train
from wm.config import FootageSpec, ModelConfig, TrainConfig
from wm.data.footage import Footage, FootageWriter
from wm.data.loader import windows
from wm.errors import InputError
from wm.types import Batch

SPEC = FootageSpec(10.0, (64, 64, 3), ("a", "b", "c", "d", "e"), ("speed",))
EPISODE_FRAMES = 36_000
REPORTS = 10
STEPS = 20


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
    """Measures batches a second, cold and warm, beside training steps a second, and memory against the size of the
    footage; writes metrics.json.
    """
    if min(flags.gigabytes, default=0) <= 0 or flags.batches < REPORTS:
        raise InputError(f"--gigabytes must be above 0 and --batches at least {REPORTS}.")
    folder = runfolder.start(flags.out, flags)
    needed = max(flags.gigabytes) * 1e9
    if shutil.disk_usage(folder).free < 1.2 * needed:
        raise InputError(f"{folder} has no room for {needed / 1e9:.1f} GB of footage; choose smaller --gigabytes.")
    sizes = {}
    for size in flags.gigabytes:
        with processes(1) as alone:
            sizes[str(size)] = alone.submit(_measure, folder / f"footage_{size:g}", size, flags.batches).result()
    metrics = {"sizes": sizes, "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics, flags.report and flags.report / "data.json")
    for size, told in sizes.items():
        Console(stderr=True).print(
            f"{size} GB: {told['cold_batches_a_second']:.0f} batches/s at first, {told['warm_batches_a_second']:.0f} "
            f"again, {told['steps_a_second']:.1f} training steps/s, memory {told['memory_mib'][0]:.0f} to "
            f"{told['memory_mib'][-1]:.0f} MiB",
            highlight=False,
        )


def _measure(path: Path, gigabytes: float, count: int) -> dict[str, Any]:
    shutil.rmtree(path, ignore_errors=True)
    frames = round(gigabytes * 1e9 / np.prod(SPEC.image or ()))
    try:
        footage = _make(path, frames)
        _chill(path)
        cold, memory = _read(footage, count)
        warm, _ = _read(footage, count)
        steps = _train(footage)
    finally:
        shutil.rmtree(path, ignore_errors=True)
    return {
        "frames": frames,
        "hours": frames / SPEC.rate_hz / 3600,
        "cold_batches_a_second": cold,
        "warm_batches_a_second": warm,
        "steps_a_second": steps,
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


def _read(footage: Footage, count: int) -> tuple[float, list[float]]:
    """Batches a second, and the memory of this process in MiB at even distances."""
    batches = _batches(footage)
    memory = []
    began = time.monotonic()
    for done in range(1, count + 1):
        next(batches)
        if done % (count // REPORTS) == 0:
            memory.append(psutil.Process().memory_info().rss / 2**20)
    return count / (time.monotonic() - began), memory


def _train(footage: Footage) -> float:
    """Steps a second of the small model, all patches followed, with a batch that is in memory."""
    settings, config = TrainConfig(), ModelConfig.of(footage.spec, "small")
    normaliser, key = train.normaliser_of(footage), jax.random.key(0)
    batch = jax.tree.map(jnp.asarray, next(_batches(footage)))
    state = train.create(config, settings, normaliser, 0)
    times = []
    for _ in range(STEPS + 1):
        began = time.monotonic()
        state, _ = jax.block_until_ready(train.train_step(config, settings, state, normaliser, batch, key))
        times.append(time.monotonic() - began)
    return 1 / float(np.median(times[1:]))


def _batches(footage: Footage) -> Iterator[Batch]:
    settings = TrainConfig()
    return iter(windows(footage, "train", length=settings.length, batch=settings.batch, seed=0))


if __name__ == "__main__":
    main(run)
