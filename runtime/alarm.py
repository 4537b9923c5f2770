"""From a stream of scores to an alarm and to what is asked of the feeder: a pure state machine that counts frames.

Its delays are those that the threshold was calibrated with, so they come from the bundle.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

from runtime.registers import Command, Mode, PackML
from runtime.settings import ActSettings
from wm import alarm
from wm.alarm import Alarm
from wm.config import AlarmConfig

SPEED_DEADBAND = 0.1


@dataclass(frozen=True)
class AlarmSettings:
    """Delays of the alarm and size of the reaction.

    Attributes:
      on_frames: scores in a row at or above 1 that raise the alarm.
      off_frames: scores in a row below 1, by more than the deadband, that end it.
      hold_frames: the feeder is slowed for at least this many frames, and until the alarm ends; with a policy only
        until the alarm ends and it decides.
      longest_frames: but never for more than this many, nor for more than half of a long time: an alarm that comes and
        goes must not slow a line for ever.
      slow_to: feeder speed that is asked for, 0 to 1 of full speed.
    """

    on_frames: int
    off_frames: int
    hold_frames: int
    longest_frames: int
    slow_to: float

    @classmethod
    def of(cls, config: AlarmConfig, act: ActSettings, rate_hz: float) -> Self:
        hold, longest = round(act.hold_s * rate_hz), round(act.longest_s * rate_hz)
        return cls(config.on_delay(rate_hz), config.off_delay(rate_hz), hold, longest, act.slow_to)


class Budget(NamedTuple):
    """What is used up of the longest time that the feeder may be slow.

    Attributes:
      spent: frames that it was slow, less those that it was not since.
      rests: all of it is spent, and is made up for before the feeder is slowed again.
    """

    spent: int = 0
    rests: bool = False

    def after(self, slow: bool, longest: int) -> "Budget":
        """One frame later."""
        spent = self.spent + 1 if slow else max(0, self.spent - 1)
        return Budget(spent, spent >= longest or (self.rests and spent > 0))


class AlarmState(NamedTuple):
    """The alarm after a score.

    Attributes:
      on: the alarm.
      slow: the feeder should be slowed; whether that is asked for depends on the mode.
      contrary: scores in a row that contradict `on`.
      age: frames since the alarm last came on.
      alarms: what alarms have used up of the longest time. everything: what they and a policy have; an alarm is never
        refused for what a policy has used.
      speed: what the feeder should go at, 0 to 1: `slow_to` while it should be slowed, else what a policy chooses.
    """

    on: bool = False
    slow: bool = False
    contrary: int = 0
    age: int = 0
    alarms: Budget = Budget()
    everything: Budget = Budget()
    speed: float = 1.0


def step(settings: AlarmSettings, state: AlarmState, score: float) -> AlarmState:
    """The state after one more score; 1 is the threshold."""
    before = Alarm(state.on, state.contrary)
    return follow(
        settings, state, alarm.step(before, score, on_frames=settings.on_frames, off_frames=settings.off_frames)
    )


def follow(settings: AlarmSettings, state: AlarmState, now: Alarm, chosen: float | None = None) -> AlarmState:
    """The state one frame later, with the alarm as it is then, and the speed that a policy chose, if one did."""
    on, contrary = now
    age = 0 if on and not state.on else state.age + 1
    held = chosen is None and state.slow and age < settings.hold_frames
    slow = (on or held) and age < settings.longest_frames and not state.alarms.rests
    if slow:
        speed = settings.slow_to
    else:
        speed = 1.0 if chosen is None or state.everything.rests else _steadied(state.speed, chosen)
    alarms = state.alarms.after(slow, settings.longest_frames)
    everything = state.everything.after(speed < 1.0, settings.longest_frames)
    return AlarmState(on, slow, contrary, age, alarms, everything, speed)


def _steadied(before: float, chosen: float) -> float:
    """What is chosen, where it is full speed or differs enough from what was asked for."""
    if chosen > 1.0 - SPEED_DEADBAND:
        return 1.0
    return chosen if abs(chosen - before) >= SPEED_DEADBAND else before


def forget(state: AlarmState) -> AlarmState:
    """No alarm, as after a gap in what was seen; what was spent of the longest time stays spent."""
    return AlarmState(alarms=state.alarms, everything=state.everything)


def command(
    settings: AlarmSettings, state: AlarmState, mode: Mode, *, heartbeat: int, score: float, valid_for_ms: int
) -> Command:
    """What is written to the PLC: as much of the alarm as the mode lets through."""
    return Command(
        heartbeat=heartbeat,
        mode=mode,
        alarm=state.on and mode >= Mode.ADVISE,
        score=score if mode > Mode.OFF else 0.0,
        speed_request=state.speed if mode is Mode.ACT else 1.0,
        valid_for_ms=valid_for_ms,
    )


def permitted(command: Command, state: int | None, *, muted: bool = False) -> Command:
    """The command without its request unless the PLC says that the line executes, and without its alarm too while the
    operator does not want to hear of it; `state` is the PLC's PackML number, None while it says nothing.
    """
    if muted:
        return command._replace(alarm=False, speed_request=1.0)
    return command if state == PackML.EXECUTE else command._replace(speed_request=1.0)
