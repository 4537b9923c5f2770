"""One moment of the embedded line, run on several times from one snapshot: arms that differ in who watches.

Nobody scripts a jam: one carton of a run is in trouble, and physics decides. Every arm runs against a PLC process in
lock-step, over Modbus TCP, so that arms differ by nothing but what the watcher asks for.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final, NamedTuple

from jax import Array

from runtime import alarm
from runtime.alarm import AlarmSettings, AlarmState
from runtime.camera import Frame
from runtime.line import server
from runtime.line.cartons import Tail
from runtime.line.line import SPEC, Line, LineFrame, Snapshot
from runtime.line.plant import Events, Mishap, Plant
from runtime.line.plant import Snapshot as PlantSnapshot
from runtime.loop import VALID_FOR_MS, Loop, Tick
from runtime.plc import Fault, PlcClient
from runtime.policy import Policy
from runtime.registers import Mode
from runtime.settings import ActSettings
from wm.bundle import Bundle
from wm.surprise import Surprise

RUN_IN_S: Final = 60.0  # unwatched: the line fills, and so does the minute that its rate of cartons looks back on
WARM_UP_S: Final = 6.0  # watched, before the snapshot; the monitor's longest horizon is 3 s
ARM_S: Final = 26.0
NUMBERS: Final = range(78, 81)  # of the carton in trouble: it comes into view 2 to 5 s after the snapshot

FORESIGHT_S: Final = 8.0  # an alarm that no jam follows within this time is a false one
ACT: Final = ActSettings()  # as it is where nobody sets anything
DEADLINE_S: Final = 5.0  # of the PLC client: in lock-step a slow machine must not change the run


class Trouble(NamedTuple):
    """What the one carton in trouble has: released in a tail of how cartons come, or befallen by it at `x` metres."""

    number: int
    kind: Tail
    x: float | None = None

    @property
    def tails(self) -> dict[int, Tail]:
        return {self.number: self.kind} if self.x is None else {}

    @property
    def mishaps(self) -> dict[int, Mishap]:
        return {} if self.x is None else {self.number: Mishap(self.kind, self.x)}


class Shot(NamedTuple):
    """One frame of an arm: what the line showed, what the watcher made of it, the picture to come where anybody looks
    at it, and the plant to take a picture of.
    """

    frame: LineFrame
    tick: Tick
    forecast: Array | None
    plant: PlantSnapshot

    @property
    def surprise(self) -> Surprise:
        assert self.tick.surprise is not None, self.tick.fault
        return self.tick.surprise


class Start(NamedTuple):
    """What all arms start from: the line, the frames that have been watched, the snapshot after them, and the plant."""

    seed: int
    trouble: Trouble
    warm_up: list[tuple[LineFrame, PlantSnapshot]]
    snapshot: Snapshot
    plant: Plant


class Arm(NamedTuple):
    """One arm from the warm-up on, and what its plant saw in it."""

    shots: tuple[Shot, ...]
    events: Events


Watcher = Callable[[LineFrame, PlantSnapshot], tuple[Tick, Array | None]]


def flinch(
    model: Bundle,
    mode: Mode,
    *,
    shown: bool = False,
    policy: Policy | None = None,
    simulator: Bundle | None = None,
    act: ActSettings = ACT,
) -> Watcher:
    """The runtime's loop, its policy and its faults of the camera; with `shown` it also draws the picture to come."""
    loop = Loop(model, alarm_settings(model, act), mode, policy=policy, simulator=simulator)

    def watch(frame: LineFrame, _: PlantSnapshot) -> tuple[Tick, Array | None]:
        tick = loop.tick([Frame(frame.image, frame.time, 0)], frame.sensors, frame.action)
        ahead = loop.look_ahead(frame.action)[0] if shown else None
        return tick, None if ahead is None else ahead[model.monitor.shown]

    return watch


def oracle(model: Bundle) -> Watcher:
    """Who knows of the trouble as soon as it can be seen, and reacts with the same alarm as the loop."""
    settings, state, turn = alarm_settings(model), AlarmState(), 0

    def watch(frame: LineFrame, plant: PlantSnapshot) -> tuple[Tick, Array | None]:
        nonlocal state, turn
        turn += 1
        score = float(2 * any(item.seen and item.carton.tail is not None for item in plant.state.on_line))
        state = alarm.step(settings, state, score)
        command = alarm.command(settings, state, Mode.ACT, heartbeat=turn, score=score, valid_for_ms=VALID_FOR_MS)
        return Tick(frame.time, score, state, command), None

    return watch


def alarm_settings(model: Bundle, act: ActSettings = ACT) -> AlarmSettings:
    return AlarmSettings.of(model.alarm, act, SPEC.rate_hz)


def begin(seed: int, trouble: Trouble, tick: Callable[[], None]) -> Start:
    """Runs the line up to the snapshot; `tick` is called every watched frame."""
    with Line(seed, tail_rate=0.0, tails=trouble.tails, mishaps=trouble.mishaps) as line:
        while line.time < RUN_IN_S:
            line.scan()
        warm_up = []
        for _ in range(frames(WARM_UP_S)):
            warm_up.append((line.step(), line.plant.snapshot()))
            tick()
        return Start(seed, trouble, warm_up, line.snapshot(), line.plant)


def film(start: Start, watch: Watcher, tick: Callable[[], None]) -> Arm:
    """One arm: a PLC process in lock-step, the watcher warmed by the frames before the snapshot, and frame by frame on.

    Raises:
      ConnectionError: the PLC process died.
    """
    trouble = start.trouble
    with (
        server.running(lockstep=True, state=start.snapshot.plc) as plc,
        Line(start.seed, tail_rate=0.0, tails=trouble.tails, mishaps=trouble.mishaps, plc=plc.address) as line,
        closing(PlcClient(plc.address, line.registers, deadline_s=DEADLINE_S)) as client,
    ):
        line.restore(start.snapshot)
        shots = [Shot(frame, *watch(frame, plant), plant) for frame, plant in start.warm_up]
        for _ in range(frames(ARM_S)):
            frame, plant = line.step(), line.plant.snapshot()
            shots.append(Shot(frame, *watch(frame, plant), plant))
            answer = client.exchange(shots[-1].tick.command)
            if isinstance(answer, Fault):
                raise ConnectionError(answer.reason)
            tick()
        return Arm(tuple(shots), line.events)


def frames(seconds: float) -> int:
    return round(seconds * SPEC.rate_hz)


@dataclass(frozen=True)
class Outcome:
    """What happened in one run. Times are seconds of the line's clock; None stands for never.

    Attributes:
      kind, carton: trouble and number of the one carton that had it.
      onset_s, left_s: when it came into view, or was befallen, and when it left the line, without Flinch.
      alarms_without_s, alarms_with_s: every time the alarm came, warm-up included.
      write_s: when the PLC first had a request in force, with Flinch.
      block_without_s, block_with_s: when the jam began, as the oracle dates it.
      cartons_per_minute_without, cartons_per_minute_with: over the arm.
    """

    seed: int
    kind: Tail
    carton: int
    onset_s: float | None
    left_s: float | None
    alarms_without_s: tuple[float, ...]
    alarms_with_s: tuple[float, ...]
    write_s: float | None
    block_without_s: float | None
    block_with_s: float | None
    cartons_per_minute_without: float
    cartons_per_minute_with: float

    @property
    def alarm_s(self) -> float | None:
        """The first alarm after the onset, without Flinch."""
        return next((t for t in self.alarms_without_s if self.onset_s is not None and t >= self.onset_s), None)

    @property
    def lead_s(self) -> float | None:
        """From the alarm to the jam that would have been."""
        return lead(self.alarms_without_s, self.onset_s, self.block_without_s)

    @property
    def false_alarms_s(self) -> tuple[float, ...]:
        """Alarms that no jam followed in time. What is raised on a line that has jammed already is none of them."""
        return tuple(t for t in self.alarms_without_s if t < meant_from(self.onset_s, self.block_without_s))

    @property
    def false_alarms_on_precursors_s(self) -> tuple[float, ...]:
        """Those of them that came while the carton in trouble was on the line and in view."""
        if self.onset_s is None:
            return ()
        left = float("inf") if self.left_s is None else self.left_s
        return tuple(t for t in self.false_alarms_s if self.onset_s <= t <= left)


def lead(alarms: Sequence[float], onset: float | None, block: float | None) -> float | None:
    """From the alarm to the jam that would have been: the first alarm from the onset on that is neither too late nor so
    early that it cannot have meant this jam.
    """
    if block is None:
        return None
    return next((block - t for t in alarms if meant_from(onset, block) <= t < block), None)


def meant_from(onset: float | None, block: float | None) -> float:
    """When an alarm can first have meant the jam; never where there was none."""
    return float("inf") if onset is None or block is None else max(onset, block - FORESIGHT_S)


def assess(start: Start, without: Arm, acted: Arm) -> Outcome:
    """What happened, from what both arms recorded."""
    number = start.trouble.number
    onset = next((onset.time for onset in without.events.onsets), None)
    on_line = [any(item.carton.number == number for item in shot.plant.state.on_line) for shot in without.shots]
    came = on_line.index(True) if any(on_line) else len(on_line)
    left = on_line.index(False, came) if False in on_line[came:] else None
    return Outcome(
        seed=start.seed,
        kind=start.trouble.kind,
        carton=number,
        onset_s=rounded(onset),
        left_s=None if left is None else rounded(without.shots[left].frame.time),
        alarms_without_s=_alarms(without),
        alarms_with_s=_alarms(acted),
        write_s=next((rounded(shot.frame.time) for shot in acted.shots if shot.frame.status.in_force), None),
        block_without_s=block(without),
        block_with_s=block(acted),
        cartons_per_minute_without=60.0 / ARM_S * cartons(without),
        cartons_per_minute_with=60.0 / ARM_S * cartons(acted),
    )


def block(arm: Arm) -> float | None:
    """When an arm jammed."""
    return next((rounded(block.time) for block in arm.events.blocks), None)


def _alarms(arm: Arm) -> tuple[float, ...]:
    """When the alarm came on."""
    on = [False, *(shot.tick.alarm.on for shot in arm.shots)]
    times = (shot.frame.time for shot in arm.shots)
    return tuple(round(time, 3) for time, before, now in zip(times, on, on[1:], strict=False) if now and not before)


def cartons(arm: Arm) -> int:
    """Cartons that left the line after the snapshot."""
    return arm.shots[-1].plant.state.cartons_out - arm.shots[-frames(ARM_S) - 1].plant.state.cartons_out


def rounded(time: float | None) -> float | None:
    return None if time is None else round(time, 3)
