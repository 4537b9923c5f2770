"""From normal footage to a calibration: what is normal, what is left out, and promises that are refused."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import noise_bundle, write_box_footage

from wm import calibrate, extremes
from wm.config import ModelConfig, MonitorConfig
from wm.errors import InputError
from wm.surprise import Told


def test_a_place_where_nothing_moves_is_held_to_a_tenth_of_the_median_place():
    config = ModelConfig(image=(16, 16, 3), sensors=1, actions=0)
    errors = np.ones((30_000, 13), np.float32)
    errors[:, 0], errors[::2, -1] = 0.0, -1.0
    np.testing.assert_allclose(calibrate.normal(config, errors), [0.1, *[1.0] * 12], rtol=0.01)


def test_in_little_footage_a_place_is_mostly_what_all_of_its_kind_are():
    config = ModelConfig(image=(16, 16, 3), sensors=2, actions=0)
    errors = np.ones((100, 14), np.float32)
    errors[:, 0], errors[:, -1] = 5.0, 9.0
    scale = calibrate.normal(config, errors)
    np.testing.assert_allclose(scale, [0.25 * 5 + 0.75 * 2, *[0.25 + 0.75 * 2] * 3, *[1.0] * 9, 9.0])


@pytest.fixture(scope="module")
def untrained():
    config = ModelConfig(image=(16, 16, 3), sensors=2, actions=1, embed=8, deter=8, groups=2, classes=4, hidden=8)
    bundle = noise_bundle(config, rate_hz=10.0, tags=("eye", "speed"), actions=("setpoint",))
    return replace(bundle, monitor=MonitorConfig(drift_s=5.0))


def test_footage_too_short_for_the_promise_is_refused_with_the_minutes_it_takes(untrained, tmp_path):
    footage = write_box_footage(tmp_path / "box", train=(40,), holdout=(200,))
    with pytest.raises(
        InputError, match=r"cannot be promised for alarms from 0\.2 minutes .* 48\.0 minutes are needed"
    ):
        calibrate.calibrate(untrained, footage, "holdout", false_alarms=1, hours=8, watched=print)


def test_footage_of_another_kind_is_refused_by_what_differs(tmp_path):
    config = ModelConfig(image=(16, 16, 3), sensors=0, actions=0, hidden=8)
    bundle = noise_bundle(config, rate_hz=5.0, tags=(), actions=())
    with pytest.raises(InputError, match=r"rate_hz 10\.0, the bundle expects 5.0"):
        calibrate.check(bundle, write_box_footage(tmp_path / "box", train=(40,)))


def test_on_its_own_footage_a_calibrated_monitor_keeps_its_promise(untrained, tmp_path):
    footage = write_box_footage(tmp_path / "box", train=(40,), holdout=(600, 600))
    told: list[int] = []
    calibration, (promise, slow, left_out_s) = calibrate.calibrate(
        untrained, footage, "holdout", false_alarms=100, hours=1, watched=told.append
    )
    assert left_out_s == 0.0
    assert calibration.level.shape == (5, 4) and np.all(calibration.level > 0)
    bundle = replace(untrained, calibration=calibration)
    seen = [calibrate.replay(bundle, footage, "holdout", number, told.append) for number in range(2)]
    blocks = extremes.peaks([extremes.held(each.score[11:], 2) for each in seen], 50)
    for each in seen:
        distances = calibrate.drifts(bundle, calibration, each.errors)
        np.testing.assert_allclose(calibrate.drift_scores(calibration, distances), each.drift, rtol=1e-3, atol=1e-5)
    slow_blocks = extremes.peaks([each.drift[40:] for each in seen], 50)
    assert promise.blocks == len(blocks) == slow.blocks == len(slow_blocks) == 22
    for maxima, kept in ((blocks, promise), (slow_blocks, slow)):
        assert (maxima >= 1.0).sum() <= round(22 * 100 * 5 / 3600) + 1
        assert kept.low <= kept.high
    assert (calibration.threshold, calibration.drift_threshold) == (np.float32(promise.high), np.float32(slow.high))
    assert sum(told) == 2 * 1200
    for each in seen:
        again = calibrate.scores(calibration, calibrate.levels(bundle, calibration, each.errors))
        np.testing.assert_allclose(again, each.score, rtol=1e-4, atol=1e-6)


def test_evidence_with_rare_high_moments_does_not_deafen_the_rest(untrained, tmp_path, monkeypatch):
    def rare(bundle, footage, split, number, watched):
        errors = np.random.default_rng(number).uniform(0.9, 1.1, (600, 5, 14)).astype(np.float32)
        errors[..., 12:] -= 1.0
        errors[[200, 201, 403, 404], 0, :4] *= 100.0
        return Told(np.zeros(600), np.zeros(600), errors)

    monkeypatch.setattr(calibrate, "replay", rare)
    footage = write_box_footage(tmp_path / "box", train=(40,), holdout=(600, 600))
    calibration, _ = calibrate.calibrate(untrained, footage, "holdout", false_alarms=100, hours=1, watched=print)
    assert calibration.level[0, 0] > 10 and np.all(calibration.level.ravel()[1:] < 3.0)
    assert 1.0 <= calibration.threshold < 1.5


@pytest.fixture
def noise(untrained) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    places = untrained.config.places + untrained.config.sensors
    return list(generator.exponential(size=(3, 2_000, 5, places)).astype(np.float32))


def test_trouble_that_nobody_marked_is_left_out_with_what_is_around_it_and_the_rest_is_untouched(untrained, noise):
    sound, sound_promises = calibrate.fit(untrained, noise, 10, 1)
    assert sound_promises.left_out_s == 0.0
    spoilt = [each.copy() for each in noise]
    spoilt[1][1_003:1_030] *= 1_000
    kept = calibrate.unremarkable(untrained, spoilt, calibrate.learn(untrained, spoilt), 10)
    first, second = 11 + 50 * 18, 11 + 50 * 22
    assert [len(each) for each in kept] == [2_000, first, 2_000 - -(-second // 5) * 5, 2_000]
    assert np.array_equal(kept[2], noise[1][-(-second // 5) * 5 :])
    calibration, promises = calibrate.fit(untrained, spoilt, 10, 1)
    assert promises.left_out_s == pytest.approx((2_000 - len(kept[1]) - len(kept[2])) / 10)
    assert float(calibration.threshold) == pytest.approx(float(sound.threshold), rel=0.3)
    np.testing.assert_allclose(calibration.level, sound.level, rtol=0.5)


def test_footage_of_which_too_much_stands_out_is_refused(untrained, noise):
    for number in range(6):
        noise[0][120 + 200 * number :][:20] *= 1_000
    with pytest.raises(InputError, match=r"% of the footage stand out from the rest; is it of normal running\?"):
        calibrate.fit(untrained, noise, 10, 1)


def test_what_is_left_must_still_carry_the_promise(untrained, noise):
    short = [each[:1_000].copy() for each in noise]
    calibrate.fit(untrained, short, 40, 1)
    short[1][503:530] *= 1_000
    blocks = sum((len(each) - 11) // 50 for each in short)
    rate = 1 / calibrate.FURTHEST / (blocks - 1) * 3600 / 5
    with pytest.raises(InputError, match="cannot be promised"):
        calibrate.fit(untrained, short, rate, 1)
