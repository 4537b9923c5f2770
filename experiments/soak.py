"""Hours of a runtime as it is installed, with faults at random moments: does it go on, does its memory grow, does its
journal miss anything? The camera is a film without end that comes as fast as the runtime takes it, so hours of the
line's clock pass in less. A fault lasts for seconds of the wall clock, by which the runtime's alarms go. No plant moves
the PLC's tags: they contradict the film, so that jams are foreseen all the time.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import psutil
from numpy.random import Generator
from rich.console import Console

from experiments import runfolder, stand
from experiments.cli import main, progress
from experiments.faults import active
from experiments.stand import FILM, Runtime, waited
from experiments.stream import RATE_HZ, film, y4m, y4m_head
from experiments.tap import Onlooker, Plc, Tap, View
from runtime import journal
from runtime.alarms import CAMERA, PAGE, PLC
from runtime.line.program import HEARTBEAT_S
from wm.errors import InputError

HOLD_S, LIMIT_S, LOOK_S = 2.0, 60.0, 1.0
WARM_UP = 0.1  # of the whole
MARGIN = 0.02  # of the whole, without faults, before its end
MIB = 2**20


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.soak."""

    out: Path
    """Folder of the run."""
    bundle: Path = Path("runtime/line/bundle")
    """Calibrated bundle that watches."""
    hours: float = 8.0
    """How long, by the line's clock."""
    faults_per_hour: float = 4.0
    """How many faults in an hour by the line's clock."""
    seed: int = 0
    """Of the faults and their moments."""
    report: Path | None = None
    """Folder for runtime.json, where the key soak goes beside what else is there."""


class Film:
    """Feeds the film to the runtime through a named pipe, as fast as it is taken; a thread.

    Attributes:
      fed: pictures so far.
      black: whether the camera is covered.
    """

    def __init__(self, pipe: Path) -> None:
        pipe.unlink(missing_ok=True)
        os.mkfifo(pipe)
        pictures = film(FILM)
        self._head, self._frames = y4m_head(pictures[0]), [y4m(picture) for picture in pictures]
        self._covered = y4m(np.zeros_like(pictures[0]))
        self.fed, self.black = 0, False
        Thread(target=self._feed, args=(pipe,), name="film", daemon=True).start()

    def _feed(self, pipe: Path) -> None:
        try:
            with pipe.open("wb", buffering=0) as runtime:
                runtime.write(self._head)
                for frame in cycle(self._frames):
                    runtime.write(self._covered if self.black else frame)
                    self.fed += 1
        except BrokenPipeError:
            return  # the runtime has ended


class Planned(NamedTuple):
    """A fault of that name, once so many pictures were fed."""

    frame: int
    name: str


class Befallen(NamedTuple):
    """A fault that was: from when until when all was normal again, by the monotonic clock, and whether the journal
    tells of its alarm.
    """

    name: str
    began: float
    ended: float
    told: bool


def plan(generator: Generator, frames: int, count: int, names: Sequence[str]) -> list[Planned]:
    """So many faults at random moments, in order; each name as often as any other, none at the beginning or the end."""
    moments = np.sort(generator.uniform(WARM_UP, 1 - MARGIN, count) * frames).astype(int)
    kinds = generator.permutation([names[number % len(names)] for number in range(count)])
    return [Planned(int(frame), str(name)) for frame, name in zip(moments, kinds, strict=True)]


def gaps(views: Sequence[View], spans: Sequence[tuple[float, float]]) -> list[float]:
    """Seconds between one advance of the heartbeat and the next, as the PLC saw it, outside these spans of time."""
    beats = [now.at for before, now in pairwise(views) if now.heartbeat != before.heartbeat]
    return [
        now - before
        for before, now in pairwise(beats)
        if not any(began < now and before < ended for began, ended in spans)
    ]


def growth(samples: Sequence[float]) -> dict[str, float]:
    """Memory of the first and the last third after the warm-up, in MiB, and by how many percent it grew."""
    settled = np.asarray(samples[round(WARM_UP * len(samples)) :]) / MIB
    first, last = (float(np.mean(third)) for third in (settled[: len(settled) // 3], settled[-len(settled) // 3 :]))
    return {"first_third_mib": first, "last_third_mib": last, "growth_percent": 100 * (last / first - 1)}


def run(flags: Flags) -> None:
    """Watches for hours, injects faults, and tells of memory, heartbeats and journal."""
    if flags.hours <= 0 or flags.faults_per_hour <= 0:
        raise InputError("--hours and --faults-per-hour must be above 0.")
    folder = runfolder.start(flags.out, flags)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no runtime outlives it
    shutil.rmtree(folder / "watch", ignore_errors=True)
    found, source = {"soak": soaked(folder, flags)}, runfolder.provenance(flags)
    if flags.report:
        runfolder.merge(flags.report / "runtime.json", found, {"soak": source})
    runfolder.finish(folder, {**found, "provenance": {"soak": source}})
    Console(stderr=True).print_json(data=found)
    Console(stderr=True).print(f"wrote {folder}", highlight=False)


def soaked(folder: Path, flags: Flags) -> dict[str, Any]:
    """What came of it."""
    frames = round(flags.hours * 3600 * RATE_HZ)
    pipe = folder.absolute() / "camera"
    with Plc() as plc, Tap(plc.port) as tap, Onlooker(plc.port) as onlooker:
        camera = Film(pipe)
        settings = {
            "bundle": flags.bundle,
            "mode": "shadow",
            "cameras": [{"source": pipe, "replay": True}],
            "plc": stand.plc(tap.address),
            "recorder": {},
        }
        with Runtime(folder, settings) as runtime:
            runtime.turning()
            faults = {
                "PLC killed": (PLC, plc.kill, plc.start),
                "PLC frozen": (PLC, plc.freeze, plc.thaw),
                "page killed": (PAGE, lambda: runtime.page().kill(), lambda: None),
                "camera covered": (CAMERA, lambda: cover(camera, True), lambda: cover(camera, False)),
            }
            count = max(len(faults), round(flags.hours * flags.faults_per_hour))
            due = plan(np.random.default_rng(flags.seed), frames, count, tuple(faults))
            began, first = time.monotonic(), camera.fed
            memory: list[float] = []
            befallen: list[Befallen] = []
            with progress() as bar:
                task = bar.add_task("soak", total=frames, unit="frames")
                while camera.fed - first < frames:
                    if runtime.process.poll() is not None:
                        raise InputError(f"the runtime ended; look at {folder / 'runtime.log'}.")
                    memory.append(resident(runtime.process.pid))
                    if due and camera.fed - first >= due[0].frame:
                        befallen.append(befall(runtime, onlooker, due[0].name, *faults[due.pop(0).name]))
                    time.sleep(LOOK_S)
                    bar.update(task, completed=camera.fed - first)
            seconds, fed = time.monotonic() - began, camera.fed - first
            spans = [(fault.began, fault.ended) for fault in befallen]
            beats = gaps([view for view in onlooker.views if view.at > began], spans)
        rows = runtime.journal()
    return {
        "frames": fed,
        "frames_per_second": fed / seconds,
        "simulated_hours": fed / RATE_HZ / 3600,
        "wall_hours": seconds / 3600,
        "memory": growth(memory),
        "missed_heartbeats": sum(gap > HEARTBEAT_S for gap in beats),
        "longest_heartbeat_s": max(beats),
        "faults": {name: sum(fault.name == name for fault in befallen) for name in faults},
        "faults_without_alarm": [fault.name for fault in befallen if not fault.told],
        "longest_fault_s": max(fault.ended - fault.began for fault in befallen),
        "journal_rows": len(rows),
        "journal_intact": journal.broken(rows) is None,
        "ticks": len((runtime.out / "ticks.jsonl").read_bytes().splitlines()),
    }


def befall(
    runtime: Runtime,
    onlooker: Onlooker,
    name: str,
    alarm: str,
    inject: Callable[[], object],
    remove: Callable[[], object],
) -> Befallen:
    """One fault, until all is normal again."""
    after, began = runtime.journal()[-1].id, time.monotonic()
    inject()
    told = waited(lambda: active(runtime.alarms(alarm, after)), LIMIT_S) is not None
    time.sleep(HOLD_S)
    remove()
    removed = time.monotonic()
    normal = waited(
        lambda: not active(runtime.alarms(alarm, after)) and onlooker.beats(removed) and runtime.health() == "well",
        LIMIT_S,
    )
    if normal is None:
        raise InputError(f"{name}: the runtime did not recover; look at {runtime.folder / 'runtime.log'}.")
    return Befallen(name, began, time.monotonic(), told)


def cover(camera: Film, black: bool) -> None:
    camera.black = black


def resident(pid: int) -> float:
    """Memory of a process and its children, in bytes."""
    process = psutil.Process(pid)
    total = 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_info().rss
        except psutil.NoSuchProcess:
            continue  # the page was killed at this moment
    return total


if __name__ == "__main__":
    main(run)
