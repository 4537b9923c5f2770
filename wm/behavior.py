"""Learning inside the dream: an actor and a critic that see imagined futures alone (DreamerV3, sections "Critic
learning" and "Actor learning").

A dream starts at filtered states of the footage and follows the actor through the world model, which does not change.
The reward is the caller's, of the tags that the model expects: no picture is decoded and nothing is labelled. A line
never ends, so its future is discounted and not cut off. Where the model is ignorant, reward is lost, as its errors are
what an actor would exploit (Yu et al., MOPO: Model-based Offline Policy Optimization, 2020; the measure is that of
`wm.guard`).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from wm import model, rssm
from wm.actor import Params, bounded, fresh, policy, value_logits
from wm.config import ActionSpace, BehaviorConfig, ModelConfig
from wm.guard import Guard, ignorance
from wm.nets import two_hot, two_hot_mean
from wm.reward import Reward
from wm.types import LatentState


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


def init(config: ModelConfig, behavior: BehaviorConfig, space: ActionSpace, key: Array) -> BehaviorState:
    """The state before the first step."""
    actor, critic = fresh(config, behavior, space, key)
    optimiser_state = _optimiser(behavior).init((actor, critic))
    return BehaviorState(actor, critic, critic, optimiser_state, jnp.zeros(()), jnp.zeros((), jnp.int32))


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
        action = bounded(space, choice)
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


def _optimiser(behavior: BehaviorConfig) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(behavior.clip), optax.adam(behavior.learning_rate))
