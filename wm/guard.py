"""Where the world model is ignorant: far from its footage it has never been corrected.

A step is measured by how far it lies from the footage, in the deterministic state that it leads to and the action that
was taken, in units of how far the footage itself strays (Mahalanobis; Lee et al., A Simple Unified Framework for
Detecting Out-of-Distribution Samples and Adversarial Attacks, 2018, equation 2). Infinitely many linear predictors that
were fitted to the footage would disagree in proportion, which is the penalty of pessimistic value iteration (Jin, Yang
and Wang, Is Pessimism Provably Efficient for Offline RL?, 2021, algorithm 2). It is fitted in closed form and costs
little beside the dream. The entropy of the model's own prior will not do: it is no larger where nothing was seen.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from wm.config import ModelConfig
from wm.model import Variables
from wm.types import LatentState

RIDGE = 1e-3


@struct.dataclass
class Guard:
    """Where the footage lies.

    Attributes:
      mean: `[D + A]` float32.
      whitening: `[D + A, D + A]` float32, makes what strays from the mean uncorrelated; its squares then sum to 1 on
        average over the footage.
    """

    mean: Array
    whitening: Array


def fit(variables: Variables, state: LatentState, action: Array) -> Guard:
    """The guard of footage that was filtered into `state` `[..., N, D]`; `action` `[..., A]` is raw and led to it. No
    direction counts as narrower than a standard deviation of 0.03, as far as a dream strays by itself.
    """
    features = _features(variables, state, action)
    features = features.reshape(-1, features.shape[-1])
    size = features.shape[-1]
    spread = jnp.atleast_2d(jnp.cov(features, rowvar=False, bias=True)) + RIDGE * jnp.eye(size)
    whitening = jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(size * spread), jnp.eye(size), lower=True).T
    return Guard(features.mean(axis=0), whitening)


def none(config: ModelConfig) -> Guard:
    """Nowhere is there anything to be ignorant of."""
    size = config.deter + config.actions
    return Guard(jnp.zeros(size), jnp.zeros((size, size)))


def ignorance(guard: Guard, variables: Variables, state: LatentState, action: Array) -> Array:
    """How far `state` `[..., N, D]`, to which the raw `action` `[..., A]` led, lies outside the footage, `[...]`: 0 up
    to the root mean square distance of the footage itself, and then 1 for every time that it lies farther.
    """
    strays = (_features(variables, state, action) - guard.mean) @ guard.whitening
    return jnp.maximum(jnp.linalg.norm(strays, axis=-1) - 1.0, 0.0)


def _features(variables: Variables, state: LatentState, action: Array) -> Array:
    """`[..., D + A]`: the mean over the cells, and the action normalised."""
    return jnp.concatenate([state.deter.mean(axis=-2), variables["normaliser"].actions(action)], axis=-1)
