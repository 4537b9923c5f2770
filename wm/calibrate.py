"""From held-out normal footage to a threshold with a stated false-alarm rate.

Nobody sets a threshold. The user names a rate, at most so many false alarms in so many hours; held-out normal footage
gives the distribution of what the alarm reacts to, the score held over the on-delay, as maxima of short blocks. Every
kind of error at every horizon is first measured in units of its own threshold, as if it had to keep the promise alone,
at the upper end of that threshold's interval: one with rare high moments does not deafen the others, and one of whose
tail little is known has little to say. Their highest is the score. Where the rate lies inside
what the footage shows, a threshold is an order statistic; beyond it, a generalised Pareto tail is fitted to the upper
blocks (peaks over threshold: Coles, An Introduction to Statistical Modeling of Extreme Values, chapter 4). How far a
tail may be trusted is limited, and footage that cannot carry the promise is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.stats import genpareto

from wm import surprise
from wm.bundle import Bundle
from wm.config import ModelConfig, to_json
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


@dataclass(frozen=True)
class Promise:
    """What the threshold rests on.

    Attributes:
      false_alarms_per_hour: the rate that was asked for.
      hours: normal footage that was used. blocks: its blocks of `BLOCK_S` seconds.
      estimate: raw score that keeps the rate. low, high: its 90 % interval over resampled blocks, for the thresholds of
        the kinds as they were found. The threshold is `high`: "at most" should mean at most.
    """

    false_alarms_per_hour: float
    hours: float
    blocks: int
    estimate: float
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
    """Least of the last `frames` scores, `[T, ...]`: it reaches 1 exactly when the on-delay lets the alarm come. Before
    `frames` scores are there it is zero.
    """
    if len(scores) < frames:
        return np.zeros_like(scores)
    windows = np.lib.stride_tricks.sliding_window_view(scores, frames, axis=0)
    return np.concatenate([np.zeros_like(scores[: frames - 1]), windows.min(axis=-1)])


def calibrate(
    bundle: Bundle, footage: Footage, split: str, false_alarms: float, hours: float, watched: Callable[[int], None]
) -> tuple[Calibration, Promise]:
    """Calibration for at most `false_alarms` in `hours`, from the normal footage of one split.

    `watched` is told, as it goes, how many more frames were watched.

    Raises:
      InputError: the footage is of another kind than the bundle's, or too short to promise that rate.
    """
    check(bundle, footage)
    chance = false_alarms / hours * BLOCK_S / 3600
    if chance >= 1:
        raise InputError(
            f"{false_alarms:g} false alarms in {hours:g} h is more than one in {BLOCK_S:g} s; ask for fewer."
        )
    rate_hz = bundle.spec.rate_hz
    warm = bundle.monitor.warm(rate_hz)
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
    launch = bundle.monitor.launch(rate_hz)
    phases = [(warm + np.arange(len(errors))) % launch for errors in episodes]
    together = np.concatenate(episodes), np.concatenate(phases)
    scale = np.stack([normal(bundle.config, together[0][together[1] == phase]) for phase in range(launch)])
    levels = [
        np.asarray(surprise.levels(bundle.config, bundle.monitor, jnp.asarray(errors / scale[phase])))
        for errors, phase in zip(episodes, phases, strict=True)
    ]
    frames = bundle.alarm.on_delay(rate_hz)

    def peaks(series: list[np.ndarray]) -> np.ndarray:
        """Maxima of blocks, `[n, ...]`, of what the alarm reacts to in `[T, ...]` series."""
        whole = (held(x, frames)[: len(x) // block * block] for x in series)
        return np.concatenate([x.reshape(-1, block, *x.shape[1:]).max(axis=1) for x in whole])

    alone = peaks(levels)
    level = np.ones(alone.shape[1:], np.float32)
    for kind in zip(*np.nonzero(alone.max(axis=0)), strict=True):
        _, level[kind] = interval(alone[:, *kind], chance)
    joint = peaks([(x / level).max(axis=(-2, -1)) for x in levels])
    estimate = threshold(joint, chance)
    low, high = interval(joint, chance)
    promise = Promise(false_alarms / hours, len(joint) * BLOCK_S / 3600, len(joint), estimate, float(low), float(high))
    return Calibration(jnp.asarray(scale), jnp.asarray(level), jnp.asarray(high, jnp.float32)), promise


def normal(config: ModelConfig, errors: np.ndarray) -> np.ndarray:
    """The normal error of every place and horizon `[Q, P]`, of errors `[T, Q, P]`: their upper quantile, never below a
    tenth of the median place of its kind. A patch in which nothing ever moves must not turn a grain of noise into an
    alarm.
    """
    scale = np.quantile(errors, PLACE_QUANTILE, axis=0)
    floored = [
        np.maximum(kind, np.maximum(0.1 * np.median(kind, axis=-1, keepdims=True), 1e-6)) if kind.shape[-1] else kind
        for kind in surprise.kinds(config, jnp.asarray(scale))
    ]
    return np.concatenate(floored, axis=-1).astype(np.float32)


def threshold(peaks: np.ndarray, chance: float) -> float:
    """The raw score that a block's maximum passes with probability `chance`, from maxima `[n]` of normal blocks."""
    if chance * len(peaks) >= 1.0:
        return float(np.quantile(peaks, 1.0 - chance, method="higher"))
    upper = max(FEWEST_EXCESSES, round(TAIL_SHARE * len(peaks)))
    base = np.sort(peaks)[-upper - 1]
    excess = np.sort(peaks)[-upper:] - base
    shape, _, scale = genpareto.fit(excess, floc=0.0)
    return float(base + genpareto.isf(chance * len(peaks) / len(excess), shape, scale=scale))


def interval(peaks: np.ndarray, chance: float) -> tuple[float, float]:
    """The 90 % interval of `threshold` over resampled blocks."""
    generator = np.random.default_rng(0)
    resampled = [threshold(generator.choice(peaks, len(peaks)), chance) for _ in range(RESAMPLES)]
    low, high = np.quantile(resampled, [0.05, 0.95])
    return float(low), float(high)


def _padded(x: np.ndarray) -> Array:
    return jnp.asarray(np.concatenate([x, np.repeat(x[-1:], CHUNK - len(x), axis=0)]))
