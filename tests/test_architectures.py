"""Rivals of the world model: each is one that the same training and the same report can take."""

from functools import partial

import jax
import numpy as np
import pytest

from experiments.architectures import Flags, rivals, run
from wm import model, rssm, train
from wm.config import TrainConfig
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


def test_no_time_to_train_is_refused(box_footage, tmp_path):
    with pytest.raises(InputError, match="--minutes must be above 0"):
        run(Flags(box_footage.path, tmp_path / "run", minutes=0))
