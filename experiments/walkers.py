"""People who walk too fast, made from footage of people who do not: what the score for a walkway is chosen on.

Somebody who walks through a held-out clip alone is cut out of it, and walks through another at a multiple of the usual
pace, on a day of other light and more noise. No label of a test set is needed, and none is read.
"""

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wm.data.footage import Footage, FootageWriter

Frames = NDArray[np.uint8]
Picture = NDArray[np.float32]

LEAST_CONTRAST = 12.0
AREA = 60, 420
HEIGHT, WIDTH = (12, 34), (2, 24)
MARGIN = 4
STRAY = 4.0
LEAST_FRAMES = 50
LEAST_PACE = 0.3
FASTER = 1.6, 2.8
FAINTER = 0.7, 1.1
LOWER = 8.0
EARLIEST, LATEST = -80, 70
SEEN = 40.0
UNEVEN_PIXELS = 6.0
UNEVEN_LEVELS = 1.0, 3.0
NOISE_LEVELS = 0.3, 1.2
LEAST_SEEN = 20


class Cutout(NamedTuple):
    """One person in one frame: top and left corner of the cut, its difference to the background and its opacity, both
    `[h, w]`, and where its middle is, (down, right) in pixels.
    """

    corner: tuple[int, int]
    change: Picture
    opacity: Picture
    middle: tuple[float, float]


class Walker(NamedTuple):
    """One person over consecutive frames of a clip, and the pace in pixels a frame to the right."""

    clip: int
    cutouts: list[Cutout]
    pace: float


def plant(footage: Footage, out: Path, *, copies: int, seed: int) -> Footage:
    """The held-out clips as on other days, `copies` of each with somebody walking too fast, then one of each without;
    one label a frame in the metadata.
    """
    if out.exists():
        return Footage.open(out)
    generator = np.random.default_rng(seed)
    lengths = footage.lengths("holdout")
    numbers = [number for number, length in enumerate(lengths) if length > 2 * LEAST_FRAMES]
    clips = [_grey(footage, number) for number in numbers]
    found = [walker for number, clip in enumerate(clips) for walker in walkers(number, clip)]
    labels = []
    with FootageWriter(out, footage.spec, {}) as writer:
        for copy in range(copies + 1):
            for number, plain in enumerate(clips):
                clip = another_day(plain, generator)
                others = [walker for walker in found if walker.clip != number]
                frames, label = clip, np.zeros(len(clip), bool)
                while copy < copies and label.sum() < LEAST_SEEN:
                    frames, label = hurried(clip, others[generator.integers(len(others))], generator)
                labels.append(label.astype(int).tolist())
                with writer.episode("train", f"clip {number}, copy {copy}") as episode:
                    for time, frame in enumerate(frames):
                        episode.append(frame[..., None], np.zeros(0), np.zeros(0), time / footage.spec.rate_hz)
        writer.metadata["labels"] = labels
    return Footage.open(out)


def another_day(clip: Frames, generator: np.random.Generator) -> Frames:
    """A clip `[T, H, W]` as on another day: the light falls otherwise, and the camera is noisier."""
    uneven = ndimage.gaussian_filter(generator.normal(size=clip.shape[1:]), UNEVEN_PIXELS)
    uneven *= generator.uniform(*UNEVEN_LEVELS) / np.abs(uneven).mean()
    noise = generator.uniform(*NOISE_LEVELS) * generator.normal(size=clip.shape)
    return np.clip(np.round(clip + uneven + noise), 0, 255).astype(np.uint8)


def walkers(number: int, clip: Frames) -> list[Walker]:
    """Those who can be followed alone through a clip `[T, H, W]` for long enough."""
    background = np.median(clip, axis=0).astype(np.float32)
    walking: list[list[Cutout]] = []
    ended: list[list[Cutout]] = []
    for frame in clip:
        found = list(_cutouts(frame - background))
        followed = []
        for cutout in found:
            near = [path for path in walking if _close(path[-1], cutout)]
            path = near[0] if len(near) == 1 else []
            walking = [other for other in walking if other is not path]
            path.append(cutout)
            followed.append(path)
        ended += walking
        walking = followed
    paths = [path for path in (*ended, *walking) if len(path) >= LEAST_FRAMES]
    found_walkers = [Walker(number, path, (path[-1].middle[1] - path[0].middle[1]) / len(path)) for path in paths]
    return [walker for walker in found_walkers if abs(walker.pace) > LEAST_PACE]


def hurried(clip: Frames, walker: Walker, generator: np.random.Generator) -> tuple[Frames, NDArray[np.bool_]]:
    """A clip `[T, H, W]` through which the walker hurries from border to border, and whether it can be seen, `[T]`."""
    faster, fainter = generator.uniform(*FASTER), generator.uniform(*FAINTER)
    lower, start = generator.uniform(-LOWER, LOWER), int(generator.integers(EARLIEST, LATEST))
    width = clip.shape[2]
    pace = walker.pace * faster
    down = float(np.mean([cutout.middle[0] for cutout in walker.cutouts])) + lower
    background = np.median(clip, axis=0).astype(np.float32)
    gait = [*walker.cutouts, *walker.cutouts[-2:0:-1]]
    frames, seen = clip.copy(), np.zeros(len(clip), bool)
    for time in range(max(0, start), len(clip)):
        right = (-MARGIN if pace > 0 else width + MARGIN) + pace * (time - start)
        cutout = gait[int(faster * (time - start)) % len(gait)]
        frames[time], area = _pasted(clip[time], background, cutout, down, right, fainter)
        seen[time] = area > SEEN
    return frames, seen


def _pasted(
    frame: Frames, background: Picture, cutout: Cutout, down: float, right: float, fainter: float
) -> tuple[Frames, float]:
    """A frame `[H, W]` with a cutout whose middle is there, and how much of it lies inside, in pixels."""
    shift = down - cutout.middle[0], right - cutout.middle[1]

    def moved(part: Picture) -> Picture:
        whole = np.zeros(frame.shape, np.float32)
        (top, left), (height, width) = cutout.corner, part.shape
        whole[top : top + height, left : left + width] = part
        return ndimage.shift(whole, shift, order=1)

    opacity = moved(cutout.opacity)
    mixed = (1.0 - opacity) * frame + opacity * background + fainter * moved(cutout.opacity * cutout.change)
    return np.clip(np.round(mixed), 0, 255).astype(np.uint8), float(opacity.sum())


def _cutouts(change: Picture) -> Iterator[Cutout]:
    """Whoever stands alone in a difference `[H, W]` to the background and has the size of one person."""
    moving = ndimage.binary_closing(ndimage.gaussian_filter(np.abs(change), 1.0) > LEAST_CONTRAST)
    numbered, _ = ndimage.label(moving)
    for number, box in zip(count(1), ndimage.find_objects(numbered)):
        person = numbered == number
        tall, broad = (side.stop - side.start for side in box)
        if not (AREA[0] <= person.sum() <= AREA[1] and _within(tall, HEIGHT) and _within(broad, WIDTH)):
            continue
        around = tuple(slice(max(0, side.start - MARGIN), side.stop + MARGIN) for side in box)
        opacity = ndimage.gaussian_filter(ndimage.binary_dilation(person).astype(np.float32), 0.7)[around]
        middle = tuple((side.start + side.stop) / 2 for side in box)
        yield Cutout((around[0].start, around[1].start), change[around], opacity, (middle[0], middle[1]))


def _close(one: Cutout, other: Cutout) -> bool:
    return max(abs(a - b) for a, b in zip(one.middle, other.middle, strict=True)) < STRAY


def _within(size: int, bounds: tuple[int, int]) -> bool:
    return bounds[0] <= size <= bounds[1]


def _grey(footage: Footage, number: int) -> Frames:
    frames = footage.read("holdout", number, 0, footage.lengths("holdout")[number]).frames
    assert frames is not None
    return frames[..., 0]
