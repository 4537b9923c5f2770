"""Typed arrays that travel between the parts, and the one glossary of shape letters.

    B  batch            T  time (frames)      H, W, C  image height, width, channels
    S  sensors (tags)   A  actions            R  patches of the image    N  cells, the patches that are followed
    D  deterministic units of a cell          G, V  categoricals of a cell, values of each
    K  frames of a rollout                    Q  horizons that are compared      P  places that are scored
    F  forecasts in flight                    L  frames between two launches
    E  evidence that is averaged for the drift

`...` stands for any leading axes. Images are uint8 RGB; everything else is float32 unless a field says otherwise.
"""

import jax.numpy as jnp
from flax import struct
from jax import Array


@struct.dataclass
class Observation:
    """What arrived at one instant.

    Attributes:
      image: `[..., H, W, C]` uint8, or None for a model without a camera.
      sensors: `[..., S]` float32, PLC tags in engineering units, NaN where not known; S may be 0.
    """

    image: Array | None
    sensors: Array


@struct.dataclass
class Batch:
    """Windows of footage. `action[:, t]` was in force from frame t-1 to frame t: it is what led to frame t.

    Attributes:
      observation: leading axes `[B, T]`.
      action: `[B, T, A]` float32 in engineering units; A may be 0.
    """

    observation: Observation
    action: Array


@struct.dataclass
class LatentState:
    """State of the RSSM, one cell for each place.

    Attributes:
      deter: `[..., N, D]` deterministic memory.
      stoch: `[..., N, G, V]` one-hot sample of the categoricals.
    """

    deter: Array
    stoch: Array


@struct.dataclass
class Normaliser:
    """Mean and standard deviation of the footage's tags and actions; each `[S]` or `[A]` float32."""

    sensor_mean: Array
    sensor_std: Array
    action_mean: Array
    action_std: Array

    def sensors(self, raw: Array) -> Array:
        """Tags `[..., S]` in units of their standard deviation; one that is not known (NaN) stands at its mean."""
        return jnp.where(jnp.isnan(raw), 0.0, (raw - self.sensor_mean) / self.sensor_std)

    def tags(self, normalised: Array) -> Array:
        """The inverse of `sensors`: `[..., S]` back in engineering units."""
        return self.sensor_mean + self.sensor_std * normalised

    def actions(self, raw: Array) -> Array:
        """Actions `[..., A]` in units of their standard deviation."""
        return (raw - self.action_mean) / self.action_std
