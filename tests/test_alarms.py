"""Which alarms stand, what hides them, and what of it is written down."""

from runtime import alarms
from runtime.alarms import CAMERA, JAM, PLC
from runtime.journal import Entry

QUIET = dict.fromkeys(alarms.POINTS)


def lived(*turns: dict[str, str]) -> list[Entry]:
    """What is written of turns a tenth of a second apart, each with the reasons that there are."""
    states, written = alarms.start(), []
    for number, reasons in enumerate(turns):
        states, entries = alarms.step(states, QUIET | reasons, number / 10)
        written += entries
    return written


def test_an_alarm_is_written_down_when_it_comes_and_when_it_goes_and_not_while_it_stands():
    written = lived({}, {JAM: "score 1.40 at 0.1 s"}, {JAM: "score 1.50 at 0.2 s"}, {})
    assert written == [
        Entry("alarm", JAM, "normal", "unacknowledged", "score 1.40 at 0.1 s"),
        Entry("alarm", JAM, "unacknowledged", "returned, unacknowledged", "its condition is gone"),
    ]


def test_while_the_camera_is_at_fault_what_rests_on_it_is_suppressed():
    written = lived({JAM: "score 2.00 at 0.0 s"}, {CAMERA: "the camera's picture is blank"}, {})
    assert [(entry.name, entry.after) for entry in written] == [
        (JAM, "unacknowledged"),
        (JAM, "returned, unacknowledged"),
        (JAM, "suppressed"),
        (CAMERA, "unacknowledged"),
        (JAM, "heard"),
        (CAMERA, "returned, unacknowledged"),
    ]


def test_a_hiccup_of_the_plc_is_no_alarm_and_a_second_without_it_is():
    assert lived(*[{PLC: "no answer"}] * 10, {}) == []
    (entry,) = lived(*[{PLC: "no answer"}] * 11)
    assert (entry.name, entry.why) == (PLC, "no answer")


def test_every_alarm_tells_what_happens_and_what_to_do():
    assert all(point.consequence and point.response for point in alarms.POINTS.values())
