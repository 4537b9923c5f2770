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
    mean = moments[0].mean(axis=(0, 1, 2)) / 255
    oracle, cheap, _ = sum(errors(pictures, mean) for pictures in moments)[:, 1]
    assert oracle[0] < oracle[1] < oracle[2] < cheap[2]


def test_of_a_line_without_chance_everything_can_be_known():
    pictures = np.full((5, 3, 3, 2, 2, 3), 51, np.uint8)
    told = errors(pictures, np.float32(0.6))[:, 0]
    np.testing.assert_allclose(told, [[0, 0, 0], [3.2, 3.2, 3.2], [20, 20, 20]], atol=1e-6)


def test_of_noise_the_oracle_knows_the_mean_and_no_more_however_few_futures_are_drawn():
    noise = np.random.default_rng(0).normal(100, 20, (400, 4, 1, 1, 4, 4, 3)).round().astype(np.uint8)
    still = np.mean([errors(np.repeat(one, 3, axis=2), np.float32(100 / 255))[:, 0] for one in noise], axis=0)
    assert still[0] == pytest.approx(still[1], rel=0.02)


def test_nor_of_noise_that_moves_now_and_then():
    generator = np.random.default_rng(0)
    noise = generator.normal(100, 20, (400, 6, 1, 1, 4, 4, 3)).round().astype(np.uint8)
    moved = np.where(generator.random((400, 6, 1, 1, 4, 4, 1)) < 0.2, 250 - noise, noise)
    frames = np.concatenate([noise, noise, moved], axis=3)
    told = np.mean([errors(one, np.float32(100 / 255))[:, 1] for one in frames], axis=0)
    assert 0 < told[2] < 0.2 * 6 * 16
    assert told[0] == pytest.approx(told[1], rel=0.05)


def test_what_moves_is_known_apart_from_what_stands():
    """A pixel is 200 in the futures in which it moves, and 100 in the others: whoever knows that it moves, knows it."""
    frames = np.full((4, 1, 3, 1, 1, 3), 100, np.uint8)
    frames[:2, :, 1] = 200
    oracle, cheap, counted = errors(frames, np.float32(0.0))[:, 1]
    assert oracle == 0 and cheap == pytest.approx(2 * (200 / 255) ** 2) and counted == 2


def test_footage_of_another_line_is_refused(tmp_path, box_footage):
    with pytest.raises(InputError, match="not of the simulated line"):
        run(Flags(box_footage.path, tmp_path / "run"))
