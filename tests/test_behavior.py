"""Learning in the dream: hand-computed returns, a known best action is found, and the guard keeps to the footage."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wm import behavior, guard, model, nets, rssm, train
from wm.actor import Policy, act, policy
from wm.config import ActionSpace, BehaviorConfig, FootageSpec, ModelConfig, TrainConfig
from wm.types import Batch, LatentState, Normaliser, Observation

CONFIG = ModelConfig.of(FootageSpec(10.0, None, ("level",), ("valve",)), "debug")
TRAIN = TrainConfig(steps=300, batch=16, context=4, open_loop=12, decoded=12, learning_rate=4e-3, warmup=20)
BEHAVIOR = BehaviorConfig(starts=64, discount=0.9, units=32, learning_rate=1e-3)
FILMED = ActionSpace((-1.0,), (1.0,))
WIDE = ActionSpace((-2.5,), (2.5,))
WINDOWS, FRAMES, SETTLED = 256, 16, 4

fit_guard, ignorance = jax.jit(guard.fit), jax.jit(guard.ignorance)
img_step, tags = (jax.jit(function, static_argnums=0) for function in (model.img_step, model.decode_tags))
init, dream = (jax.jit(function, static_argnums=(0, 1, 2)) for function in (behavior.init, behavior.dream))
return_scale = jax.jit(behavior.return_scale, static_argnums=0)


@pytest.fixture(params=[False, True], ids=["plain", "jitted"])
def run(request):
    return lambda function, *args: (jax.jit(function) if request.param else function)(*args)


def footage_of(key):
    """A tank whose level follows a valve, 30 % of the way each frame; the valve moves every eight frames, in -1..1."""
    valve_key, level_key = jax.random.split(key)
    valve = jax.random.uniform(valve_key, (WINDOWS, FRAMES // 8, 1), minval=-1.0, maxval=1.0).repeat(8, axis=1)
    first = jax.random.uniform(level_key, (WINDOWS, 1), minval=-1.0, maxval=1.0)

    def follow(level, valve):
        level = 0.7 * level + 0.3 * valve
        return level, level

    _, levels = jax.lax.scan(follow, first, valve.swapaxes(0, 1))
    return Batch(Observation(None, levels.swapaxes(0, 1)), valve)


@jax.jit
def filtered(variables, batch, key):
    embedding = model.encode(CONFIG, variables, batch.observation)
    return model.observe(CONFIG, variables, rssm.start(CONFIG, (WINDOWS,)), embedding, batch.action, key)[0]


def settled(states, batch):
    """States and the actions that led to them, once the filter has settled, one after another."""
    return jax.tree.map(lambda x: x[:, SETTLED:].reshape(-1, *x.shape[2:]), (states, batch.action))


@pytest.fixture(scope="module")
def tank():
    """A world model of the tank, and the states and actions of its footage with their guard."""
    batch = footage_of(jax.random.key(0))
    normaliser = Normaliser(*(jnp.full(1, value) for value in (0.0, 0.5, 0.0, 0.6)))
    create = jax.jit(train.create, static_argnums=(0, 1, 3))
    state, key = create(CONFIG, TRAIN, normaliser, 0), jax.random.key(0)
    for step in range(TRAIN.steps):
        first = step * TRAIN.batch % WINDOWS
        windows = jax.tree.map(lambda x, first=first: x[first : first + TRAIN.batch], batch)
        state, _ = train.train_step(CONFIG, TRAIN, state, normaliser, windows, key)
    variables = {"params": state.params, "normaliser": normaliser}
    states, actions = settled(filtered(variables, batch, jax.random.key(1)), batch)
    return variables, states, actions, fit_guard(variables, states, actions)


def level_of_a_half(tags, action, previous_action):
    return -jnp.abs(tags[..., 0] - 0.5)


def level(tags, action, previous_action):
    return tags[..., 0]


def learn(tank, space, reward, steps, settings=BEHAVIOR):
    variables, states, actions, fitted = tank
    key, draw = jax.random.key(0), np.random.default_rng(0)
    state, told = init(CONFIG, settings, space, key), []
    for _ in range(steps):
        picked = draw.integers(0, len(actions), settings.starts)
        starts, previous = jax.tree.map(lambda x, picked=picked: x[picked], (states, actions))
        state, metrics = behavior.step(CONFIG, settings, space, reward, variables, fitted, state, starts, previous, key)
        told.append(metrics)
    return state, told


@partial(jax.jit, static_argnames=("space", "flow"))
def operate(variables, space, actor, flow):
    """The real tank under the actor for 30 frames, from empty: the last ten levels and valves. What comes through the
    valve is `flow` of it.
    """

    def tick(carry, _):
        latent, level, valve = carry
        embedding = model.encode(CONFIG, variables, Observation(None, level))
        latent, _ = model.obs_step(CONFIG, variables, latent, valve, embedding, draw=nets.most_likely)
        valve = act(BEHAVIOR, space, actor, latent, valve)
        level = 0.7 * level + 0.3 * flow(valve)
        return (latent, level, valve), (level[0], valve[0])

    _, (levels, valves) = jax.lax.scan(tick, (rssm.start(CONFIG, ()), jnp.zeros(1), jnp.zeros(1)), length=30)
    return levels[-10:], valves[-10:]


def test_lambda_returns_mix_the_dream_and_the_critic(run):
    rewards, values = jnp.array([1.0, 2.0, 3.0]), jnp.array([100.0, 10.0, 20.0, 30.0])
    last = 3.0 + 0.5 * 30.0
    middle = 2.0 + 0.5 * (0.2 * 20.0 + 0.8 * last)
    first = 1.0 + 0.5 * (0.2 * 10.0 + 0.8 * middle)
    returns = run(lambda r, v: behavior.lambda_returns(r, v, 0.5, 0.8), rewards, values)
    np.testing.assert_allclose(returns, [first, middle, last], rtol=1e-6)


def test_returns_without_trust_in_the_dream_look_one_frame_ahead_and_with_it_to_its_end(run):
    rewards, values = jnp.ones((2, 3)), jnp.full((3, 3), 4.0)
    np.testing.assert_allclose(run(lambda r, v: behavior.lambda_returns(r, v, 0.5, 0.0), rewards, values), 3.0)
    to_the_end = run(lambda r, v: behavior.lambda_returns(r, v, 0.5, 1.0), rewards, values)
    np.testing.assert_allclose(to_the_end, [[2.5] * 3, [3.0] * 3])


def test_advantages_are_scaled_by_the_range_of_returns_from_the_fifth_to_the_ninety_fifth_percentile():
    state = init(CONFIG, BEHAVIOR, FILMED, jax.random.key(0))
    first, scale = return_scale(BEHAVIOR, state, jnp.arange(101.0))
    np.testing.assert_allclose([first, scale], [0.9, 90.0], rtol=1e-5)
    state = state.replace(return_range=first, step=jnp.int32(1))
    second, scale = return_scale(BEHAVIOR, state, 2.0 * jnp.arange(101.0))
    average = 0.99 * 0.9 + 0.01 * 180.0
    np.testing.assert_allclose([second, scale], [average, average / (1 - 0.99**2)], rtol=1e-4)


def test_small_returns_are_not_scaled_up():
    state = init(CONFIG, BEHAVIOR, FILMED, jax.random.key(0))
    assert return_scale(BEHAVIOR, state, jnp.linspace(0.0, 0.5, 9))[1] == 1.0


def test_log_probability_and_entropy_are_those_of_normal_distributions(run):
    chosen = Policy(jnp.array([0.2, -0.5]), jnp.array([0.3, 0.9]))
    expected = stats.norm([0.2, -0.5], [0.3, 0.9])
    log_prob = run(chosen.log_prob, jnp.array([0.4, 1.2]))
    np.testing.assert_allclose(log_prob, expected.logpdf([0.4, 1.2]).sum(), rtol=1e-5)
    np.testing.assert_allclose(chosen.entropy(), expected.entropy().sum(), rtol=1e-5)


def test_samples_follow_the_policy():
    chosen = Policy(jnp.full((20_000, 1), 0.2), jnp.full((20_000, 1), 0.3))
    samples = chosen.sample(jax.random.key(0))
    np.testing.assert_allclose([samples.mean(), samples.std()], [0.2, 0.3], atol=0.01)


def test_a_dream_is_the_model_under_the_actions_that_its_choices_stand_for(tank):
    variables, states, actions, _ = tank
    state = init(CONFIG, BEHAVIOR, WIDE, jax.random.key(0))
    starts, previous = jax.tree.map(lambda x: x[:8], (states, actions))
    dreamt = dream(CONFIG, BEHAVIOR, WIDE, variables, state.actor, starts, previous, jax.random.key(1))
    np.testing.assert_array_equal(dreamt.states.deter[0], starts.deter)
    np.testing.assert_array_equal(dreamt.actions[0], previous)
    np.testing.assert_allclose(dreamt.actions[1:], 2.5 * np.clip(dreamt.choices, -1.0, 1.0), atol=1e-6)
    for k in range(BEHAVIOR.horizon):
        state = jax.tree.map(lambda x, k=k: x[k], dreamt.states)
        following, _ = img_step(CONFIG, variables, state, dreamt.actions[k + 1], jax.random.key(0))
        np.testing.assert_allclose(following.deter, dreamt.states.deter[k + 1], atol=1e-5)


def test_the_actor_learns_the_known_best_action(tank):
    state, told = learn(tank, FILMED, level_of_a_half, 250)
    levels, valves = operate(tank[0], FILMED, state.actor, jnp.positive)
    np.testing.assert_allclose(levels, 0.5, atol=0.15)
    np.testing.assert_allclose(valves, 0.5, atol=0.15)
    assert told[-1]["reward"] > 0.3 * told[0]["reward"]


def test_the_same_seed_learns_the_same_to_the_bit(tank):
    first, second = (learn(tank, FILMED, level_of_a_half, 5) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_guard_keeps_the_actor_from_what_the_model_only_imagines(tank):
    def flow(valve):
        return jnp.where(valve > 1.2, -3.0, valve)

    unguarded, _ = learn(tank, WIDE, level, 150, dataclasses.replace(BEHAVIOR, guard=0.0))
    levels, valves = operate(tank[0], WIDE, unguarded.actor, flow)
    assert valves.min() > 2.0 and levels.max() < -2.0
    guarded, _ = learn(tank, WIDE, level, 150)
    levels, valves = operate(tank[0], WIDE, guarded.actor, flow)
    assert valves.max() < 1.2 and levels.min() > 0.4


def test_ignorance_is_the_distance_from_the_footage_beyond_its_own():
    variables = {"normaliser": Normaliser(jnp.zeros(0), jnp.ones(0), jnp.array([1.0]), jnp.array([2.0]))}
    deter = jnp.array([[[0.0], [2.0]], [[1.0], [-3.0]]])
    fitted = fit_guard(variables, LatentState(deter, jnp.zeros((2, 2, 0, 0))), jnp.ones((2, 1)))
    np.testing.assert_allclose(fitted.mean, [0.0, 0.0])
    asked = LatentState(jnp.array([[[4.0]], [[1.0]], [[0.0]]]), jnp.zeros((3, 1, 0, 0)))
    unknown = ignorance(fitted, variables, asked, jnp.array([[1.0], [1.0], [1.2]]))
    expected = [np.sqrt(16 / 1.001 / 2) - 1, 0.0, np.sqrt(0.01 / 0.001 / 2) - 1]
    np.testing.assert_allclose(unknown, expected, rtol=1e-4)


def test_ignorance_is_low_on_unseen_footage_and_grows_with_the_error_outside_of_it(tank):
    variables, _, _, fitted = tank
    unseen = footage_of(jax.random.key(5))
    states, actions = settled(filtered(variables, unseen, jax.random.key(6)), unseen)
    assert ignorance(fitted, variables, states, actions).mean() < 0.05
    levels = unseen.observation.sensors[:, SETTLED:].reshape(-1, 1)
    unknown, errors = [], []
    for valve in (0.0, 0.5, 1.5, 2.5):
        state, level, action = states, levels, jnp.full_like(actions, valve)
        for frame in range(8):
            state, _ = img_step(CONFIG, variables, state, action, jax.random.key(frame))
            level = 0.7 * level + 0.3 * valve
        unknown.append(float(ignorance(fitted, variables, state, action).mean()))
        errors.append(float(jnp.abs(tags(CONFIG, variables, state) - level).mean()))
    assert 3.0 * max(unknown[:2]) < unknown[2] < unknown[3]
    assert max(errors[:2]) < errors[2] < errors[3]


def test_ignorance_tells_a_state_that_the_footage_never_reached_whatever_is_done_in_it(tank):
    variables, states, actions, fitted = tank
    flooded = states
    for frame in range(8):
        flooded, _ = img_step(CONFIG, variables, flooded, jnp.full_like(actions, 2.5), jax.random.key(frame))
    known, unknown = (img_step(CONFIG, variables, x, actions, jax.random.key(9))[0] for x in (states, flooded))
    of_known, of_unknown = (ignorance(fitted, variables, x, actions).mean() for x in (known, unknown))
    assert 3.0 * of_known < of_unknown


def test_a_step_makes_what_earned_more_than_expected_more_likely_and_the_rest_less(tank):
    variables, states, actions, fitted = tank
    before, key = init(CONFIG, BEHAVIOR, FILMED, jax.random.key(0)), jax.random.key(3)
    starts, previous = jax.tree.map(lambda x: x[: BEHAVIOR.starts], (states, actions))
    after, _ = behavior.step(
        CONFIG, BEHAVIOR, FILMED, level_of_a_half, variables, fitted, before, starts, previous, key
    )

    @jax.jit
    def gain():
        lived = behavior.dream(
            CONFIG, BEHAVIOR, FILMED, variables, before.actor, starts, previous, jax.random.fold_in(key, 0)
        )
        rewards = level_of_a_half(
            model.decode_tags(CONFIG, variables, jax.tree.map(lambda x: x[1:], lived.states)), None, None
        )
        returns = behavior.lambda_returns(rewards, jnp.zeros((len(rewards) + 1, BEHAVIOR.starts)), 0.9, 0.95)
        features = rssm.flatten(jax.tree.map(lambda x: x[:-1], lived.states))
        old, new = (
            policy(BEHAVIOR, FILMED, actor, features, lived.actions[:-1]).log_prob(lived.choices)
            for actor in (before.actor, after.actor)
        )
        return jnp.mean((new - old) * returns)

    assert gain() > 0


def test_the_slow_critic_follows_the_critic_slowly(tank):
    after, _ = learn(tank, FILMED, level_of_a_half, 1)
    before = init(CONFIG, BEHAVIOR, FILMED, jax.random.key(0)).critic
    expected = jax.tree.map(lambda old, new: 0.98 * old + 0.02 * new, before, after.critic)
    jax.tree.map(lambda *pair: np.testing.assert_allclose(*pair, atol=1e-6), after.slow_critic, expected)


@given(
    seed=st.integers(0, 2**31 - 1),
    space=st.sampled_from([FILMED, ActionSpace((0.1,), (1.0,)), ActionSpace((-300.0,), (-299.9,))]),
    drawn=st.booleans(),
)
def test_actions_stay_within_their_bounds(seed, space, drawn):
    draw = np.random.default_rng(seed)
    actor = init(CONFIG, BEHAVIOR, FILMED, jax.random.key(0)).actor
    actor = jax.tree.map(lambda x: draw.normal(0.0, 3.0, x.shape).astype(np.float32), actor)
    state = LatentState(draw.normal(0.0, 10.0, (50, 1, 16)).astype(np.float32), np.ones((50, 1, 2, 4), np.float32))
    key = jax.random.key(seed) if drawn else None
    action = act(BEHAVIOR, space, actor, state, np.zeros((50, 1), np.float32), key)
    assert np.float32(space.low) <= np.min(action) and np.max(action) <= np.float32(space.high)
