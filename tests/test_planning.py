"""Planning: searches by hand and on quadratics, constraints that nothing gets past, the world model as the judge."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wm import model, planning, rssm
from wm.config import FootageSpec, ModelConfig, PlanConfig
from wm.errors import InputError
from wm.nets import expected, symexp
from wm.planning import Constraints, Plan
from wm.types import LatentState, Normaliser

CONFIG = PlanConfig(horizon=6)
BOUNDS = Constraints(low=jnp.array([0.0, -2.0]), high=jnp.array([1.0, 2.0]), ramp=jnp.array([0.2, 0.8]))
MIDDLE = jnp.array([0.5, 0.0])
MODEL = ModelConfig.of(FootageSpec(10.0, (16, 24, 3), ("eye", "speed"), ("setpoint",)), "debug")
SPEED = Constraints(low=jnp.array([0.2]), high=jnp.array([1.0]), ramp=jnp.array([0.3]))

both = pytest.mark.parametrize("method", ["cem", "mppi"])
unit = st.floats(0.0, 1.0, width=32)
wild = st.floats(-100.0, 100.0, width=32)
project = jax.jit(planning.project)
decide = jax.jit(planning.plan, static_argnums=(0, 1))
img_step = jax.jit(partial(model.img_step, MODEL, draw=expected))
decode = jax.jit(partial(model.decode, MODEL))


def shares(constraints, actions):
    return actions / (constraints.high - constraints.low)


@partial(jax.jit, static_argnums=0)
def approach(config, constraints, target, last, action, key):
    """A decision whose return is the squared distance to a target `[A]` in shares of the range, negative."""

    def nearness(sequences):
        return -jnp.sum(jnp.square(shares(constraints, sequences - target)), axis=(-2, -1))

    return planning.plan(config, nearness, constraints, last, action, key)


@partial(jax.jit, static_argnums=0)
def settle(config, target, action, key):
    """The last of thirty decisions, each of which starts from the last plan under the same action."""

    def step(last, key):
        return approach(config, BOUNDS, target, last, action, key)

    _, decisions = jax.lax.scan(step, planning.start(config, BOUNDS, action), jax.random.split(key, 30))
    return jax.tree.map(lambda x: x[-1], decisions)


def assert_feasible(constraints, action, sequences):
    assert (sequences >= constraints.low).all() and (sequences <= constraints.high).all()
    change = np.diff(sequences, axis=-2, prepend=np.broadcast_to(action, sequences[..., :1, :].shape))
    assert (np.abs(change) <= constraints.ramp + 1e-6).all()


def blind_above_a_half(sequences):
    first = sequences[:, 0, 0]
    return jnp.where(first > 0.5, jnp.nan, first)


def blind(sequences):
    return jnp.full(len(sequences), jnp.nan)


def throughput(tags, action, before):
    """A reward in which everything counts."""
    return tags[..., 1] - 0.5 * tags[..., 0] - 2.0 * jnp.abs(action - before)[..., 0]


@pytest.fixture(scope="module")
def variables():
    normaliser = Normaliser(jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), jnp.array([0.6]), jnp.array([0.1]))
    return jax.jit(model.init, static_argnums=0)(MODEL, normaliser, jax.random.key(0))


def latents(lead: tuple[int, ...]) -> LatentState:
    shapes = rssm.start(MODEL, lead)
    return LatentState(jax.random.normal(jax.random.key(1), shapes.deter.shape), shapes.stoch + 0.25)


def test_cem_fits_the_elites_and_nothing_else():
    config, unit_range = replace(CONFIG, elites=2), Constraints(jnp.zeros(1), jnp.ones(1), jnp.ones(1))
    candidates = jnp.array([0.0, 0.2, 0.6, 1.0]).reshape(4, 1, 1)
    plan = planning.fit(config, unit_range, candidates, jnp.array([1.0, 4.0, 3.0, 2.0]))
    np.testing.assert_allclose(plan.mean, [[0.4]], rtol=1e-6)
    np.testing.assert_allclose(plan.std, [[0.2]], rtol=1e-6)


def test_mppi_weighs_candidates_by_the_exponential_of_their_return_over_the_temperature():
    config = replace(CONFIG, method="mppi", temperature=0.5)
    unit_range = Constraints(jnp.zeros(1), jnp.ones(1), jnp.ones(1))
    returns = 0.5 * jnp.log(jnp.array([1.0, 2.0, 5.0])) - 7.0
    np.testing.assert_allclose(planning.weights(config, returns), [0.125, 0.25, 0.625], rtol=1e-5)
    plan = planning.fit(config, unit_range, jnp.array([0.0, 0.4, 0.8]).reshape(3, 1, 1), returns)
    np.testing.assert_allclose(plan.mean, [[0.6]], rtol=1e-5)
    np.testing.assert_allclose(plan.std, [[np.sqrt(0.125 * 0.36 + 0.25 * 0.04 + 0.625 * 0.04)]], rtol=1e-5)


@both
def test_a_search_never_narrows_below_the_least_spread(method):
    plan = planning.fit(replace(CONFIG, method=method), BOUNDS, jnp.tile(MIDDLE, (8, 6, 1)), jnp.zeros(8))
    np.testing.assert_allclose(plan.std, jnp.tile(jnp.array([0.05, 0.2]), (6, 1)), rtol=1e-6)


@both
def test_a_return_that_is_not_a_number_is_never_chosen_and_never_fitted(method):
    config = replace(CONFIG, method=method)
    weights = planning.weights(config, jnp.array([jnp.nan, 0.0, 0.0, 0.0, 0.0, jnp.nan]))
    np.testing.assert_allclose(weights, [0.0, 0.25, 0.25, 0.25, 0.25, 0.0])
    plan, decision = decide(
        config, blind_above_a_half, BOUNDS, planning.start(config, BOUNDS, MIDDLE), MIDDLE, jax.random.key(0)
    )
    assert np.isnan(decision.returns).any() and decision.expected == decision.sequence[0, 0] == 0.5
    assert np.isfinite(plan.mean).all() and np.isfinite(plan.std).all()


@both
def test_a_search_that_learns_nothing_says_so_and_leaves_a_plan_to_start_from(method):
    config = replace(CONFIG, method=method)
    plan, decision = decide(config, blind, BOUNDS, planning.start(config, BOUNDS, MIDDLE), MIDDLE, jax.random.key(0))
    assert np.isnan(decision.expected)
    assert np.isfinite(plan.mean).all() and np.isfinite(plan.std).all()


@both
def test_a_search_finds_the_optimum_of_a_quadratic_to_a_twentieth_of_the_range(method):
    config = replace(CONFIG, method=method, temperature=0.01, minimum_std=0.01)
    target = jnp.array([0.6, -0.7])
    decision = settle(config, target, MIDDLE, jax.random.key(0))
    away = shares(BOUNDS, decision.sequence - target)
    assert np.abs(away).max() < 0.05
    np.testing.assert_allclose(decision.expected, -np.square(away).sum(), rtol=1e-5)


@both
def test_an_optimum_that_may_not_be_reached_is_approached_along_the_ramp_to_the_bound(method):
    decision = settle(replace(CONFIG, method=method), jnp.array([9.0, -9.0]), MIDDLE, jax.random.key(0))
    nearest = np.array([[0.7, -0.8], [0.9, -1.6], [1.0, -2.0], [1.0, -2.0], [1.0, -2.0], [1.0, -2.0]])
    assert np.abs(shares(BOUNDS, decision.sequence - nearest)).max() < 0.01


def test_the_way_to_a_bound_is_among_the_candidates_exactly():
    _, decision = approach(
        CONFIG, SPEED, jnp.zeros(1), planning.start(CONFIG, SPEED, jnp.ones(1)), jnp.ones(1), jax.random.key(0)
    )
    np.testing.assert_allclose(decision.sequence[:, 0], [0.7, 0.4, 0.2, 0.2, 0.2, 0.2], rtol=1e-6)


def test_the_last_plan_the_present_action_and_both_bounds_are_judged_and_none_is_better_than_what_is_chosen():
    action, last = jnp.array([0.4]), Plan(jnp.linspace(0.4, 0.9, 6)[:, None], jnp.full((6, 1), 0.1))
    _, decision = approach(CONFIG, SPEED, jnp.array([0.8]), last, action, jax.random.key(0))
    assert decision.candidates.shape == (64, 6, 1)
    known = [
        [0.5, 0.6, 0.7, 0.8, 0.9, 0.9],
        [0.4, 0.4, 0.4, 0.4, 0.4, 0.4],
        [0.2, 0.2, 0.2, 0.2, 0.2, 0.2],
        [0.7, 1.0, 1.0, 1.0, 1.0, 1.0],
    ]
    np.testing.assert_allclose(decision.candidates[:4, :, 0], known, rtol=1e-6)
    assert decision.expected == decision.returns.max() > decision.returns[:4].max()
    np.testing.assert_array_equal(decision.sequence, decision.candidates[decision.returns.argmax()])


@given(arrays(np.float32, (3, 6, 2), elements=wild), arrays(np.float32, 2, elements=unit))
def test_every_sequence_becomes_one_within_bounds_and_ramp(wanted, share):
    action = BOUNDS.low + share * (BOUNDS.high - BOUNDS.low)
    followed = np.asarray(project(BOUNDS, action, wanted))
    assert_feasible(BOUNDS, action, followed)
    np.testing.assert_array_equal(project(BOUNDS, action, followed), followed)


@given(wild)
def test_from_outside_the_bounds_the_way_back_is_as_fast_as_the_ramp_allows(action):
    followed = np.asarray(project(SPEED, jnp.array([action]), jnp.full((6, 1), 0.5)))[:, 0]
    distance = np.maximum(np.abs(action - 0.5) - 0.3 * np.arange(1, 7), 0.0)
    np.testing.assert_allclose(np.abs(followed - 0.5), distance, atol=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 2**31 - 1), unit, unit, st.floats(0.0, 1.0, width=32), st.sampled_from(["cem", "mppi"]))
def test_every_candidate_and_every_decision_is_feasible(seed, low, share, ramp, method):
    config, high = replace(CONFIG, method=method), low + 1.0
    constraints = Constraints(jnp.array([low]), jnp.array([high]), jnp.array([ramp]))
    action = jnp.array([low + share])
    last = Plan(jnp.full((6, 1), 50.0), jnp.full((6, 1), 5.0))
    _, decision = approach(config, constraints, jnp.array([-3.0]), last, action, jax.random.key(seed))
    assert_feasible(constraints, action, decision.candidates)
    assert_feasible(constraints, action, decision.sequence)


def test_the_last_plan_moves_on_by_a_frame_and_the_new_frame_is_as_open_as_a_first_search():
    last = Plan(jnp.arange(12.0).reshape(6, 2), jnp.full((6, 2), 0.1))
    plan = planning.shift(CONFIG, BOUNDS, last)
    np.testing.assert_array_equal(plan.mean[:, 0], [2.0, 4.0, 6.0, 8.0, 10.0, 10.0])
    np.testing.assert_allclose(plan.std[:, 0], [0.1, 0.1, 0.1, 0.1, 0.1, 0.5])
    np.testing.assert_allclose(plan.std[:, 1], [0.1, 0.1, 0.1, 0.1, 0.1, 2.0])


def test_noise_is_as_correlated_from_frame_to_frame_as_it_should_be():
    noise = np.asarray(planning._noise(replace(CONFIG, candidates=40_000), jax.random.key(0), 1))[..., 0]
    frames = np.arange(6)
    np.testing.assert_allclose(np.cov(noise.T), 0.8 ** np.abs(frames[:, None] - frames), atol=0.03)


@both
def test_the_same_key_decides_the_same_bit_for_bit_and_another_key_does_not(method):
    config = replace(CONFIG, method=method)
    start, target = planning.start(config, BOUNDS, MIDDLE), jnp.array([0.6, -0.7])
    first, again, other = (approach(config, BOUNDS, target, start, MIDDLE, jax.random.key(seed)) for seed in (3, 3, 4))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first[1].candidates, other[1].candidates)


def test_several_cameras_at_once_decide_as_each_alone(variables):
    def one_camera(state, action, key):
        judge = planning.objective(MODEL, variables, throughput, CONFIG.discount, state, action)
        return planning.plan(CONFIG, judge, SPEED, planning.start(CONFIG, SPEED, action), action, key)

    inputs = latents((3,)), jnp.array([[0.3], [0.5], [0.9]]), jax.random.split(jax.random.key(2), 3)
    together = jax.jit(jax.vmap(one_camera))(*inputs)
    alone = [jax.jit(one_camera)(*jax.tree.map(lambda x, i=i: x[i], inputs)) for i in range(3)]
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        together,
        jax.tree.map(lambda *x: np.stack(x), *alone),
    )


def test_the_world_model_judges_a_sequence_by_the_rewards_of_its_steps_one_by_one(variables):
    state, action = latents(()), jnp.array([0.9])
    sequences = jax.random.uniform(jax.random.key(3), (4, 6, 1))
    judge = planning.objective(MODEL, variables, throughput, 0.9, state, action)
    normaliser, by_hand = variables["normaliser"], []
    for sequence in sequences:
        now, before, total = state, action, 0.0
        for k, wanted in enumerate(sequence):
            now, _ = img_step(variables, now, wanted)
            tags = normaliser.sensor_mean + normaliser.sensor_std * symexp(decode(variables, now).sensors)
            total += 0.9**k * throughput(tags, wanted, before)
            before = wanted
        by_hand.append(total)
    np.testing.assert_allclose(jax.jit(judge)(sequences), by_hand, rtol=1e-4, atol=1e-4)
    assert np.ptp(np.asarray(by_hand)) > 1e-2


def test_what_the_states_at_the_end_are_worth_counts_a_horizon_later(variables):
    state, action = latents(()), jnp.array([0.9])
    sequences = jax.random.uniform(jax.random.key(4), (4, 6, 1))

    def value(latent, action):
        return 10.0 * latent.deter[..., 0, 0] + action[..., 0]

    judged = [
        jax.jit(planning.objective(MODEL, variables, throughput, 0.9, state, action, each))(sequences)
        for each in (None, value)
    ]
    by_hand = []
    for sequence in sequences:
        now = state
        for wanted in sequence:
            now, _ = img_step(variables, now, wanted)
        by_hand.append(0.9**6 * value(now, sequence[-1]))
    np.testing.assert_allclose(judged[1] - judged[0], by_hand, rtol=1e-3, atol=1e-4)
    assert np.ptp(np.asarray(by_hand)) > 1e-2


@pytest.mark.parametrize(("candidates", "iterations", "elites"), [(6, 2, 2), (64, 2, 33), (64, 2, 0)])
def test_a_search_with_too_few_candidates_in_an_iteration_is_refused(candidates, iterations, elites):
    with pytest.raises(InputError, match="candidates in 2 iterations"):
        PlanConfig(candidates=candidates, iterations=iterations, elites=elites)
