"""Threads that write the journal and other files, so that the loop never waits for a disk."""

import logging
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from queue import Full, Queue
from threading import Condition, Thread
from time import monotonic

from runtime.journal import Entry, Journal, now

MOST_WAITING = 10_000
RETRY_S = 1.0
SLOW_S = 1.0


class Scribe:
    """Takes entries at once and makes them durable soon after. While the disk does not take them they wait in memory,
    the oldest are dropped beyond `MOST_WAITING`, and how many is written down once it does again.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._bell = Condition()
        self._waiting: deque[Entry] = deque()
        self._afterwards: list[Callable[[], None]] = []
        self._writing = self._dropped = 0
        self._since = monotonic()
        self._error: str | None = None
        self._stopping = False
        self._thread = Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def post(self, entries: Iterable[Entry], then: Callable[[], None] | None = None) -> None:
        """Hands entries over, stamped with the time of now; `then` is called by the thread once they are durable."""
        stamped = [entry._replace(at=now()) for entry in entries]
        if not stamped and then is None:
            return
        with self._bell:
            if then is not None:
                self._afterwards.append(then)
            if not self._waiting and not self._writing:
                self._since = monotonic()
            self._waiting.extend(stamped)
            while len(self._waiting) > MOST_WAITING:
                self._waiting.popleft()
                self._dropped += 1
            self._bell.notify_all()

    def settled(self, timeout_s: float) -> bool:
        """Waits until everything that was posted is durable, and whether it is."""
        with self._bell:
            return self._bell.wait_for(lambda: not self._waiting and not self._writing, timeout_s)

    @property
    def fault(self) -> str | None:
        """Why entries are not durable, None while they are."""
        with self._bell:
            late = (self._waiting or self._writing) and monotonic() - self._since > SLOW_S
            return self._error or ("journal: the disk does not answer" if late else None)

    def close(self) -> None:
        """Writes what is left if the disk takes it in time."""
        with self._bell:
            self._stopping = True
            self._bell.notify_all()
        self._thread.join(timeout=2 * RETRY_S)
        if not self._thread.is_alive():
            self._journal.close()

    def _run(self) -> None:
        while True:
            with self._bell:
                self._bell.wait_for(lambda: self._waiting or self._afterwards or self._stopping)
                if not self._waiting and not self._afterwards:
                    return
                batch, afterwards, dropped = list(self._waiting), self._afterwards, self._dropped
                self._waiting.clear()
                self._writing, self._afterwards = len(batch), []
            lost = [Entry("lost", "journal", str(dropped), "0", "the disk did not take them")] if dropped else []
            try:
                if batch:
                    self._journal.append([*lost, *batch])
            except sqlite3.Error as error:
                with self._bell:
                    self._waiting.extendleft(reversed(batch))
                    self._writing, self._error = 0, f"journal: {error}"
                    self._afterwards = [*afterwards, *self._afterwards]
                    if self._stopping:
                        return
                    self._bell.wait_for(lambda: self._stopping, timeout=RETRY_S)
                continue
            with self._bell:
                self._writing, self._error, self._since = 0, None, monotonic()
                self._dropped -= dropped
                self._bell.notify_all()
            for then in afterwards:
                then()


class Lines:
    """Appends lines to a text file from a thread; at half of `most_mb` it becomes FILE.1, and what was that is gone.
    While the disk does not take lines, what is beyond `MOST_WAITING` is dropped. Raises OSError.
    """

    def __init__(self, path: Path, most_mb: float) -> None:
        self._file = RotatingFileHandler(path, maxBytes=round(most_mb * 1e6 / 2), backupCount=1, encoding="utf-8")
        self._file.handleError = lambda record: None  # type: ignore[method-assign]
        self._queue: Queue[str | None] = Queue(MOST_WAITING)
        self._thread = Thread(target=self._run, name="lines", daemon=True)
        self._thread.start()

    def put(self, line: str) -> None:
        with suppress(Full):
            self._queue.put_nowait(line)

    def close(self) -> None:
        """Writes what is left if the disk takes it in time."""
        with suppress(Full):
            self._queue.put_nowait(None)
        self._thread.join(timeout=2 * RETRY_S)

    def _run(self) -> None:
        while (line := self._queue.get()) is not None:
            self._file.emit(logging.makeLogRecord({"msg": line}))
        self._file.close()
