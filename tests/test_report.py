"""What a journal says of a runtime, counted by hand."""

import sqlite3

import pytest

from runtime import journal, report
from runtime.__main__ import Flags, main
from runtime.journal import Entry, Journal
from wm.errors import InputError

ALARM = ("alarm", "jam ahead", "normal", "unacknowledged", "score 1.50")
OVER = ("alarm", "jam ahead", "unacknowledged", "returned, unacknowledged", "its condition is gone")
AGAIN = ("alarm", "jam ahead", "returned, unacknowledged", "unacknowledged", "score 1.70")
SLOW = ("would", "slow the feeder", "no", "yes", "score 1.50")
FAST = ("would", "slow the feeder", "yes", "no", "the alarm is over")
HELD = ("plc", "state", "execute", "held", "the PLC says so")
EXECUTE = ("plc", "state", "held", "execute", "the PLC says so")
BLIND = ("alarm", "camera", "normal", "unacknowledged", "the camera's picture is blank")
SEES = ("alarm", "camera", "acknowledged", "normal", "its condition is gone")


@pytest.fixture
def written(tmp_path):
    told = [
        (100.0, ("start", "flinch", "", "shadow", "bundle")),
        (100.1, ("plc", "state", "", "execute", "the PLC says so")),
        (200.0, ALARM),
        (200.0, SLOW),
        (202.5, HELD),
        (212.0, FAST),
        (215.0, OVER),
        (300.0, EXECUTE),
        (400.0, AGAIN),
        (400.0, SLOW),
        (412.0, FAST),
        (420.0, BLIND),
        (520.0, SEES),
        (900.0, HELD),
        (3700.0, ("stop", "flinch", "shadow", "", "told to stop")),
        (5.0, ("start", "flinch", "", "act", "bundle")),
        (50.0, ("plc", "speed request", "1", "0.1", "score 1.90")),
        (65.0, ("stop", "flinch", "act", "", "told to stop")),
    ]
    path = tmp_path / "journal.db"
    log = Journal(path)
    log.append([Entry(*each, time=f"{time:.2f}") for time, each in told])
    log.close()
    return path


def test_alarms_leads_stops_and_slow_downs_are_counted_run_by_run(written):
    shadow, act = report.watches(journal.read(written))
    assert (shadow.mode, shadow.start, shadow.end) == ("shadow", 100.0, 3700.0)
    assert (shadow.all_alarms, shadow.most(), act.most()) == ([200.0, 400.0, 420.0], 3, 0)
    assert (shadow.alarms, shadow.stops, shadow.leads(), shadow.vain()) == (
        [200.0, 400.0],
        [202.5, 900.0],
        [2.5, None],
        1,
    )
    assert (shadow.seconds(shadow.slowed), shadow.seconds(shadow.blind)) == (24.0, 100.0)
    assert (act.mode, act.alarms, act.slowed, act.seconds(act.slowed)) == ("act", [], [(50.0, None)], 15.0)


def test_the_report_tells_it_and_whether_the_journal_is_as_it_was_written(written, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(Flags(what="report", journal=written)) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "1.00 h" in told
    assert "16.0" in told
    assert "2.5 s (2.5 s)" in told
    assert "24 s (0.7%)" in told
    assert "The journal is as it was written." in told
    with sqlite3.connect(written) as connection:
        connection.execute("UPDATE journal SET time = '1.00' WHERE id = 4")
    main(Flags(what="report", journal=written))
    assert "CHANGED after it was written, from row 4 on" in capsys.readouterr().out


def test_a_report_without_a_journal_is_refused(tmp_path):
    with pytest.raises(InputError, match="report needs --journal"):
        main(Flags(what="report"))
    with pytest.raises(InputError, match="cannot be read as a journal"):
        main(Flags(what="report", journal=tmp_path / "nowhere.db"))
    with pytest.raises(InputError, match="belongs to report"):
        main(Flags(journal=tmp_path / "nowhere.db"))
