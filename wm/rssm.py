"""Recurrent state-space model on a grid of cells (DreamerV3, section "World model learning", made spatial).

Every cell holds a deterministic and a categorical state and follows the same dynamics, so a carton is the same carton
wherever it is, and the KL of a cell is the surprise at that place. Cells hear of each other by exchanging features
with their neighbours and through the mean over the grid.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from wm.config import ModelConfig
from wm.nets import Mix, dense
from wm.types import LatentState


class RSSM(nn.Module):
    """The three functions of which every step is made. All take any leading axes."""

    config: ModelConfig

    def setup(self) -> None:
        c = self.config
        self.position = self.param("position", nn.initializers.normal(0.1), (len(c.cells), c.hidden))
        self.action_in = dense(c.hidden)
        self.state_in = dense(c.hidden)
        self.global_in = dense(c.hidden)
        self.near = Mix(c.hidden, c)
        self.gates = dense(3 * c.deter)
        self.prior_hidden = dense(c.hidden)
        self.prior_out = dense(c.groups * c.classes)
        self.posterior_near = Mix(c.hidden, c)
        self.posterior_out = dense(c.groups * c.classes)

    def advance(self, state: LatentState, action: Array) -> Array:
        """The deterministic state one frame later, `[..., N, D]`, under `action` `[..., A]` normalised."""
        c = self.config
        features = flatten(state)
        context = self.global_in(jnp.mean(features, axis=-2, keepdims=True))
        if c.actions:
            context = context + self.action_in(action)[..., None, :]
        x = nn.silu(self.state_in(features) + context + self.position)
        x = self.near(x)
        reset, candidate, update = jnp.split(self.gates(jnp.concatenate([x, state.deter], axis=-1)), 3, axis=-1)
        candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
        update = nn.sigmoid(update - 1.0)
        return update * candidate + (1.0 - update) * state.deter

    def prior(self, deter: Array) -> Array:
        """Log probabilities `[..., N, G, V]` of the categoricals before the frame is seen."""
        return self._categoricals(self.prior_out(nn.silu(self.prior_hidden(deter))))

    def posterior(self, deter: Array, embedding: Array) -> Array:
        """Log probabilities `[..., N, G, V]` of the categoricals once the frame's embedding `[..., N, embed]` is in."""
        return self._categoricals(self.posterior_out(self.posterior_near(jnp.concatenate([deter, embedding], axis=-1))))

    def _categoricals(self, logits: Array) -> Array:
        c = self.config
        logits = logits.astype(jnp.float32).reshape(*logits.shape[:-1], c.groups, c.classes)
        probabilities = jax.nn.softmax(logits)
        return jnp.log((1.0 - c.unimix) * probabilities + c.unimix / c.classes)


def start(config: ModelConfig, lead: tuple[int, ...]) -> LatentState:
    """The state before anything was seen: zeros, with leading axes `lead`."""
    return LatentState(
        jnp.zeros((*lead, len(config.cells), config.deter)),
        jnp.zeros((*lead, len(config.cells), config.groups, config.classes)),
    )


def flatten(state: LatentState) -> Array:
    """Features of the cells, `[..., N, D + G * V]`."""
    stoch = state.stoch.reshape(*state.stoch.shape[:-2], -1)
    return jnp.concatenate([state.deter, stoch], axis=-1)


def kl(posterior: Array, prior: Array) -> Array:
    """KL divergence in nats of a cell's categoricals: log probabilities `[..., N, G, V]` to `[..., N]`."""
    return jnp.sum(jnp.exp(posterior) * (posterior - prior), axis=(-2, -1))
