"""What a score rarely passes, from the maxima of short blocks of a series (Coles, An Introduction to Statistical
Modeling of Extreme Values): order statistics where enough was seen, a fitted tail beyond (chapter 4), and intervals.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import genpareto

TAIL_SHARE = 0.1
FEWEST_EXCESSES = 10
RESAMPLES = 200
STRETCH = 60
FEWEST_STRETCHES = 20


def held(scores: np.ndarray, frames: int) -> np.ndarray:
    """Least of the last `frames` scores, `[T, ...]`: it reaches 1 exactly when the on-delay lets the alarm come. Before
    `frames` scores are there it is zero.
    """
    if len(scores) < frames:
        return np.zeros_like(scores)
    windows = np.lib.stride_tricks.sliding_window_view(scores, frames, axis=0)
    return np.concatenate([np.zeros_like(scores[: frames - 1]), windows.min(axis=-1)])


def peaks(series: list[NDArray[Any]], block: int) -> NDArray[Any]:
    """Maxima `[n, ...]` of whole blocks of so many frames, of `[T, ...]` series."""
    whole = (x[: len(x) // block * block] for x in series)
    return np.concatenate([x.reshape(-1, block, *x.shape[1:]).max(axis=1) for x in whole])


def threshold(peaks: NDArray[Any], chance: float) -> float:
    """The raw score that a block's maximum passes with probability `chance`, from maxima `[n]` of normal blocks."""
    seen = float(np.quantile(peaks, 1.0 - chance, method="higher")) if chance * len(peaks) >= 1.0 else 0.0
    if chance * len(peaks) >= FEWEST_EXCESSES:
        return seen
    upper = max(FEWEST_EXCESSES, round(TAIL_SHARE * len(peaks)))
    base, *excess = np.sort(peaks)[-upper - 1 :]
    shape, scale = pareto(np.array(excess) - base)
    return max(seen, float(base + genpareto.isf(chance * len(peaks) / upper, shape, scale=scale)))


def pareto(excess: NDArray[np.float64]) -> tuple[float, float]:
    """Shape and scale of the generalised Pareto distribution of an ascending sample `[n]`, by probability-weighted
    moments, which are at their best in small samples (Hosking and Wallis, Parameter and Quantile Estimation for the
    Generalized Pareto Distribution, 1987, section 3).
    """
    below = (np.arange(len(excess)) + 0.65) / len(excess)
    mean, weighted = excess.mean(), (excess * (1.0 - below)).mean()
    spread = max(mean - 2.0 * weighted, 1e-12)
    return 2.0 - mean / spread, max(2.0 * mean * weighted / spread, 1e-12)


def interval(peaks: NDArray[Any], chance: float) -> tuple[float, float]:
    """The 90 % interval of `threshold` over resampled stretches of consecutive blocks, as what happens in one is not
    new in the next (block bootstrap: Kuensch, The Jackknife and the Bootstrap for General Stationary Observations,
    1989).
    """
    generator = np.random.default_rng(0)
    length = max(1, min(STRETCH, len(peaks) // FEWEST_STRETCHES))
    stretches = np.arange(len(peaks) // length * length).reshape(-1, length)
    resampled = [
        threshold(peaks[stretches[generator.integers(len(stretches), size=len(stretches))].ravel()], chance)
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(resampled, [0.05, 0.95])
    return float(low), float(high)


def exponential(ascending: NDArray[Any], doubted: int, often: float) -> float:
    """The maximum that a block passes with probability `often` by an exponential tail of the upper blocks, to which the
    loudest, so many, count only as far as those below them make them likely.
    """
    believed = len(ascending) - doubted
    while True:
        upper = min(believed - 1, max(FEWEST_EXCESSES, round(TAIL_SHARE * believed)))
        base = ascending[believed - upper - 1]
        excess = np.mean(ascending[believed - upper : believed] - base)
        limit = max(float(ascending[believed - 1]), float(base + excess * np.log(upper / believed / often)))
        more = max(believed, int(np.searchsorted(ascending, limit, side="right")))
        if more == believed:
            return limit
        believed = more
