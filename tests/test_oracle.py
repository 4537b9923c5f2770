"""What nobody can know of the simulated line."""

import numpy as np
import pytest

from experiments.oracle import Flags, branch, errors, run
from wm.errors import InputError


@pytest.fixture(scope="module")
def moments():
    return branch(7, futures=3)


def test_futures_of_one_moment_are_not_alike_and_those_of_one_seed_are(moments):
    first, second = moments
    assert first.shape == (3, 3, 3, 64, 64, 3)
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first, second)
    assert np.array_equal(np.stack(branch(7, futures=3)), np.stack(moments))


def test_what_is_nearer_is_known_better(moments):
    oracle, cheap = sum(errors(pictures, moments[0].mean(axis=(0, 1, 2))) for pictures in moments)[1]
    assert oracle[0] < oracle[1] < oracle[2] < cheap[2]


def test_of_a_line_without_chance_everything_can_be_known():
    pictures = np.broadcast_to(np.float32(0.25), (5, 3, 3, 2, 2, 3))
    assert np.array_equal(errors(pictures, np.float32(0.75))[0], [[0, 0, 0], [5.0, 5.0, 5.0]])


def test_the_oracle_knows_the_mean_of_all_futures_however_few_are_drawn():
    noise = np.random.default_rng(0).normal(0.5, 0.1, (400, 4, 1, 3, 4, 4, 3))
    oracle, cheap = np.mean([errors(np.repeat(one, 3, axis=1), np.float32(0.5))[0] for one in noise], axis=0)
    assert oracle == pytest.approx(cheap, rel=0.02)


def test_footage_of_another_line_is_refused(tmp_path, box_footage):
    with pytest.raises(InputError, match="not of the simulated line"):
        run(Flags(box_footage.path, tmp_path / "run"))
