"""The line's PLC as a process: a Modbus TCP server that runs the program, by the wall clock or in lock-step.

    python -m runtime.line.server --port 5020 [--lockstep] [--state FILE]

By the wall clock it scans every 20 ms with the inputs that the plant wrote last. In lock-step every write of the I/O
block is one scan, and time is the plant's clock: so simulated time runs as fast as the plant does, and the same way
each time. Only whole blocks may be written, the command block and the I/O block; anything else is refused.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import NamedTuple

import tyro
from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from runtime.line.program import SCAN_S, PlcState, from_json, to_json
from runtime.line.rack import DRIVE_ADDRESS, IO_ADDRESS, IO_WORDS, REGISTERS, Rack
from runtime.registers import COMMAND_WORDS, read_map
from wm.errors import InputError, refuse

UNIT = 1
PARENT_S = 1.0
READY = "PLC listening on "


@dataclass(frozen=True)
class Flags:
    """The simulated PLC of the embedded line."""

    port: int
    """TCP port; 0 takes a free one. The address is printed once the server listens."""
    host: str = "127.0.0.1"
    """Address to bind to."""
    lockstep: bool = False
    """Let time advance only by the plant's writes to the I/O block."""
    state: Path | None = None
    """JSON file with the state of the program to start from."""
    parent: int | None = None
    """Process to end with."""


class Running(NamedTuple):
    """A server process."""

    address: str
    pid: int


def main(flags: Flags) -> None:
    """Serves until it is killed; raises InputError for a bad state file or a port that is taken."""
    rack = Rack(read_map(REGISTERS), read_state(flags.state) if flags.state else None)
    asyncio.run(_serve(rack, flags))


def read_state(path: Path) -> PlcState:
    """Reads the JSON of a PlcState; raises InputError."""
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a PLC state file.") from error
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: is not a PLC state ({error}); write one with program.to_json.") from error


async def _serve(rack: Rack, flags: Flags) -> None:
    async def access(
        function: int, start: int, address: int, count: int, memory: list[int], values: list[int] | list[bool] | None
    ) -> ExcCodes | None:
        """Called by the server before each access: takes what is written, refreshes what is about to be read."""
        if values is not None:
            return _write(rack, address, [int(value) for value in values], lockstep=flags.lockstep)
        _refresh(rack, start, memory)
        return None

    area = SimData(rack.registers.address, count=rack.registers.size, datatype=DataType.REGISTERS)
    io = SimData(IO_ADDRESS, count=IO_WORDS + 1, datatype=DataType.REGISTERS)
    server = ModbusTcpServer(SimDevice(UNIT, [area, io], action=access), address=(flags.host, flags.port))
    try:
        await server.serve_forever(background=True)
    except (RuntimeError, OverflowError) as error:
        raise InputError(f"{flags.host}:{flags.port}: cannot listen there; choose another --port.") from error
    assert isinstance(server.transport, asyncio.Server)
    host, port = server.transport.sockets[0].getsockname()[:2]
    sys.stdout.write(f"{READY}{host}:{port}\n")
    sys.stdout.flush()
    await asyncio.gather(_end_with(flags.parent), *([] if flags.lockstep else [_scan_by_the_clock(rack)]))


async def _end_with(parent: int | None) -> None:
    while parent in {None, os.getppid()}:
        await asyncio.sleep(PARENT_S)
    sys.exit()


async def _scan_by_the_clock(rack: Rack) -> None:
    last = monotonic()
    while True:
        await asyncio.sleep(SCAN_S)
        last, dt = (now := monotonic()), now - last
        rack.scan(dt)


def _write(rack: Rack, address: int, words: list[int], *, lockstep: bool) -> ExcCodes | None:
    if (address, len(words)) == (rack.registers.address, COMMAND_WORDS):
        return None if rack.command(words) else ExcCodes.ILLEGAL_VALUE
    if (address, len(words)) != (IO_ADDRESS, IO_WORDS):
        return ExcCodes.ILLEGAL_ADDRESS
    elapsed = rack.wire(words)
    if lockstep:
        rack.scan(elapsed)
    return None


def _refresh(rack: Rack, start: int, memory: list[int]) -> None:
    status = rack.registers.address + COMMAND_WORDS - start
    words = rack.registers.encode_status(rack.status())
    memory[status : status + len(words)] = words
    memory[DRIVE_ADDRESS - start] = rack.drive()


@contextmanager
def running(*, port: int = 0, lockstep: bool = False, state: PlcState | None = None) -> Iterator[Running]:
    """A server process on 127.0.0.1 for the length of a with-block, from `state` where one is given. Signals to the
    caller's process group do not reach it; a second after the caller was killed it ends too.

    Raises:
      InputError: the server cannot listen on `port`.
    """
    with TemporaryDirectory() as folder:
        flags = [f"--port={port}", f"--parent={os.getpid()}"] + ["--lockstep"] * lockstep
        if state is not None:
            file = Path(folder, "state.json")
            file.write_text(json.dumps(to_json(state)), encoding="utf-8")
            flags.append(f"--state={file}")
        command = [sys.executable, "-m", "runtime.line.server", *flags]
        with (
            Path(folder, "stderr").open("w+", encoding="utf-8") as said,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
            ) as process,
        ):
            assert process.stdout is not None
            try:
                ready = process.stdout.readline()
                if not ready.startswith(READY):
                    process.wait()
                    said.seek(0)
                    raise InputError(said.read().strip().removeprefix("error: "))
                yield Running(ready.removeprefix(READY).strip(), process.pid)
            finally:
                process.kill()


if __name__ == "__main__":
    try:
        main(tyro.cli(Flags, description=__doc__))
    except InputError as error:
        refuse(error)
