"""What a score rarely passes: order statistics, tails and intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import genpareto

from wm import alarm, extremes
from wm.calibrate import FEWEST_BLOCKS
from wm.config import AlarmConfig


def test_inside_the_footage_the_threshold_is_an_order_statistic():
    peaks = np.arange(1.0, 101.0)
    assert extremes.threshold(peaks, 0.1) == 91.0
    assert (peaks >= extremes.threshold(peaks, 0.1)).sum() == 10


def test_the_interval_is_wider_where_high_blocks_come_together():
    peaks = np.random.default_rng(3).exponential(size=1200)
    together = np.sort(peaks.reshape(60, 20), axis=0).ravel()
    together = together.reshape(20, 60)[np.random.default_rng(4).permutation(20)].ravel()
    low, high = extremes.interval(peaks, 0.02)
    low_together, high_together = extremes.interval(together, 0.02)
    assert high_together - low_together > 1.5 * (high - low)


def test_beyond_the_footage_an_exponential_tail_is_continued():
    peaks = np.random.default_rng(0).exponential(size=4000)
    assert extremes.threshold(peaks, 1e-4) == pytest.approx(-np.log(1e-4), rel=0.25)


@pytest.mark.parametrize("shape", [-0.2, 0.0, 0.3])
def test_a_pareto_tail_is_found_again(shape):
    sample = np.sort(genpareto.rvs(shape, scale=2.0, size=20_000, random_state=0))
    np.testing.assert_allclose(extremes.pareto(sample), (shape, 2.0), atol=0.06)


def test_the_fewest_blocks_still_carry_a_tail():
    peaks = np.random.default_rng(2).exponential(size=FEWEST_BLOCKS)
    assert extremes.threshold(peaks, 0.02) > peaks.mean()


def test_a_rarer_alarm_needs_a_higher_threshold():
    peaks = np.random.default_rng(1).gumbel(size=1000)
    thresholds = [extremes.threshold(peaks, chance) for chance in (0.1, 0.01, 0.002, 0.0005, 0.0002)]
    assert thresholds == sorted(thresholds)


def test_the_held_score_is_the_least_of_the_last_frames():
    np.testing.assert_array_equal(extremes.held(np.array([1.0, 3.0, 2.0, 5.0, 4.0]), 3), [0, 0, 1, 2, 2])
    np.testing.assert_array_equal(extremes.held(np.array([1.0, 3.0]), 3), [0, 0])


@given(arrays(np.float32, st.integers(0, 60), elements=st.floats(0, 2, width=32)), st.integers(1, 5))
def test_an_alarm_comes_exactly_when_the_held_score_reaches_one(scores, frames):
    config = AlarmConfig(on_delay_s=frames / 10, off_delay_s=0.1)
    reached = np.flatnonzero(extremes.held(scores, frames) >= 1.0)
    raised = alarm.raised(config, 10.0, scores)
    assert (len(raised) > 0) == (len(reached) > 0)
    assert not raised or raised[0] == reached[0]


def test_an_exponential_tail_is_known_without_the_loudest_who_count_once_the_others_make_them_likely():
    ascending = -np.log(1 - (np.arange(1000) + 0.5) / 1000)
    told = extremes.exponential(ascending, 30, 1e-4)
    assert told == pytest.approx(np.log(1e4), rel=0.05)
    loud = np.concatenate([ascending[:-5], np.full(5, 500.0)])
    assert extremes.exponential(loud, 30, 1e-4) == pytest.approx(told, rel=0.15)
