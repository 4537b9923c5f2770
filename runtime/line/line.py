"""The line as one thing: plant, camera and PLC stepping together, one camera frame after another."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from runtime.line.camera import THIS_LINE, Look
from runtime.line.cartons import TAIL_RATE, Tail
from runtime.line.plant import Events, Mishap, Plant, PlantInputs
from runtime.line.plant import Snapshot as PlantSnapshot
from runtime.line.program import SCAN_S, PlcState
from runtime.line.rack import DRIVE_ADDRESS, DRIVE_SCALE, IO_ADDRESS, REGISTERS, Rack, encode_io
from runtime.line.scene import CARTON
from runtime.registers import COMMAND_WORDS, Command, RegisterMap, Status, encode_command, read_map
from wm.config import FootageSpec, RewardConfig
from wm.errors import InputError

TAGS: Final = ("infeed_eye", "gate_eye", "blocked_s", "feeder_speed", "cartons_per_minute")
ACTIONS: Final = ("feeder_setpoint",)
SCANS_PER_FRAME: Final = 5
SPEC: Final = FootageSpec(rate_hz=1 / (SCANS_PER_FRAME * SCAN_S), image=(64, 64, 3), tags=TAGS, actions=ACTIONS)
# About cartons a frame: one that leaves covers the gate's eye for 2.6 frames, and one that does not leave covers it on.
REWARD: Final = RewardConfig({"gate_eye": 0.42, "blocked_s": -0.2}, change=0.2)
IO_TIMEOUT_S: Final = 5.0


class LineFrame(NamedTuple):
    """One instant of the line.

    Attributes:
      image: [64, 64, 3] uint8.
      sensors: [5] float32, the `TAGS` in engineering units.
      action: [1] float32, the feeder setpoint that was in force since the frame before.
      time: simulated seconds.
      status: all that the PLC publishes.
    """

    image: NDArray[np.uint8]
    sensors: NDArray[np.float32]
    action: NDArray[np.float32]
    time: float
    status: Status


class Snapshot(NamedTuple):
    """Plant and PLC; a line made alike, of the same seed and look, goes on from it bit for bit."""

    plant: PlantSnapshot
    inputs: PlantInputs
    plc: PlcState


class Plc(Protocol):
    """The wiring of a PLC as the plant sees it, and its published status."""

    def scan(self, words: Sequence[int]) -> int: ...
    def status(self) -> Status: ...


class InProcess:
    """The PLC in this process."""

    def __init__(self, registers: RegisterMap) -> None:
        self.rack = Rack(registers)

    def scan(self, words: Sequence[int]) -> int:
        self.rack.scan(self.rack.wire(words))
        return self.rack.drive()

    def status(self) -> Status:
        return self.rack.registers.decode_status(self.rack.registers.encode_status(self.rack.status()))


class OverModbus:
    """A PLC in a server process (`runtime.line.server`); ConnectionError where it does not answer."""

    def __init__(self, address: str, registers: RegisterMap) -> None:
        host, _, port = address.rpartition(":")
        self._registers = registers
        self._client = ModbusTcpClient(host, port=int(port), timeout=IO_TIMEOUT_S, retries=0)
        if not self._client.connect():
            raise InputError(f"{address}: no PLC answers there; start one with python -m runtime.line.server.")

    def scan(self, words: Sequence[int]) -> int:
        ask = self._client.readwrite_registers
        (drive,) = _answer(
            lambda: ask(read_address=DRIVE_ADDRESS, read_count=1, write_address=IO_ADDRESS, values=list(words))
        )
        return drive

    def status(self) -> Status:
        area = _answer(lambda: self._client.read_holding_registers(self._registers.address, count=self._registers.size))
        return self._registers.decode_status(area[COMMAND_WORDS:])

    def close(self) -> None:
        self._client.close()


def _answer(ask: Callable[[], ModbusPDU]) -> Sequence[int]:
    try:
        reply = ask()
    except ModbusException as error:
        raise ConnectionError(f"the line's PLC does not answer ({error})") from error
    if reply.isError():
        raise ConnectionError(f"the line's PLC refused the plant's request ({reply})")
    return reply.registers


class Line:
    """Plant and PLC. `step()` is one camera frame: five PLC scans of 20 ms, then a picture.

    The PLC runs in this process, or with `plc="127.0.0.1:5020"` in a server process that the plant is wired to by
    Modbus; behind a lock-step server the run is the same, bit for bit. `operator_speed` may be set at any time.

    Raises:
      InputError: no PLC at that address.
      ConnectionError: from `scan` and `step`, where the PLC process stops answering.
    """

    def __init__(
        self,
        seed: int,
        *,
        tail_rate: float = TAIL_RATE,
        tails: Mapping[int, Tail] | None = None,
        mishaps: Mapping[int, Mishap] | None = None,
        wear_per_hour: float = 0.0,
        carton_length: float = CARTON[0],
        operator_speed: float = 1.0,
        look: Look = THIS_LINE,
        plc: str | None = None,
    ) -> None:
        self.operator_speed = operator_speed
        self.registers = read_map(REGISTERS)
        self.plant = Plant(
            seed,
            tail_rate=tail_rate,
            tails=tails,
            mishaps=mishaps,
            wear_per_hour=wear_per_hour,
            carton_length=carton_length,
            look=look,
        )
        self._plc = InProcess(self.registers) if plc is None else OverModbus(plc, self.registers)
        self._inputs = PlantInputs(infeed_eye=False, gate_eye=False, cartons_out=0)
        names = self.registers.tag_names
        self._sensors = [names.index(name) for name in TAGS]
        self._actions = [names.index(name) for name in ACTIONS]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if isinstance(self._plc, OverModbus):
            self._plc.close()

    @property
    def time(self) -> float:
        return self.plant.time

    @property
    def events(self) -> Events:
        """What the oracle saw: for scoring only."""
        return self.plant.events

    def scan(self) -> None:
        """20 ms: the PLC scans what the plant last showed it, then the plant moves at the speed the PLC gives."""
        clock_ms = round((self.plant.time + SCAN_S) * 1000)
        drive = self._plc.scan(encode_io(clock_ms, self._inputs, self.operator_speed))
        self._inputs = self.plant.advance(drive * DRIVE_SCALE, SCAN_S)

    def frame(self) -> LineFrame:
        """The line as it stands."""
        status = self._plc.status()
        values = np.asarray(status.tags, np.float32)
        return LineFrame(self.plant.image(), values[self._sensors], values[self._actions], self.plant.time, status)

    def step(self) -> LineFrame:
        """One camera frame further."""
        for _ in range(SCANS_PER_FRAME):
            self.scan()
        return self.frame()

    def exchange(self, command: Command) -> Status:
        """Writes a command and reads back as the Modbus client does, for a PLC in this process."""
        rack = self._in_process().rack
        rack.command(encode_command(command._replace(sequence=(rack.state.sequence or 0) + 1)))
        return self._plc.status()

    def snapshot(self) -> Snapshot:
        """All state of plant and PLC; only with the PLC in this process."""
        return Snapshot(self.plant.snapshot(), self._inputs, self._in_process().rack.state)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to `snapshot`. A PLC in a server process must have been started from `snapshot.plc` (--state)."""
        self.plant.restore(snapshot.plant)
        self._inputs = snapshot.inputs
        self.operator_speed = snapshot.plc.operator_speed
        if isinstance(self._plc, InProcess):
            self._plc.rack = Rack(self.registers, snapshot.plc)

    def _in_process(self) -> InProcess:
        if not isinstance(self._plc, InProcess):
            raise TypeError("the PLC runs in another process; use a Line without plc=")
        return self._plc
