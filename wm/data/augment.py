"""What a plant does to a picture without meaning anything: light drifts in gain and tint, the camera moves a little."""

import jax
import jax.numpy as jnp
from jax import Array

from wm.config import TrainConfig
from wm.types import Batch, Observation


def augment(train: TrainConfig, batch: Batch, key: Array) -> Batch:
    """The `[B, T]` batch with the pictures of every window under another light and from another place.

    A window keeps one gain from 1 - `train.gain` to 1 + `train.gain`, one such factor for each channel from
    `train.tint`, and one shift of up to `train.shift` pixels down and right or up and left, its border repeated.
    """
    image = batch.observation.image
    if image is None or not (train.gain or train.tint or train.shift):
        return batch
    size, *_, channels = image.shape
    gain_key, tint_key, shift_key = jax.random.split(key, 3)
    gain = 1.0 + train.gain * jax.random.uniform(gain_key, (size, 1), minval=-1.0)
    tint = 1.0 + train.tint * jax.random.uniform(tint_key, (size, channels), minval=-1.0)
    light = (gain * tint)[:, None, None, None, :]
    shift = jax.random.randint(shift_key, (size, 2), 0, 2 * train.shift + 1)
    border = ((0, 0), (train.shift, train.shift), (train.shift, train.shift), (0, 0))

    def moved(window: Array, corner: Array) -> Array:
        framed = jnp.pad(window, border, mode="edge")
        return jax.lax.dynamic_slice(framed, (0, corner[0], corner[1], 0), window.shape)

    image = jax.vmap(moved)(image, shift)
    image = jnp.clip(jnp.round(image * light), 0, 255).astype(jnp.uint8)
    return Batch(Observation(image, batch.observation.sensors), batch.action)
