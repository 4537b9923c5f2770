"""Cheap detectors, which the world model has to beat at the same false-alarm rate: what else could watch the line.

Each is fitted on normal footage and then tells one causal score a frame; higher is stranger. Their thresholds come from
the same promise, the same footage and the same on-delay as the world model's (`wm.calibrate`).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors

from wm.data.footage import Episode, Footage
from wm.extremes import held, interval

ZONES = 8
FITTED_FRAMES = 8000
COMPONENTS = 32
NEIGHBOURS = 5
Scores = NDArray[np.float64]
Frames = NDArray[np.uint8]


class Detector(Protocol):
    """What is told of consecutive frames `[T]`, by name: a score for each but the first, `[T - 1]`."""

    def __call__(self, episode: Episode) -> dict[str, Scores]: ...


@dataclass(frozen=True)
class Cheap:
    """All of them, fitted: what flow `[2 Z]` and pictures usually are, and where the tag `blocked_s` stands."""

    mean: Scores
    spread: Scores
    pca: PCA
    neighbours: NearestNeighbors
    forest: IsolationForest
    blocked: int

    def __call__(self, episode: Episode) -> dict[str, Scores]:
        flows = _flows(episode)
        usual = (flows - self.mean) / self.spread
        return {
            "frame difference": frame_difference(episode),
            "zoned optical flow": np.abs(usual).max(axis=1),
            "PCA reconstruction": self._reconstruction(episode),
            "nearest neighbours of flow": self.neighbours.kneighbors(usual)[0].mean(axis=1),
            "isolation forest of flow": -self.forest.score_samples(flows),
            "photo-eye blocked timer": episode.sensors[1:, self.blocked].astype(np.float64),
        }

    def _reconstruction(self, episode: Episode) -> Scores:
        """The zone that cannot be put together from what was seen."""
        grey = _grey(_pictures(episode)[1:])
        back = self.pca.inverse_transform(self.pca.transform(grey.reshape(len(grey), -1))).reshape(grey.shape)
        return _zones(np.square(grey - back)).max(axis=1)


def fitted(footage: Footage) -> Cheap:
    """All of them, fitted on the training split of footage with a camera and the tag `blocked_s`."""
    pictures = footage.sample("train", FITTED_FRAMES)
    flows = _pairs(footage)
    mean, spread = flows.mean(axis=0), flows.std(axis=0) + 1e-3
    return Cheap(
        mean,
        spread,
        PCA(COMPONENTS, random_state=0).fit(_grey(pictures).reshape(len(pictures), -1)),
        NearestNeighbors(n_neighbors=NEIGHBOURS).fit((flows - mean) / spread),
        IsolationForest(random_state=0).fit(flows),
        footage.spec.tags.index("blocked_s"),
    )


def frame_difference(episode: Episode) -> Scores:
    """The zone that changed most since the frame before."""
    return _zones(np.abs(np.diff(_grey(_pictures(episode)), axis=0))).max(axis=1)


def scores(detector: Detector, footage: Footage, split: str, number: int, chunk: int = 500) -> dict[str, Scores]:
    """Of one recorded episode `[T]`; the first frame, before which there is none, has the score of the second."""
    length = footage.lengths(split)[number]
    parts = [
        detector(footage.read(split, number, first, min(chunk + 1, length - first)))
        for first in range(0, length - 1, chunk)
    ]
    return {name: np.concatenate([parts[0][name][:1], *(part[name] for part in parts)]) for name in parts[0]}


def threshold(normal: list[Scores], *, chance: float, block: int, on_frames: int) -> float:
    """The score that a block of normal footage passes with probability `chance`, at the upper end of its interval, by
    the rule of `wm.calibrate`; just above it, as a timer tells the same value again and again.

    Args:
      normal: scores `[T]` of every episode. block: its frames. on_frames: of the alarm's on-delay.
    """
    whole = [held(episode, on_frames)[: len(episode) // block * block].reshape(-1, block) for episode in normal]
    return float(np.nextafter(interval(np.concatenate(whole).max(axis=1), chance)[1], np.inf))


def _pairs(footage: Footage) -> NDArray[np.float64]:
    """Flow of the zones `[n, Z]` between pairs of frames from all over the training split."""
    lengths = footage.lengths("train")
    places = [(number, start) for number, length in enumerate(lengths) for start in range(0, length - 1, 32)]
    chosen = np.unique(np.linspace(0, len(places) - 1, FITTED_FRAMES).round().astype(int))
    return np.concatenate([_flows(footage.read("train", *places[place], 2)) for place in chosen])


def _flows(episode: Episode) -> NDArray[np.float64]:
    """Mean flow of every zone along and down the picture, `[T - 1, 2 Z]`, pixels a frame: dense inverse search (Kroeger
    et al., Fast Optical Flow using Dense Inverse Search, 2016).
    """
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    grey = np.round(255 * _grey(_pictures(episode))).astype(np.uint8)
    moved = np.stack([flow.calc(before, now, None) for before, now in pairwise(grey)])
    return np.concatenate([_zones(moved[..., 0]), _zones(moved[..., 1])], axis=1)


def _zones(pictures: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means over a grid of zones: `[T, H, W]` to `[T, Z]`."""
    count, height, width = pictures.shape
    rows, columns = height // ZONES, width // ZONES
    parts = pictures[:, : rows * ZONES, : columns * ZONES].reshape(count, ZONES, rows, ZONES, columns)
    return parts.mean(axis=(2, 4), dtype=np.float64).reshape(count, -1)


def _grey(frames: Frames) -> NDArray[np.float32]:
    """`[T, H, W, C]` to `[T, H, W]` in 0..1."""
    return frames.mean(axis=-1, dtype=np.float32) / 255


def _pictures(episode: Episode) -> Frames:
    assert episode.frames is not None
    return episode.frames
