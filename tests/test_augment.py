"""Augmentations: another light, another place, and nothing else."""

import jax
import numpy as np
import pytest

from wm.config import TrainConfig
from wm.data.augment import augment
from wm.types import Batch, Observation

FRAMES = np.random.default_rng(0).integers(40, 200, (64, 3, 12, 12, 3), dtype=np.uint8)
BATCH = Batch(Observation(FRAMES, np.ones((64, 3, 2), np.float32)), np.ones((64, 3, 1), np.float32))


def pictures(settings: TrainConfig) -> np.ndarray:
    batch = jax.jit(augment, static_argnums=0)(settings, BATCH, jax.random.key(0))
    np.testing.assert_array_equal(batch.action, BATCH.action)
    np.testing.assert_array_equal(batch.observation.sensors, BATCH.observation.sensors)
    assert batch.observation.image.dtype == np.uint8
    return np.asarray(batch.observation.image)


def test_without_augmentation_a_batch_stays_as_it_is() -> None:
    assert augment(TrainConfig(), BATCH, jax.random.key(0)) is BATCH


def test_a_gain_is_one_factor_for_a_whole_window_within_its_bounds() -> None:
    ratio = pictures(TrainConfig(gain=0.2)) / FRAMES
    of_window = ratio.mean(axis=(1, 2, 3, 4))
    np.testing.assert_allclose(ratio, np.broadcast_to(of_window[:, None, None, None, None], ratio.shape), atol=0.015)
    assert 0.79 < of_window.min() < 0.85 and 1.15 < of_window.max() < 1.21


def test_a_tint_is_one_factor_for_each_colour() -> None:
    ratio = (pictures(TrainConfig(tint=0.2)) / FRAMES).mean(axis=(1, 2, 3))
    assert ratio.std(axis=1).mean() > 0.05 and ratio.min() > 0.79 and ratio.max() < 1.21


@pytest.mark.parametrize("far", [1, 3])
def test_a_shift_moves_a_whole_window_by_whole_pixels(far: int) -> None:
    framed = np.pad(FRAMES, ((0, 0), (0, 0), (far, far), (far, far), (0, 0)), mode="edge")
    seen = set()
    for moved, window in zip(pictures(TrainConfig(shift=far)), framed, strict=True):
        places = [
            (down, right)
            for down in range(2 * far + 1)
            for right in range(2 * far + 1)
            if np.array_equal(moved, window[:, down : down + 12, right : right + 12])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > (2 * far + 1) ** 2 / 2


def test_footage_without_a_camera_is_left_alone() -> None:
    batch = Batch(Observation(None, BATCH.observation.sensors), BATCH.action)
    assert augment(TrainConfig(gain=0.2), batch, jax.random.key(0)) is batch
