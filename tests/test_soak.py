"""The soak: when its faults come, and what it makes of memory and heartbeats."""

import os
from collections import Counter

import numpy as np
import pytest

from experiments import soak
from experiments.soak import MIB
from experiments.tap import View

NAMES = ("PLC killed", "page killed", "camera covered")


def test_faults_come_at_random_but_known_moments_each_as_often_as_any_other():
    planned = soak.plan(np.random.default_rng(3), 10_000, 30, NAMES)
    assert planned == soak.plan(np.random.default_rng(3), 10_000, 30, NAMES)
    assert planned != soak.plan(np.random.default_rng(4), 10_000, 30, NAMES)
    assert Counter(fault.name for fault in planned) == dict.fromkeys(NAMES, 10)
    frames = [fault.frame for fault in planned]
    assert frames == sorted(frames)
    assert frames[0] >= 1000 and frames[-1] <= 9800


def test_heartbeats_are_as_far_apart_as_the_plc_sees_them_and_those_of_a_fault_do_not_count():
    beats = {0.0: 1, 0.1: 2, 0.3: 2, 0.8: 3, 1.0: 4, 2.0: 5, 2.1: 6, 3.0: 6, 3.5: 7, 3.6: 8}
    views = [View(at, beat, 0, 0, False) for at, beat in beats.items()]
    assert soak.gaps(views, []) == pytest.approx([0.7, 0.2, 1.0, 0.1, 1.4, 0.1])
    assert soak.gaps(views, [(0.5, 0.6), (1.9, 2.5)]) == pytest.approx([0.2, 0.1])


def test_memory_is_compared_between_the_first_and_the_last_third_after_the_warm_up():
    samples = [1 * MIB] * 10 + [100 * MIB] * 30 + [500 * MIB] * 30 + [110 * MIB] * 30
    assert soak.growth(samples) == pytest.approx(
        {"first_third_mib": 100.0, "last_third_mib": 110.0, "growth_percent": 10.0}
    )


def test_memory_is_that_of_a_process_and_its_children():
    assert soak.resident(os.getpid()) > 10 * MIB
