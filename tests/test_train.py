"""Training: the same losses for the same seed, resumed or not."""

import jax
import numpy as np
import pytest
from conftest import BOX_SPEC, write_box_footage

from wm import train
from wm.config import ModelConfig, TrainConfig
from wm.errors import InputError

CONFIG = ModelConfig.of(BOX_SPEC, "debug")
SHORT = TrainConfig(steps=60, batch=4, context=4, open_loop=4, decoded=4, warmup=5)


def fit(footage, folder, stop_after=None):
    """Trains and returns what was reported and the variables; `stop_after` interrupts after so many reports."""
    told = []

    def report(progress):
        told.append(progress)
        if len(told) == stop_after:
            raise KeyboardInterrupt

    try:
        return told, train.fit(footage, CONFIG, SHORT, folder, 0, report, every=20)
    except KeyboardInterrupt:
        return told, None


def losses(told):
    return [(progress.step, progress.terms, progress.held_out) for progress in told]


@pytest.fixture(scope="module")
def whole(box_footage, tmp_path_factory):
    return fit(box_footage, tmp_path_factory.mktemp("whole"))


def test_the_same_seed_gives_the_same_losses_to_the_bit(box_footage, whole, tmp_path):
    assert losses(fit(box_footage, tmp_path)[0]) == losses(whole[0])


def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(box_footage, whole, tmp_path):
    first, nothing = fit(box_footage, tmp_path, stop_after=1)
    assert nothing is None
    second, variables = fit(box_footage, tmp_path)
    assert losses(first) + losses(second) == losses(whole[0])
    jax.tree.map(np.testing.assert_array_equal, variables, whole[1])


def test_training_lowers_the_held_out_error(whole):
    told = whole[0]
    assert told[-1].held_out < 0.7 * told[0].held_out


def test_progress_tells_rate_and_time_left(whole):
    told = whole[0]
    assert [progress.step for progress in told] == [20, 40, 60]
    assert all(progress.rate > 0 for progress in told)
    assert told[-1].seconds_left == 0


def test_footage_shorter_than_a_window_is_refused(tmp_path):
    footage = write_box_footage(tmp_path / "short", train=(7,))
    with pytest.raises(InputError, match=r"7 frames .* needs 8"):
        fit(footage, tmp_path / "checkpoints")


def test_the_normaliser_is_the_mean_and_spread_of_the_training_split(tmp_path):
    footage = write_box_footage(tmp_path / "box", train=(3, 3), holdout=(9,))
    normaliser = train.normaliser_of(footage)
    np.testing.assert_allclose(normaliser.sensor_mean, [1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(normaliser.sensor_std, [np.sqrt(2 / 3), 0.5], rtol=1e-6)


def test_a_tag_that_never_changes_keeps_its_unit(tmp_path):
    normaliser = train.normaliser_of(write_box_footage(tmp_path / "box", train=(4,)))
    assert normaliser.sensor_std[1] == 1.0
