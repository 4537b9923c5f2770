"""The alarm: delays counted in frames, and what each mode lets through to the PLC."""

from dataclasses import replace
from itertools import groupby
from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.alarm import AlarmSettings, AlarmState, command, follow, forget, permitted, step
from runtime.registers import Mode, PackML
from runtime.settings import ActSettings
from wm.alarm import Alarm
from wm.config import AlarmConfig

SETTINGS = AlarmSettings(on_frames=3, off_frames=5, hold_frames=20, longest_frames=300, slow_to=0.15)


def run(scores: list[float], settings: AlarmSettings = SETTINGS) -> list[AlarmState]:
    states, state = [], AlarmState()
    for score in scores:
        state = step(settings, state, score)
        states.append(state)
    return states


def test_the_alarm_comes_after_the_on_delay_and_not_before() -> None:
    assert [state.on for state in run([1.0] * 4)] == [False, False, True, True]


def test_one_score_below_the_threshold_starts_the_on_delay_again() -> None:
    assert not any(state.on for state in run([2.0, 2.0, 0.9, 2.0, 2.0, 0.9]))


def test_the_alarm_goes_after_the_off_delay() -> None:
    states = run([2.0] * 3 + [0.5] * 4 + [2.0] + [0.5] * 5)
    assert [state.on for state in states] == [False] * 2 + [True] * 10 + [False]


def test_an_alarm_that_stands_does_not_go_for_a_score_within_the_deadband_and_none_comes_for_it() -> None:
    assert [state.on for state in run([1.0] * 3 + [0.96] * 9 + [0.94] * 5)] == [False] * 2 + [True] * 14 + [False]
    assert not any(state.on for state in run([0.99] * 9))


def test_the_feeder_is_slowed_at_once_and_for_at_least_the_hold() -> None:
    states = run([2.0] * 3 + [0.0] * 40)
    slowed = [i for i, state in enumerate(states) if state.slow]
    assert slowed == list(range(2, 22))


def test_the_feeder_stays_slow_until_the_alarm_ends() -> None:
    states = run([2.0] * 50 + [0.0] * 6)
    assert [state.slow for state in states[2:]] == [state.on for state in states[2:]]
    assert states[49].slow
    assert not states[-1].slow


def test_an_alarm_that_does_not_end_slows_the_feeder_for_the_longest_time_and_no_more():
    states = run([2.0] * 600 + [0.0] * 5 + [2.0] * 3)
    assert [i for i, state in enumerate(states) if state.slow] == [*range(2, 302), 607]
    assert states[599].on


def test_an_alarm_that_comes_and_goes_slows_the_feeder_no_longer_than_one_that_stays() -> None:
    states = run(([2.0] * 5 + [0.0] * 10) * 100)
    assert [i for i, state in enumerate(states) if state.slow][:300] == list(range(2, 302))
    assert not any(state.slow for state in states[302:602])


@given(st.lists(st.floats(0, 2), max_size=400), st.integers(1, 30))
def test_the_feeder_is_never_slow_for_longer_than_the_longest_time_nor_more_than_half_of_a_long_one(scores, longest):
    settings = AlarmSettings(on_frames=2, off_frames=2, hold_frames=longest, longest_frames=longest, slow_to=0.15)
    slow = [state.slow for state in run(scores, settings)]
    runs = [len(list(group)) for value, group in groupby(slow) if value]
    assert max(runs, default=0) <= longest
    assert sum(slow) <= longest + len(slow) / 2


def chosen(speeds: list[float], on: bool = False) -> list[AlarmState]:
    states, state = [], AlarmState()
    for speed in speeds:
        state = follow(SETTINGS, state, Alarm(on), speed)
        states.append(state)
    return states


def test_a_policy_is_asked_for_what_it_chooses_and_not_for_every_tremor_of_it() -> None:
    states = chosen([1.0, 0.7, 0.75, 0.62, 0.5, 0.95])
    assert [state.speed for state in states] == [1.0, 0.7, 0.7, 0.7, 0.5, 1.0]
    assert not any(state.slow for state in states)


def test_an_alarm_overrides_a_policy() -> None:
    assert [state.speed for state in chosen([0.7] * 3, on=True)] == [0.15] * 3


def test_when_an_alarm_ends_a_policy_decides_and_until_it_does_the_hold_of_the_plain_rule_stands() -> None:
    states, state = [], AlarmState()
    for on, speed in [(True, 0.7)] * 3 + [(False, None), (False, 0.7), (False, 1.0)] + [(False, None)] * 20:
        state = follow(SETTINGS, state, Alarm(on), speed)
        states.append(state)
    assert [state.speed for state in states[:7]] == [0.15] * 3 + [0.15, 0.7, 1.0, 1.0]
    assert [i for i, state in enumerate(states) if state.slow] == [0, 1, 2, 3]


def test_an_alarm_is_not_refused_for_what_a_policy_has_used() -> None:
    states = chosen([0.5] * 400)
    assert [i for i, state in enumerate(states) if state.speed < 1.0] == list(range(300))
    assert follow(SETTINGS, states[-1], Alarm(True), 0.5).speed == 0.15


@given(st.lists(st.floats(0.1, 1.0), max_size=400), st.integers(1, 30))
def test_a_policy_slows_the_feeder_no_longer_than_an_alarm_may(speeds: list[float], longest: int) -> None:
    settings, state, slow = replace(SETTINGS, longest_frames=longest), AlarmState(), []
    for speed in speeds:
        state = follow(settings, state, Alarm(False), speed)
        slow.append(state.speed < 1.0)
    runs = [len(list(group)) for value, group in groupby(slow) if value]
    assert max(runs, default=0) <= longest and sum(slow) <= longest + len(slow) / 2


def test_a_gap_ends_the_alarm_and_gives_nothing_back_of_the_longest_time() -> None:
    spent = run([2.0] * 302)[-1]
    after = forget(spent)
    assert (after.on, after.slow, after.contrary) == (False, False, 0)
    for _ in range(10):
        after = step(SETTINGS, after, 2.0)
    assert after.on and not after.slow


def test_a_score_that_is_not_a_number_never_raises_the_alarm() -> None:
    assert not any(state.on for state in run([nan] * 10))


@given(st.lists(st.floats(0, 2), max_size=200))
def test_the_alarm_is_on_exactly_as_the_calibration_counts_it(scores: list[float]) -> None:
    states = run(scores)
    for t, state in enumerate(states):
        if not (states[t - 1].on if t else False):
            last = scores[max(0, t - 2) : t + 1]
            assert state.on == (len(last) == 3 and min(last) >= 1.0)
        assert state.slow or not state.on


@pytest.mark.parametrize(
    ("mode", "alarm", "score", "speed"),
    [(Mode.OFF, 0, 0.0, 1.0), (Mode.SHADOW, 0, 1.7, 1.0), (Mode.ADVISE, 1, 1.7, 1.0), (Mode.ACT, 1, 1.7, 0.15)],
)
def test_each_mode_lets_through_only_its_part(mode: Mode, alarm: int, score: float, speed: float) -> None:
    written = command(
        SETTINGS, AlarmState(on=True, slow=True, speed=0.15), mode, heartbeat=4, score=1.7, valid_for_ms=500
    )
    assert (written.mode, written.alarm, written.score, written.speed_request) == (mode, alarm, score, speed)
    assert (written.heartbeat, written.valid_for_ms) == (4, 500)


def test_the_delays_come_from_the_bundle() -> None:
    settings = AlarmSettings.of(
        AlarmConfig(on_delay_s=0.3, off_delay_s=1.0), ActSettings(slow_to=0.15, hold_s=2.0), 10.0
    )
    assert settings == AlarmSettings(3, 10, 20, 300, 0.15)


def test_nothing_is_asked_of_a_line_that_does_not_execute_or_says_nothing() -> None:
    alarmed = run([2.0] * 3)[-1]
    asking = command(SETTINGS, alarmed, Mode.ACT, heartbeat=7, score=2.0, valid_for_ms=500)
    assert permitted(asking, PackML.EXECUTE) == asking
    for state in (PackML.HELD, PackML.STARTING, PackML.IDLE, 99, None):
        assert permitted(asking, state) == asking._replace(speed_request=1.0)
