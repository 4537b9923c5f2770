"""The loop's side of the page: shows each turn, hears what operators ask, and starts the page's process again when it
ends. None of it waits.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from runtime.board import WHAT_IF, Board, Picture
from runtime.desk import Desk
from runtime.foresight import PICTURES, SPEEDS, Branch
from runtime.loop import Tick
from runtime.plc import Fault
from runtime.recorder import drawable
from runtime.registers import Status, state_name
from runtime.requests import Answer, parse
from runtime.settings import PageSettings

RESTART_S = 1.0, 30.0  # shortest and longest pause
MOST_ASKED = 8  # of a turn; the rest waits for the next
FACTS = 1 << 20  # bytes, for what is told beside pictures
LOUD = 2.0  # surprise that is drawn brightest


class Window:
    """Shows one runtime. The page's process ends with it."""

    def __init__(
        self, settings: PageSettings, journal: Path, clips: Path, cameras: Sequence[str], picture: tuple[int, ...]
    ) -> None:
        self._settings, self._journal, self._clips, self._cameras = settings, journal, clips, cameras
        self._board = Board(size=FACTS + (3 * len(cameras) + len(SPEEDS) * PICTURES) * prod(picture))
        self._mine, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._mine.setblocking(False)
        self._process = self._start()
        self._turns = 0
        self._ended_at: float | None = None
        self._pause_s = RESTART_S[0]

    @property
    def fault(self) -> str | None:
        """Why there is no page, None while there is."""
        code = self._process.poll()
        return None if code is None else f"page: its process ended with {code}"

    def keep(self) -> None:
        """Starts the page again a second after it ended, and ever later where it ends at once."""
        if self._process.poll() is None:
            if monotonic() - self._began > RESTART_S[1]:
                self._pause_s = RESTART_S[0]
        elif self._ended_at is None:
            self._ended_at = monotonic()
        elif monotonic() - self._ended_at > self._pause_s:
            self._pause_s, self._ended_at = min(2 * self._pause_s, RESTART_S[1]), None
            with suppress(OSError):  # a machine that cannot start it now can later
                self._process = self._start()

    def hear(self, desk: Desk) -> None:
        """Does what operators have asked since the last turn."""
        for _ in range(MOST_ASKED):
            try:
                asked = self._mine.recv(1 << 16)
            except (BlockingIOError, ConnectionError):
                return
            try:
                desk.ask(parse(asked), self._reply)
            except ValidationError as error:
                first = error.errors()[0]
                told = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
                self._reply(Answer(id=json.loads(asked)["id"], done=False, told=told))

    def show(
        self,
        tick: Tick,
        status: Status | Fault | None,
        desk: Desk,
        images: Sequence[NDArray[np.uint8] | None],
        ahead: Sequence[NDArray[np.uint8] | None],
        dropped: int,
        latency_s: float | None,
        branches: Sequence[Branch],
    ) -> None:
        """One turn: what each camera sees and foretells, and what stands; also how many frames nobody looked at so
        far, how long the last command took from the camera's frame until the PLC had it, and what would come at other
        speeds.
        """
        maps = [None if each.surprise is None else drawable(each.surprise.map / LOUD) for each in tick.glances]
        pictures = [
            Picture(f"{camera} {kind}", picture)
            for kind, drawn in (("now", images), ("ahead", ahead), ("map", maps))
            for camera, picture in zip(self._cameras, drawn, strict=False)
            if picture is not None
        ]
        pictures += [Picture(f"{WHAT_IF}{number}", branch.picture) for number, branch in enumerate(branches)]
        self._turns += 1
        told = {
            "turns": self._turns,
            "dropped": dropped,
            "latency_s": latency_s,
            "mode": desk.mode.name.lower(),
            "cameras": list(self._cameras),
            WHAT_IF: [{"speed": each.speed, "worth": each.worth, "tags": each.tags} for each in branches],
        }
        self._board.write({**_facts(tick, status), **told, "alarms": desk.standing()}, pictures)

    def close(self) -> None:
        self._process.terminate()
        for end in (self._mine, self._theirs, self._board):
            end.close()

    def _start(self) -> subprocess.Popen[bytes]:
        self._began = monotonic()
        descriptors = self._board.descriptor, self._theirs.fileno()
        flags = {
            "--board": descriptors[0],
            "--requests": descriptors[1],
            "--journal": self._journal,
            "--clips": self._clips,
            "--host": self._settings.host,
            "--port": self._settings.port,
        }
        words = [str(word) for pair in flags.items() for word in pair]
        return subprocess.Popen([sys.executable, "-m", "runtime.page.server", *words], pass_fds=descriptors)

    def _reply(self, answer: Answer) -> None:
        try:
            self._mine.send(answer.model_dump_json().encode())
        except OSError:
            return  # nobody waits for it any more


def _facts(tick: Tick, status: Status | Fault | None) -> dict[str, Any]:
    match status:
        case Status():
            plc, in_force = state_name(status.state), status.in_force
        case Fault():
            plc, in_force = status.reason, False
        case None:
            plc, in_force = "none", False
    return {
        "at": monotonic(),
        "time": round(tick.time, 2),
        "score": None if tick.fault else round(tick.score, 3),
        "drift": None if tick.drift is None else round(tick.drift, 3),
        "alarm": tick.alarm.on,
        "slow": tick.alarm.speed < 1.0,
        "request": tick.command.speed_request,
        "camera": tick.fault or "fresh",
        "plc": plc,
        "in_force": in_force,
    }
