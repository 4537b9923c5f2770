"""Encoders and decoders, one a modality, and the layers they share with the dynamics.

A picture is cut into square patches, one for each cell of the latent grid. On a CPU this costs a fifth of what
convolutions cost, and a cell's features stay at its place in the picture.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

from wm.config import ModelConfig


def symlog(x: Array) -> Array:
    """`sign(x) log(1 + |x|)` (DreamerV3, equation 9)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def to_patches(image: Array, patch: int) -> Array:
    """Space to depth: `[..., H, W, C]` to `[..., N, patch * patch * C]`, cells in row order."""
    *lead, height, width, channels = image.shape
    rows, columns = height // patch, width // patch
    x = image.reshape(*lead, rows, patch, columns, patch, channels)
    x = jnp.moveaxis(x, -3, -4)
    return x.reshape(*lead, rows * columns, patch * patch * channels)


def from_patches(patches: Array, image: tuple[int, int, int], patch: int) -> Array:
    """Depth to space, the inverse of `to_patches`: `[..., N, patch * patch * C]` to `[..., H, W, C]`."""
    height, width, channels = image
    lead = patches.shape[:-2]
    x = patches.reshape(*lead, height // patch, width // patch, patch, patch, channels)
    x = jnp.moveaxis(x, -3, -4)
    return x.reshape(*lead, height, width, channels)


def exchange(x: Array, grid: tuple[int, int]) -> Array:
    """Neighbours mix: of `[..., N, F]` a fifth of the features each comes from the cell to the left, right, above,
    below, and the rest stays. Zeros enter at the border.
    """
    rows, columns = grid
    *lead, cells, features = x.shape
    x = x.reshape(*lead, rows, columns, features)
    fifth = features // 5
    down, up, right, left, stay = jnp.split(x, [fifth, 2 * fifth, 3 * fifth, 4 * fifth], axis=-1)
    moved = [
        jnp.concatenate([jnp.zeros_like(down[..., :1, :, :]), down[..., :-1, :, :]], axis=-3),
        jnp.concatenate([up[..., 1:, :, :], jnp.zeros_like(up[..., :1, :, :])], axis=-3),
        jnp.concatenate([jnp.zeros_like(right[..., :, :1, :]), right[..., :, :-1, :]], axis=-2),
        jnp.concatenate([left[..., :, 1:, :], jnp.zeros_like(left[..., :, :1, :])], axis=-2),
        stay,
    ]
    return jnp.concatenate(moved, axis=-1).reshape(*lead, cells, features)


class Mix(nn.Module):
    """Dense layer over every cell, exchanged with its neighbours, then SiLU: `[..., N, F]` to `[..., N, units]`."""

    units: int
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return nn.silu(exchange(nn.Dense(self.units)(x), self.grid))


class Encoder(nn.Module):
    """Picture and sensors to one embedding a cell, `[..., N, embed]`."""

    config: ModelConfig

    @nn.compact
    def __call__(self, image: Array | None, sensors: Array) -> Array:
        """`image` `[..., H, W, C]` in 0..1 or None; `sensors` `[..., S]` normalised."""
        c = self.config
        embedding = self.param("position", nn.initializers.normal(0.1), (c.cells, c.embed))
        if image is not None:
            x = nn.silu(nn.Dense(c.wide)(to_patches(image - 0.5, c.patch)))
            embedding = embedding + nn.Dense(c.embed)(x)
        if c.sensors:
            x = nn.silu(nn.Dense(c.hidden)(symlog(sensors)))
            embedding = embedding + nn.Dense(c.embed)(x)[..., None, :]
        return embedding


class ImageDecoder(nn.Module):
    """Features of the cells `[..., N, F]` to a picture `[..., H, W, C]` in 0..1, as the change against a learnt
    background (the camera does not move), and to the log variance `[..., H, W]` of each pixel.

    Nothing flows back from the variance to the features, so that the picture is fitted as if there were none (Stirn et
    al., Faithful Heteroscedastic Regression with Neural Networks, 2023).
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        c = self.config
        assert c.image
        height, width, channels = c.image
        near = Mix(c.hidden, c.grid)(features)
        x = nn.silu(nn.Dense(c.wide)(jnp.concatenate([near, features], axis=-1)))
        change = nn.Dense(c.patch * c.patch * channels, kernel_init=nn.initializers.normal(0.01))(x)
        background = self.param("background", nn.initializers.constant(0.5), c.image)
        log_variance = nn.Dense(c.patch * c.patch, bias_init=nn.initializers.constant(-4.0))(jax.lax.stop_gradient(x))
        return (
            background + from_patches(change, c.image, c.patch),
            from_patches(log_variance, (height, width, 1), c.patch)[..., 0],
        )


class SensorDecoder(nn.Module):
    """Features of the cells `[..., N, F]` to the sensors `[..., S]`, symlog of the normalised values."""

    config: ModelConfig

    @nn.compact
    def __call__(self, features: Array) -> Array:
        c = self.config
        position = self.param("position", nn.initializers.normal(0.1), (c.cells, c.hidden))
        x = nn.silu(nn.Dense(c.hidden)(features) + position)
        return nn.Dense(c.sensors)(jnp.mean(nn.Dense(c.hidden)(x), axis=-2))


def sample_one_hot(key: Array | None, logits: Array) -> Array:
    """One-hot sample of categoricals with straight-through gradients: `[..., V]` to `[..., V]` (DreamerV2, 2.1).
    Without a key, the most likely value.
    """
    value = jnp.argmax(logits, axis=-1) if key is None else jax.random.categorical(key, logits)
    one_hot = jax.nn.one_hot(value, logits.shape[-1])
    probabilities = jax.nn.softmax(logits)
    return one_hot + probabilities - jax.lax.stop_gradient(probabilities)
