"""Planning: the sequence of actions with the best return, searched by CEM or MPPI and warm-started from frame to frame.

A search draws sequences from a Gaussian, judges them, and fits the Gaussian to the better ones, a few times over (CEM:
de Boer et al., A Tutorial on the Cross-Entropy Method, 2005; MPPI: Williams et al., Information Theoretic MPC for
Model-Based Reinforcement Learning, 2017). The noise is correlated in time and the best sequence of all that were judged
is taken, not the mean (Pinneri et al., Sample-efficient Cross-Entropy Method for Real-time Planning, 2020). The last
plan, the present action held, and the ways to the lowest and to the highest are always judged too, so that in its own
eyes a plan is never worse than any of them.

What the machine cannot or must not do is no part of the objective: every sequence is made feasible before it is judged.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from wm import model
from wm.config import ModelConfig, PlanConfig
from wm.nets import expected
from wm.reward import Reward
from wm.types import LatentState

Objective = Callable[[Array], Array]
"""Returns `[B]` of sequences `[B, K, A]`."""

Value = Callable[[LatentState, Array], Array]
"""Returns `[B]` to come in states `[B, ...]`, to which actions `[B, A]` led."""

HELD, HIGHEST = 1, 3  # places among the candidates of the present action, held, and of the way to the highest


@struct.dataclass
class Constraints:
    """What actions may be, each `[A]` float32 in engineering units.

    Attributes:
      low, high: bounds. ramp: the most that an action may change from one frame to the next.
    """

    low: Array
    high: Array
    ramp: Array


@struct.dataclass
class Plan:
    """Where the next search starts: mean and standard deviation of the actions to come, each `[K, A]` float32 in
    engineering units.
    """

    mean: Array
    std: Array


@struct.dataclass
class Decision:
    """What a search came to.

    Attributes:
      sequence: `[K, A]` float32, the best of the candidates; its first action is the best to take now.
      expected: `[]` float32, its return; nan where no return is a number, and the present action is held.
      candidates: `[B, K, A]` float32, all that were judged; the first four are the last plan, the present action held,
        and the ways to the lowest and to the highest.
      returns: `[B]` float32, of each.
    """

    sequence: Array
    expected: Array
    candidates: Array
    returns: Array


def start(config: PlanConfig, constraints: Constraints, action: Array) -> Plan:
    """The plan before the first search: the present action `[A]` stays, as far as anybody knows."""
    return Plan(*(jnp.tile(x, (config.horizon, 1)) for x in (action, _spread(constraints, config.initial_std))))


def shift(config: PlanConfig, constraints: Constraints, plan: Plan) -> Plan:
    """The plan one frame later: the last frame's mean is repeated, with the spread of a first search."""
    fresh = _spread(constraints, config.initial_std)
    return Plan(jnp.concatenate([plan.mean[1:], plan.mean[-1:]]), jnp.concatenate([plan.std[1:], fresh[None]]))


def project(constraints: Constraints, action: Array, sequences: Array) -> Array:
    """Sequences `[..., K, A]` as near as they may be followed, frame by frame, from the action in force `[A]`: within
    the bounds and on the ramp. From outside the bounds the way back is as fast as the ramp allows.
    """

    def step(before: Array, wanted: Array) -> tuple[Array, Array]:
        bounded = jnp.clip(wanted, constraints.low, constraints.high)
        after = jnp.clip(bounded, before - constraints.ramp, before + constraints.ramp)
        return after, after

    first = jnp.broadcast_to(action, sequences[..., 0, :].shape)
    _, followed = jax.lax.scan(step, first, jnp.moveaxis(sequences, -2, 0))
    return jnp.moveaxis(followed, 0, -2)


def weights(config: PlanConfig, returns: Array) -> Array:
    """What each of the candidates counts in the next fit, `[B]` to `[B]`, one in all: for CEM the same for each of the
    elites and nothing for others, for MPPI the exponential of the return over the temperature (Williams et al., 2017,
    Algorithm 2). A return that is not a number is the worst of all.
    """
    returns = jnp.nan_to_num(returns, nan=-jnp.inf)
    if config.method == "mppi":
        return jax.nn.softmax((returns - returns.max()) / config.temperature)
    _, elites = jax.lax.top_k(returns, config.elites)
    return jnp.zeros_like(returns).at[elites].set(1.0 / config.elites)


def fit(config: PlanConfig, constraints: Constraints, candidates: Array, returns: Array) -> Plan:
    """Weighted mean and standard deviation of candidates `[B, K, A]` with returns `[B]` (for MPPI see Hansen et al.,
    Temporal Difference Learning for Model Predictive Control, 2022, Algorithm 1). The mean of feasible sequences is
    feasible.
    """
    weight = weights(config, returns)
    mean = jnp.einsum("b,bka->ka", weight, candidates)
    variance = jnp.einsum("b,bka->ka", weight, jnp.square(candidates - mean))
    return Plan(mean, jnp.maximum(jnp.sqrt(variance), _spread(constraints, config.minimum_std)))


def plan(
    config: PlanConfig, objective: Objective, constraints: Constraints, last: Plan, action: Array, key: Array
) -> tuple[Plan, Decision]:
    """One decision, one frame after that of the `last` plan.

    Args:
      config: static. objective: a pure function, which may close over what is traced.
      action: `[A]`, in force until now.
    """
    last = shift(config, constraints, last)
    held = (jnp.broadcast_to(x, last.mean.shape) for x in (action, constraints.low, constraints.high))
    known = project(constraints, action, jnp.stack([last.mean, *held]))

    def iteration(last: Plan, inputs: tuple[Array, Array]) -> tuple[Plan, tuple[Array, Array]]:
        first, key = inputs
        drawn = project(constraints, action, last.mean + last.std * _noise(config, key, constraints.low.size))
        candidates = drawn.at[: len(known)].set(jnp.where(first, known, drawn[: len(known)]))
        returns = objective(candidates)
        return fit(config, constraints, candidates, returns), (candidates, returns)

    rounds = (jnp.arange(config.iterations) == 0, jax.random.split(key, config.iterations))
    after, judged = jax.lax.scan(iteration, last, rounds)
    candidates, returns = (x.reshape(-1, *x.shape[2:]) for x in judged)
    best = jnp.where(jnp.isnan(returns).all(), HELD, jnp.argmax(jnp.nan_to_num(returns, nan=-jnp.inf)))
    return after, Decision(candidates[best], returns[best], candidates, returns)


def objective(
    config: ModelConfig,
    variables: model.Variables,
    reward: Reward,
    discount: float,
    state: LatentState,
    action: Array,
    value: Value | None = None,
) -> Objective:
    """The discounted sum of the rewards that the world model foretells from `state` `[N, ...]`, where the `action`
    `[A]` was in force; and where there is a `value`, what the states at the end are worth beyond the horizon (Hansen et
    al., 2022, equation 4). It rolls out expected values, as a forecast does.
    """

    def returns(sequences: Array) -> Array:
        size, horizon, _ = sequences.shape
        present = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), state)
        states, _ = model.imagine(config, variables, present, sequences, draw=expected)
        before = jnp.concatenate([jnp.broadcast_to(action, sequences[:, :1].shape), sequences[:, :-1]], axis=1)
        tags = model.decode_tags(config, variables, states)
        within = reward(tags, sequences, before) @ discount ** jnp.arange(horizon)
        if value is None:
            return within
        last = jax.tree.map(lambda x: x[:, -1], states)
        return within + discount**horizon * value(last, sequences[:, -1])

    return returns


def _noise(config: PlanConfig, key: Array, actions: int) -> Array:
    """Normal noise `[B, K, A]`, correlated over the frames."""
    frames = np.arange(config.horizon)
    root = np.linalg.cholesky(config.correlation ** np.abs(frames[:, None] - frames))
    white = jax.random.normal(key, (config.drawn, config.horizon, actions))
    return jnp.einsum("kj,bja->bka", jnp.asarray(root, white.dtype), white)


def _spread(constraints: Constraints, share: float) -> Array:
    """A share of the range between the bounds, `[A]`."""
    return share * (constraints.high - constraints.low)
