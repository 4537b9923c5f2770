"""The journal: durable once told, chained, and never in the way of the loop."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from runtime import journal, scribe
from runtime.journal import GENESIS, Entry, Journal
from runtime.scribe import Scribe
from wm.errors import InputError


def entry(number: int) -> Entry:
    return Entry("alarm", "jam ahead", "normal", "unacknowledged", f"score {number}")


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    log = Journal(path)
    for number in range(5):
        log.append([entry(2 * number), entry(2 * number + 1)])
    log.close()
    return path


def test_entries_come_back_in_order_and_follow_each_other(written):
    rows = list(journal.read(written))
    assert [row.id for row in rows] == [*range(1, 11)]
    assert [row.entry.why for row in rows] == [f"score {number}" for number in range(10)]
    assert (rows[0].previous, journal.broken(rows)) == (GENESIS, None)
    assert [row.id for row in journal.read(written, after=7)] == [8, 9, 10]


def test_the_newest_rows_are_read_without_the_others(written):
    assert [row.id for row in journal.newest(written, 3)] == [10, 9, 8]
    assert len(journal.newest(written, 99)) == 10


def test_rows_that_are_too_old_go_and_the_rest_still_follows_itself(written):
    with sqlite3.connect(written) as connection:
        connection.execute("UPDATE journal SET at = '2019-01-01T00:00:00.000+00:00' WHERE id <= 4 OR id = 10")
    log = Journal(written)
    assert (log.retain(36_500), log.retain(1_000)) == (0, 4)
    log.append([entry(10)])
    log.close()
    rows = list(journal.read(written))
    assert [row.id for row in rows] == [*range(5, 12)]
    assert journal.broken(rows[:5]) is None and rows[-1].previous == rows[-2].hash


def test_a_file_of_lines_that_grew_to_half_of_its_size_is_the_older_half(tmp_path):
    lines = scribe.Lines(tmp_path / "ticks.jsonl", most_mb=0.002)
    for number in range(100):
        lines.put(f"{number:09d}")
    lines.close()
    kept = [(tmp_path / name).read_text().split() for name in ("ticks.jsonl.1", "ticks.jsonl")]
    assert all(sum(map(len, part)) <= 1000 for part in kept)
    assert [*kept[0], *kept[1]] == [f"{number:09d}" for number in range(100)][-len(kept[0]) - len(kept[1]) :]


def test_a_journal_goes_on_where_it_ended(written):
    again = Journal(written)
    again.append([entry(10)])
    again.close()
    rows = list(journal.read(written))
    assert (rows[-1].id, rows[-1].previous, journal.broken(rows)) == (11, rows[-2].hash, None)


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("UPDATE journal SET why = 'nothing' WHERE id = 4", 4),
        ("UPDATE journal SET at = '2020-01-01' WHERE id = 1", 1),
        ("DELETE FROM journal WHERE id = 6", 7),
        ("UPDATE journal SET id = 0 WHERE id = 10", 0),
    ],
)
def test_a_row_that_was_changed_moved_or_taken_out_shows(written, change, shown):
    with sqlite3.connect(written) as connection:
        connection.execute(change)
    assert journal.broken(journal.read(written)) in {shown, shown + 1}


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    (tmp_path / "notes").write_text("no database, but long enough to look at" * 30)
    with pytest.raises(InputError, match="cannot be used as a journal"):
        Journal(tmp_path / "notes")
    with pytest.raises(InputError, match="cannot be read as a journal"):
        list(journal.read(tmp_path / "nowhere.db"))


def test_a_journal_has_one_writer(written):
    first = Journal(written)
    with pytest.raises(InputError, match="another runtime writes to it"):
        Journal(written)
    first.close()
    Journal(written).close()


WRITER = """
import sys
from pathlib import Path
from runtime.journal import Entry, Journal
log = Journal(Path(sys.argv[1]))
for number in range(1_000_000):
    log.append([Entry("alarm", "jam", "", "", str(number))])
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_told_fifty_times(tmp_path):
    path, generator = tmp_path / "journal.db", np.random.default_rng(0)
    for _ in range(50):
        before = len(list(journal.read(path))) if path.exists() else 0
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        told = [writer.stdout.readline()]
        time.sleep(generator.uniform(0.0, 0.03))
        os.kill(writer.pid, signal.SIGKILL)
        told += writer.stdout.readlines()
        writer.wait()
        rows = list(journal.read(path))
        assert len(rows) - before >= len([line for line in told if line.endswith("\n")])
        assert journal.broken(rows) is None


@pytest.fixture
def slow(monkeypatch):
    monkeypatch.setattr(scribe, "RETRY_S", 0.05)


class Stubborn(Journal):
    """Takes nothing while its disk is full."""

    full = False

    def append(self, entries):
        if self.full:
            raise sqlite3.OperationalError("database or disk is full")
        super().append(entries)


def test_a_full_disk_is_a_fault_and_what_was_posted_is_written_when_there_is_room_again(tmp_path, slow):
    log = Stubborn(tmp_path / "journal.db")
    writer = Scribe(log)
    writer.post([entry(0)])
    assert writer.settled(2.0)
    log.full = True
    writer.post([entry(1)])
    assert not writer.settled(0.2)
    assert writer.fault == "journal: database or disk is full"
    writer.post([entry(2)])
    log.full = False
    assert writer.settled(2.0)
    assert writer.fault is None
    writer.close()
    assert [row.entry.why for row in journal.read(tmp_path / "journal.db")] == ["score 0", "score 1", "score 2"]


def test_posting_costs_nothing_while_the_disk_hangs_and_the_oldest_are_dropped_and_counted(tmp_path, slow, monkeypatch):
    monkeypatch.setattr(scribe, "MOST_WAITING", 3)
    log = Stubborn(tmp_path / "journal.db")
    log.full = True
    writer = Scribe(log)
    writer.post([entry(0)])
    assert not writer.settled(0.2)
    began = time.monotonic()
    for number in range(1, 6):
        writer.post([entry(number)])
    assert time.monotonic() - began < 0.05
    log.full = False
    assert writer.settled(2.0)
    writer.close()
    rows = [row.entry for row in journal.read(tmp_path / "journal.db")]
    assert (rows[0].kind, rows[0].before) == ("lost", "3")
    assert [row.why for row in rows[1:]] == ["score 3", "score 4", "score 5"]
