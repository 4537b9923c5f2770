"""The recorder: the last seconds in memory, and of every jam ahead a clip on disk, from before it to after it."""

from collections import deque
from collections.abc import Callable
from pathlib import Path
from queue import Full, Queue
from threading import Lock, Thread

import numpy as np
from numpy.typing import ArrayLike

from runtime.clip import Moment, Picture, write
from runtime.settings import RecorderSettings

LONGEST_S = 120.0  # of a clip, but for what comes after its last alarm
MOST_CLIPS = 4  # that wait to be written
CLOSING_S = 5.0
KEEPING = Lock()


class Recorder:
    """Keeps the ring, and a thread that writes clips.

    Args:
      written: called with the name of a clip, or None and why it could not be written; from the thread.
    """

    def __init__(
        self, settings: RecorderSettings, folder: Path, rate_hz: float, written: Callable[[str | None, str], None]
    ) -> None:
        self._settings, self._folder, self._rate_hz, self._written = settings, folder, rate_hz, written
        self._before: deque[Moment] = deque(maxlen=max(1, round(settings.before_s * rate_hz)))
        self._clip: list[Moment] = []
        self._name, self._left = "", 0
        self._queue: Queue[tuple[str, list[Moment]] | None] = Queue(MOST_CLIPS)
        self._thread = Thread(target=self._write, name="recorder", daemon=True)
        self._thread.start()

    def take(self, moment: Moment, alarm: str | None) -> None:
        """One turn; `alarm` names the clip of an alarm that came with it. Another one prolongs a clip that runs, unless
        that is `LONGEST_S` long already.
        """
        if alarm is not None and not self._left:
            self._name, self._clip = alarm, list(self._before)
        if alarm is not None and (not self._left or len(self._clip) < LONGEST_S * self._rate_hz):
            self._left = max(1, round(self._settings.after_s * self._rate_hz))
        self._before.append(moment)
        if self._left:
            self._clip.append(moment)
            self._left -= 1
            if not self._left:
                self._hand_over()

    def close(self) -> None:
        """Writes what has been recorded so far, and tells of it where that takes more than `CLOSING_S`."""
        if self._left:
            self._left = 0
            self._hand_over()
        try:
            self._queue.put_nowait(None)
            self._thread.join(timeout=CLOSING_S)
        except Full:
            pass
        if self._thread.is_alive():
            self._written(None, f"not written within {CLOSING_S:g} s of the end")

    def _hand_over(self) -> None:
        try:
            self._queue.put_nowait((self._name, self._clip))
        except Full:
            self._written(None, "the disk is too slow for clips")
        self._clip = []

    def _write(self) -> None:
        while (item := self._queue.get()) is not None:
            name, moments = item
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write(moments, self._folder / f"{name}.mp4", self._rate_hz)
                keep(self._folder, self._settings.most_mb)
            except OSError as error:
                self._written(None, f"clip {name} could not be written ({error.strerror or error})")
            else:
                self._written(f"{name}.mp4", f"{len(moments) / self._rate_hz:.0f} s")


def keep(folder: Path, most_mb: float) -> None:
    """Removes the oldest clips until the rest take no more than `most_mb`."""
    with KEEPING:  # every camera has a thread of its own
        clips = sorted(folder.glob("*.mp4"))
        sizes = [clip.stat().st_size for clip in clips]
        while clips and sum(sizes) > most_mb * 1e6:
            clips.pop(0).unlink()
            sizes.pop(0)


def drawable(picture: ArrayLike) -> Picture:
    """A picture in 0..1 as bytes."""
    return np.clip(np.round(255 * np.asarray(picture)), 0, 255).astype(np.uint8)


def masked(picture: Picture, masks: tuple[tuple[int, int, int, int], ...]) -> Picture:
    """The picture with rectangles (left, top, width, height) greyed out, for people who shall not be recorded."""
    if not masks:
        return picture
    copy = picture.copy()
    for left, top, width, height in masks:
        copy[top : top + height, left : left + width] = 128
    return copy
