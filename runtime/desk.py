"""What the turns of the loop mean to people, and what they ask: alarms with their lives, the mode, requests to the PLC;
every change goes into the journal.
"""

from collections.abc import Callable, Mapping, Set
from time import monotonic
from typing import Any

from runtime import alarms, lifecycle
from runtime.alarms import CAMERA, DRIFT, FAULTS, FLOOD, JAM, JOURNAL, PLC, POINTS
from runtime.journal import Entry
from runtime.lifecycle import State
from runtime.loop import Tick
from runtime.plc import Fault
from runtime.registers import Mode, Status, state_name
from runtime.requests import Acknowledge, Answer, SetMode, Shelve
from runtime.scribe import Scribe


class Desk:
    """Follows one runtime from its first turn, which it writes down with what is told `about` it.

    Attributes:
      mode: what Flinch may do now.
      faults: what is at fault now, in phrases.
    """

    def __init__(self, scribe: Scribe, mode: Mode, about: str, allowed: Set[Mode] = frozenset(Mode)) -> None:
        self.mode = mode
        self.faults: list[str] = []
        self._scribe, self._allowed = scribe, allowed
        self._started = [Entry("start", "flinch", "", mode.name.lower(), about)]
        self._states = alarms.start()
        self._asked, self._wanted, self._answered = (1.0, False), False, ("", "no")
        self._time = ""

    @property
    def muted(self) -> bool:
        """Whether the operator does not want to hear of jams."""
        return self._states[JAM].shelved is not None

    def take(self, tick: Tick, status: Status | Fault | None, others: Mapping[str, str | None]) -> None:
        """One turn, what the PLC said last, and why `others` of the alarms are there, None where they are not."""
        self._time = f"{tick.time:.2f}"
        reasons = {**dict.fromkeys(POINTS), **self._reasons(tick, status), **others}
        self.faults = [reason for name in FAULTS if (reason := reasons[name])]
        self._states, entries = alarms.step(self._states, reasons, monotonic())
        over = "the alarm is over" if tick.chosen is None else "the policy chose it"
        why = reasons[JAM] or reasons[CAMERA] or over
        self._post([*self._started, *entries, *self._requests(tick, why), *self._answers(status)])
        self._started = []

    def ask(self, request: Acknowledge | Shelve | SetMode, reply: Callable[[Answer], None]) -> None:
        """Does what an operator asks, or says why not; `reply` is called once it is durable, from another thread."""
        told, entries = self._done(request)
        done = Answer(id=request.id, done=bool(entries), told=told)
        self._post(entries, lambda: reply(done))

    def _done(self, request: Acknowledge | Shelve | SetMode) -> tuple[str, list[Entry]]:
        if isinstance(request, SetMode):
            return self._set(Mode[request.mode.upper()], request.who)
        if request.name not in POINTS:
            return f"there is no alarm '{request.name}'", []
        before, now = self._states[request.name], monotonic()
        match request:
            case Acknowledge():
                after, told = lifecycle.acknowledge(before, now), "acknowledged"
            case Shelve(minutes=0):
                after, told = lifecycle.unshelve(before), "no longer shelved"
            case Shelve():
                after, told = lifecycle.shelve(before, now + 60 * request.minutes), f"shelved {request.minutes:g} min"
        self._states = {**self._states, request.name: after}
        entries = alarms.changes(request.name, before, after, told, request.who)
        return (told, entries) if entries else (f"{request.name} is {before.life.value} already", [])

    def _set(self, mode: Mode, who: str) -> tuple[str, list[Entry]]:
        if mode not in self._allowed:
            return f"this bundle and these settings do not allow mode {mode.name.lower()}", []
        if mode is self.mode:
            return f"the mode is {mode.name.lower()} already", []
        before, self.mode = self.mode, mode
        return f"mode {mode.name.lower()}", [
            Entry("mode", "mode", before.name.lower(), mode.name.lower(), "asked", who)
        ]

    def standing(self) -> list[dict[str, Any]]:
        """Every alarm that is not normal or not heard, the most urgent first, for people."""
        now = monotonic()
        rows = [
            {
                "name": name,
                "priority": POINTS[name].priority,
                "life": state.life.value,
                "for_s": round(now - state.since, 1),
                "hidden": _hidden(state, now),
                "consequence": POINTS[name].consequence,
                "response": POINTS[name].response,
            }
            for name, state in self._states.items()
            if state.announced or state.shelved is not None
        ]
        return sorted(rows, key=lambda row: (row["hidden"] != "", row["priority"]))

    def _post(self, entries: list[Entry], then: Callable[[], None] | None = None) -> None:
        self._scribe.post([entry._replace(time=self._time) for entry in entries], then)

    def _reasons(self, tick: Tick, status: Status | Fault | None) -> dict[str, str | None]:
        at = f"at {tick.time:.1f} s{f', {tick.camera}' if tick.camera else ''}"
        return {
            JAM: f"score {tick.score:.2f} {at}" if tick.alarm.on else None,
            DRIFT: f"drift {tick.drift:.2f} {at}" if tick.drifts else None,
            CAMERA: tick.fault,
            PLC: status.reason if isinstance(status, Fault) else None,
            JOURNAL: self._scribe.fault,
            FLOOD: f"slowed as long as allowed {at}" if tick.alarm.alarms.rests else None,
        }

    def _requests(self, tick: Tick, why: str) -> list[Entry]:
        """What is asked of the PLC, where that changed, and what would be asked in mode act."""
        command, entries = tick.command, []
        asked = command.speed_request, command.alarm
        for name, before, after in zip(("speed request", "alarm bit"), self._asked, asked, strict=True):
            if before != after:
                entries.append(Entry("plc", name, f"{before:g}", f"{after:g}", why))
        wanted = tick.alarm.speed < 1.0 and self.mode is not Mode.ACT
        if wanted != self._wanted:
            entries.append(Entry("would", "slow the feeder", _yes(self._wanted), _yes(wanted), why))
        self._asked, self._wanted = asked, wanted
        return entries

    def _answers(self, status: Status | Fault | None) -> list[Entry]:
        """What the PLC says of itself, where that changed; nothing while it says nothing."""
        if not isinstance(status, Status):
            return []
        before, self._answered = self._answered, (state_name(status.state), _yes(status.in_force))
        return [
            Entry("plc", name, old, new, "the PLC says so", "PLC")
            for name, old, new in zip(("state", "request in force"), before, self._answered, strict=True)
            if old != new
        ]


def _hidden(state: State, now: float) -> str:
    if state.shelved is None:
        return "suppressed" if state.suppressed else ""
    return f"shelved for {(state.shelved - now) / 60:.0f} min more"


def _yes(on: bool) -> str:
    return "yes" if on else "no"
