"""Scores that lack something: what counts in each variant, and that the full one is the score itself."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import noise_bundle

from experiments import ablation
from wm import calibrate
from wm.config import ModelConfig, MonitorConfig

CONFIG = ModelConfig(image=(16, 16, 1), sensors=1, actions=0)
MONITOR = MonitorConfig(horizons_s=(0.0, 1.0), settle_s=0.0, drift_s=5.0)


@pytest.fixture(scope="module")
def model():
    return replace(noise_bundle(CONFIG, rate_hz=10.0, tags=("eye",), actions=()), monitor=MONITOR)


@pytest.fixture(scope="module")
def errors():
    generator = np.random.default_rng(0)
    return [generator.exponential(size=(900, 2, 13)).astype(np.float32) for _ in range(3)]


def test_a_variant_hears_what_its_name_says(model):
    found = ablation.variants(model)
    assert found["as it is"].heard.all()
    np.testing.assert_array_equal(found["only 1 s ahead"].heard, [[0, 0, 0, 0], [1, 1, 1, 1]])
    np.testing.assert_array_equal(found["only latents"].heard, [[0, 0, 1, 0]] * 2)
    np.testing.assert_array_equal(found["without sensors"].heard, [[1, 1, 1, 0]] * 2)


def test_where_all_places_are_alike_each_has_the_mean_of_its_kind():
    scale = np.arange(13, dtype=np.float32).reshape(1, 1, 13)
    flat = ablation._alike(
        replace(noise_bundle(CONFIG, rate_hz=10.0, tags=("eye",), actions=()), monitor=MONITOR), scale
    )
    np.testing.assert_allclose(flat[0, 0], [1.5] * 4 + [5.5] * 4 + [9.5] * 4 + [12])


def test_with_nothing_taken_away_it_is_the_score_that_is_calibrated(model, errors):
    flags = ablation.Flags(None, None, false_alarms=60.0, shift_hours=1.0)
    normal = calibrate.learn(model, errors)
    raised = ablation._watcher(flags, model, normal, ablation.variants(model)["as it is"], errors)
    calibration, _ = calibrate.fit(model, errors, 60.0, 1.0)
    watching, found, heard = raised.args
    assert heard.all() and watching.monitor == model.monitor
    for name in ("scale", "whitening", "level", "threshold"):
        np.testing.assert_allclose(getattr(found, name), getattr(calibration, name), rtol=1e-6)


def test_what_is_not_heard_raises_no_alarm(model, errors):
    flags = ablation.Flags(None, None, false_alarms=60.0, shift_hours=1.0)
    normal, found = calibrate.learn(model, errors), ablation.variants(model)
    loud = errors[0].copy()
    loud[400:420, :, :4] *= 20
    assert ablation._watcher(flags, model, normal, found["only pixels"], errors)(loud)[0] == 401
    assert 401 not in ablation._watcher(flags, model, normal, found["without pixels"], errors)(loud)
