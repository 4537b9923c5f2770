"""A runtime as it is installed, in a process of its own, and what is seen of it from outside: its files, its page."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil

from runtime import journal
from runtime.journal import Row
from runtime.lifecycle import ACTIVE
from runtime.line.rack import REGISTERS
from wm.errors import InputError

FILM = Path(__file__).parents[1] / "docs" / "line.mp4"
START_S, STOP_S, ANSWER_S, LOOK_S = 120.0, 30.0, 5.0, 0.02
ACTIVE_LIVES = {life.value for life in ACTIVE}


class Runtime:
    """A runtime that watches with these settings and a page, as a with-block; started again with `start`.

    Args:
      folder: holds settings.toml, runtime.log and, unless the settings name another `out`, the folder watch.
      environment: what is otherwise in its environment.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], environment: Mapping[str, str] | None = None) -> None:
        self.folder, self.out = folder, Path(settings.get("out", folder / "watch"))
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"http://127.0.0.1:{free.getsockname()[1]}/"
            page = {"port": free.getsockname()[1]}
        self._environment = environment or {}
        self.settings = folder / "settings.toml"
        self.settings.write_text(toml({"out": self.out, **settings, "page": page}))
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it; it may have been started before, and ended."""
        command = [sys.executable, "-m", "runtime", "--settings", str(self.settings)]
        with (self.folder / "runtime.log").open("ab") as told:
            self.process = subprocess.Popen(command, stderr=told, env=os.environ | self._environment)
        return self.process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        finally:
            self.process.kill()

    def turning(self) -> None:
        """Waits for the first turn after a start; raises InputError where none comes."""
        before = self._written()
        met = waited(lambda: self._written() > before or self.process.poll() is not None, START_S)
        if met is None or self.process.poll() is not None:
            raise InputError(f"the runtime did not start; look at {self.folder / 'runtime.log'}.")

    def _written(self) -> int:
        file = self.out / "ticks.jsonl"
        return file.stat().st_size if file.exists() else 0

    def journal(self, after: int = 0) -> list[Row]:
        """Its journal, from after the row of that number."""
        file = self.out / "journal.db"
        return list(journal.read(file, after)) if file.exists() else []

    def alarms(self, name: str, after: int) -> list[Row]:
        """How an alarm changed its life since the row of that number."""
        return [row for row in self.journal(after) if (row.entry.kind, row.entry.name) == ("alarm", name)]

    def health(self) -> str:
        """What /healthz says, "" where nobody answers."""
        try:
            with urlopen(f"{self.address}healthz", timeout=ANSWER_S) as answer:
                return answer.read().decode().strip()
        except HTTPError as error:
            return error.read().decode().strip()
        except OSError:
            return ""

    def ask(self, **request: Any) -> bool:
        """Asks through the page; whether it was done, and durable in the journal."""
        headers = {"x-flinch": "1", "content-type": "application/json"}
        asked = Request(f"{self.address}ask", json.dumps(request).encode(), headers)
        try:
            with urlopen(asked, timeout=ANSWER_S) as answer:
                return json.loads(answer.read())["done"]
        except (OSError, ValueError):
            return False

    def page(self) -> psutil.Process:
        """The page's process."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "runtime.page.server" in child.cmdline())


def toml(settings: Mapping[str, Any]) -> str:
    """Settings as TOML: values first, then sections, of several cameras one each."""
    told = {key: value for key, value in settings.items() if not isinstance(value, Mapping) and key != "cameras"}
    lines = [f"{key} = {json.dumps(value, default=str)}" for key, value in told.items()]
    for camera in settings.get("cameras", []):
        lines += ["[[cameras]]", toml(camera)]
    for name, section in settings.items():
        if isinstance(section, Mapping):
            lines += [f"[{name}]", toml(section)]
    return "\n".join(lines)


def plc(address: str) -> dict[str, Any]:
    """The settings of the simulated PLC."""
    return {"address": address, "registers": REGISTERS}


def ticks(out: Path) -> list[dict[str, Any]]:
    """All that a runtime has written of its turns to the folder `out`, but for a line that it is at."""
    file = out / "ticks.jsonl"
    if not file.exists():
        return []
    whole, _, _ = file.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def waited(met: Callable[[], bool], limit_s: float) -> float | None:
    """Seconds until something is met, None where it is not within the limit."""
    began = time.monotonic()
    while time.monotonic() - began < limit_s:
        if met():
            return time.monotonic() - began
        time.sleep(LOOK_S)
    return None
