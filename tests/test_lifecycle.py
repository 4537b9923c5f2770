"""The life of an alarm, step by step and under any order of events."""

import hypothesis.strategies as st
from hypothesis import given

from runtime.lifecycle import Life, Point, State, acknowledge, shelve, step, unshelve

LATCHED = Point("jam ahead", 1, "the line jams", "look at the transfer", on_delay_s=0.2, off_delay_s=1.0)
NEW = State()
FLEETING = Point("page", 3, "nobody sees", "wait", latched=False)


def lived(point: Point, conditions: list[tuple[float, bool]], state: State = NEW) -> list[Life]:
    told = []
    for time, condition in conditions:
        state = step(point, state, time, condition=condition)
        told.append(state.life)
    return told


def test_an_alarm_comes_after_its_on_delay_and_goes_after_its_off_delay():
    told = lived(LATCHED, [(0.0, True), (0.1, True), (0.2, True)])
    assert told == [Life.NORMAL, Life.NORMAL, Life.UNACK]
    told = lived(LATCHED, [(0.0, True), (0.1, False), (0.2, True), (0.3, True), (0.4, True)])
    assert told == [Life.NORMAL] * 4 + [Life.UNACK]
    active = State(Life.ACKED)
    told = lived(LATCHED, [(5.0, False), (5.5, True), (6.0, False), (6.9, False), (7.0, False)], active)
    assert told == [Life.ACKED] * 4 + [Life.NORMAL]


def test_a_latched_alarm_waits_for_the_operator_and_another_does_not():
    latched = lived(LATCHED, [(0.0, False), (1.0, False)], State(Life.UNACK))
    assert latched[-1] is Life.RTN_UNACK
    assert lived(FLEETING, [(0.0, False)], State(Life.UNACK)) == [Life.NORMAL]
    assert acknowledge(State(Life.RTN_UNACK), 2.0) == State(Life.NORMAL, 2.0)


def test_what_is_acknowledged_twice_or_while_normal_stays_as_it_is():
    once = acknowledge(State(Life.UNACK), 1.0)
    assert once == State(Life.ACKED, 1.0)
    assert acknowledge(once, 2.0) == once
    assert acknowledge(State(), 2.0) == State()


def test_a_returned_alarm_that_comes_again_is_unacknowledged_again():
    assert lived(FLEETING, [(1.0, True)], State(Life.RTN_UNACK)) == [Life.UNACK]


def test_a_shelved_alarm_is_not_announced_until_its_shelf_expires():
    state = shelve(State(Life.UNACK), 60.0)
    before = step(LATCHED, state, 59.9, condition=True)
    after = step(LATCHED, before, 60.0, condition=True)
    assert (before.announced, before.active, after.announced) == (False, True, True)
    assert unshelve(state).announced


def test_a_suppressed_alarm_is_not_announced_while_its_reason_lasts():
    state = State(Life.UNACK)
    assert not step(LATCHED, state, 1.0, condition=True, suppressed=True).announced
    assert step(LATCHED, state, 1.0, condition=True, suppressed=False).announced


EVENTS = st.lists(
    st.tuples(st.floats(0.0, 2.0), st.sampled_from(["on", "off", "acknowledge", "shelve", "unshelve", "suppress"]))
)


@given(EVENTS, st.booleans())
def test_no_unacknowledged_alarm_ever_vanishes_without_the_operator_where_it_is_latched(events, latched):
    point = Point("p", 1, "", "", 0.3, 0.7, latched)
    state, time = State(), 0.0
    for elapsed, event in events:
        time += elapsed
        before = state
        match event:
            case "acknowledge":
                state = acknowledge(state, time)
            case "shelve":
                state = shelve(state, time + 5.0)
            case "unshelve":
                state = unshelve(state)
            case _:
                state = step(point, state, time, condition=event == "on", suppressed=event == "suppress")
        left = before.life in {Life.UNACK, Life.RTN_UNACK} and state.life is Life.NORMAL
        assert not (left and latched and event != "acknowledge")
        assert state.since <= time
        assert not (state.announced and state.hidden)


@given(st.lists(st.booleans(), max_size=60))
def test_an_alarm_never_comes_sooner_than_its_on_delay_nor_goes_sooner_than_its_off_delay(conditions):
    point = Point("p", 1, "", "", 0.3, 0.5, latched=False)
    state, active = State(), []
    for number, condition in enumerate(conditions):
        state = step(point, state, number / 10, condition=condition)
        active.append(state.active)
    for number in range(1, len(active)):
        if active[number] and not active[number - 1]:
            assert all(conditions[number - 3 : number + 1])
        if active[number - 1] and not active[number]:
            assert not any(conditions[number - 5 : number + 1])
