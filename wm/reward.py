"""Reward without labels: what a frame is worth, told from the tags that the machine's own PLC publishes.

The tags are heads of the world model, so what is to come has a worth as well, and nobody marks a jam by hand.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from wm.config import FootageSpec, RewardConfig
from wm.errors import InputError

Reward = Callable[[Array, Array, Array], Array]
"""Worth `[...]` of a frame: its tags `[..., S]`, the action `[..., A]` that led to it and the one before, `[..., A]`,
all in engineering units."""


def reward(spec: FootageSpec, config: RewardConfig) -> Reward:
    """The weighted sum of the tags, less the price of every change of an action.

    Raises:
      InputError: the footage has no tag of a name that has a weight.
    """
    for name in config.tags:
        if name not in spec.tags:
            raise InputError(f"the reward is of a tag '{name}', and the footage has {', '.join(spec.tags) or 'none'}.")
    weights = jnp.array([config.tags.get(name, 0.0) for name in spec.tags], jnp.float32)

    def worth(tags: Array, action: Array, before: Array) -> Array:
        return tags @ weights - config.change * jnp.abs(action - before).sum(axis=-1)

    return worth
