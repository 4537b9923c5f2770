"""The world model: the scan is the step, losses are what the equations say, modalities come and go."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wm import model, nets, rssm
from wm.config import FootageSpec, ModelConfig, TrainConfig
from wm.errors import InputError
from wm.types import Batch, LatentState, Normaliser, Observation

SPEC = FootageSpec(10.0, (16, 24, 3), ("eye", "speed"), ("setpoint",))
CONFIG = ModelConfig.of(SPEC, "debug")

encode, observe, imagine, obs_step, decode, decode_tags, prior = (
    jax.jit(function, static_argnums=0)
    for function in (
        model.encode,
        model.observe,
        model.imagine,
        model.obs_step,
        model.decode,
        model.decode_tags,
        model.prior,
    )
)
loss = jax.jit(model.loss, static_argnums=(0, 1))


def variables_of(config: ModelConfig) -> model.Variables:
    shapes = (config.sensors, config.sensors, config.actions, config.actions)
    normaliser = Normaliser(*(jnp.full(n, float(value)) for n, value in zip(shapes, (0, 1, 0, 1), strict=True)))
    return jax.jit(model.init, static_argnums=0)(config, normaliser, jax.random.key(0))


def batch_of(config: ModelConfig, frames: int) -> Batch:
    key = jax.random.key(1)
    image = jax.random.randint(key, (2, frames, *config.image), 0, 256).astype(jnp.uint8) if config.image else None
    sensors = jax.random.normal(key, (2, frames, config.sensors))
    return Batch(Observation(image, sensors), jax.random.normal(key, (2, frames, config.actions)))


def test_kl_of_categoricals_is_summed_over_groups():
    posterior = jnp.log(jnp.array([[[0.5, 0.5], [0.9, 0.1]]]))
    prior = jnp.log(jnp.array([[[0.25, 0.75], [0.9, 0.1]]]))
    expected = 0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)
    np.testing.assert_allclose(rssm.kl(posterior, prior), [expected], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(rssm.kl)(posterior, prior), [expected], rtol=1e-6)


def test_every_category_keeps_its_share_of_the_uniform_distribution():
    variables, state = variables_of(CONFIG), rssm.start(CONFIG, ())
    log_probabilities = prior(CONFIG, variables, state.deter + 100.0)
    assert np.exp(log_probabilities).min() >= CONFIG.unimix / CONFIG.classes - 1e-7
    np.testing.assert_allclose(np.exp(log_probabilities).sum(axis=-1), 1.0, rtol=1e-5)


def test_the_scan_is_the_same_step():
    variables, batch = variables_of(CONFIG), batch_of(CONFIG, 5)
    embedding = encode(CONFIG, variables, batch.observation)
    key = jax.random.key(2)
    states, posteriors = observe(CONFIG, variables, rssm.start(CONFIG, (2,)), embedding, batch.action, key)
    state = rssm.start(CONFIG, (2,))
    for t, step_key in enumerate(jax.random.split(key, 5)):
        state, posterior = obs_step(CONFIG, variables, state, batch.action[:, t], embedding[:, t], step_key)
        np.testing.assert_allclose(states.deter[:, t], state.deter, atol=1e-5)
        np.testing.assert_allclose(posteriors[:, t], posterior, atol=1e-4)


def test_filtering_never_looks_ahead():
    variables, batch = variables_of(CONFIG), batch_of(CONFIG, 6)
    embedding = encode(CONFIG, variables, batch.observation)
    start, key = rssm.start(CONFIG, (2,)), jax.random.key(2)
    states, _ = observe(CONFIG, variables, start, embedding, batch.action, key)
    changed, _ = observe(CONFIG, variables, start, embedding.at[:, 4:].add(1.0), batch.action, key)
    np.testing.assert_array_equal(states.deter[:, :4], changed.deter[:, :4])
    assert not np.array_equal(states.deter[:, 5], changed.deter[:, 5])


def test_an_open_loop_that_does_not_count_yet_leaves_the_rest_of_the_loss():
    train = TrainConfig(context=3, open_loop=3, decoded=2)
    variables, batch, key = variables_of(CONFIG), batch_of(CONFIG, 6), jax.random.key(4)
    whole, terms = loss(CONFIG, train, variables, batch, key)
    without, _ = loss(CONFIG, train, variables, batch, key, 0.0)
    np.testing.assert_allclose(whole - without, terms["open_loop_image"] + terms["open_loop_sensors"], rtol=1e-4)


def test_a_dream_depends_on_its_actions():
    variables, start = variables_of(CONFIG), rssm.start(CONFIG, (1,))
    slow, _ = imagine(CONFIG, variables, start, jnp.zeros((1, 4, 1)), jax.random.key(3))
    fast, _ = imagine(CONFIG, variables, start, jnp.ones((1, 4, 1)), jax.random.key(3))
    assert not np.allclose(slow.deter, fast.deter)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        dataclasses.replace(CONFIG, sensors=0, actions=0),
        dataclasses.replace(CONFIG, image=None),
        dataclasses.replace(CONFIG, image=(16, 24, 1)),
    ],
    ids=["camera and tags", "camera alone", "tags alone", "grey camera"],
)
def test_a_model_of_any_modality_has_a_finite_loss_with_gradients_everywhere(config):
    train = TrainConfig(context=3, open_loop=3, decoded=2)
    variables, batch = variables_of(config), batch_of(config, train.length)

    def loss_of(params):
        return model.loss(config, train, {**variables, "params": params}, batch, jax.random.key(4))

    (value, terms), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(variables["params"])
    assert np.isfinite(value) and all(np.isfinite(term) for term in terms.values())
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients))


def test_the_loss_is_the_weighted_sum_of_its_terms():
    train = TrainConfig(context=3, open_loop=3, decoded=2, beta_dynamics=0.5, beta_open_loop=2.0)
    value, terms = loss(CONFIG, train, variables_of(CONFIG), batch_of(CONFIG, 6), jax.random.key(5))
    expected = (
        terms["image"]
        + terms["sensors"]
        + terms["variance"]
        + terms["open_loop_variance"]
        + 2.0 * (terms["open_loop_image"] + terms["open_loop_sensors"])
        + 0.5 * terms["kl_dynamics"]
        + 0.1 * terms["kl_representation"]
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_free_nats_are_the_least_that_the_kl_can_cost():
    train = TrainConfig(context=3, open_loop=3, decoded=2, free_nats=1e6)
    _, terms = loss(CONFIG, train, variables_of(CONFIG), batch_of(CONFIG, 6), jax.random.key(5))
    assert terms["kl_dynamics"] == terms["kl_representation"] == 1e6


def test_errors_are_squared_differences_in_units_of_the_full_scale():
    prediction = model.Prediction(jnp.full((1, 1, 1), 0.5), jnp.full((1, 1), jnp.log(0.125)), jnp.array([0.0]))
    observation = Observation(jnp.full((1, 1, 1), 255, jnp.uint8), jnp.array([np.e - 1.0]))
    variables = {"normaliser": Normaliser(jnp.zeros(1), jnp.ones(1), jnp.zeros(0), jnp.ones(0))}
    np.testing.assert_allclose(model.image_error(prediction, observation), [[[0.25]]])
    relative = model.relative_image_error(prediction, jnp.full((1, 1, 1), 0.25))
    np.testing.assert_allclose(relative, [[2.0 + 8 / 255**2]], rtol=1e-6)
    np.testing.assert_allclose(model.sensor_error(variables, prediction, observation), [1.0], rtol=1e-6)


def test_residuals_of_sensors_are_signed_and_in_standard_deviations_and_none_where_a_tag_is_not_known():
    prediction = model.Prediction(None, None, jnp.log(jnp.array([3.0, 3.0])))
    variables = {"normaliser": Normaliser(jnp.zeros(2), jnp.full(2, 2.0), jnp.zeros(0), jnp.ones(0))}
    residual = model.sensor_residual(variables, prediction, Observation(None, jnp.array([1.0, jnp.nan])))
    np.testing.assert_allclose(residual, [0.5 - 2.0, 0.0], rtol=1e-6)


def test_the_variance_is_fitted_without_a_change_to_anything_else():
    train = TrainConfig(context=3, open_loop=3, decoded=2)
    variables, batch = variables_of(CONFIG), batch_of(CONFIG, train.length)

    def variance_loss(params):
        _, terms = model.loss(CONFIG, train, {**variables, "params": params}, batch, jax.random.key(4))
        return terms["variance"] + terms["open_loop_variance"]

    gradients = jax.grad(variance_loss)(variables["params"])
    moved = [jax.tree_util.keystr(place) for place, leaf in jax.tree.leaves_with_path(gradients) if np.any(leaf)]
    assert len(moved) == 3 and all("Dense_2" in place or "noise" in place for place in moved)


def test_tags_are_foretold_in_engineering_units():
    normaliser = Normaliser(jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), jnp.zeros(1), jnp.ones(1))
    variables, state = variables_of(CONFIG) | {"normaliser": normaliser}, rssm.start(CONFIG, (2,))
    tags = decode_tags(CONFIG, variables, state)
    assert tags.shape == (2, 2)
    symlogs = nets.symlog((tags - jnp.array([1.0, -2.0])) / jnp.array([0.5, 3.0]))
    np.testing.assert_allclose(symlogs, decode(CONFIG, variables, state).sensors, atol=1e-5)


def test_the_decoder_shows_the_background_when_the_state_says_nothing():
    variables = variables_of(CONFIG)
    state = LatentState(jnp.zeros((6, 16)), jnp.zeros((6, 2, 4)))
    picture = decode(CONFIG, variables, state).image
    background = variables["params"]["image_decoder"]["background"]
    np.testing.assert_allclose(picture, background, atol=0.05)


def test_bfloat16_products_change_little_and_everything_stays_float32(monkeypatch):
    variables, batch = variables_of(CONFIG), batch_of(CONFIG, 4)
    start, key = rssm.start(CONFIG, (2,)), jax.random.key(0)

    def told():
        embedding = model.encode(CONFIG, variables, batch.observation)
        state, posterior = model.obs_step(CONFIG, variables, start, batch.action[:, 0], embedding[:, 0], key)
        return state, posterior, model.decode(CONFIG, variables, state)

    exact = told()
    monkeypatch.setattr(nets, "precision", lambda: jnp.bfloat16)
    coarse = told()
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(coarse))
    np.testing.assert_allclose(coarse[1], exact[1], atol=0.05)
    np.testing.assert_allclose(coarse[2].image, exact[2].image, atol=0.01)
    assert not np.array_equal(coarse[1], exact[1])


def test_pictures_that_cannot_be_cut_into_patches_are_refused():
    with pytest.raises(InputError, match="multiple of 8"):
        ModelConfig.of(FootageSpec(10.0, (60, 64, 3)), "small")


def test_an_unknown_size_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="debug, small, base, large"):
        ModelConfig.of(SPEC, "huge")
