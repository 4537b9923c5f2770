"""What is told of a walkway: figures, smoothing, places, and people who are made to hurry."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import noise_bundle

from experiments import ped2, walkers
from wm import surprise
from wm.config import FootageSpec, ModelConfig, MonitorConfig
from wm.data.footage import Episode, Footage, FootageWriter
from wm.surprise import Told


def test_the_mean_of_scores_so_far_starts_at_the_first_and_halves_a_step_over_two_frames():
    np.testing.assert_allclose(ped2.smoothed(np.array([1.0, 1.0, 3.0, 3.0]), 2), [1.0, 1.0, 2.0, 2.5])
    np.testing.assert_allclose(ped2.smoothed(np.array([1.0, 5.0]), 1), [1.0, 5.0])


def test_flow_is_how_far_things_move_in_a_frame_and_128_at_rest():
    generator = np.random.default_rng(0)
    ground = cv2.GaussianBlur(generator.uniform(0, 255, (64, 128)).astype(np.float32), (0, 0), 2.0)
    ground = np.round(128 + 4 * (ground - ground.mean())).clip(0, 255).astype(np.uint8)
    moving = np.stack([np.roll(ground, time, axis=1) for time in range(4)])
    found = ped2.flow(moving)[..., 16:-16, 16:-16, :].astype(float)
    assert np.all(found[:2] == 128)
    np.testing.assert_allclose(found[2:].mean(axis=(1, 2)), [[128 + 64, 128], [128 + 64, 128]], atol=3)
    assert np.abs(ped2.flow(np.stack([ground] * 4)).astype(int) - 128).max() <= 1


def test_footage_keeps_its_grey_channel_and_its_labels_when_motion_is_added(walkway, tmp_path):
    planted = walkers.plant(walkway, tmp_path / "planted", copies=1, seed=0)
    found = ped2.moving(planted, tmp_path / "moving")
    assert found.spec.image == (64, 96, 3)
    assert found.metadata == planted.metadata
    frames = found.read("train", 0, 0, 140).frames
    np.testing.assert_array_equal(frames[..., :1], planted.read("train", 0, 0, 140).frames)
    assert ped2.moving(planted, tmp_path / "moving").fingerprint == found.fingerprint


def test_the_fastest_patch_is_the_one_that_moves_farthest_in_a_frame():
    frames = np.full((3, 16, 16, 3), 128, np.uint8)
    frames[1, :8, :8, 1] = 128 + 30
    frames[1, 8:, 8:, 1:] = 128 + 30, 128 + 40
    frames[2, :4, :8, 2] = 128 - 20
    episode = Episode(frames, np.zeros((3, 0)), np.zeros((3, 0)), np.arange(3.0), "")
    np.testing.assert_allclose(ped2.fastest_patch(episode), [50.0, 10.0])


def test_a_frame_for_which_there_is_no_forecast_yet_counts_as_usual():
    config = ModelConfig(image=(16, 16, 1), sensors=0, actions=0)
    monitor = MonitorConfig(horizons_s=(0.0,), settle_s=0.1, worst=1, kinds=("pixels",))
    bundle = replace(noise_bundle(config, rate_hz=10.0, tags=(), actions=()), monitor=monitor)
    bundle = replace(bundle, calibration=surprise.uncalibrated(config, monitor, 10.0))

    def told(*levels: float) -> Told:
        errors = np.zeros((len(levels), 1, 12), np.float32)
        errors[:, 0, 0] = levels
        return Told(np.zeros(len(levels)), np.zeros(len(levels)), errors)

    (found,) = ped2.scored(bundle, [told(9, 9, 1, 2, 3)], [told(7, 7, 5, 6)])
    np.testing.assert_allclose(found, [2, 2, 5, 6])


def test_a_raw_figure_compares_clips_and_a_normalised_one_does_not():
    scores = [np.array([0.0, 1.0]), np.array([2.0, 3.0])]
    labels = [np.array([False, True]), np.array([False, True])]
    found = ped2.figures(scores, labels)
    assert found == {"raw_micro_auc": 0.75, "normalised_micro_auc": 1.0, "normalised_macro_auc": 1.0}


def test_the_loudest_patch_is_held_against_the_mask():
    config = ModelConfig(image=(16, 16, 1), sensors=0, actions=0)
    monitor = MonitorConfig(horizons_s=(0.0,), settle_s=0.0)
    bundle = replace(noise_bundle(config, rate_hz=10.0, tags=(), actions=()), monitor=monitor)
    bundle = replace(bundle, calibration=surprise.uncalibrated(config, monitor, 10.0))
    errors = np.zeros((3, 1, 12), np.float32)
    errors[:, 0, 3] = 5.0
    masks = np.zeros((3, 30, 48), np.uint8)
    masks[1, 20:, 30:] = masks[2, :10, :10] = 1
    told = Told(np.zeros(3), np.zeros(3), errors)
    found = ped2.localised(bundle, [told], [np.array([False, True, True])], [np.packbits(masks, axis=-1)])
    assert found == {"share": 0.5, "by_chance": 0.25}


@pytest.fixture
def walkway(tmp_path):
    """Two held-out clips in which somebody bright walks to the right, at half a pixel a frame."""
    spec = FootageSpec(10.0, (64, 96, 1))
    with FootageWriter(tmp_path / "walkway", spec, {}) as writer:
        for clip, down in enumerate((20, 40)):
            with writer.episode("holdout", f"clip {clip}") as episode:
                for time in range(140):
                    frame = np.full((64, 96, 1), 80, np.uint8)
                    left = 4 + time // 2
                    frame[down : down + 16, left : left + 7] = 150
                    episode.append(frame, np.zeros(0), np.zeros(0), time / 10)
    return Footage.open(tmp_path / "walkway")


def test_a_walker_is_found_with_his_pace(walkway):
    clip = walkway.read("holdout", 0, 0, 140).frames[..., 0]
    (found,) = walkers.walkers(0, clip)
    assert found.pace == pytest.approx(0.5, abs=0.05)
    assert len(found.cutouts) > 100


def test_whoever_is_planted_hurries_and_is_labelled_while_in_sight(walkway, tmp_path):
    planted = walkers.plant(walkway, tmp_path / "planted", copies=2, seed=0)
    labels = [np.array(each, bool) for each in planted.metadata["labels"]]
    assert [label.any() for label in labels] == [True] * 4 + [False] * 2
    for number in range(4):
        frames = planted.read("train", number, 0, 140).frames[..., 0].astype(int)
        plain = walkway.read("holdout", number % 2, 0, 140).frames[..., 0].astype(int)
        changed = np.abs(frames - plain).max(axis=(1, 2)) > 20
        assert np.all(changed[labels[number]])
        columns = [
            np.flatnonzero((np.abs(frames[t] - plain[t]) > 20).any(axis=0)) for t in np.flatnonzero(labels[number])
        ]
        inside = [each.mean() for each in columns if each.size and each[0] > 0 and each[-1] < 95]
        assert abs(np.polyfit(np.arange(len(inside)), inside, 1)[0]) > 0.7


def test_on_another_day_the_light_falls_otherwise_and_stays_so_and_the_camera_is_noisier():
    clip = np.full((50, 64, 96), 100, np.uint8)
    other = walkers.another_day(clip, np.random.default_rng(0)).astype(float)
    uneven = np.abs(other.mean(axis=0) - 100).mean()
    assert 0.8 < uneven < 3.2
    assert 0.4 < np.std(other - other.mean(axis=0)) < 1.5
