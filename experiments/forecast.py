"""What a world model foretells on recorded footage, and how far off it is: what `experiments.predict` and its like
measure with.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from wm import model, rssm
from wm.bundle import Bundle
from wm.config import ModelConfig
from wm.data.footage import Footage
from wm.data.loader import WindowSource
from wm.nets import Draw, expected, most_likely
from wm.types import Observation

CONTEXT_S, HORIZON_S = 4.0, 3.0
SECONDS = (1, 2, 3)
MOVING = 10
CHUNK = 16
MEAN_FRAMES = 2048
Array = NDArray[np.float32]


class Windows(NamedTuple):
    """Stretches of footage: `context` frames that are filtered, and K frames after them.

    Attributes:
      frames: `[B, T, H, W, C]` uint8. sensors: `[B, T, S]`. actions: `[B, T, A]`.
      moving: `[B, K, H, W]`, pixels of the frames to come that are unlike the frame before or after.
    """

    frames: NDArray[np.uint8]
    sensors: Array
    actions: Array
    moving: NDArray[np.bool_]
    context: int

    @property
    def truth(self) -> Array:
        """The frames to come, `[B, K, H, W, C]` in 0..1."""
        return self.frames[:, self.context :].astype(np.float32) / 255


class Forecast(NamedTuple):
    """What a model foretold.

    Attributes:
      pictures: `[B, K, H, W, C]` in 0..1. variance: `[B, K, H, W]`, the squared error that it expects.
      divergence: nats a frame between posterior and prior while it filtered.
    """

    pictures: Array
    variance: Array
    divergence: float


def cut(footage: Footage, split: str, count: int) -> Windows:
    """So many windows, evenly spread over the split, overlapping where they must.

    Raises:
      InputError: no episode of the split is long enough.
    """
    context, horizon = (round(seconds * footage.spec.rate_hz) for seconds in (CONTEXT_S, HORIZON_S))
    source = WindowSource(footage, split, context + horizon + 1)
    episodes = [source[int(i)] for i in np.linspace(0, len(source) - 1, count).round()]
    frames = np.stack([episode.frames for episode in episodes if episode.frames is not None])
    changed = moves(frames[:, context - 1 : -1], frames[:, context:])
    return Windows(
        frames[:, :-1],
        np.stack([episode.sensors[:-1] for episode in episodes]),
        np.stack([episode.actions[:-1] for episode in episodes]),
        changed[:, :-1] | changed[:, 1:],
        context,
    )


def moves(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels `[..., H, W]` that differ by more than `MOVING` grey levels in the mean of their colours, which is well
    above a camera's noise.
    """
    return np.abs(after.astype(np.int16) - before).mean(axis=-1) > MOVING


def mean_image(footage: Footage) -> Array:
    """The mean of the training split, `[H, W, C]` in 0..1."""
    return (footage.sample("train", MEAN_FRAMES).mean(axis=0, dtype=np.float64) / 255).astype(np.float32)


def foretell(one: Bundle, windows: Windows, watched: Callable[[int], None], draw: Draw = expected) -> Forecast:
    """Filters the context of every window and rolls it out under the actions that were taken: by expected values, which
    squared error asks for, or by the most likely ones, which the alarm compares.
    """

    @jax.jit
    def ahead(frames: Array, sensors: Array, actions: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        past, future = actions[:, : windows.context], actions[:, windows.context :]
        embedding = model.encode(one.config, one.variables, Observation(frames, sensors))
        start = rssm.start(one.config, (len(frames),))
        states, posterior = model.observe(one.config, one.variables, start, embedding, past, draw=most_likely)
        divergence = rssm.kl(posterior, model.prior(one.config, one.variables, states.deter)).sum(axis=-1)
        present = jax.tree.map(lambda x: x[:, -1], states)
        dream, _ = model.imagine(one.config, one.variables, present, future, draw=draw)
        prediction = model.decode(one.config, one.variables, dream)
        assert prediction.image is not None and prediction.log_variance is not None
        return prediction.image.clip(0, 1), jax.numpy.exp(prediction.log_variance), divergence.mean()

    def chunks() -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        for first in range(0, len(windows.frames), CHUNK):
            here = slice(first, first + CHUNK)
            frames, sensors = windows.frames[here, : windows.context], windows.sensors[here, : windows.context]
            yield ahead(frames, sensors, windows.actions[here])
            watched(len(frames))

    pictures, variance, divergence = zip(*(jax.device_get(chunk) for chunk in chunks()), strict=True)
    return Forecast(np.concatenate(pictures), np.concatenate(variance), float(np.mean(divergence)))


def shuffle(windows: Windows, seed: int) -> Windows:
    """The same windows, each with the actions to come of another."""
    actions = windows.actions.copy()
    order = np.random.default_rng(seed).permutation(len(actions))
    actions[:, windows.context :] = windows.actions[order, windows.context :]
    return windows._replace(actions=actions)


def errors(windows: Windows, pictures: Array) -> Array:
    """Mean squared error `[2, K]` of pictures `[B, K, H, W, C]` at every frame to come, of all and of moving pixels."""
    squares = np.square(np.clip(pictures, 0, 1) - windows.truth).mean(axis=-1)
    moving = (squares * windows.moving).sum(axis=(0, 2, 3)) / np.maximum(windows.moving.sum(axis=(0, 2, 3)), 1)
    return np.stack([squares.mean(axis=(0, 2, 3)), moving])


def reliability(windows: Windows, forecast: Forecast, bins: int = 20) -> dict[str, Array]:
    """Expected and found squared error of pixels, in bins of equal size by the error that the model expects."""
    found = np.square(forecast.pictures - windows.truth).mean(axis=-1).ravel()
    order = np.argsort(forecast.variance.ravel())
    parts = np.array_split(order, bins)
    return {
        "expected": np.array([forecast.variance.ravel()[part].mean() for part in parts]),
        "found": np.array([found[part].mean() for part in parts]),
    }


def seams(config: ModelConfig, windows: Windows, pictures: Array) -> float:
    """How much rougher the error is across the borders of patches that are followed than inside them, down the picture
    or along it, whichever is more: 1 without seams.
    """
    error = pictures - windows.truth
    followed = np.zeros(config.patches, bool)
    followed[config.cells] = True
    pixels = followed.reshape(config.grid).repeat(config.patch, axis=0).repeat(config.patch, axis=1)
    ratios = []
    for axis, along in enumerate((pixels, pixels.T)):
        steps = np.square(np.diff(error, axis=2 + axis)).mean(axis=(0, 1, 4)).swapaxes(0, axis)
        counted = along[1:] | along[:-1]
        border = np.arange(1, len(along)) % config.patch == 0
        ratios.append(steps[border][counted[border]].mean() / steps[~border][counted[~border]].mean())
    return float(max(ratios))
