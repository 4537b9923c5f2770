"""The register map: what Flinch and the PLC say to each other, in 16-bit holding registers.

One contiguous area. Flinch writes the command block with ONE function-16 request and reads command and status back with
ONE function-3 request; the map knows no other address, so no other write can be expressed.

    address + 0   heartbeat                 advances only while camera and model are fresh
            + 1   sequence                  advances by one with every write
            + 2   mode                      0 off, 1 shadow, 2 advise, 3 act
            + 3   alarm                     0 or 1
            + 4   score x 1000              1000 is the alarm threshold
            + 5   speed request             per mille of full speed; 1000 asks for nothing
            + 6   valid for                 milliseconds from receipt
            + 7   PLC heartbeat             advances with every scan
            + 8   state                     PackML (ANSI/ISA-TR88.00.02) number, 6 is Execute
            + 9   accepted sequence         the last sequence number that the PLC took
            + 10  request in force          1 while the PLC limits its speed by Flinch's request
            + 11  the tags, one each, in the order of the map
"""

from collections.abc import Sequence
from enum import IntEnum
from math import isnan
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from runtime.validate import read_toml

WORD = 0x10000
LONGEST_READ = 125  # registers in one function-3 request, by the Modbus specification


class Mode(IntEnum):
    """What Flinch may do: nothing, only record, raise the alarm bit, or slow the feeder as well."""

    OFF = 0
    SHADOW = 1
    ADVISE = 2
    ACT = 3


class PackML(IntEnum):
    """State numbers by ANSI/ISA-TR88.00.02."""

    UNDEFINED = 0
    CLEARING = 1
    STOPPED = 2
    STARTING = 3
    IDLE = 4
    SUSPENDED = 5
    EXECUTE = 6
    STOPPING = 7
    ABORTING = 8
    ABORTED = 9
    HOLDING = 10
    HELD = 11
    UNHOLDING = 12
    SUSPENDING = 13
    UNSUSPENDING = 14
    RESETTING = 15
    COMPLETING = 16
    COMPLETE = 17


class Command(NamedTuple):
    """What Flinch writes. The client numbers the writes; everyone else leaves `sequence` alone."""

    heartbeat: int
    mode: Mode
    alarm: bool
    score: float
    speed_request: float
    valid_for_ms: int
    sequence: int = 0


class Status(NamedTuple):
    """What Flinch reads. `tags` are engineering units in the order of `RegisterMap.tags`."""

    heartbeat: int
    state: int
    sequence: int
    in_force: bool
    tags: tuple[float, ...]


COMMAND_WORDS = 7
HEADER_WORDS = 4


class Tag(BaseModel):
    """One register of the PLC: engineering value = word x scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class RegisterMap(BaseModel):
    """Where the area starts and which tags follow its fixed part."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: Annotated[int, Field(ge=0, lt=WORD)]
    tags: tuple[Tag, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = self.tag_names
        if len(set(names)) < len(names):
            raise ValueError(f"tag '{max(names, key=names.count)}' is listed twice; name each register once")
        if self.size > LONGEST_READ:
            raise ValueError(f"{len(names)} tags do not fit into one read; list {LONGEST_READ - 11} at most")
        if self.address + self.size > WORD:
            raise ValueError(f"address {self.address} leaves no room for {self.size} registers; choose a lower one")
        return self

    @property
    def tag_names(self) -> tuple[str, ...]:
        return tuple(tag.name for tag in self.tags)

    @property
    def size(self) -> int:
        """Registers of command and status together."""
        return COMMAND_WORDS + HEADER_WORDS + len(self.tags)

    def encode_status(self, status: Status) -> list[int]:
        header = [status.heartbeat % WORD, status.state, status.sequence, int(status.in_force)]
        return header + [to_word(value, tag.scale) for tag, value in zip(self.tags, status.tags, strict=True)]

    def decode_status(self, words: Sequence[int]) -> Status:
        heartbeat, state, sequence, in_force, *tags = words
        values = (word * tag.scale for tag, word in zip(self.tags, tags, strict=True))
        return Status(heartbeat, state, sequence, bool(in_force), tuple(values))


def read_map(path: Path) -> RegisterMap:
    """Reads a register map; raises InputError."""
    return read_toml(RegisterMap, path)


def state_name(number: int) -> str:
    """Name of a PackML state, or its number where it has none."""
    return PackML(number).name.lower() if number in set(PackML) else str(number)


def follows(sequence: int, last: int) -> bool:
    """Whether `sequence` lies ahead of `last`, counting modulo 2^16."""
    return 0 < (sequence - last) % WORD < WORD // 2


def to_word(value: float, scale: float) -> int:
    """Value in engineering units to the nearest word; what does not fit saturates, and not-a-number is 0."""
    return round(max(0.0, min(value / scale, WORD - 1.0))) if not isnan(value) else 0


def encode_command(command: Command) -> list[int]:
    """Command to the seven words of the block. A request that is not a number asks for nothing."""
    request = 1.0 if isnan(command.speed_request) else command.speed_request
    return [
        command.heartbeat % WORD,
        command.sequence % WORD,
        int(command.mode),
        int(command.alarm),
        to_word(command.score, 0.001),
        to_word(min(request, 1.0), 0.001),
        to_word(command.valid_for_ms, 1.0),
    ]


def decode_command(words: Sequence[int]) -> Command | None:
    """The seven words to a command, or None where a word is out of its range (then the PLC refuses the whole block)."""
    heartbeat, sequence, mode, alarm, score, request, valid_for_ms = words
    if mode > Mode.ACT or alarm > 1 or request > 1000:
        return None
    return Command(heartbeat, Mode(mode), bool(alarm), score * 0.001, request * 0.001, valid_for_ms, sequence)
