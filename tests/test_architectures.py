"""Rivals of the world model: each is one that the same training and the same report can take."""

import json
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from conftest import write_box_footage

from experiments import architectures
from experiments.architectures import Flags, rivals, run
from wm import model, rssm, train
from wm.config import ModelConfig, TrainConfig
from wm.data.loader import windows
from wm.errors import InputError

SETTINGS = TrainConfig(batch=2, context=4, open_loop=8, decoded=2)


@pytest.fixture(scope="module")
def configs(box_footage):
    return rivals(box_footage)


def test_every_rival_is_trained_and_foretells_by_the_same_functions(configs, box_footage):
    normaliser = train.normaliser_of(box_footage)
    batch = next(iter(windows(box_footage, "train", length=SETTINGS.length, batch=SETTINGS.batch, seed=0)))
    for config in configs.values():
        state = jax.eval_shape(partial(train.create, config, SETTINGS, normaliser, 0))
        step = partial(train.train_step, config, SETTINGS)
        after, terms = jax.eval_shape(step, state, normaliser, batch, jax.random.key(0))
        assert jax.tree.structure(after) == jax.tree.structure(state)
        assert terms["open_loop_image"].shape == ()
        variables = {"params": state.params, "normaliser": normaliser}
        prediction = jax.eval_shape(partial(model.decode, config), variables, rssm.start(config, (3,)))
        assert prediction.image.shape == (3, *config.image)
        assert prediction.log_variance.shape == (3, *config.image[:2])


def test_the_global_latent_is_one_cell_that_sees_the_whole_picture(configs):
    config = configs["one latent, convolutions"]
    assert len(config.cells) == config.patches == 1
    assert len(configs["cells, all patches"].cells) == 4


def test_the_rival_without_a_background_starts_from_grey_and_has_none_to_learn(configs, box_footage):
    config = configs["cells, all patches, no background"]
    variables = model.init(config, train.normaliser_of(box_footage), jax.random.key(0))
    assert "background" not in variables["params"]["image_decoder"]
    prediction = model.decode(config, variables, rssm.start(config, (1,)))
    np.testing.assert_allclose(prediction.image, 0.5, atol=0.2)


def test_rivals_are_trained_for_the_same_time_and_measured_over_three_seconds(tmp_path, monkeypatch):
    """With the training itself left out."""
    footage = write_box_footage(tmp_path / "footage", train=(80,), holdout=(80,))
    tiny = replace(ModelConfig.of(footage.spec, "debug"), hidden=8)

    def fit(footage, config, settings, place, seed, report):
        steps.append((place.name, settings.steps, settings.patience))
        return model.init(config, train.normaliser_of(footage), jax.random.key(seed))

    steps = []
    monkeypatch.setattr(architectures, "rivals", lambda footage: {"one": tiny, "another, slower": tiny})
    monkeypatch.setattr(architectures, "step_seconds", lambda footage, configs, seed: [0.5, 2.0])
    monkeypatch.setattr(train, "fit", fit)
    flags = Flags(footage.path, tmp_path / "run", minutes=1.0, windows=2, report=tmp_path / "reports")
    run(flags)
    assert steps == [("one", 120, 120), ("another-slower", 30, 30)]
    told = json.loads((tmp_path / "reports" / "architectures.json").read_text())["rivals"]
    assert [row["steps"] for row in told.values()] == [120, 30]
    assert all(len(row["error_all"]) == len(row["error_moving"]) == 3 for row in told.values())
    monkeypatch.setattr(architectures, "rivals", lambda footage: {"one": tiny})
    with pytest.raises(InputError, match="another rivals"):
        run(flags)


def test_no_time_to_train_is_refused(box_footage, tmp_path):
    with pytest.raises(InputError, match="--minutes must be above 0"):
        run(Flags(box_footage.path, tmp_path / "run", minutes=0))
