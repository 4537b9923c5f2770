"""What the turns of the loop mean to people: which alarms stand and what was asked of the PLC, turn by turn, and the
changes into the journal.
"""

from time import monotonic

from runtime import alarms
from runtime.journal import Entry
from runtime.loop import Tick
from runtime.plc import Fault
from runtime.registers import Mode, Status, state_name
from runtime.scribe import Scribe


class Desk:
    """Follows one runtime from its first turn, which it writes down with what is told `about` it."""

    def __init__(self, scribe: Scribe, mode: Mode, about: str) -> None:
        self._scribe, self._mode = scribe, mode
        self._started = [Entry("start", "flinch", "", mode.name.lower(), about)]
        self._states = alarms.start()
        self._asked, self._wanted, self._answered = (1.0, False), False, ("", "no")

    def take(self, tick: Tick, status: Status | Fault | None) -> None:
        """One turn, and what the PLC said last."""
        reasons = self._reasons(tick, status)
        self._states, entries = alarms.step(self._states, reasons, monotonic())
        why = reasons[alarms.JAM] or reasons[alarms.CAMERA] or "the alarm is over"
        entries = [*self._started, *entries, *self._requests(tick, why), *self._answers(status)]
        self._started = []
        self._scribe.post([entry._replace(time=f"{tick.time:.2f}") for entry in entries])

    def _reasons(self, tick: Tick, status: Status | Fault | None) -> dict[str, str | None]:
        drift = 0.0 if tick.surprise is None else float(tick.surprise.drift)
        at = f"at {tick.time:.1f} s"
        return {
            alarms.JAM: f"score {tick.score:.2f} {at}" if tick.alarm.on else None,
            alarms.DRIFT: f"drift {drift:.2f} {at}" if drift >= 1.0 else None,
            alarms.CAMERA: tick.fault,
            alarms.PLC: status.reason if isinstance(status, Fault) else None,
            alarms.JOURNAL: self._scribe.fault,
            alarms.FLOOD: f"slowed as long as allowed {at}" if tick.alarm.rests else None,
        }

    def _requests(self, tick: Tick, why: str) -> list[Entry]:
        """What is asked of the PLC, where that changed, and what would be asked in mode act."""
        command, entries = tick.command, []
        asked = command.speed_request, command.alarm
        for name, before, after in zip(("speed request", "alarm bit"), self._asked, asked, strict=True):
            if before != after:
                entries.append(Entry("plc", name, f"{before:g}", f"{after:g}", why))
        wanted = tick.alarm.slow
        if wanted != self._wanted and self._mode is not Mode.ACT:
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


def _yes(on: bool) -> str:
    return "yes" if on else "no"
