"""The alarms of a runtime: which there are, when each stands, and what of it is written down."""

from collections.abc import Mapping
from typing import Final

from runtime import lifecycle
from runtime.journal import Entry
from runtime.lifecycle import Life, Point, State

JAM, DRIFT, CAMERA, PLC = "jam ahead", "drift", "camera", "PLC"
JOURNAL, FLOOD, PAGE = "journal", "flood", "page"
MQTT, BUNDLE = "MQTT", "bundle"
POINTS: Final = {
    point.name: point
    for point in (
        Point(JAM, 1, "the line jams within seconds", "look at what comes to the transfer"),
        Point(CAMERA, 2, "Flinch sees nothing and asks for nothing", "look at the camera, its mount and the lamps"),
        Point(PLC, 2, "Flinch can ask the PLC for nothing", "look at the network and the PLC", 1.0, 1.0, latched=False),
        Point(JOURNAL, 2, "what happens is not written down", "make room on the disk", latched=False),
        Point(FLOOD, 2, "Flinch no longer slows the feeder", "find out why it alarms so often", latched=False),
        Point(BUNDLE, 2, "Flinch runs without a bundle that it should have", "put it in place and start again"),
        Point(PAGE, 3, "nobody can look or ask", "wait: it is started again", latched=False),
        Point(MQTT, 3, "nobody else in the plant is told", "look at network and broker", 3.0, 1.0, latched=False),
        Point(DRIFT, 3, "the machine or its light changes slowly", "look for wear, dirt and ageing lamps"),
    )
}
RESTS_ON_CAMERA: Final = {JAM, DRIFT}
FAULTS: Final = (CAMERA, PLC, JOURNAL, PAGE, MQTT, BUNDLE)
States = Mapping[str, State]


def start() -> States:
    """All of them normal."""
    return {name: State() for name in POINTS}


def step(states: States, reasons: Mapping[str, str | None], time: float) -> tuple[States, list[Entry]]:
    """All alarms at `time`, seconds, and what has changed.

    Args:
      reasons: why the condition of an alarm is there now, None where it is not.
    """
    blind = reasons[CAMERA] is not None
    after, entries = {}, []
    for name, before in states.items():
        reason = reasons[name]
        suppressed = blind and name in RESTS_ON_CAMERA
        after[name] = lifecycle.step(POINTS[name], before, time, condition=reason is not None, suppressed=suppressed)
        why = f"suppressed by {CAMERA}" if suppressed else reason or "its condition is gone"
        entries += changes(name, before, after[name], why)
    return after, entries


def changes(name: str, before: State, after: State, why: str, who: str = "flinch") -> list[Entry]:
    """What of an alarm's state has changed, for the journal."""
    entries = []
    if before.life is not after.life:
        entries.append(Entry("alarm", name, before.life.value, after.life.value, why, who))
    if before.hidden != after.hidden and (after.life is not Life.NORMAL or before.shelved != after.shelved):
        entries.append(Entry("alarm", name, _heard(before), _heard(after), why, who))
    return entries


def _heard(state: State) -> str:
    return "suppressed" if state.suppressed else "heard" if state.shelved is None else "shelved"
