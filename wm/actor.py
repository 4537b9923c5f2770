"""What an actor and its critic are: small networks over the latent state, within the bounds of the actions.

How they learn is `wm.behavior`'s; whoever only acts needs no more than this.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from wm import rssm
from wm.config import ActionSpace, BehaviorConfig, ModelConfig, RewardConfig
from wm.nets import BINS, dense, two_hot_mean
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


def fresh(config: ModelConfig, behavior: BehaviorConfig, space: ActionSpace, key: Array) -> tuple[Params, Params]:
    """Parameters of an actor and a critic that know nothing."""
    features, action = rssm.flatten(rssm.start(config, ())), jnp.zeros(len(space.low))
    actor_key, critic_key = jax.random.split(key)
    actor = _actor(behavior, space).init(actor_key, features, action)["params"]
    critic = _critic(behavior).init(critic_key, features, action)["params"]
    return actor, critic


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
    return bounded(space, chosen.mean if key is None else chosen.sample(key))


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


def value(
    behavior: BehaviorConfig, space: ActionSpace, critic: Params, latent: LatentState, previous_action: Array
) -> Array:
    """The return `[...]` that the critic expects in `latent` `[..., N, D]`, to which `previous_action` `[..., A]`
    led.
    """
    return two_hot_mean(value_logits(behavior, space, critic, rssm.flatten(latent), previous_action))


def bounded(space: ActionSpace, choice: Array) -> Array:
    """A choice as an action in engineering units, within its bounds."""
    low, high = jnp.array(space.low), jnp.array(space.high)
    return jnp.clip(low + (high - low) * (choice + 1.0) / 2.0, low, high)


def _scaled(space: ActionSpace, action: Array) -> Array:
    """An action as the choice that it comes from."""
    low, high = jnp.array(space.low), jnp.array(space.high)
    return 2.0 * (action - low) / (high - low) - 1.0


def _actor(behavior: BehaviorConfig, space: ActionSpace) -> Head:
    return Head(behavior.units, 2 * len(space.low))


def _critic(behavior: BehaviorConfig) -> Head:
    return Head(behavior.units, len(BINS))


def _apply(head: Head, params: Params, features: Array, previous_action: Array) -> Any:
    return head.apply({"params": params}, features, previous_action)
