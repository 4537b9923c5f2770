"""Encoders and decoders, one a modality, and the layers they share with the dynamics.

A picture is cut into square patches, one for each cell of the latent grid. On a CPU this costs a fifth of what
convolutions cost, and a cell's features stay at its place in the picture.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from numpy.typing import NDArray

from wm.config import ModelConfig


def precision() -> Any:
    """What matrices are multiplied in: bfloat16 on a GPU, float32 on a CPU, where bfloat16 is slower."""
    return jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32


def dense(units: int, **options: Any) -> nn.Dense:
    """A dense layer with float32 parameters that multiplies in `precision()`."""
    return nn.Dense(units, dtype=precision(), **options)


def symlog(x: Array) -> Array:
    """`sign(x) log(1 + |x|)` (DreamerV3, equation 9)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """`sign(x) (exp(|x|) - 1)`, the inverse of `symlog` (DreamerV3, equation 9)."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


_HALF = np.expm1(np.linspace(0.0, 20.0, 128)).astype(np.float32)
BINS = np.concatenate([-_HALF[:0:-1], _HALF])


def two_hot(x: Array) -> Array:
    """Numbers `[...]` as weights of the two `BINS` about them, `[..., 255]`, such that the weighted mean is the number
    (DreamerV3, section "Robust predictions"). The bins are evenly spaced in symlog, from -20 to 20 (equation 10).
    """
    below = jnp.clip(jnp.searchsorted(BINS, x, side="right") - 1, 0, len(BINS) - 2)
    low, high = jnp.asarray(BINS)[below], jnp.asarray(BINS)[below + 1]
    share = jnp.clip((x - low) / (high - low), 0.0, 1.0)[..., None]
    return (1.0 - share) * jax.nn.one_hot(below, len(BINS)) + share * jax.nn.one_hot(below + 1, len(BINS))


def two_hot_mean(logits: Array) -> Array:
    """The expected number `[...]` of a distribution over `BINS`, `[..., 255]` (DreamerV3, equation 10). Bins of
    opposite sign are taken together, so that the huge ones of an even distribution cancel exactly.
    """
    probabilities, middle = jax.nn.softmax(logits), len(BINS) // 2
    surplus = probabilities[..., middle:] - probabilities[..., middle::-1]
    return jnp.sum(surplus * BINS[middle:], axis=-1)


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


def exchange(x: Array, neighbours: NDArray[np.int64]) -> Array:
    """Neighbours mix: of `[..., N, F]` a fifth of the features each comes from the cell above, below, to the left and
    to the right, `[4, N]`, and the rest stays. Zeros come from where there is no cell.
    """
    fifth = x.shape[-1] // 5
    bordered = _bordered(x)
    moved = [bordered[..., cells, i * fifth : (i + 1) * fifth] for i, cells in enumerate(neighbours)]
    return jnp.concatenate([*moved, x[..., 4 * fifth :]], axis=-1)


def _bordered(x: Array) -> Array:
    """Cells `[..., N, F]` and one of zeros after them, `[..., N + 1, F]`."""
    return jnp.concatenate([x, jnp.zeros_like(x[..., :1, :])], axis=-2)


class Mix(nn.Module):
    """Dense layer over every cell, exchanged with its neighbours, then SiLU: `[..., N, F]` to `[..., N, units]`. A
    single cell has none, and keeps all to itself.
    """

    units: int
    config: ModelConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = dense(self.units)(x)
        return nn.silu(exchange(x, self.config.neighbours) if len(self.config.cells) > 1 else x)


class Encoder(nn.Module):
    """Picture and sensors to one embedding a cell, `[..., N, embed]`."""

    config: ModelConfig

    @nn.compact
    def __call__(self, image: Array | None, sensors: Array) -> Array:
        """`image` `[..., H, W, C]` in 0..1 or None; `sensors` `[..., S]` normalised."""
        c = self.config
        embedding = self.param("position", nn.initializers.normal(0.1), (len(c.cells), c.embed))
        if image is not None:
            x = nn.silu(dense(c.wide)(to_patches(image - 0.5, c.patch)[..., c.cells, :]))
            embedding = embedding + dense(c.embed)(x)
        if c.sensors:
            x = nn.silu(dense(c.hidden)(symlog(sensors)))
            embedding = embedding + dense(c.embed)(x)[..., None, :]
        return embedding


class ImageDecoder(nn.Module):
    """Features of the cells `[..., N, F]` to a picture `[..., H, W, C]` in 0..1, and to the log variance `[..., H, W]`
    of each pixel. The picture is the change against a learnt background, as the camera does not move, under a light
    that drifts.

    Nothing flows back from the variance to the features, so that the picture is fitted as if there were none (Stirn et
    al., Faithful Heteroscedastic Regression with Neural Networks, 2023).
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        c = self.config
        assert c.image
        height, width, channels = c.image
        near = Mix(c.hidden, c)(features)
        x = nn.silu(dense(c.wide)(jnp.concatenate([near, features], axis=-1)))
        change = dense(c.patch * c.patch * channels, kernel_init=nn.initializers.normal(0.01))(x)
        spread = dense(c.patch * c.patch)(jax.lax.stop_gradient(x))
        noise = self.param("noise", nn.initializers.constant(-4.0), (height, width))
        image = self._light(features) * (self.backdrop() + self._whole(change, channels))
        return image, noise + self._whole(spread, 1)[..., 0]

    def backdrop(self) -> Array:
        """`[H, W, C]`, what is there whatever the features say."""
        return self.param("background", nn.initializers.constant(0.5), self.config.image)

    def _light(self, features: Array) -> Array:
        """`[..., H, W, C]`, the gain of the light: for each channel a plane over the picture."""
        assert self.config.image
        height, width, channels = self.config.image
        x = nn.silu(dense(self.config.hidden, name="lamp")(jnp.mean(features, axis=-2)))
        planes = dense(3 * channels, kernel_init=nn.initializers.normal(0.01), name="light")(x).astype(jnp.float32)
        down, right = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
        surfaces = jnp.asarray(np.stack(np.broadcast_arrays(1.0, down, right)), jnp.float32)
        return 1.0 + jnp.einsum("shw,...sc->...hwc", surfaces, planes.reshape(*planes.shape[:-1], 3, channels))

    def _whole(self, cells: Array, channels: int) -> Array:
        """Patches of the cells as a picture, zero where no cell is."""
        c = self.config
        assert c.image
        patches = _bordered(cells)[..., c.numbers, :].astype(jnp.float32)
        return from_patches(patches, (*c.image[:2], channels), c.patch)


class SensorDecoder(nn.Module):
    """Features of the cells `[..., N, F]` to the sensors `[..., S]`, symlog of the normalised values."""

    config: ModelConfig

    @nn.compact
    def __call__(self, features: Array) -> Array:
        c = self.config
        position = self.param("position", nn.initializers.normal(0.1), (len(c.cells), c.hidden))
        x = nn.silu(dense(c.hidden)(features) + position)
        return dense(c.sensors)(jnp.mean(dense(c.hidden)(x), axis=-2)).astype(jnp.float32)


Draw = Callable[[Array | None, Array], Array]


def sampled(key: Array | None, logits: Array) -> Array:
    """One-hot sample of categoricals with straight-through gradients: `[..., V]` to `[..., V]` (DreamerV2, 2.1)."""
    assert key is not None
    one_hot = jax.nn.one_hot(jax.random.categorical(key, logits), logits.shape[-1])
    probabilities = jax.nn.softmax(logits)
    return one_hot + probabilities - jax.lax.stop_gradient(probabilities)


def most_likely(key: Array | None, logits: Array) -> Array:
    """The most likely value of categoricals, one-hot, whatever the key."""
    return jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])


def expected(key: Array | None, logits: Array) -> Array:
    """The expected value of categoricals, whatever the key: what squared error asks of a rollout."""
    return jax.nn.softmax(logits)


def half_sampled(key: Array | None, logits: Array) -> Array:
    """A sample for every other entry of the first axis, the expected value for those between: `[B, ..., V]` to
    `[B, ..., V]`.
    """
    even = (jnp.arange(logits.shape[0]) % 2 == 0).reshape(-1, *[1] * (logits.ndim - 1))
    return jnp.where(even, sampled(key, logits), expected(key, logits))
