"""Cheap detectors: what each reacts to, and the promise that they share with the world model."""

from pathlib import Path

import numpy as np
import pytest

from experiments import detectors
from wm.config import FootageSpec
from wm.data.footage import Episode, Footage, FootageWriter

SPEC = FootageSpec(rate_hz=10.0, image=(64, 64, 3), tags=("blocked_s",))


def picture(t: int) -> np.ndarray:
    """A textured box that moves two pixels a frame over a grey ground."""
    frame = np.full((64, 64, 3), 90, np.uint8)
    texture = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    columns = (2 * t + np.arange(16)) % 64
    frame[24:40, columns] = texture
    return frame


def episode(frames: np.ndarray) -> Episode:
    count = len(frames)
    blocked = 0.1 * np.arange(count, dtype=np.float32)[:, None]
    return Episode(frames, blocked, np.zeros((count, 0), np.float32), 0.1 * np.arange(count), "made")


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    path: Path = tmp_path_factory.mktemp("detectors") / "footage"
    noise = np.random.default_rng(1)
    with FootageWriter(path, SPEC) as writer, writer.episode("train", "made") as made:
        for t in range(1500):
            frame = np.clip(picture(t) + noise.normal(0, 2, (64, 64, 3)), 0, 255).astype(np.uint8)
            made.append(frame, (0.0,), (), t / 10)
    return Footage.open(path)


@pytest.fixture(scope="module")
def fitted(footage: Footage) -> detectors.Cheap:
    return detectors.fitted(footage)


def test_zones_are_means_over_a_grid_in_row_order():
    ramp = np.arange(64, dtype=np.float32)[None, None, :].repeat(64, axis=1)
    zones = detectors._zones(ramp)
    assert zones.shape == (1, 64)
    np.testing.assert_allclose(zones[0, :8], 3.5 + 8 * np.arange(8))


def test_the_frame_difference_is_that_of_the_zone_that_changed_most():
    frames = np.zeros((3, 64, 64, 3), np.uint8)
    frames[1:, :8, :8] = 51
    np.testing.assert_allclose(detectors.frame_difference(episode(frames)), [0.2, 0.0], atol=1e-6)


def test_the_photo_eye_tells_how_long_it_has_been_blocked(fitted):
    frames = np.stack([picture(t) for t in range(4)])
    np.testing.assert_allclose(fitted(episode(frames))["photo-eye blocked timer"], [0.1, 0.2, 0.3], rtol=1e-6)


@pytest.mark.parametrize("name", ["zoned optical flow", "nearest neighbours of flow", "isolation forest of flow"])
def test_a_box_that_jumps_is_stranger_than_one_that_moves_on(fitted, name: str):
    moves = np.stack([picture(t) for t in range(12)])
    jumps = np.stack([picture(t if t < 6 else t + 12) for t in range(12)])
    assert fitted(episode(jumps))[name].max() > fitted(episode(moves))[name].max()


def test_a_picture_that_was_never_seen_cannot_be_put_together_from_what_was(fitted):
    strange = np.stack([picture(t) for t in range(4)])
    strange[2:, 4:14, 40:60] = 230
    scores = fitted(episode(strange))["PCA reconstruction"]
    assert min(scores[1:]) > 3 * scores[0]


def test_an_episode_is_scored_the_same_in_chunks_of_any_length(fitted, footage):
    whole = detectors.scores(fitted, footage, "train", 0, chunk=2000)
    parts = detectors.scores(fitted, footage, "train", 0, chunk=400)
    assert len(whole) == 6
    for name, scores in whole.items():
        assert scores.shape == (1500,)
        np.testing.assert_allclose(parts[name], scores, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_threshold_is_an_order_statistic_of_what_blocks_hold_over_the_on_delay():
    scores = np.zeros(1000)
    scores[0::10], scores[5::10] = 9.0, 1.0 + np.arange(100) / 100
    scores[4::10] = scores[5::10]
    found = detectors.threshold([scores], chance=0.5, block=10, on_frames=2)
    assert 1.4 < found < 1.7


def test_a_value_that_normal_footage_tells_again_and_again_is_no_alarm():
    scores = np.full(1000, 0.18)
    assert scores.max() / detectors.threshold([scores], chance=0.5, block=10, on_frames=2) < 1.0
