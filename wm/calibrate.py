"""From held-out normal footage to a threshold with a stated false-alarm rate.

Nobody sets a threshold. The user names a rate, at most so many false alarms in so many hours; held-out normal footage
gives the distribution of what the alarm reacts to, the score held over the on-delay, as maxima of short blocks. Every
kind of error at every horizon is first measured in units of its own threshold, as if it had to keep the promise alone,
at the upper end of that threshold's interval: one with rare high moments does not deafen the others, and one of whose
tail little is known has little to say. Their highest is the score. Where the footage shows enough blocks above it, a
threshold is an order statistic; else a generalised Pareto tail is fitted to the upper blocks (peaks over threshold:
Coles, An Introduction to Statistical Modeling of Extreme Values, chapter 4), and the higher of both is taken. How far
a tail may be trusted is limited, and footage that cannot carry the promise is refused.

Footage of a line that jams shows jams, and nobody has marked them. What stands out so far that no promise could bear it
is left out, and said to be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray
from scipy.signal import lfilter
from sklearn.covariance import LedoitWolf

from wm import surprise
from wm.bundle import Bundle
from wm.config import ModelConfig, MonitorConfig, to_json
from wm.data.footage import Footage
from wm.errors import InputError
from wm.extremes import TAIL_SHARE, exponential, held, interval, peaks, threshold
from wm.surprise import Calibration, Told
from wm.types import Observation

CHUNK = 500
BLOCK_S = 5.0
FURTHEST = 10.0
FEWEST_BLOCKS = 12
FOLDS = 5
PLACE_QUANTILE = 0.99
STANDS_OUT = 10.0
MOST_TROUBLE = 0.03  # of the blocks
SHARED_FRAMES = 300
LEAST_VARIANCE = 1e-4
VIEWED = 2048  # frames


@dataclass(frozen=True)
class Promise:
    """What a threshold rests on.

    Attributes:
      false_alarms_per_hour: the rate that was asked for.
      hours: normal footage that was used. blocks: how many blocks it was.
      estimate: raw score that keeps the rate. low, high: its 90 % interval over resampled footage, for the thresholds
        of the kinds as they were found. The threshold is `high`: "at most" should mean at most.
    """

    false_alarms_per_hour: float
    hours: float
    blocks: int
    estimate: float
    low: float
    high: float


class Promises(NamedTuple):
    """Of the two signals, each at the rate that was asked for; and how much footage was left out, as it stands out."""

    score: Promise
    drift: Promise
    left_out_s: float = 0.0


def check(bundle: Bundle, footage: Footage) -> None:
    """Raises InputError where the footage is of another kind than the bundle's."""
    for name, expected in to_json(bundle.spec).items():
        found = getattr(footage.spec, name)
        if found != expected:
            raise InputError(
                f"the footage at {footage.path} has {name} {found}, the bundle expects {expected}; ingest it alike."
            )


def replay(bundle: Bundle, footage: Footage, split: str, number: int, watched: Callable[[int], None]) -> Told:
    """One recorded episode of T frames, by the function that the runtime runs.

    Frames are read and scored in chunks, so memory holds no more than the errors; `watched` is told how many frames
    each chunk had.
    """
    state, told = bundle.start(), []
    length = footage.lengths(split)[number]
    for first in range(0, length, CHUNK):
        chunk = footage.read(split, number, first, min(CHUNK, length - first))
        frames = None if chunk.frames is None else _padded(chunk.frames)
        observations = Observation(frames, _padded(chunk.sensors))
        state, one = bundle.replay(state, observations, _padded(chunk.actions))
        told.append(jax.device_get(one))
        watched(len(chunk.times))
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:length], *told)


def calibrate(
    bundle: Bundle, footage: Footage, split: str, false_alarms: float, hours: float, watched: Callable[[int], None]
) -> tuple[Calibration, Promises]:
    """Calibration for at most `false_alarms` in `hours`, from the normal footage of one split.

    `watched` is told, as it goes, how many more frames were watched.

    Raises:
      InputError: the footage is of another kind than the bundle's, or too short to promise that rate.
    """
    check(bundle, footage)
    lengths = footage.lengths(split)
    afford(bundle, lengths, false_alarms, hours)
    episodes = [np.asarray(replay(bundle, footage, split, each, watched).errors) for each in range(len(lengths))]
    return fit(bundle, episodes, false_alarms, hours)


def afford(bundle: Bundle, lengths: Sequence[int], false_alarms: float, hours: float) -> None:
    """Raises InputError where normal episodes of so many frames are too short to promise that rate."""
    rate_hz, monitor = bundle.spec.rate_hz, bundle.monitor
    block_s = fast_block(rate_hz) / rate_hz
    if false_alarms / hours * block_s / 3600 >= 1:
        raise InputError(
            f"{false_alarms:g} false alarms in {hours:g} h is more than one in {block_s:g} s; ask for fewer."
        )
    fast = fast_block(rate_hz), min(monitor.ready(rate_hz)), "alarms", ""
    slow = slow_block(monitor, rate_hz), monitor.warm(rate_hz), "the drift", ", or a shorter --drift-s"
    for block, first, name, remedy in (fast, slow):
        block_s = block / rate_hz
        needed = max(FEWEST_BLOCKS, 1 / chance(false_alarms / hours, block_s) / FURTHEST)
        have = sum(max(length - first, 0) // block for length in lengths)
        if have < needed:
            raise InputError(
                f"{false_alarms:g} false alarms in {hours:g} h cannot be promised for {name} from "
                f"{have * block_s / 60:.1f} minutes of usable footage; {needed * block_s / 60:.1f} minutes are "
                f"needed{remedy}."
            )


def chance(per_hour: float, block_s: float) -> float:
    """Of a false alarm in a block, where so many may come in an hour; never more than an even one."""
    return min(per_hour * block_s / 3600, 0.5)


def fast_block(rate_hz: float) -> int:
    """Frames of a block of the score, at least one."""
    return max(1, round(BLOCK_S * rate_hz))


def slow_block(monitor: MonitorConfig, rate_hz: float) -> int:
    """Frames of a block of the drift, which remembers for so long."""
    return max(fast_block(rate_hz), round(monitor.drift_s * rate_hz))


def fit(
    bundle: Bundle, episodes: list[NDArray[np.float32]], false_alarms: float, hours: float
) -> tuple[Calibration, Promises]:
    """Calibration for at most `false_alarms` in `hours`, from the raw errors `[T, Q, P]` of whole normal episodes, but
    for what stands out.
    """
    normal = learn(bundle, episodes)
    kept = unremarkable(bundle, episodes, normal, false_alarms / hours)
    left_out = sum(map(len, episodes)) - sum(map(len, kept))
    if left_out:
        afford(bundle, list(map(len, kept)), false_alarms, hours)
    calibration, promises = promise(bundle, learn(bundle, kept) if left_out else normal, false_alarms, hours)
    return calibration, promises._replace(left_out_s=left_out / bundle.spec.rate_hz)


def unremarkable(
    bundle: Bundle, episodes: list[NDArray[np.float32]], normal: "Normal", per_hour: float
) -> list[NDArray[np.float32]]:
    """What does not stand out of raw errors `[T, Q, P]`, cut where forecasts are launched.

    A block stands out where it is `STANDS_OUT` times as loud as one may be that comes `per_hour`, were the tail of all
    others exponential. The block before it and the one after it go with it.

    Raises:
      InputError: more than `MOST_TROUBLE` of the blocks stand out, and more than one.
    """
    monitor, rate_hz = bundle.monitor, bundle.spec.rate_hz
    begin, launch, block = min(monitor.ready(rate_hz)), monitor.launch(rate_hz), fast_block(rate_hz)
    parts = [peaks([held(each, bundle.alarm.on_delay(rate_hz))], block) for each in normal.levels]
    alone = np.concatenate(parts)
    usual = np.quantile(alone, 1.0 - TAIL_SHARE, axis=0)
    loud = np.max(alone / np.where(usual > 0, usual, np.inf), axis=tuple(range(1, alone.ndim)))
    most = max(1, round(MOST_TROUBLE * len(loud)))
    limit = STANDS_OUT * exponential(np.sort(loud), 2 * most, chance(per_hour, block / rate_hz))
    found = int(np.sum(loud > limit))
    if found > most:
        raise InputError(
            f"{found / len(loud):.0%} of the footage stand out from the rest; is it of normal running? Ingest footage "
            "with less trouble in it."
        )
    if not found:
        return episodes
    kept, shown = [], (each for each in episodes if len(each) > begin)
    for errors, part in zip(shown, np.split(loud > limit, np.cumsum(list(map(len, parts)))[:-1]), strict=True):
        quiet = np.ones(len(errors), bool)
        for number in np.flatnonzero(part):
            quiet[max(0, begin + (number - 1) * block) : begin + (number + 2) * block] = False
        turns = np.flatnonzero(np.diff(np.concatenate([[0], quiet, [0]])))
        spans = ((-(-start // launch) * launch, stop) for start, stop in turns.reshape(-1, 2))
        kept += [errors[start:stop] for start, stop in spans if stop - start > monitor.warm(rate_hz) + block]
    return kept


class Normal(NamedTuple):
    """What normal episodes look like, before any rate is named: arrays of a `Calibration`, and for each episode what
    they make of it, levels `[T, Q, M]` and drifts `[T, Q]`.
    """

    scale: NDArray[np.float32]
    whitening: NDArray[np.float32]
    drift_centre: NDArray[np.float32]
    drift_whitening: NDArray[np.float32]
    levels: list[NDArray[np.float32]]
    drifts: list[NDArray[np.float32]]


def learn(bundle: Bundle, episodes: list[NDArray[np.float32]]) -> Normal:
    """What is normal in the raw errors `[T, Q, P]` of whole episodes."""
    config, monitor, rate_hz = bundle.config, bundle.monitor, bundle.spec.rate_hz
    begin, warm, launch = min(monitor.ready(rate_hz)), monitor.warm(rate_hz), monitor.launch(rate_hz)
    episodes = [errors[begin:] for errors in episodes if len(errors) > begin]
    ticks = [begin + np.arange(len(errors)) for errors in episodes]
    ready = [tick[:, None] >= np.array(monitor.ready(rate_hz)) for tick in ticks]
    scale = _scale(config, np.concatenate(episodes), np.concatenate(ready), np.concatenate(ticks) % launch, launch)
    ratios = [
        known[..., None] * errors / scale[tick % launch]
        for errors, known, tick in zip(episodes, ready, ticks, strict=True)
    ]
    whitening, distances = _together([ratio[..., config.places :] for ratio in ratios], ready)
    white = jnp.asarray(whitening)
    heard = [np.array(surprise.levels(config, monitor, white, jnp.asarray(ratio))) for ratio in ratios]
    for level, distance in zip(heard, distances, strict=True):
        level[..., -1] = monitor.counts[-1] * distance
    told = [
        np.asarray(surprise.evidence(config, white, jnp.asarray(level), jnp.asarray(ratio)))[warm - begin :]
        for level, ratio in zip(heard, ratios, strict=True)
    ]
    centre = np.concatenate(told).mean(axis=0)
    averages = [_averaged(bundle, each - centre) for each in told]
    drift_whitening, drifts = _together(averages, [np.ones(each.shape[:2], bool) for each in averages])
    return Normal(scale, whitening, centre, drift_whitening, heard, drifts)


def promise(bundle: Bundle, normal: Normal, false_alarms: float, hours: float) -> tuple[Calibration, Promises]:
    """Thresholds of both signals for at most `false_alarms` in `hours`."""
    monitor, rate_hz, per_hour = bundle.monitor, bundle.spec.rate_hz, false_alarms / hours
    on_delay = bundle.alarm.on_delay(rate_hz)
    level, score = _combined(normal.levels, on_delay, fast_block(rate_hz), per_hour, rate_hz)
    # not held over its on-delay of minutes, of which hours of footage show too few: the on-delay is a margin
    drift_level, drift = _combined(normal.drifts, 1, slow_block(monitor, rate_hz), per_hour, rate_hz)
    seen = normal.scale, normal.whitening, level, score.high
    slow = normal.drift_centre, normal.drift_whitening, drift_level, drift.high
    return Calibration(*(jnp.asarray(array, jnp.float32) for array in (*seen, *slow))), Promises(score, drift)


def view(footage: Footage, split: str) -> Array:
    """The mean picture, `[H, W]` float32 in grey levels, of frames from all over the split."""
    return jnp.asarray(footage.sample(split, VIEWED).mean(axis=(0, -1), dtype=np.float32))


def levels(bundle: Bundle, calibration: Calibration, errors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a calibration makes of the raw errors `[T, Q, P]` of a whole episode, `[T, Q, M]`, see `surprise.levels`."""
    ratio = _ratio(bundle, calibration, errors)
    return np.asarray(surprise.levels(bundle.config, bundle.monitor, calibration.whitening, ratio))


def maps(bundle: Bundle, calibration: Calibration, errors: NDArray[np.float32]) -> NDArray[np.float32]:
    """And where, `[T, rows, columns]`, see `surprise.Surprise`."""
    each = partial(surprise.where, bundle.config, bundle.monitor, calibration=calibration)
    return np.asarray(jax.lax.map(each, _ratio(bundle, calibration, errors)))


def _ratio(bundle: Bundle, calibration: Calibration, errors: NDArray[np.float32]) -> Array:
    """The raw errors of a whole episode in units of what is normal, none before a horizon is ready."""
    rate_hz, ticks = bundle.spec.rate_hz, np.arange(len(errors))
    ready = ticks[:, None] >= np.array(bundle.monitor.ready(rate_hz))
    scale = np.asarray(calibration.scale)[ticks % bundle.monitor.launch(rate_hz)]
    return jnp.asarray(ready[..., None] * errors / scale)


def scores(calibration: Calibration, levels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores `[T]` of levels `[T, Q, M]`."""
    return (levels / np.asarray(calibration.level)).max(axis=(-2, -1)) / float(calibration.threshold)


def drifts(bundle: Bundle, calibration: Calibration, errors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The distances `[T, Q]` of the averages of a whole episode's raw errors `[T, Q, P]`, see `surprise.watch`."""
    monitor, rate_hz = bundle.monitor, bundle.spec.rate_hz
    ratio = _ratio(bundle, calibration, errors)
    level = surprise.levels(bundle.config, monitor, calibration.whitening, ratio)
    away = surprise.evidence(bundle.config, calibration.whitening, level, ratio) - calibration.drift_centre
    warm = np.arange(len(errors)) >= monitor.warm(rate_hz)
    averages = _averaged(bundle, warm[:, None, None] * np.asarray(away))
    return np.asarray(surprise.distance(calibration.drift_whitening, jnp.asarray(averages)))


def _averaged(bundle: Bundle, away: NDArray[np.float32]) -> NDArray[np.float32]:
    """Exponentially weighted means of `[T, ...]` so far, as long as the drift remembers."""
    weight = bundle.monitor.weight(bundle.spec.rate_hz)
    return lfilter([weight], [1.0, weight - 1.0], away, axis=0)


def drift_scores(calibration: Calibration, distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Drifts `[T]` of distances `[T, Q]`."""
    return (distances / np.asarray(calibration.drift_level)).max(axis=-1) / float(calibration.drift_threshold)


def _combined(
    series: list[NDArray[Any]], frames: int, block: int, per_hour: float, rate_hz: float
) -> tuple[NDArray[np.float32], Promise]:
    """What each part of `[T, ...]` series, held over so many frames, would need as a threshold alone, `[...]`, and the
    promise that the highest of them, in these units, can keep.
    """
    often = chance(per_hour, block / rate_hz)
    alone = peaks([held(x, frames) for x in series], block)
    level = np.ones(alone.shape[1:], np.float32)
    for part in zip(*np.nonzero(alone.max(axis=0)), strict=True):
        _, level[part] = interval(alone[:, *part], often)
    joint = peaks([held((x / level).reshape(len(x), -1).max(axis=1), frames) for x in series], block)
    low, high = interval(joint, often)
    hours = len(joint) * block / rate_hz / 3600
    return level, Promise(per_hour, hours, len(joint), threshold(joint, often), low, high)


def _scale(
    config: ModelConfig, errors: NDArray[np.float32], ready: NDArray[np.bool_], phase: NDArray[np.int64], launch: int
) -> NDArray[np.float32]:
    """The normal error of every place `[L, Q, P]`, of errors `[T, Q, P]` that are ready `[T, Q]`, by phase `[T]`."""
    return np.stack(
        [
            np.stack([normal(config, errors[(phase == now) & known, place]) for place, known in enumerate(ready.T)])
            for now in range(launch)
        ]
    )


def _together(
    series: list[NDArray[Any]], ready: list[NDArray[np.bool_]]
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """What makes `[T, Q, F]` series uncorrelated and of unit size where they are ready `[T, Q]`, `[Q, F, F]`, and their
    distances `[T, Q]` by what was fitted on other times: a distance from what it was fitted on is too short.
    """
    x, known = np.concatenate(series), np.concatenate(ready)
    whitening = np.zeros((*x.shape[1:], x.shape[2]), np.float32)
    distances = np.zeros(known.shape, np.float32)
    if x.shape[2]:
        for place, rows in enumerate(map(np.flatnonzero, known.T)):
            whitening[place] = whitener(x[rows, place])
            for part in np.array_split(rows, FOLDS):
                others = np.setdiff1d(rows, part, assume_unique=True)
                fitted = jnp.asarray(whitener(x[others, place]))
                distances[part, place] = surprise.distance(fitted, jnp.asarray(x[part, place]))
    return whitening, np.split(distances, np.cumsum([len(each) for each in series])[:-1])


def whitener(x: NDArray[Any]) -> NDArray[np.float32]:
    """What makes rows `[T, F]` about zero uncorrelated and of unit size, `[F, F]`: the inverse root of their
    covariance, shrunk as Ledoit and Wolf have it (A Well-Conditioned Estimator for Large-Dimensional Covariance
    Matrices, 2004).
    """
    size, axes = np.linalg.eigh(LedoitWolf(assume_centered=True).fit(x).covariance_)
    return (axes / np.sqrt(np.maximum(size, LEAST_VARIANCE)) @ axes.T).astype(np.float32)


def normal(config: ModelConfig, errors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The normal error of every place `[P]`, of errors `[T, P]`: the upper quantile of their size.

    A patch or a cell is known from its own T frames and, as if they were `SHARED_FRAMES` more, from all of its kind: in
    little footage hardly anything happened at most of them, and what is usual elsewhere must be no alarm there. None is
    below a tenth of the median of its kind: where nothing ever moves, a grain of noise must be no alarm.
    """
    *places, sensors = surprise.kinds(config, jnp.asarray(np.quantile(np.abs(errors), PLACE_QUANTILE, axis=0)))
    own = len(errors) / (len(errors) + SHARED_FRAMES)
    shared = [own * kind + (1.0 - own) * kind.mean() if kind.size else kind for kind in places]
    floored = [np.maximum(kind, max(0.1 * np.median(kind), 1e-6)) if kind.size else kind for kind in (*shared, sensors)]
    return np.concatenate(floored).astype(np.float32)


def _padded(x: np.ndarray) -> Array:
    return jnp.asarray(np.concatenate([x, np.repeat(x[-1:], CHUNK - len(x), axis=0)]))
