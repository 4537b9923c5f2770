"""The program of the line's PLC: one pure scan, `scan(state, inputs, command, dt) -> state`.

The PLC has the last word. It takes advice from Flinch only while the link is alive, and advice can only slow the
feeder: never above the operator's speed, never below the floor. What is stale expires and the line falls back to its
own speed:

- a command whose sequence number repeats or goes backwards is ignored, and the last one taken expires `valid_for` after
  its receipt, as does a link whose heartbeat has stood still for `HEARTBEAT_S`;
- after a lost link nothing is obeyed for `REARM_S`. A PLC or a network that was frozen receives the writes that had
  queued up in one burst, and no burst is spread over `REARM_S` of the PLC's own clock: so none of them is acted on.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from runtime.registers import WORD, Command, Mode, PackML, RegisterMap, Status, follows

SCAN_S = 0.02
OVERRUN_S = 0.1
RAMP_DOWN_S = 0.5  # from full speed to standstill
RAMP_UP_S = 1.0
FLOOR = 0.10  # the slowest speed that Flinch may ask for
HEARTBEAT_S = 0.5
LONGEST_VALID_S = 1.0
REARM_S = 0.2
JAM_TRIP_S = 2.5
RATE_WINDOW_S = 60.0
MOST_CARTONS = 10  # in one scan; a counter that jumps further has started anew


class Inputs(Protocol):
    """What the input cards see."""

    @property
    def infeed_eye(self) -> bool: ...
    @property
    def gate_eye(self) -> bool: ...
    @property
    def cartons_out(self) -> int: ...


@dataclass(frozen=True)
class PlcState:
    """All memory of the program, plain JSON values only.

    Attributes:
      time: seconds since power-up by the PLC's own clock.
      heartbeat: scans so far, modulo 2^16.
      state: PackML state.
      operator_speed: the operator's setpoint, 0 to 1.
      feeder_setpoint: the speed decided on, 0 to 1; the ramp follows it.
      feeder_speed: actual speed after the ramp, 0 to 1.
      infeed_eye, gate_eye: photo-eyes as of this scan.
      blocked_s: how long the gate eye has been covered.
      cartons_out: the carton counter, modulo 2^16.
      carton_times: when the cartons of the last `RATE_WINDOW_S` went out.
      sequence: of the last command taken, None before the first.
      link_heartbeat: Flinch's heartbeat, and `link_beat_time` when it last advanced.
      link_since: when the present unbroken link began, None while there is none.
      request: Flinch's speed request in force, 1 for none; it expires at `request_until`.
    """

    time: float = 0.0
    heartbeat: int = 0
    state: PackML = PackML.EXECUTE
    operator_speed: float = 1.0
    feeder_setpoint: float = 0.0
    feeder_speed: float = 0.0
    infeed_eye: bool = False
    gate_eye: bool = False
    blocked_s: float = 0.0
    cartons_out: int = 0
    carton_times: tuple[float, ...] = ()
    sequence: int | None = None
    link_heartbeat: int = 0
    link_beat_time: float = 0.0
    link_since: float | None = None
    request: float = 1.0
    request_until: float = 0.0


def scan(state: PlcState, inputs: Inputs, command: Command | None, dt: float) -> PlcState:
    """One scan: inputs and the command block as they stand, `dt` seconds after the last scan.

    Commands age by all of `dt`; timers and ramps go on by `OVERRUN_S` at most, for nobody looked in between.
    """
    state = replace(state, time=state.time + dt, heartbeat=(state.heartbeat + 1) % WORD)
    dt = min(dt, OVERRUN_S)
    return _drive(_sense(_take(_expire(state), command), inputs, dt), dt)


def _expire(state: PlcState) -> PlcState:
    if state.time <= state.request_until and state.time - state.link_beat_time <= HEARTBEAT_S:
        return state
    return replace(state, link_since=None, request=1.0)


def _take(state: PlcState, command: Command | None) -> PlcState:
    """Takes a command with a new sequence number; it keeps the link alive only if its heartbeat has advanced too."""
    if command is None or (state.sequence is not None and not follows(command.sequence, state.sequence)):
        return state
    state = replace(state, sequence=command.sequence)
    if command.heartbeat != state.link_heartbeat:
        state = replace(
            state,
            link_heartbeat=command.heartbeat,
            link_beat_time=state.time,
            link_since=state.time if state.link_since is None else state.link_since,
            request_until=state.time + min(command.valid_for_ms / 1000, LONGEST_VALID_S),
        )
    armed = state.link_since is not None and state.time - state.link_since >= REARM_S
    obeyed = armed and command.mode is Mode.ACT
    return replace(state, request=max(command.speed_request, FLOOR) if obeyed else 1.0)


def _sense(state: PlcState, inputs: Inputs, dt: float) -> PlcState:
    new = (inputs.cartons_out - state.cartons_out) % WORD
    recent = tuple(t for t in state.carton_times if t > state.time - RATE_WINDOW_S)
    return replace(
        state,
        infeed_eye=bool(inputs.infeed_eye),
        gate_eye=bool(inputs.gate_eye),
        blocked_s=state.blocked_s + dt if inputs.gate_eye else 0.0,
        cartons_out=inputs.cartons_out % WORD,
        carton_times=recent + (state.time,) * (new if new <= MOST_CARTONS else 0),
    )


def _drive(state: PlcState, dt: float) -> PlcState:
    tripped = state.state is PackML.HELD or state.blocked_s > JAM_TRIP_S
    setpoint = 0.0 if tripped else min(state.operator_speed, state.request)
    lowest, highest = state.feeder_speed - dt / RAMP_DOWN_S, state.feeder_speed + dt / RAMP_UP_S
    return replace(
        state,
        state=PackML.HELD if tripped else PackML.EXECUTE,
        feeder_setpoint=setpoint,
        feeder_speed=min(max(setpoint, lowest), highest),
    )


def tags(state: PlcState) -> dict[str, float]:
    """The tags of the line by name, in engineering units."""
    return {
        "infeed_eye": float(state.infeed_eye),
        "gate_eye": float(state.gate_eye),
        "blocked_s": state.blocked_s,
        "feeder_speed": state.feeder_speed,
        "cartons_per_minute": len(state.carton_times) * 60.0 / RATE_WINDOW_S,
        "feeder_setpoint": state.feeder_setpoint,
    }


def status(state: PlcState, registers: RegisterMap) -> Status:
    """What the PLC publishes, with the tags that the register map lists; KeyError for a tag the line has not got."""
    values = tags(state)
    in_force = state.request < state.operator_speed and state.state is PackML.EXECUTE
    return Status(
        state.heartbeat, state.state, state.sequence or 0, in_force, tuple(values[name] for name in registers.tag_names)
    )


def to_json(state: PlcState) -> dict[str, Any]:
    return asdict(state)


def from_json(values: dict[str, Any]) -> PlcState:
    """Inverse of `to_json`; TypeError or ValueError where the values are not those of a PlcState."""
    fields = {**values, "state": PackML(values["state"]), "carton_times": tuple(values["carton_times"])}
    return PlcState(**fields)
