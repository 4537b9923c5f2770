"""A clip of a jam ahead. Left to right: what was seen, what had been foretold for that moment, and what was seen with
the surprise in red; the score as a bar below.

It is drawn and encoded in a process of its own, which comes last where the cores are taken: a loop that shares its
interpreter with an encoder stands still for as long as a clip is written.
"""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import imageio.v3 as imageio
import numpy as np
from numpy.typing import NDArray

from wm.files import appearing

SCALE, BAR = 4, 16
LOUD_FROM, LOUD_FULL = 0.5, 2.0
LAST = 19  # of the priorities

Picture = NDArray[np.uint8]


class Moment(NamedTuple):
    """One turn: pictures `[H, W, C]` seen and foretold, the map `[rows, columns]`, and the score."""

    image: Picture
    expected: Picture
    map: NDArray[np.float32]
    score: float


def write(clip: list[Moment], path: Path, rate_hz: float) -> None:
    """Writes a clip as H.264; it appears whole or not at all.

    Raises:
      OSError: it could not be written.
    """
    packed = io.BytesIO()
    np.savez(packed, *(np.stack(part) for part in zip(*clip, strict=True)))
    command = [sys.executable, "-m", "runtime.clip", str(path), str(rate_hz)]
    done = subprocess.run(command, input=packed.getvalue(), capture_output=True, check=False)
    if done.returncode:
        raise OSError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])


def encode(clip: list[Moment], path: Path, rate_hz: float) -> None:
    """Draws and encodes a clip here."""
    loudest = max(2.0, *(float(moment.score) for moment in clip))
    with appearing(path) as file, imageio.imopen(file, "w", plugin="pyav", extension=".mp4") as video:
        video.init_video_stream("libx264", fps=rate_hz)
        for moment in clip:
            video.write_frame(drawn(moment, loudest))


def drawn(moment: Moment, loudest: float) -> Picture:
    """A frame of a clip, `[4 H + 16, 12 W, 3]`."""
    seen, expected = (_large(picture) for picture in (moment.image, moment.expected))
    rows, columns = moment.map.shape
    loud = np.kron(moment.map, np.ones((seen.shape[0] // rows, seen.shape[1] // columns)))[..., None]
    strength = 0.7 * np.clip((loud - LOUD_FROM) / (LOUD_FULL - LOUD_FROM), 0, 1)
    marked = ((1 - strength) * seen + strength * np.array([210, 40, 40])).astype(np.uint8)
    whole = np.concatenate([seen, expected, marked], axis=1)
    bar = np.full((BAR, whole.shape[1], 3), 40, np.uint8)
    width = whole.shape[1] / loudest
    bar[:, : round(width * moment.score)] = (210, 40, 40) if moment.score >= 1 else (80, 130, 180)
    bar[:, round(width)] = 255
    return np.concatenate([whole, bar])


def _large(picture: Picture) -> Picture:
    colours = picture if picture.shape[-1] == 3 else picture.repeat(3, axis=-1)
    return colours.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def main(path: str, rate_hz: str) -> None:
    """Reads a clip from standard input, whole, and writes it to `path`."""
    os.nice(LAST)
    with np.load(io.BytesIO(sys.stdin.buffer.read())) as packed:
        parts = [packed[name] for name in packed.files]
    try:
        encode([Moment(*each) for each in zip(*parts, strict=True)], Path(path), float(rate_hz))
    except OSError as error:
        sys.exit(error.strerror or str(error))


if __name__ == "__main__":
    main(*sys.argv[1:])
