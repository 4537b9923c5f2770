"""How long a frame takes from the camera until the PLC has its command: the whole runtime as it is installed, with
the page open in a browser, beside the simulated PLC.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from experiments import runfolder
from experiments.cli import main, progress
from runtime.line import server
from runtime.line.rack import REGISTERS
from wm.errors import InputError

FILM = Path(__file__).parents[1] / "docs" / "line.mp4"
SETTLED_S = 20.0
START_S = 120.0
SETTINGS = """
bundle = {bundle}
out = {out}
mode = "act"
[[cameras]]
source = {film}
loop = true
[plc]
address = {plc}
registers = {registers}
[recorder]
[page]
port = {port}
"""


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.benchmark_runtime."""

    out: Path
    """Folder of the run."""
    bundle: Path = Path("runtime/line/bundle")
    """Calibrated bundle that watches."""
    chromium: Path = Path("/usr/bin/chromium")
    """The browser in which the page is open."""
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
    with server.running() as plc, watching(folder, flags.bundle, plc.address) as address, opened(flags, address):
        rows = ticks(folder)
        with progress() as bar:
            task = bar.add_task("measure", total=round(60 * flags.minutes), unit="s")
            for _ in range(round(60 * flags.minutes)):
                time.sleep(1.0)
                bar.advance(task)
        measured = ticks(folder)[len(rows) :]
    metrics = {**latency(measured), "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics, flags.report and flags.report / "runtime.json")
    Console(stderr=True).print(
        f"from camera to register {metrics['camera_to_register_median_ms']:.1f} ms, p99 "
        f"{metrics['camera_to_register_p99_ms']:.1f} ms, worst {metrics['camera_to_register_worst_ms']:.1f} ms, over "
        f"{metrics['frames']} frames, {metrics['frames_dropped']} dropped\nwrote {folder}",
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
        "faults": sum(row["fault"] is not None or row["plc"] is not None for row in rows),
    }


@contextmanager
def watching(folder: Path, bundle: Path, plc: str) -> Iterator[str]:
    """A runtime in a process of its own, settled; the address of its page."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    values = {"bundle": bundle, "out": folder / "watch", "film": FILM, "plc": plc, "registers": REGISTERS}
    told = {name: json.dumps(str(value)) for name, value in values.items()}
    settings = folder / "settings.toml"
    settings.write_text(SETTINGS.format(port=port, **told))
    process = subprocess.Popen([sys.executable, "-m", "runtime", "--settings", str(settings)])
    try:
        until = time.monotonic() + START_S
        while not ticks(folder) and time.monotonic() < until and process.poll() is None:
            time.sleep(0.5)
        if not ticks(folder):
            raise InputError("the runtime did not start; look at what it said above.")
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


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


def ticks(folder: Path) -> list[dict[str, Any]]:
    """All that the runtime has written of its turns, but for a line that it is at."""
    file = folder / "watch" / "ticks.jsonl"
    if not file.exists():
        return []
    whole, _, _ = file.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


if __name__ == "__main__":
    main(run)
