"""What the loop shows to other processes: its latest turn in shared memory, written without waiting for anybody.

The writer makes the count odd, writes, and makes it even again; who reads sees the same even count before and after, or
looks again (a sequence lock; Lameter, Effective Synchronization on Linux/NUMA Systems, 2005).
"""

import json
import mmap
import os
import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CAPACITY = 1 << 22
COUNT, SIZE = struct.Struct("<Q"), struct.Struct("<I")  # by themselves, as only eight aligned bytes change at once
START = COUNT.size + SIZE.size
TRIES = 1000
WHAT_IF = "what if"  # what would come at other speeds; the names of its pictures begin with it


class Picture(NamedTuple):
    """A picture `[H, W, C]` or a map `[H, W]`, uint8, by its name."""

    name: str
    pixels: NDArray[np.uint8]


class Board:
    """One end of the shared memory: of the one writer, `size` bytes, or of a reader that was given its descriptor."""

    def __init__(self, descriptor: int | None = None, *, size: int = CAPACITY) -> None:
        self.descriptor = os.memfd_create("flinch") if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, size)
        self._memory = mmap.mmap(self.descriptor, os.fstat(self.descriptor).st_size)
        self._count = 0

    def write(self, told: dict[str, Any], pictures: list[Picture]) -> None:
        """Replaces what was there; JSON-able facts and pictures, no more than it was made for."""
        shapes = [[picture.name, *picture.pixels.shape] for picture in pictures]
        facts = json.dumps([told, shapes]).encode()
        whole = b"".join([struct.pack("<I", len(facts)), facts, *(picture.pixels.tobytes() for picture in pictures)])
        COUNT.pack_into(self._memory, 0, self._count + 1)
        SIZE.pack_into(self._memory, COUNT.size, len(whole))
        self._memory[START : START + len(whole)] = whole
        self._count += 2
        COUNT.pack_into(self._memory, 0, self._count)

    def read(self) -> tuple[int, dict[str, Any], list[Picture]] | None:
        """The count of the latest turn, its facts and its pictures; None before the first, or where the writer died
        half-way.
        """
        for _ in range(TRIES):
            (count,) = COUNT.unpack_from(self._memory)
            if count == 0:
                return None
            (size,) = SIZE.unpack_from(self._memory, COUNT.size)
            whole = self._memory[START : START + size]
            if count % 2 == 0 and COUNT.unpack_from(self._memory)[0] == count:
                return count, *_parsed(whole)
        return None

    def close(self) -> None:
        self._memory.close()
        os.close(self.descriptor)


def _parsed(whole: bytes) -> tuple[dict[str, Any], list[Picture]]:
    (length,) = struct.unpack_from("<I", whole)
    told, shapes = json.loads(whole[4 : 4 + length])
    at, pictures = 4 + length, []
    for name, *shape in shapes:
        size = int(np.prod(shape))
        pictures.append(Picture(name, np.frombuffer(whole, np.uint8, size, at).reshape(shape)))
        at += size
    return told, pictures
