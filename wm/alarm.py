"""From scores to an alarm: on-delay and off-delay, counted in frames. A score of 1 is the threshold."""

from collections.abc import Iterable
from typing import NamedTuple

from wm.config import AlarmConfig


class Alarm(NamedTuple):
    """The alarm after a frame.

    Attributes:
      on: whether the alarm stands.
      contrary: scores in a row that contradict it.
    """

    on: bool = False
    contrary: int = 0


def step(config: AlarmConfig, rate_hz: float, alarm: Alarm, score: float) -> Alarm:
    """The alarm after one more score: it comes after the on-delay at or above 1 and goes after the off-delay below."""
    contrary = alarm.contrary + 1 if (score >= 1.0) != alarm.on else 0
    delay = config.off_delay(rate_hz) if alarm.on else config.on_delay(rate_hz)
    return Alarm(not alarm.on) if contrary >= delay else Alarm(alarm.on, contrary)


def raised(config: AlarmConfig, rate_hz: float, scores: Iterable[float]) -> list[int]:
    """The frames at which an alarm came, in scores from one episode."""
    alarm, frames = Alarm(), []
    for frame, score in enumerate(scores):
        before, alarm = alarm, step(config, rate_hz, alarm, float(score))
        if alarm.on and not before.on:
            frames.append(frame)
    return frames
