"""Between a runtime and the simulated PLC: a tap on the line that notes when each command was written, and can spoil
what is said; an onlooker who reads the PLC's registers; and whether a command was ever obeyed after its time.
"""

import asyncio
import os
import signal
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from itertools import pairwise
from threading import Event, Thread
from typing import Final, NamedTuple, Self

from runtime.line import server
from runtime.line.rack import REGISTERS
from runtime.loop import VALID_FOR_MS
from runtime.registers import COMMAND_WORDS, read_map

MAP: Final = read_map(REGISTERS)
LOOK_S, ANSWER_S = 0.02, 0.5
TOLERANCE_S = 0.25  # for the tap, a scan, the onlooker and a busy machine
STALE_S: Final = VALID_FOR_MS / 1000 + TOLERANCE_S
HEADER = struct.Struct(">HHHB")  # transaction, protocol, length from the unit on, unit
READ, WRITE, BUSY = 3, 16, 6


class View(NamedTuple):
    """The PLC's registers `at` a moment of the monotonic clock: Flinch's heartbeat and the PLC's own, the sequence
    number that the PLC took last, and whether its speed is limited by it.
    """

    at: float
    heartbeat: int
    scans: int
    sequence: int
    in_force: bool


def oldest(views: Iterable[View], written: Mapping[int, float]) -> float:
    """How old, in seconds since it was `written`, a command was at most that limited the speed of the PLC. A PLC that
    has not scanned since the view before is only as it was then.
    """
    ages = (
        view.at - written[view.sequence]
        for before, view in pairwise(views)
        if view.in_force and view.scans != before.scans and view.sequence in written
    )
    return max(ages, default=0.0)


def still(views: Iterable[View]) -> float:
    """For how many seconds Flinch's heartbeat stood still at most, as the PLC has it."""
    longest, since, last = 0.0, 0.0, None
    for view in views:
        if view.heartbeat != last:
            since, last = view.at, view.heartbeat
        longest = max(longest, view.at - since)
    return longest


class Plc:
    """The simulated PLC in a process that may be killed, frozen and started again at the same port; a with-block."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        running = self._stack.enter_context(server.running())
        self.port, self._pid = int(running.address.rpartition(":")[2]), running.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def kill(self) -> None:
        self._stack.close()

    def start(self) -> None:
        self._pid = self._stack.enter_context(server.running(port=self.port)).pid

    def freeze(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._pid, signal.SIGCONT)

    def send(self, some: bytes) -> None:
        """Sends whatever it is on a connection of its own, and hangs up."""
        with socket.create_connection(("127.0.0.1", self.port)) as peer:
            peer.sendall(some)


class Onlooker:
    """Reads the PLC's registers all the time, past the tap; a with-block.

    Attributes:
      views: what it has seen.
    """

    def __init__(self, port: int) -> None:
        self.views: list[View] = []
        self._port, self._stop = port, Event()
        self._thread = Thread(target=self._run, name="onlooker", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def beats(self, since: float) -> bool:
        """Whether Flinch's heartbeat has advanced at the PLC since then."""
        return len({view.heartbeat for view in reversed(self.views) if view.at > since}) > 1

    def in_force(self, since: float) -> bool:
        """Whether the PLC, by its last view after then, limits its speed."""
        return bool(self.views) and self.views[-1].at > since and self.views[-1].in_force

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), ANSWER_S) as peer:
                while not self._stop.wait(LOOK_S):
                    self.views.append(_look(peer))


def _look(peer: socket.socket) -> View:
    peer.sendall(HEADER.pack(0, 0, 6, server.UNIT) + struct.pack(">BHH", READ, MAP.address, MAP.size))
    answer = peer.recv(HEADER.size + 2 + 2 * MAP.size, socket.MSG_WAITALL)
    if len(answer) < HEADER.size + 2 + 2 * MAP.size:
        raise ConnectionError("the PLC hung up")
    words = struct.unpack(f">{MAP.size}H", answer[HEADER.size + 2 :])
    scans, _, sequence, in_force = words[COMMAND_WORDS : COMMAND_WORDS + 4]
    return View(time.monotonic(), words[0], scans, sequence, bool(in_force))


class Tap:
    """A Modbus TCP proxy in a thread; a with-block.

    Attributes:
      written: when the runtime wrote the command of each sequence number.
      delay_s: how long a request takes to the PLC.
      unit: another unit that requests are made to be for.
      busy: whether every request is answered with the exception "server device busy".
    """

    def __init__(self, plc_port: int) -> None:
        self.written: dict[int, float] = {}
        self.delay_s, self.busy = 0.0, False
        self.unit: int | None = None
        self._plc_port = plc_port
        self._loop = asyncio.new_event_loop()
        self._peers: set[asyncio.StreamWriter] = set()
        self._thread = Thread(target=self._loop.run_forever, name="tap", daemon=True)
        self._thread.start()
        self.port = 0
        self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()
        self._done(_cancelled())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listens."""
        self._server = self._done(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self.port = self._server.sockets[0].getsockname()[1]

    def shut(self) -> None:
        """Hangs up, and listens no longer: connections are refused."""
        self._done(self._hang_up())

    def _done(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _hang_up(self) -> None:
        self._server.close()
        for peer in self._peers:
            peer.close()

    async def _serve(self, runtime: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self._peers.add(back)
        try:
            answers, on = await asyncio.open_connection("127.0.0.1", self._plc_port)
            copy = asyncio.create_task(_copy(answers, back))
            try:
                await self._pass(runtime, on, back)
            finally:
                on.close()
                await copy
        except OSError:
            pass  # either end may be gone at any time
        finally:
            self._peers.discard(back)
            back.close()

    async def _pass(self, runtime: asyncio.StreamReader, on: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while True:
                header = await runtime.readexactly(HEADER.size)
                transaction, protocol, length, unit = HEADER.unpack(header)
                body = await runtime.readexactly(length - 1)
                if body[0] == WRITE:
                    self.written[sequence(body)] = time.monotonic()
                if self.busy:
                    back.write(HEADER.pack(transaction, protocol, 3, unit) + bytes((body[0] | 0x80, BUSY)))
                    continue
                await asyncio.sleep(self.delay_s)
                on.write(HEADER.pack(transaction, protocol, length, unit if self.unit is None else self.unit) + body)


def sequence(body: bytes) -> int:
    """The sequence number in a function-16 request for the command block, from its function code on."""
    return struct.unpack_from(">H", body, 8)[0]


async def _cancelled() -> None:
    """Ends all that is still under way."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while some := await reader.read(1 << 12):
            writer.write(some)
    writer.close()
