"""Layers: hand-computed, jitted and not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wm import nets
from wm.config import ModelConfig

two_hot, two_hot_mean = jax.jit(nets.two_hot), jax.jit(nets.two_hot_mean)


@pytest.fixture(params=[False, True], ids=["plain", "jitted"])
def run(request):
    return lambda function, *args: (jax.jit(function) if request.param else function)(*args)


def test_symlog_is_the_signed_logarithm_of_one_plus_the_magnitude(run):
    x = jnp.array([0.0, np.e - 1.0, 1.0 - np.e])
    np.testing.assert_allclose(run(nets.symlog, x), [0.0, 1.0, -1.0], rtol=1e-6)


def test_a_number_is_two_hot_between_the_bins_about_it(run):
    bins = np.expm1(np.arange(3) * 20 / 127)
    weights = run(nets.two_hot, jnp.array([0.0, 0.25 * bins[1] + 0.75 * bins[2], -0.4 * bins[1]]))
    expected = np.zeros((3, 255))
    expected[0, 127] = 1.0
    expected[1, 128:130] = 0.25, 0.75
    expected[2, 126:128] = 0.4, 0.6
    np.testing.assert_allclose(weights, expected, atol=1e-5)


@given(st.floats(-1e8, 1e8, width=32))
def test_the_mean_of_a_two_hot_number_is_the_number(number):
    logits = jnp.log(two_hot(jnp.float32(number)))
    np.testing.assert_allclose(two_hot_mean(logits), number, rtol=1e-4, atol=1e-6)


def test_numbers_beyond_the_bins_go_into_the_last_ones():
    np.testing.assert_array_equal(two_hot(jnp.array([1e12, -1e12])).argmax(axis=-1), [254, 0])


def test_the_mean_of_an_even_distribution_is_exactly_zero(run):
    assert run(nets.two_hot_mean, jnp.zeros(255)) == 0.0


def test_a_picture_is_cut_into_patches_in_row_order(run):
    image = jnp.arange(16.0).reshape(4, 4, 1)
    patches = run(lambda x: nets.to_patches(x, 2), image)
    np.testing.assert_array_equal(patches, [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]])


def test_patches_put_together_are_the_picture_again(run):
    image = jax.random.uniform(jax.random.key(0), (3, 2, 16, 24, 3))
    np.testing.assert_array_equal(run(lambda x: nets.from_patches(nets.to_patches(x, 8), (16, 24, 3), 8), image), image)


def test_the_light_is_a_plane_for_each_channel_and_falls_on_patches_that_nobody_follows(run):
    config = ModelConfig(image=(16, 16, 3), sensors=0, actions=0, followed=(0,))
    decoder = nets.ImageDecoder(config)
    features = jnp.zeros((1, 8))
    params = jax.tree.map(jnp.zeros_like, decoder.init(jax.random.key(0), features))["params"]
    level, down, right = [0.1, 0.0, -0.1], [0.2, 0.0, 0.0], [0.0, 0.4, 0.0]
    params["light"]["bias"] = jnp.array([level, down, right]).ravel()
    params["background"] = jnp.full((16, 16, 3), 0.5)
    image, _ = run(lambda params: decoder.apply({"params": params}, features), params)
    np.testing.assert_allclose(image[0, 0], [0.45, 0.3, 0.45], rtol=1e-6)
    np.testing.assert_allclose(image[15, 0], [0.65, 0.3, 0.45], rtol=1e-6)
    np.testing.assert_allclose(image[15, 15], [0.65, 0.7, 0.45], rtol=1e-6)


def test_neighbours_hand_on_a_fifth_of_their_features_each_way(run):
    neighbours = ModelConfig(image=(16, 16, 3), sensors=0, actions=0).neighbours
    x = jnp.arange(1.0, 5.0)[:, None] * jnp.ones((4, 5))
    down, up, right, left, stay = np.asarray(run(lambda x: nets.exchange(x, neighbours), x)).T
    np.testing.assert_array_equal(down, [0, 0, 1, 2])
    np.testing.assert_array_equal(up, [3, 4, 0, 0])
    np.testing.assert_array_equal(right, [0, 1, 0, 3])
    np.testing.assert_array_equal(left, [2, 0, 4, 0])
    np.testing.assert_array_equal(stay, [1, 2, 3, 4])


def test_neighbours_are_those_of_the_picture_where_only_some_patches_are_followed():
    config = ModelConfig(image=(16, 24, 3), sensors=0, actions=0, followed=(1, 2, 4))
    np.testing.assert_array_equal(config.cells, [1, 2, 4])
    np.testing.assert_array_equal(config.numbers, [3, 0, 1, 3, 2, 3])
    np.testing.assert_array_equal(config.neighbours, [[3, 3, 0], [2, 3, 3], [3, 0, 3], [1, 3, 3]])


def test_samples_are_one_hot_and_follow_their_probabilities():
    logits = jnp.log(jnp.array([0.7, 0.2, 0.1]))
    samples = nets.sampled(jax.random.key(0), jnp.broadcast_to(logits, (20_000, 3)))
    np.testing.assert_allclose(samples.sum(axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose(samples.mean(axis=0), [0.7, 0.2, 0.1], atol=0.01)


def test_the_most_likely_and_the_expected_value_need_no_key():
    logits = jnp.log(jnp.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]))
    np.testing.assert_array_equal(nets.most_likely(None, logits), [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(nets.expected(None, logits), [[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], rtol=1e-6)


def test_half_of_a_batch_is_sampled_and_half_keeps_its_expected_values():
    logits = jnp.log(jnp.broadcast_to(jnp.array([0.7, 0.2, 0.1]), (4, 5, 3)))
    drawn = nets.half_sampled(jax.random.key(0), logits)
    np.testing.assert_allclose(drawn[1::2], jnp.exp(logits[1::2]), rtol=1e-6)
    np.testing.assert_allclose(drawn[::2].max(axis=-1), 1.0, rtol=1e-6)


def test_gradients_of_a_sample_are_those_of_its_probabilities():
    logits, weights = jnp.array([0.3, -0.2, 0.5]), jnp.array([1.0, 2.0, 3.0])
    straight = jax.grad(lambda x: nets.sampled(jax.random.key(1), x) @ weights)(logits)
    np.testing.assert_allclose(straight, jax.grad(lambda x: jax.nn.softmax(x) @ weights)(logits), rtol=1e-6)
