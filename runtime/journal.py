"""The journal: what happened, what it changed and why, in SQLite. Each row carries the hash of the one before it, so
that a row that was changed, put in or taken out shows.

    id, at, time, kind, name, before, after, why, who, previous, hash

`at` is UTC by the wall clock, `time` seconds by the camera's. A row is durable once `append` has returned: a kill -9 or
a power cut loses none of them.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, NamedTuple

from filelock import FileLock, Timeout

from wm.errors import InputError

Kind = Literal["start", "stop", "mode", "alarm", "plc", "would", "clip", "bundle", "lost"]
GENESIS = "0" * 64
COLUMNS = ("at", "time", "kind", "name", "before", "after", "why", "who")
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS journal (
    id INTEGER PRIMARY KEY,
    {", ".join(f"{column} TEXT NOT NULL" for column in COLUMNS)},
    previous TEXT NOT NULL,
    hash TEXT NOT NULL
)
"""


class Entry(NamedTuple):
    """What happened to whom: an alarm, a register or a mode `name` went from `before` to `after`, `why`, by `who`."""

    kind: Kind
    name: str
    before: str
    after: str
    why: str
    who: str = "flinch"
    time: str = ""
    at: str = ""


class Row(NamedTuple):
    """An entry in the journal, `at` filled in."""

    id: int
    entry: Entry
    previous: str
    hash: str


class Journal:
    """The one writer of a journal.

    Raises:
      InputError: the file cannot be opened, is no journal, or has a writer already.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(f"{path}.lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"{path}: another runtime writes to it; stop that one, or choose another 'out'.") from None
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, timeout=0.0, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(SCHEMA)
            last = self._connection.execute("SELECT hash FROM journal ORDER BY id DESC LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise InputError(f"{path}: cannot be used as a journal ({error}); choose another file.") from error
        self._last = last[0] if last else GENESIS

    def append(self, entries: Iterable[Entry]) -> None:
        """Adds entries in one transaction, after which they are durable. Raises sqlite3.Error and adds none of them
        where the disk does not take them.
        """
        last = self._last
        rows = []
        for entry in entries:
            stamped = entry if entry.at else entry._replace(at=now())
            last, previous = digest(last, stamped), last
            rows.append((*(getattr(stamped, column) for column in COLUMNS), previous, last))
        marks = ", ".join("?" * (len(COLUMNS) + 2))
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany(
                f"INSERT INTO journal ({', '.join(COLUMNS)}, previous, hash) VALUES ({marks})", rows
            )
            self._connection.execute("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self._last = last

    def retain(self, days: float) -> int:
        """Removes what is before the first row that is younger, and how many rows that was; the rest still follows
        itself. A disk that does not take it is asked again at the next start.
        """
        before = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
        young = "SELECT MIN(id) FROM journal WHERE at >= ?"
        try:
            return self._connection.execute(f"DELETE FROM journal WHERE id < ({young})", (before,)).rowcount
        except sqlite3.Error:
            return 0

    def close(self) -> None:
        self._connection.close()
        self._lock.release()


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def digest(previous: str, entry: Entry) -> str:
    """SHA-256 of the hash before and of the entry's columns as JSON."""
    columns = [getattr(entry, column) for column in COLUMNS]
    return hashlib.sha256(json.dumps([previous, *columns], ensure_ascii=False).encode()).hexdigest()


def read(path: Path, after: int = -(2**63)) -> Iterator[Row]:
    """The rows after number `after`, while the runtime goes on writing.

    Raises:
      InputError: there is no journal at `path`.
    """
    return _rows(path, "WHERE id > ? ORDER BY id", after)


def newest(path: Path, count: int) -> list[Row]:
    """The last so many rows, the newest first; raises InputError as `read` does."""
    return list(_rows(path, "ORDER BY id DESC LIMIT ?", count))


def _rows(path: Path, which: str, value: int) -> Iterator[Row]:
    columns = ", ".join(("id", *COLUMNS, "previous", "hash"))
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            found_rows = connection.execute(f"SELECT {columns} FROM journal {which}", (value,))
            for number, *told, previous, found in found_rows:
                yield Row(number, Entry(**dict(zip(COLUMNS, told, strict=True))), previous, found)
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be read as a journal ({error}); give a runtime's journal.db.") from error


def broken(rows: Iterable[Row]) -> int | None:
    """The number of the first row that is not as it was written or does not follow the one before, None where all do.
    The end of a journal that was cut off does not show.
    """
    last: Row | None = None
    for row in rows:
        follows = last is None or (row.previous == last.hash and row.id == last.id + 1)
        if not follows or row.hash != digest(row.previous, row.entry):
            return row.id
        last = row
    return None
