"""How long a frame takes from the camera until the PLC has its command: the whole runtime as it is installed, with
the page open in a browser, beside the simulated PLC.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from experiments import runfolder, stand
from experiments.cli import main, progress
from experiments.stand import FILM, Runtime, ticks
from runtime.line import server
from wm.errors import InputError

SETTLED_S = 20.0


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.benchmark_runtime."""

    out: Path
    """Folder of the run."""
    bundle: Path = Path("runtime/line/bundle")
    """Calibrated bundle that watches."""
    chromium: Path = Path("/usr/bin/chromium")
    """The browser in which the page is open."""
    policy: Literal["rule", "plan", "actor"] = "rule"
    """Who chooses the speed; the figures of another than the rule stand in the report under its name."""
    simulator: Path = Path("runtime/line/acting")
    """Bundle that another than the rule dreams with."""
    minutes: float = 5.0
    """How long to measure."""
    report: Path | None = None
    """Folder for runtime.json, beside other reports."""


def run(flags: Flags) -> None:
    """Measures the latency from camera to register."""
    if flags.minutes <= 0:
        raise InputError("--minutes must be above 0.")
    if not flags.chromium.exists():
        raise InputError(f"{flags.chromium} is not there; install chromium, or say where it is with --chromium.")
    folder = runfolder.start(flags.out, flags)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no runtime outlives it
    with server.running() as plc:
        settings = {
            "bundle": flags.bundle,
            "mode": "act",
            "cameras": [{"source": FILM, "loop": True}],
            "plc": stand.plc(plc.address),
            "act": {} if flags.policy == "rule" else {"policy": flags.policy, "simulator": flags.simulator},
            "recorder": {},
        }
        with Runtime(folder, settings) as runtime:
            runtime.turning()
            with opened(flags, runtime.address), progress() as bar:
                before = len(ticks(runtime.out))
                task = bar.add_task("measure", total=round(60 * flags.minutes), unit="s")
                for _ in range(round(60 * flags.minutes)):
                    time.sleep(1.0)
                    bar.advance(task)
                measured = ticks(runtime.out)[before:]
    metrics, source = latency(measured), runfolder.provenance(flags)
    if flags.policy != "rule":
        metrics["undecided"] = sum(row["chosen"] is None for row in measured if row["fault"] is None)
    name, told = ("latency", metrics) if flags.policy == "rule" else (flags.policy, {flags.policy: metrics})
    if flags.report:
        runfolder.merge(flags.report / "runtime.json", told, {name: source})
    runfolder.finish(folder, {**metrics, "provenance": {name: source}})
    Console(stderr=True).print(
        f"from camera to register {metrics['camera_to_register_median_ms']:.1f} ms, p99 "
        f"{metrics['camera_to_register_p99_ms']:.1f} ms, worst {metrics['camera_to_register_worst_ms']:.1f} ms, over "
        f"{metrics['frames']} frames, {metrics['frames_dropped']} dropped"
        + (f", {metrics['undecided']} undecided" if flags.policy != "rule" else "")
        + f"\nwrote {folder}",
        highlight=False,
    )


def latency(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What ticks say of it, in milliseconds."""
    found = np.array([row["latency_ms"] for row in rows if row["latency_ms"] is not None])
    if not len(found):
        raise InputError("the PLC has had no command; look at what the runtime said above.")
    return {
        "camera_to_register_median_ms": float(np.median(found)),
        "camera_to_register_p99_ms": float(np.quantile(found, 0.99)),
        "camera_to_register_worst_ms": float(found.max()),
        "frames": len(rows),
        "frames_dropped": rows[-1]["dropped"] - rows[0]["dropped"],
        "turns_at_fault": sum(row["fault"] is not None or row["plc"] is not None for row in rows),
    }


@contextmanager
def opened(flags: Flags, address: str) -> Iterator[None]:
    """The page, open in a browser for so long that all has settled."""
    command = [flags.chromium, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    profile = f"--user-data-dir={flags.out.absolute() / 'profile'}"
    browser = subprocess.Popen([*command, profile, address], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        time.sleep(SETTLED_S)
        yield
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


if __name__ == "__main__":
    main(run)
