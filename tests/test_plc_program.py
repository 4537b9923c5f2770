"""The PLC's program, scan by scan."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.line.program import (
    FLOOR,
    HEARTBEAT_S,
    JAM_TRIP_S,
    LONGEST_VALID_S,
    RAMP_DOWN_S,
    RAMP_UP_S,
    SCAN_S,
    PlcState,
    from_json,
    scan,
    tags,
    to_json,
)
from runtime.line.rack import IoBlock
from runtime.registers import Command, Mode, PackML

IDLE = IoBlock()
SLOW = Command(heartbeat=0, mode=Mode.ACT, alarm=True, score=1.5, speed_request=0.15, valid_for_ms=500)


def scans(state: PlcState, seconds: float, *, command: Command | None = None, inputs: IoBlock = IDLE) -> PlcState:
    """The same inputs and the same words in the command block for so long."""
    for _ in range(round(seconds / SCAN_S)):
        state = scan(state, inputs, command, SCAN_S)
    return state


def commanded(state: PlcState, seconds: float, command: Command = SLOW) -> PlcState:
    """A healthy Flinch: a fresh heartbeat and sequence number every 0.1 s."""
    for _ in range(round(seconds / 0.1)):
        number = (state.sequence or 0) + 1
        state = scans(state, 0.1, command=command._replace(heartbeat=number, sequence=number % 0x10000))
    return state


RUNNING = scans(PlcState(), RAMP_UP_S + 0.1)


def test_the_line_ramps_up_to_the_operators_speed_in_a_second() -> None:
    assert scans(PlcState(), RAMP_UP_S - 2 * SCAN_S).feeder_speed < 1.0
    assert RUNNING.feeder_speed == 1.0


def test_a_request_slows_the_feeder_down_its_ramp() -> None:
    state = commanded(RUNNING, 0.3)
    assert state.feeder_setpoint == pytest.approx(0.15)
    assert state.feeder_speed > 0.5
    assert commanded(state, RAMP_DOWN_S).feeder_speed == pytest.approx(0.15)


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.SHADOW, Mode.ADVISE])
def test_only_mode_act_slows_the_line(mode: Mode) -> None:
    assert commanded(RUNNING, 2.0, SLOW._replace(mode=mode)).feeder_setpoint == 1.0


def test_a_stale_command_expires_after_valid_for() -> None:
    state = commanded(RUNNING, 1.0)
    stale = SLOW._replace(heartbeat=state.link_heartbeat, sequence=state.sequence or 0)
    assert scans(state, 0.36, command=stale).feeder_setpoint == pytest.approx(0.15)
    assert scans(state, 0.44, command=stale).feeder_setpoint == 1.0


def test_no_command_is_valid_for_longer_than_the_plc_allows() -> None:
    state = commanded(RUNNING, 1.0, SLOW._replace(valid_for_ms=60000))
    assert scans(state, max(LONGEST_VALID_S, HEARTBEAT_S) + 0.1).feeder_setpoint == 1.0


def test_a_heartbeat_that_stands_still_ends_the_request_though_the_sequence_advances() -> None:
    state = commanded(RUNNING, 1.0)
    for _ in range(8):
        frozen = SLOW._replace(heartbeat=state.link_heartbeat, sequence=(state.sequence or 0) + 1)
        state = scans(state, 0.1, command=frozen)
    assert state.feeder_setpoint == 1.0


@pytest.mark.parametrize("distance", [0, -1, -1000, 0x8000])
def test_a_sequence_number_that_repeats_or_goes_backwards_is_ignored(distance: int) -> None:
    state = commanded(RUNNING, 1.0)
    replayed = SLOW._replace(heartbeat=9999, sequence=((state.sequence or 0) + distance) % 0x10000, speed_request=0.5)
    assert scan(state, IDLE, replayed, SCAN_S).request == state.request


def test_sequence_numbers_go_on_past_their_largest() -> None:
    state = commanded(replace(RUNNING, sequence=0xFFFD), 1.0)
    assert state.sequence == 7
    assert state.feeder_setpoint == pytest.approx(0.15)


def test_after_a_lost_link_nothing_is_obeyed_at_first() -> None:
    first = scan(RUNNING, IDLE, SLOW._replace(heartbeat=1, sequence=1), SCAN_S)
    assert first.sequence == 1
    assert first.feeder_setpoint == 1.0
    assert commanded(first, 0.4).feeder_setpoint == pytest.approx(0.15)


@given(st.floats(1.1, 1000.0), st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_a_plc_that_thaws_obeys_none_of_the_writes_that_queued_up(frozen_s: float, steps: list[int]) -> None:
    state = commanded(RUNNING, 1.0)
    number = state.sequence or 0
    dt = frozen_s
    for step in steps:
        number += step
        state = scan(state, IDLE, SLOW._replace(heartbeat=number, sequence=number), dt)
        assert state.feeder_setpoint == 1.0
        dt = SCAN_S
    assert scans(state, 3.0, command=SLOW._replace(heartbeat=number, sequence=number)).feeder_setpoint == 1.0


def test_a_long_pause_of_the_plc_neither_jumps_the_ramp_nor_trips_the_line() -> None:
    covered = IoBlock(gate_eye=True)
    state = scan(commanded(RUNNING, 1.0), covered, None, 30.0)
    assert state.state is PackML.EXECUTE
    assert state.feeder_speed < 0.3


commands = st.builds(
    Command,
    heartbeat=st.integers(0, 3),
    mode=st.sampled_from(Mode),
    alarm=st.booleans(),
    score=st.just(1.0),
    speed_request=st.floats(0, 1),
    valid_for_ms=st.sampled_from([0, 100, 500, 65535]),
    sequence=st.integers(0, 5),
)


@given(
    st.floats(0, 1),
    st.lists(st.tuples(st.none() | commands, st.booleans(), st.sampled_from([SCAN_S, 0.1, 2.0])), max_size=60),
)
def test_whatever_flinch_says_the_line_is_never_faster_than_its_operator_nor_slower_than_the_floor(
    operator: float, story: list[tuple[Command | None, bool, float]]
) -> None:
    state = replace(RUNNING, operator_speed=operator)
    for command, covered, dt in story:
        before = state.feeder_speed
        state = scan(state, IoBlock(gate_eye=covered), command, dt)
        assert state.feeder_setpoint <= operator
        assert state.state is PackML.HELD or state.feeder_setpoint >= min(operator, FLOOR)
        assert -dt / RAMP_DOWN_S - 1e-9 <= state.feeder_speed - before <= dt / RAMP_UP_S + 1e-9
        if state.link_since is None and state.state is PackML.EXECUTE:
            assert state.feeder_setpoint == operator


def test_a_covered_gate_eye_holds_the_line_after_the_trip_time() -> None:
    covered = IoBlock(gate_eye=True)
    before = scans(RUNNING, JAM_TRIP_S - 0.1, inputs=covered)
    assert before.state is PackML.EXECUTE
    assert before.blocked_s == pytest.approx(JAM_TRIP_S - 0.1)
    after = scans(before, 1.0, inputs=covered)
    assert after.state is PackML.HELD
    assert after.feeder_speed == 0.0
    assert scans(after, 1.0).state is PackML.HELD


def test_a_passing_carton_resets_the_blocked_timer() -> None:
    state = scans(scans(RUNNING, 2.0, inputs=IoBlock(gate_eye=True)), SCAN_S)
    assert state.blocked_s == 0.0


def test_cartons_a_minute_count_the_last_sixty_seconds_over_the_counters_largest() -> None:
    state = replace(PlcState(), cartons_out=0xFFF0)
    for second in range(90):
        state = scans(state, 1.0, inputs=IoBlock(cartons_out=(0xFFF0 + second) % 0x10000))
    assert tags(state)["cartons_per_minute"] == pytest.approx(60, abs=1)


def test_a_carton_counter_that_starts_anew_counts_no_cartons() -> None:
    state = scan(replace(RUNNING, cartons_out=40000), IoBlock(cartons_out=0), None, SCAN_S)
    assert tags(state)["cartons_per_minute"] == 0


def test_a_state_survives_json_exactly() -> None:
    state = commanded(scans(RUNNING, 1.0, inputs=IoBlock(gate_eye=True, cartons_out=3)), 0.5)
    again = from_json(json.loads(json.dumps(to_json(state))))
    assert again == state
    assert scans(again, 1.0, command=SLOW) == scans(state, 1.0, command=SLOW)
