"""Learning inside the dream: an actor and a critic that see imagined futures alone (DreamerV3, sections "Critic
learning" and "Actor learning").

A dream starts at filtered states of the footage and follows the actor through the world model, which does not change.
The reward is the caller's, of the tags that the model expects: no picture is decoded and nothing is labelled. A line
never ends, so its future is discounted and not cut off. Where the model is ignorant, reward is lost, as its errors are
what an actor would exploit (Yu et al., MOPO: Model-based Offline Policy Optimization, 2020; the measure is that of
`wm.guard`).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import Array

from wm import model, rssm
from wm.config import ActionSpace, BehaviorConfig, ModelConfig, RewardConfig
from wm.guard import Guard, ignorance
from wm.nets import BINS, dense, two_hot, two_hot_mean
from wm.reward import Reward
from wm.types import LatentState

Params = dict[str, Any]

LEAST_STD, MOST_STD = 0.1, 1.0


@dataclass(frozen=True)
class Behavior:
    """An actor and its critic that have learnt: how, within which bounds and for which reward."""

    config: BehaviorConfig
    space: ActionSpace
    reward: RewardConfig
    actor: Params
    critic: Params


@struct.dataclass
class BehaviorState:
    """Everything that a step changes.

    Attributes:
      actor, critic: learnt parameters. slow_critic: a moving average of the critic's.
      return_range: `[]` float32, moving average of the range of returns; it starts at 0, and `return_scale` allows for
        that.
      step: `[]` int32, steps done.
    """

    actor: Params
    critic: Params
    slow_critic: Params
    optimiser: optax.OptState
    return_range: Array
    step: Array


class Dream(NamedTuple):
    """K frames imagined from each of B starts.

    Attributes:
      states: `[K + 1, B, ...]`, the start first.
      actions: `[K + 1, B, A]` in engineering units; `actions[k]` led to `states[k]`.
      choices: `[K, B, A]` float32, what the actor drew in all states but the last.
    """

    states: LatentState
    actions: Array
    choices: Array


class Policy(NamedTuple):
    """Normal distributions of choices, `mean` and `std` `[..., A]` float32. A choice of -1 is the lower bound of an
    action and 1 the upper one; what lies beyond is cut off.
    """

    mean: Array
    std: Array

    def sample(self, key: Array) -> Array:
        """A choice `[..., A]`."""
        return self.mean + self.std * jax.random.normal(key, self.mean.shape)

    def log_prob(self, choice: Array) -> Array:
        """Log density `[...]` of a choice `[..., A]`."""
        return jax.scipy.stats.norm.logpdf(choice, self.mean, self.std).sum(axis=-1)

    def entropy(self) -> Array:
        """`[...]` in nats, of all actions together."""
        return jnp.sum(jnp.log(self.std) + 0.5 * jnp.log(2.0 * jnp.pi * jnp.e), axis=-1)


class Head(nn.Module):
    """Features of the cells `[..., N, F]` and the previous action `[..., A]` in -1..1 to `[..., outputs]` float32, all
    zeros before anything is learnt.
    """

    units: int
    outputs: int

    @nn.compact
    def __call__(self, features: Array, previous_action: Array) -> Array:
        position = self.param("position", nn.initializers.normal(0.1), (features.shape[-2], self.units))
        cells = nn.silu(dense(self.units)(features) + position)
        x = nn.silu(dense(self.units)(jnp.concatenate([cells.mean(axis=-2), previous_action], axis=-1)))
        return dense(self.outputs, kernel_init=nn.initializers.zeros)(x).astype(jnp.float32)


def init(config: ModelConfig, behavior: BehaviorConfig, space: ActionSpace, key: Array) -> BehaviorState:
    """The state before the first step."""
    features, action = rssm.flatten(rssm.start(config, ())), jnp.zeros(len(space.low))
    actor_key, critic_key = jax.random.split(key)
    actor = _actor(behavior, space).init(actor_key, features, action)["params"]
    critic = _critic(behavior).init(critic_key, features, action)["params"]
    optimiser_state = _optimiser(behavior).init((actor, critic))
    return BehaviorState(actor, critic, critic, optimiser_state, jnp.zeros(()), jnp.zeros((), jnp.int32))


@partial(jax.jit, static_argnames=("behavior", "space"))
def act(
    behavior: BehaviorConfig,
    space: ActionSpace,
    actor: Params,
    latent: LatentState,
    previous_action: Array,
    key: Array | None = None,
) -> Array:
    """The action `[..., A]` in `latent` `[..., N, D]`, to which `previous_action` `[..., A]` led, in engineering units
    and within its bounds: drawn, or the most likely one where there is no key.
    """
    chosen = policy(behavior, space, actor, rssm.flatten(latent), previous_action)
    return _bounded(space, chosen.mean if key is None else chosen.sample(key))


def policy(
    behavior: BehaviorConfig, space: ActionSpace, actor: Params, features: Array, previous_action: Array
) -> Policy:
    """What the actor would choose at `features` `[..., N, F]`, to which `previous_action` `[..., A]` led."""
    out = _apply(_actor(behavior, space), actor, features, _scaled(space, previous_action))
    mean, std = jnp.split(out, 2, axis=-1)
    return Policy(jnp.tanh(mean), LEAST_STD + (MOST_STD - LEAST_STD) * nn.sigmoid(std + 2.0))


def value_logits(
    behavior: BehaviorConfig, space: ActionSpace, critic: Params, features: Array, previous_action: Array
) -> Array:
    """The critic's distribution of returns over `BINS`, `[..., 255]`, at `features` `[..., N, F]`, to which
    `previous_action` `[..., A]` led.
    """
    return _apply(_critic(behavior), critic, features, _scaled(space, previous_action))


def dream(
    config: ModelConfig,
    behavior: BehaviorConfig,
    space: ActionSpace,
    variables: model.Variables,
    actor: Params,
    starts: LatentState,
    previous_action: Array,
    key: Array,
) -> Dream:
    """Follows the actor for `horizon` frames from `starts` `[B, N, D]`, to which `previous_action` `[B, A]` led."""

    def step(
        carry: tuple[LatentState, Array], key: Array
    ) -> tuple[tuple[LatentState, Array], tuple[LatentState, Array, Array]]:
        state, previous = carry
        choice_key, model_key = jax.random.split(key)
        choice = policy(behavior, space, actor, rssm.flatten(state), previous).sample(choice_key)
        action = _bounded(space, choice)
        state, _ = model.img_step(config, variables, state, action, model_key)
        return (state, action), (state, action, choice)

    first = (starts, previous_action)
    _, (states, actions, choices) = jax.lax.scan(step, first, jax.random.split(key, behavior.horizon))
    states, actions = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, (states, actions))
    return Dream(states, actions, choices)


def lambda_returns(rewards: Array, values: Array, discount: float, trace: float) -> Array:
    """Returns `[K, ...]` of `rewards` `[K, ...]`, each earned between two of the states that are worth `values`
    `[K + 1, ...]` (DreamerV3, equation 5).
    """

    def step(following: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        reward, value = inputs
        following = reward + discount * ((1.0 - trace) * value + trace * following)
        return following, following

    return jax.lax.scan(step, values[-1], (rewards, values[1:]), reverse=True)[1]


def return_scale(behavior: BehaviorConfig, state: BehaviorState, returns: Array) -> tuple[Array, Array]:
    """The moving average of the range of `returns` from their 5th to their 95th percentile, one step on, and what
    advantages are divided by, both `[]`: that range, but never less than 1 (DreamerV3, equations 6 and 7).
    """
    low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
    average = behavior.range_decay * state.return_range + (1.0 - behavior.range_decay) * (high - low)
    return average, jnp.maximum(1.0, average / (1.0 - behavior.range_decay ** (state.step + 1)))


@partial(jax.jit, static_argnames=("config", "behavior", "space", "reward"))
def step(
    config: ModelConfig,
    behavior: BehaviorConfig,
    space: ActionSpace,
    reward: Reward,
    variables: model.Variables,
    guard: Guard,
    state: BehaviorState,
    starts: LatentState,
    previous_action: Array,
    key: Array,
) -> tuple[BehaviorState, dict[str, Array]]:
    """One gradient step on dreams from `starts` `[B, N, D]`, to which `previous_action` `[B, A]` led; `key` is the
    run's, folded with the step here. Also returns losses and means over the dreams, by name.

    `reward` takes tags `[..., S]`, the action `[..., A]` that led to them and the one before, all in engineering units,
    and returns `[...]`. It is pure, and compiled in: give the same function every time.
    """
    states, actions, choices = dream(
        config, behavior, space, variables, state.actor, starts, previous_action, jax.random.fold_in(key, state.step)
    )
    reached = jax.tree.map(lambda x: x[1:], states)
    rewards = reward(model.decode_tags(config, variables, reached), actions[1:], actions[:-1])
    unknown = ignorance(guard, variables, reached, actions[1:])
    features = rssm.flatten(states)
    slow_values = two_hot_mean(value_logits(behavior, space, state.slow_critic, features[:-1], actions[:-1]))

    def loss(params: tuple[Params, Params]) -> tuple[Array, tuple[Array, dict[str, Array]]]:
        actor, critic = params
        logits = value_logits(behavior, space, critic, features, actions)
        values = jax.lax.stop_gradient(two_hot_mean(logits))
        returns = lambda_returns(rewards - behavior.guard * unknown, values, behavior.discount, behavior.trace)
        return_range, scale = return_scale(behavior, state, returns)
        chosen = policy(behavior, space, actor, features[:-1], actions[:-1])
        advantage = (returns - values[:-1]) / scale
        actor_loss = -jnp.mean(advantage * chosen.log_prob(choices) + behavior.entropy * chosen.entropy())
        critic_loss = jnp.mean(_surprisal(logits[:-1], returns) + _surprisal(logits[:-1], slow_values))
        metrics = {
            "actor_loss": actor_loss,
            "critic_loss": critic_loss,
            "reward": rewards.mean(),
            "ignorance": unknown.mean(),
            "return": returns.mean(),
            "return_scale": scale,
            "entropy": chosen.entropy().mean(),
        }
        return actor_loss + critic_loss, (return_range, metrics)

    params = (state.actor, state.critic)
    gradients, (return_range, metrics) = jax.grad(loss, has_aux=True)(params)
    updates, optimiser_state = _optimiser(behavior).update(gradients, state.optimiser, params)
    actor, critic = optax.apply_updates(params, updates)
    slow_critic = optax.incremental_update(critic, state.slow_critic, 1.0 - behavior.slow_decay)
    return BehaviorState(actor, critic, slow_critic, optimiser_state, return_range, state.step + 1), metrics


def _surprisal(logits: Array, target: Array) -> Array:
    """Cross entropy in nats, `[...]`, of logits over `BINS`, `[..., 255]`, with numbers (DreamerV3, equation 11)."""
    return -jnp.sum(two_hot(target) * jax.nn.log_softmax(logits), axis=-1)


def _actor(behavior: BehaviorConfig, space: ActionSpace) -> Head:
    return Head(behavior.units, 2 * len(space.low))


def _critic(behavior: BehaviorConfig) -> Head:
    return Head(behavior.units, len(BINS))


def _apply(head: Head, params: Params, features: Array, previous_action: Array) -> Any:
    return head.apply({"params": params}, features, previous_action)


def _optimiser(behavior: BehaviorConfig) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(behavior.clip), optax.adam(behavior.learning_rate))


def _bounded(space: ActionSpace, choice: Array) -> Array:
    """A choice as an action in engineering units, within its bounds."""
    low, high = jnp.array(space.low), jnp.array(space.high)
    return jnp.clip(low + (high - low) * (choice + 1.0) / 2.0, low, high)


def _scaled(space: ActionSpace, action: Array) -> Array:
    """An action as the choice that it comes from."""
    low, high = jnp.array(space.low), jnp.array(space.high)
    return 2.0 * (action - low) / (high - low) - 1.0
