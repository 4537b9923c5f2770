"""The PLC as a rack: its program, the I/O block that the field wiring fills, and the area that it shares with Flinch.

The same rack stands behind the Modbus server and inside an in-process `Line`, and every value crosses as 16-bit words
in both: so a line with its PLC on the network behaves bit for bit as one without.

The I/O block (holding registers; the plant writes it and reads the drive in one function-23 request):
    IO_ADDRESS + 0, 1   plant clock, milliseconds, high word first
               + 2      infeed eye        + 3  gate eye        + 4  carton counter, modulo 2^16
               + 5      operator's speed setpoint, per mille
and the drive's speed reference that the plant reads, at IO_ADDRESS + 6, in 1/10000 of full speed.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

from runtime.line.program import SCAN_S, Inputs, PlcState, scan, status
from runtime.registers import WORD, Command, RegisterMap, Status, decode_command

REGISTERS: Final = Path(__file__).with_name("registers.toml")
IO_ADDRESS: Final = 1000
IO_WORDS: Final = 6
DRIVE_ADDRESS: Final = IO_ADDRESS + IO_WORDS
DRIVE_SCALE: Final = 1e-4


class IoBlock(NamedTuple):
    """The I/O block, decoded."""

    clock_ms: int = 0
    infeed_eye: bool = False
    gate_eye: bool = False
    cartons_out: int = 0
    operator_speed: float = 1.0


def encode_io(clock_ms: int, inputs: Inputs, operator_speed: float) -> list[int]:
    high, low = divmod(clock_ms, WORD)
    eyes = [int(inputs.infeed_eye), int(inputs.gate_eye)]
    return [high % WORD, low, *eyes, inputs.cartons_out % WORD, round(min(max(operator_speed, 0.0), 1.0) * 1000)]


def decode_io(words: Sequence[int]) -> IoBlock:
    high, low, infeed_eye, gate_eye, cartons_out, operator = words
    return IoBlock(high * WORD + low, bool(infeed_eye), bool(gate_eye), cartons_out, min(operator, 1000) / 1000)


class Rack:
    """A PLC in memory: `wire` and `command` fill its input image, `scan` runs the program once."""

    def __init__(self, registers: RegisterMap, state: PlcState | None = None) -> None:
        self.registers = registers
        self.state = state if state is not None else PlcState()
        self._io: IoBlock | None = None
        self._command: Command | None = None

    def wire(self, words: Sequence[int]) -> float:
        """Takes the six words of the I/O block; returns how far the plant clock went, in seconds."""
        last, self._io = self._io, decode_io(words)
        self.state = replace(self.state, operator_speed=self._io.operator_speed)
        return SCAN_S if last is None else (self._io.clock_ms - last.clock_ms) / 1000

    def command(self, words: Sequence[int]) -> bool:
        """Takes the seven words of the command block; False where a word is out of its range."""
        command = decode_command(words)
        if command is not None:
            self._command = command
        return command is not None

    def scan(self, dt: float) -> None:
        self.state = scan(self.state, self._io or IoBlock(), self._command, dt)

    def status(self) -> Status:
        return status(self.state, self.registers)

    def drive(self) -> int:
        """The word at `DRIVE_ADDRESS`."""
        return round(self.state.feeder_speed / DRIVE_SCALE)
