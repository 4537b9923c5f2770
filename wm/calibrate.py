"""From held-out normal footage to a threshold with a stated false-alarm rate.

Nobody sets a threshold. The user names a rate, at most so many false alarms in so many hours; held-out normal footage
gives the distribution of what the alarm reacts to, the score held over the on-delay, as maxima of short blocks. Where
the rate lies inside what the footage shows, the threshold is an order statistic; beyond it, a generalised Pareto tail
is fitted to the upper blocks (peaks over threshold: Coles, An Introduction to Statistical Modeling of Extreme Values,
chapter 4). How far a tail may be trusted is limited, and footage that cannot carry the promise is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import genpareto

from wm import surprise
from wm.bundle import Bundle
from wm.config import ModelConfig, MonitorConfig, to_json
from wm.data.footage import Footage
from wm.errors import InputError
from wm.surprise import Calibration
from wm.types import Observation

CHUNK = 500
BLOCK_S = 5.0
TAIL_SHARE = 0.1
FURTHEST = 10.0
FEWEST_EXCESSES = 10
FEWEST_BLOCKS = 12
RESAMPLES = 200
PLACE_QUANTILE = 0.99
LEVEL_QUANTILE = 0.999


@dataclass(frozen=True)
class Promise:
    """What the threshold rests on.

    Attributes:
      false_alarms_per_hour: the rate that was asked for.
      hours: normal footage that was used. blocks: its blocks of `BLOCK_S` seconds.
      threshold: raw score. low, high: its 90 % interval over resampled blocks.
    """

    false_alarms_per_hour: float
    hours: float
    blocks: int
    threshold: float
    low: float
    high: float


def check(bundle: Bundle, footage: Footage) -> None:
    """Raises InputError where the footage is of another kind than the bundle's."""
    for name, expected in to_json(bundle.spec).items():
        found = getattr(footage.spec, name)
        if found != expected:
            raise InputError(
                f"the footage at {footage.path} has {name} {found}, the bundle expects {expected}; ingest it alike."
            )


def replay(
    bundle: Bundle, footage: Footage, split: str, number: int, watched: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores `[T]` and errors `[T, Q, P]` of one recorded episode, by the function that the runtime runs.

    Frames are read and scored in chunks, so memory holds no more than the errors; `watched` is told how many frames
    each chunk had.
    """
    state, scores, errors = bundle.start(), [], []
    length = footage.lengths(split)[number]
    for first in range(0, length, CHUNK):
        chunk = footage.read(split, number, first, min(CHUNK, length - first))
        frames = None if chunk.frames is None else _padded(chunk.frames)
        observations = Observation(frames, _padded(chunk.sensors))
        state, score, error = bundle.replay(state, observations, _padded(chunk.actions))
        scores.append(np.asarray(score)[: length - first])
        errors.append(np.asarray(error)[: length - first])
        watched(len(chunk.times))
    return np.concatenate(scores), np.concatenate(errors)


def held(scores: np.ndarray, frames: int) -> np.ndarray:
    """Least of the last `frames` scores, `[T]`: it reaches 1 exactly when the on-delay lets the alarm come. Before
    `frames` scores are there it is zero.
    """
    if len(scores) < frames:
        return np.zeros_like(scores)
    windows = np.lib.stride_tricks.sliding_window_view(scores, frames)
    return np.concatenate([np.zeros(frames - 1, scores.dtype), windows.min(axis=-1)])


def calibrate(
    bundle: Bundle, footage: Footage, split: str, false_alarms: float, hours: float, watched: Callable[[int], None]
) -> tuple[Calibration, Promise]:
    """Calibration for at most `false_alarms` in `hours`, from the normal footage of one split.

    `watched` is told, as it goes, how many more frames were watched.

    Raises:
      InputError: the footage is of another kind than the bundle's, or too short to promise that rate.
    """
    check(bundle, footage)
    rate_hz = bundle.spec.rate_hz
    warm = max(bundle.monitor.horizons(rate_hz)) + bundle.monitor.settle(rate_hz)
    block = round(BLOCK_S * bundle.spec.rate_hz)
    needed = max(FEWEST_BLOCKS, hours * 3600 / BLOCK_S / false_alarms / FURTHEST)
    have = sum(max(length - warm, 0) // block for length in footage.lengths(split))
    if have < needed:
        raise InputError(
            f"{false_alarms:g} false alarms in {hours:g} h cannot be promised from {have * BLOCK_S / 60:.1f} minutes "
            f"of usable footage in split '{split}'; {needed * BLOCK_S / 60:.1f} minutes are needed."
        )
    numbers = range(len(footage.lengths(split)))
    episodes = [replay(bundle, footage, split, number, watched)[1][warm:] for number in numbers]
    episodes = [errors for errors in episodes if len(errors)]
    scale, level = normal(bundle.config, bundle.monitor, np.concatenate(episodes))
    calibration = Calibration(jnp.asarray(scale), jnp.asarray(level), jnp.ones(()))
    frames = bundle.alarm.on_delay(bundle.spec.rate_hz)
    maxima = []
    for errors in episodes:
        raw = held(np.asarray(_raw(bundle.config, bundle.monitor, errors, calibration)), frames)
        maxima.append(raw[: len(raw) // block * block].reshape(-1, block).max(axis=-1))
    peaks = np.concatenate(maxima)
    chance = false_alarms / hours * BLOCK_S / 3600
    value = threshold(peaks, chance)
    generator = np.random.default_rng(0)
    resampled = [threshold(generator.choice(peaks, len(peaks)), chance) for _ in range(RESAMPLES)]
    low, high = np.quantile(resampled, [0.05, 0.95])
    promise = Promise(
        false_alarms / hours, len(peaks) * BLOCK_S / 3600, len(peaks), float(value), float(low), float(high)
    )
    return Calibration(calibration.scale, calibration.level, jnp.asarray(value, jnp.float32)), promise


def normal(config: ModelConfig, monitor: MonitorConfig, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The normal error of every place and horizon `[Q, P]` and the normal level of every horizon and kind `[Q, 4]`, of
    errors `[T, Q, P]`.

    A place's error is measured by its upper quantile, never below a tenth of the median place of its kind: a patch in
    which nothing ever moves must not turn a grain of noise into an alarm.
    """
    scale = np.quantile(errors, PLACE_QUANTILE, axis=0)
    floored = [
        np.maximum(kind, np.maximum(0.1 * np.median(kind, axis=-1, keepdims=True), 1e-6)) if kind.shape[-1] else kind
        for kind in surprise.kinds(config, jnp.asarray(scale))
    ]
    scale = np.concatenate(floored, axis=-1).astype(np.float32)
    levels = np.asarray(surprise.levels(config, monitor, jnp.asarray(errors / scale)))
    level = np.quantile(levels, LEVEL_QUANTILE, axis=0)
    return scale, np.maximum(level, 1e-6).astype(np.float32)


def threshold(peaks: np.ndarray, chance: float) -> float:
    """The raw score that a block's maximum passes with probability `chance`, from maxima `[n]` of normal blocks."""
    if chance * len(peaks) >= 1.0:
        return float(np.quantile(peaks, 1.0 - chance, method="higher"))
    upper = max(FEWEST_EXCESSES, round(TAIL_SHARE * len(peaks)))
    base = np.sort(peaks)[-upper - 1]
    excess = np.sort(peaks)[-upper:] - base
    shape, _, scale = genpareto.fit(excess, floc=0.0)
    return float(base + genpareto.isf(chance * len(peaks) / len(excess), shape, scale=scale))


def _raw(config: ModelConfig, monitor: MonitorConfig, errors: np.ndarray, calibration: Calibration) -> jax.Array:
    return surprise.combine(config, monitor, jnp.asarray(errors) / calibration.scale, calibration.level)


def _padded(x: np.ndarray) -> jax.Array:
    return jnp.asarray(np.concatenate([x, np.repeat(x[-1:], CHUNK - len(x), axis=0)]))
