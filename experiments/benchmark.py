"""Times Flinch beside a public implementation, both in the same run, turn by turn, on one core and on two.

The peer, sheeprl's DreamerV3, lives in an environment of its own:
    python -m venv .venv-peer && .venv-peer/bin/pip install torch==2.13.0 sheeprl==0.8.4
Where that is missing, Flinch is timed alone. The peer is there twice, as large as the bundle's model, and as large as a
model of tags alone: what a decision takes depends on how many cells a model has, and the peer has one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments import runfolder
from experiments.cli import HUGE_PAGES, main, progress
from experiments.timed import SOAK_REPORTS
from wm import bundle
from wm.errors import InputError

BATCH, LENGTH, HORIZON = 8, 32, 30
CANDIDATES, PLANNED = 64, 15
SIZES = (BATCH, LENGTH, HORIZON, CANDIDATES, PLANNED)
SHARED = {"train_step": 1, "filter": 20, "score": 20, "imagine": 3, "plan": 3}
TICKS = {f"tick_{cameras}": count for cameras, count in {1: 100, 2: 40, 4: 20, 8: 10, 16: 5}.items()}
ALONE = {**TICKS, "look_ahead": 20, "plan_tags": 3}
JOBS = {"flinch": {**SHARED, **ALONE}, "peer": SHARED, "peer_tags": {"plan": 3}}
PEER_IMAGE = (64, 64, 3)
COLD = """
import sys, time
from pathlib import Path
import numpy as np
from wm import compilation
compilation.keep()
from wm import bundle
line = bundle.load(Path(sys.argv[1]))
state, frame = line.start(), np.zeros(line.config.image, np.uint8)
for _ in range(line.monitor.warm(line.spec.rate_hz) + 1):
    state, surprise = line.watch(state, line.observation(frame), line.action())
print(float(surprise.score))
"""


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.benchmark."""

    out: Path
    """Folder of the run."""
    bundle: Path = Path("runtime/line/bundle")
    """Calibrated bundle whose model is timed."""
    peer: Path = Path(".venv-peer/bin/python")
    """Interpreter of the peer's environment."""
    rounds: int = 30
    """Turns; in each, every job is done some times by each side."""
    cores: tuple[int, ...] = (1, 2)
    """Numbers of cores to time on."""
    soak: int = 100_000
    """Ticks over which memory is watched; 0 to leave it out."""
    report: Path | None = None
    """Folder for speed.json, beside other reports."""


class Side:
    """A process that does jobs on demand."""

    def __init__(self, process: "subprocess.Popen[str]", command: str) -> None:
        self._process, self._command = process, command
        ready = json.loads(self._answer())
        self.name, self.parameters, self.tags = ready["name"], ready["parameters"], ready.get("tags")

    def do(self, job: str, count: int) -> list[float]:
        """Milliseconds of each of so many times."""
        assert self._process.stdin
        print(job, count, file=self._process.stdin, flush=True)
        return json.loads(self._answer())

    def memory(self) -> float:
        """Its resident memory in MiB."""
        with Path(f"/proc/{self._process.pid}/status").open() as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))

    def _answer(self) -> str:
        assert self._process.stdout
        answer = self._process.stdout.readline()
        if not answer:
            raise InputError(f"{self._command} ended before it answered; see what it said above.")
        return answer


def run(flags: Flags) -> None:
    """Times training, filtering, scoring, imagining, planning, whole ticks and the cold start; writes metrics.json."""
    if flags.rounds < 1 or not flags.cores or min(flags.cores) < 1:
        raise InputError("--rounds and --cores must be at least 1.")
    if flags.soak and flags.soak < SOAK_REPORTS:
        raise InputError(f"--soak must be at least {SOAK_REPORTS}, or 0 to leave it out.")
    if max(flags.cores) > len(os.sched_getaffinity(0)):
        raise InputError(f"this machine gives {len(os.sched_getaffinity(0))} cores; ask for no more with --cores.")
    line = bundle.load(flags.bundle)
    if line.calibration is None:
        raise InputError(f"{flags.bundle} is not calibrated, so it scores nothing; run experiments.calibrate first.")
    if line.config.image is None or (flags.peer.exists() and line.config.image != PEER_IMAGE):
        raise InputError(
            f"{flags.bundle} has pictures of {line.config.image}, the peer those of {PEER_IMAGE}; give another bundle, "
            "or a --peer that is not there."
        )
    folder = runfolder.start(flags.out, flags)
    console = Console(stderr=True)
    if not flags.peer.exists():
        console.print(f"no peer at {flags.peer}: Flinch is timed alone (see experiments/benchmark.py)", highlight=False)
    runs = {cores: _time(flags, cores) for cores in flags.cores}
    least = runs[min(flags.cores)]
    first, again = _cold_start(flags.bundle)
    metrics: dict[str, Any] = {**_summary(least), "first_start_s": first, "cold_start_s": again}
    if flags.soak:
        metrics["soak"] = _soak(flags)
    metrics |= {"cores": runs, "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics, flags.report and flags.report / "speed.json")
    for cores, timed in runs.items():
        console.print(_table(cores, timed))
    said = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items() if isinstance(value, float | int))
    console.print(f"{said}\nwrote {folder}", highlight=False, soft_wrap=True)


def _time(flags: Flags, cores: int) -> dict[str, Any]:
    """Every job of both sides on so many cores: milliseconds, by side and job, and what the sides are."""
    here = sorted(os.sched_getaffinity(0))[-cores:]
    with ExitStack() as stack:
        sides = {"flinch": stack.enter_context(_flinch(flags, here))}
        if flags.peer.exists():
            for name, parameters in {"peer": sides["flinch"].parameters, "peer_tags": sides["flinch"].tags}.items():
                command = [flags.peer, Path(__file__).with_name("peer.py"), parameters, cores, *SIZES]
                sides[name] = stack.enter_context(_side(command, here, {"OMP_NUM_THREADS": str(cores)}))
                if not 0.9 < sides[name].parameters / parameters <= 1.0:
                    raise InputError(
                        f"no peer has about {parameters:,} parameters; give another bundle than {flags.bundle}."
                    )
        for name, side in sides.items():
            for job in JOBS[name]:
                side.do(job, 5)
        times: dict[str, dict[str, list[float]]] = {side: defaultdict(list) for side in sides}
        with progress() as bar:
            task = bar.add_task(f"{cores} core{'s' * (cores > 1)}", total=flags.rounds, unit="rounds")
            for _ in bar.track(range(flags.rounds), task_id=task):
                for job, count in JOBS["flinch"].items():
                    for name, side in sides.items():
                        if job in JOBS[name]:
                            times[name][job] += side.do(job, count)
        return {
            name: {
                "name": side.name,
                "parameters": side.parameters,
                "memory_mib": side.memory(),
                "ms": {job: _statistics(values) for job, values in times[name].items()},
            }
            for name, side in sides.items()
        }


def _flinch(flags: Flags, here: list[int]) -> AbstractContextManager[Side]:
    threads = "--xla_cpu_multi_thread_eigen=false" if len(here) == 1 else ""
    command = [sys.executable, "-m", "experiments.timed", flags.bundle, *SIZES]
    return _side(command, here, {"XLA_FLAGS": threads})


@contextmanager
def _side(command: list[Any], here: list[int], environment: dict[str, str]) -> Iterator[Side]:
    """A process that is bound to these cores from its start, with its memory in huge pages as in training."""
    process = subprocess.Popen(
        ["taskset", "--cpu-list", ",".join(map(str, here)), *map(str, command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | HUGE_PAGES | environment,
    )
    try:
        yield Side(process, " ".join(map(str, command[:3])))
    finally:
        process.kill()
        process.wait()


def _statistics(values: list[float]) -> dict[str, float]:
    return {
        "median": float(np.median(values)),
        "p99": float(np.quantile(values, 0.99)),
        "worst": max(values),
        "count": len(values),
    }


def _summary(timed: dict[str, Any]) -> dict[str, float]:
    """The figures that the project is held to."""
    flinch = timed["flinch"]["ms"]
    told = {
        "parameters": timed["flinch"]["parameters"],
        "watch_p99_ms": flinch["tick_1"]["p99"],
        "eight_camera_ratio": flinch["tick_8"]["median"] / flinch["tick_1"]["median"],
    }
    if "peer" in timed:
        peer = timed["peer"]["ms"]
        names = {"train_ratio": "train_step", "filter_ratio": "filter", "score_ratio": "score"}
        for name, job in {**names, "imagine_ratio": "imagine", "plan_ratio": "plan"}.items():
            told[name] = flinch[job]["median"] / peer[job]["median"]
        told["plan_tags_ratio"] = flinch["plan_tags"]["median"] / timed["peer_tags"]["ms"]["plan"]["median"]
    return told


def _cold_start(path: Path) -> list[float]:
    """Seconds from starting a process on one core to its first score, that of the frame after the first seconds, which
    all come at once here: with nothing compiled yet, and with what the start before has compiled.
    """
    core = str(max(os.sched_getaffinity(0)))
    command = ["taskset", "--cpu-list", core, sys.executable, "-c", COLD, str(path)]
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(2):
            began = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"XDG_CACHE_HOME": cache})
            seconds.append(time.monotonic() - began)
    return seconds


def _soak(flags: Flags) -> dict[str, Any]:
    """Memory in MiB at even distances of many ticks, and its growth over the later half."""
    with _flinch(flags, sorted(os.sched_getaffinity(0))[-1:]) as side:
        side.do("tick_1", 5)
        memory = side.do("soak", flags.soak)
    return {"ticks": flags.soak, "memory_mib": memory, "growth_mib": memory[-1] - memory[len(memory) // 2 - 1]}


def _table(cores: int, timed: dict[str, Any]) -> Table:
    table = Table(title=f"{cores} core{'s' * (cores > 1)}: milliseconds, median / p99 / worst")
    for column in ("job", *(f"{side['name']}, {side['parameters']:,} parameters" for side in timed.values())):
        table.add_column(column)
    for job in timed["flinch"]["ms"]:
        cells = (side["ms"].get(job) for side in timed.values())
        table.add_row(
            job, *("" if ms is None else "{median:.2f} / {p99:.2f} / {worst:.2f}".format(**ms) for ms in cells)
        )
    return table


if __name__ == "__main__":
    main(run)
