"""From scores to an alarm: on-delay, off-delay and deadband. A score of 1 is the threshold, delays count frames."""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

from wm.config import AlarmConfig

DEADBAND = 0.05


class Alarm(NamedTuple):
    """The alarm after a frame.

    Attributes:
      on: whether the alarm stands.
      contrary: scores in a row that contradict it.
    """

    on: bool = False
    contrary: int = 0


def step(alarm: Alarm, score: float, *, on_frames: int, off_frames: int) -> Alarm:
    """The alarm after one more score: on after `on_frames` in a row at or above 1, off after `off_frames` below that by
    more than the deadband.
    """
    contrary = alarm.contrary + 1 if (score >= (1.0 - DEADBAND if alarm.on else 1.0)) != alarm.on else 0
    return Alarm(not alarm.on) if contrary >= (off_frames if alarm.on else on_frames) else Alarm(alarm.on, contrary)


def standing(config: AlarmConfig, rate_hz: float, scores: Iterable[float]) -> list[bool]:
    """Whether the alarm stands after each score of one episode."""
    on_frames, off_frames = config.on_delay(rate_hz), config.off_delay(rate_hz)
    alarm, told = Alarm(), []
    for score in scores:
        alarm = step(alarm, float(score), on_frames=on_frames, off_frames=off_frames)
        told.append(alarm.on)
    return told


def raised(config: AlarmConfig, rate_hz: float, scores: Iterable[float]) -> list[int]:
    """The frames at which an alarm came, in scores of one episode."""
    told = standing(config, rate_hz, scores)
    return [frame for frame, (before, now) in enumerate(pairwise([False, *told])) if now and not before]
