"""The commissioning report: from a journal what Flinch did, or in shadow would have done, so that somebody
can decide whether it may act.

A stop is the PLC leaving the state execute. An alarm that a stop follows within `MEANT_S` meant it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from runtime import journal
from runtime.alarms import CAMERA, JAM
from runtime.journal import Row
from runtime.lifecycle import ACTIVE

COLUMNS = (
    "mode",
    "watched",
    "alarms a shift",
    "stops",
    "alarmed before",
    "lead, median (least)",
    "alarms in vain",
    "slowed",
    "blind",
    "alarms of any kind an hour (most in ten minutes)",
)
MEANT_S = 12.0
FLOOD_S = 600.0  # what ISA-18.2 counts alarms in
RUNNING = "execute"


@dataclass
class Watch:
    """One run of a runtime, by its journal. All times are seconds of its camera's clock.

    Attributes:
      mode: what it was allowed to do.
      start, end: its first and last moment on record.
      alarms, stops: when each came. all_alarms: when any alarm came, of whatever kind.
      slowed: when the feeder was slowed, or would have been, from and to.
      blind: when the camera was at fault, from and to.
    """

    mode: str
    start: float
    end: float
    alarms: list[float] = field(default_factory=list)
    all_alarms: list[float] = field(default_factory=list)
    stops: list[float] = field(default_factory=list)
    slowed: list[tuple[float, float | None]] = field(default_factory=list)
    blind: list[tuple[float, float | None]] = field(default_factory=list)

    def leads(self) -> list[float | None]:
        """For every stop, how long before it the first alarm that meant it came; None where none did."""
        found = []
        for stop in self.stops:
            meant = [stop - at for at in self.alarms if 0 <= stop - at <= MEANT_S]
            found.append(max(meant, default=None))
        return found

    def vain(self) -> int:
        """Alarms that no stop followed."""
        return sum(not any(0 <= stop - at <= MEANT_S for stop in self.stops) for at in self.alarms)

    def most(self) -> int:
        """The most alarms that came within ten minutes."""
        times = np.sort(self.all_alarms)
        return int((np.searchsorted(times, times + FLOOD_S, side="right") - np.arange(len(times))).max(initial=0))

    def seconds(self, spans: list[tuple[float, float | None]]) -> float:
        return sum((self.end if to is None else to) - start for start, to in spans)


def watches(rows: Iterable[Row]) -> list[Watch]:
    """The runs that a journal tells of, in order."""
    found: list[Watch] = []
    for row in rows:
        entry, time = row.entry, float(row.entry.time or 0.0)
        if entry.kind == "start":
            found.append(Watch(entry.after, time, time))
        if not found:
            continue
        now = found[-1]
        now.end = max(now.end, time)
        came = entry.kind == "alarm" and not _active(entry.before) and _active(entry.after)
        now.all_alarms += [time] * came
        match entry.kind, entry.name:
            case "alarm", name if name == JAM:
                now.alarms += [time] * came
            case "alarm", name if name == CAMERA:
                _span(now.blind, time, _active(entry.after))
            case "would", _:
                _span(now.slowed, time, entry.after == "yes")
            case "plc", "speed request":
                _span(now.slowed, time, entry.after != "1")
            case "plc", "state" if entry.before == RUNNING:
                now.stops.append(time)
    return found


def _active(life: str) -> bool:
    return life in {each.value for each in ACTIVE}


def _span(spans: list[tuple[float, float | None]], time: float, on: bool) -> None:
    """Opens a span, or closes the one that is open."""
    is_open = bool(spans) and spans[-1][1] is None
    if on and not is_open:
        spans.append((time, None))
    elif is_open and not on:
        spans[-1] = (spans[-1][0], time)


def report(path: Path, shift_hours: float) -> None:
    """Prints the report of a journal; raises InputError where there is none."""
    cells, sound = told(path, shift_hours)
    table = Table(*COLUMNS, title=f"{path}, a shift being {shift_hours:g} h")
    for row in cells:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(sound, highlight=False)


def told(path: Path, shift_hours: float) -> tuple[list[list[str]], str]:
    """A row of `COLUMNS` for every run, and whether the journal is as it was written; raises InputError where there is
    none.
    """
    rows = list(journal.read(path))
    changed = journal.broken(rows)
    sound = "as it was written" if changed is None else f"CHANGED after it was written, from row {changed} on"
    cells = [[watch.mode, *_cells(watch, shift_hours)] for watch in watches(rows)]
    return cells, f"The journal is {sound}."


def _cells(watch: Watch, shift_hours: float) -> list[str]:
    whole = watch.end - watch.start
    hours = whole / 3600
    leads = [lead for lead in watch.leads() if lead is not None]
    return [
        f"{hours:.2f} h",
        f"{len(watch.alarms) / hours * shift_hours:.1f}" if hours else "-",
        str(len(watch.stops)),
        str(len(leads)),
        f"{np.median(leads):.1f} s ({min(leads):.1f} s)" if leads else "-",
        str(watch.vain()),
        f"{len(watch.slowed)} times, {_share(watch.seconds(watch.slowed), whole)}",
        _share(watch.seconds(watch.blind), whole),
        f"{len(watch.all_alarms) / hours:.1f} ({watch.most()})" if hours else "-",
    ]


def _share(seconds: float, whole: float) -> str:
    return f"{seconds:.0f} s ({seconds / whole:.1%})" if whole else "-"
