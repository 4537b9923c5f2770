"""The loader that feeds training: random windows of footage, straight from the records."""

from bisect import bisect_right
from itertools import accumulate
from typing import Any

import grain
from numpy.typing import NDArray

from wm.data.footage import Episode, Footage
from wm.errors import InputError
from wm.types import Batch, Observation

READ = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
ENDLESS = 2**48  # windows; the length of grain's own endless repeat() overflows in batch(1)


class WindowSource:
    """Every window of `length` frames in a split, by number: any offset inside an episode, never across two.

    Raises:
      InputError: no episode of the split is long enough.
    """

    def __init__(self, footage: Footage, split: str, length: int) -> None:
        lengths = footage.lengths(split)
        longest = max(lengths, default=0)
        if longest < length:
            raise InputError(
                f"the footage at {footage.path} is too short: its longest {split} episode has {longest} frames "
                f"({footage.frames(split)} in all) and a window needs {length}; record or ingest more"
            )
        self._footage, self._split, self._length = footage, split, length
        self._ends = list(accumulate(max(frames - length + 1, 0) for frames in lengths))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Episode:
        number = bisect_right(self._ends, index)
        start = index - (self._ends[number - 1] if number else 0)
        return self._footage.read(self._split, number, start, self._length)


def windows(
    footage: Footage, split: str, *, length: int, batch: int, seed: int, process: int = 0, processes: int = 1
) -> grain.DatasetIterator[Batch]:
    """Batches of random windows, for ever: each epoch visits every window once, in an order drawn from `seed`.

    The iterator's `get_state()` is a small dict; after `set_state()` of it, a new iterator resumes with the batch that
    would have come next. Threads read ahead a few batches; memory does not grow with the footage.

    Args:
      length: T, frames in a window.
      batch: B, windows in a batch; a multiple of `processes`.
      process, processes: of so many processes that share the work, this one: it reads its share of every batch, and
        the shares one after the other are the batch that a single process would read.

    Returns:
      Iterator of Batch with numpy leaves: image `[B, T, H, W, C]` uint8 or None, sensors `[B, T, S]` and action
      `[B, T, A]` float32, where B is the share.

    Raises:
      InputError: no episode of the split has `length` frames.
    """
    source = WindowSource(footage, split, length)
    endless = grain.MapDataset.source(source).seed(seed).shuffle().repeat(ENDLESS // len(source))
    shares = endless.map(_leaves).batch(batch // processes).map(_to_batch)
    return iter(shares[process::processes].to_iter_dataset(READ))


def _leaves(window: Episode) -> dict[str, NDArray[Any]]:
    images = {} if window.frames is None else {"image": window.frames}
    return {**images, "sensors": window.sensors, "action": window.actions}


def _to_batch(leaves: dict[str, Any]) -> Batch:
    return Batch(observation=Observation(leaves.get("image"), leaves["sensors"]), action=leaves["action"])
