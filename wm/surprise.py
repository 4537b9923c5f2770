"""The monitor: one pure step that filters a frame, keeps the forecasts in flight, and scores what arrived.

Every half second a forecast is launched. It stays in flight for the longest horizon, moved on by the prior alone under
the action that was really taken, so that slowing the feeder is never a surprise in itself. A frame is compared with the
forecast for it of one frame ago and with those of up to 0.5, 1, 2 and 3 s ago: in pixels, in pixels relative to the
error that the model itself expects of them, in latent space (posterior against prior) and in the sensors, each error
divided by what is normal for that horizon, that place and the age of the forecast. Sensors are judged together, as they
go together on a sound machine (Hotelling's T2; Montgomery, Introduction to Statistical Quality Control, chapter 11).

Wear is too slow for any of this, as every single error stays normal. So the errors are also averaged over a long
memory, and how unusual their averages are together is a signal of its own, the drift (a multivariate EWMA chart; Lowry
et al., A Multivariate Exponentially Weighted Moving Average Control Chart, 1992).

Nothing is drawn at random: a monitor that samples surprises itself, as its rare bad draws are louder than what comes
before a jam. Of a picture the filter and its forecasts take the most likely value of every categorical, as the mean of
several futures is a blur that no place can leave; of sensors alone they take the expected one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from wm import model, rssm
from wm.config import ModelConfig, MonitorConfig
from wm.nets import Draw, expected, most_likely, symlog, to_patches
from wm.types import LatentState, Observation


@struct.dataclass
class Calibration:
    """What is normal, learnt from held-out normal footage.

    Attributes:
      scale: `[L, Q, P]` float32, normal error of a place at a horizon, for each of the L frames between two launches.
      whitening: `[Q, S, S]` float32, makes normalised errors of the sensors uncorrelated and of unit size.
      level: `[Q, M]` float32, the threshold that a horizon would have alone, for each of the M = 4 kinds of error that
        `kinds` tells apart.
      threshold: `[]` float32, the raw score at which a score is 1; above 1 as all of them share one promise.
      drift_centre: `[Q, E]` float32, the mean of the evidence. drift_whitening: `[Q, E, E]`, drift_level: `[Q]`,
        drift_threshold: `[]` float32, the same for averaged evidence.
    """

    scale: Array
    whitening: Array
    level: Array
    threshold: Array
    drift_centre: Array
    drift_whitening: Array
    drift_level: Array
    drift_threshold: Array


@struct.dataclass
class MonitorState:
    """What the monitor remembers between two frames of one camera.

    Attributes:
      latent: `[N, ...]`, the filtered present.
      in_flight: `[F, N, ...]`, forecasts for the present, the one that was launched last first.
      average: `[Q, E]` float32, exponentially weighted mean of the evidence, away from its normal mean.
      tick: `[]` int32, frames seen.
    """

    latent: LatentState
    in_flight: LatentState
    average: Array
    tick: Array


@struct.dataclass
class Surprise:
    """What one frame told.

    Attributes:
      score: `[]` float32; 1 is the alarm threshold.
      drift: `[]` float32, likewise of the slow signal.
      map: `[rows, columns]` float32, surprise of every patch; the worst of them reach 1 where the score does.
      errors: `[Q, P]` float32 raw errors, P = 2 R + N + S: of R patches the mean square (0..1 units) and the mean of it
        relative to the expected one, of N cells the divergence (nats), of S sensors the signed error (standard
        deviations).
      expected: `[H, W, C]` float32, the present as it was forecast `shown_s` ago, or None without a camera.
    """

    score: Array
    drift: Array
    map: Array
    errors: Array
    expected: Array | None


class Told(NamedTuple):
    """What `replay` keeps of T frames: scores `[T]`, drifts `[T]` and errors `[T, Q, P]`, see `Surprise`."""

    score: Array
    drift: Array
    errors: Array


def uncalibrated(config: ModelConfig, monitor: MonitorConfig, rate_hz: float) -> Calibration:
    """A calibration that leaves errors as they are."""
    horizons, places = len(monitor.horizons_s), config.places + config.sensors
    evidence = 3 + config.sensors
    return Calibration(
        scale=jnp.ones((monitor.launch(rate_hz), horizons, places)),
        whitening=jnp.tile(jnp.eye(config.sensors), (horizons, 1, 1)),
        level=jnp.ones((horizons, 4)),
        threshold=jnp.ones(()),
        drift_centre=jnp.zeros((horizons, evidence)),
        drift_whitening=jnp.tile(jnp.eye(evidence), (horizons, 1, 1)),
        drift_level=jnp.ones(horizons),
        drift_threshold=jnp.ones(()),
    )


def start(config: ModelConfig, monitor: MonitorConfig, rate_hz: float) -> MonitorState:
    """The state before the first frame."""
    flights = max(0, *monitor.slots(rate_hz)) + 1
    average = jnp.zeros((len(monitor.horizons_s), 3 + config.sensors))
    return MonitorState(rssm.start(config, ()), rssm.start(config, (flights,)), average, jnp.zeros((), jnp.int32))


def watch(
    config: ModelConfig,
    monitor: MonitorConfig,
    rate_hz: float,
    params: model.Variables,
    calibration: Calibration,
    state: MonitorState,
    observation: Observation,
    action: Array,
) -> tuple[MonitorState, Surprise]:
    """One step of the monitor for one camera.

    Args:
      config, monitor, rate_hz: static.
      params: variables of the world model.
      observation: `[...]` without leading axes. action: `[A]`, what led to this frame.
    """
    compared = jnp.array(monitor.slots(rate_hz)) + 1
    launch = monitor.launch(rate_hz)

    embedding = model.encode(config, params, observation)
    latent, posterior = model.obs_step(config, params, state.latent, action, embedding, draw=drawn(config))
    next_prior = model.prior(config, params, latent.deter)
    next_frame = LatentState(latent.deter, drawn(config)(None, next_prior))
    in_flight, priors = _fly(config, launch, params, state, action)
    forecasts, priors = jax.tree.map(
        lambda one, flying: jnp.concatenate([one[None], flying])[compared],
        (next_frame, next_prior),
        (in_flight, priors),
    )
    prediction = model.decode(config, params, forecasts)
    errors = _errors(config, params, prediction, observation, rssm.kl(posterior, priors))
    ready = state.tick >= jnp.array(monitor.ready(rate_hz))
    ratio = ready[:, None] * errors / calibration.scale[state.tick % launch]
    level = levels(config, monitor, calibration.whitening, ratio)
    score = jnp.max(level / calibration.level) / calibration.threshold

    away = evidence(config, calibration.whitening, level, ratio) - calibration.drift_centre
    average = state.average + jnp.all(ready) * monitor.weight(rate_hz) * (away - state.average)
    drift = jnp.max(distance(calibration.drift_whitening, average) / calibration.drift_level)

    shown = None if prediction.image is None else prediction.image[monitor.shown]
    surprise = Surprise(
        score, drift / calibration.drift_threshold, where(config, monitor, ratio, calibration), errors, shown
    )
    return MonitorState(latent, in_flight, average, state.tick + 1), surprise


def look_ahead(
    config: ModelConfig,
    monitor: MonitorConfig,
    rate_hz: float,
    params: model.Variables,
    state: MonitorState,
    action: Array,
) -> Array | None:
    """The pictures to come at every horizon if the action `[A]` stays, `[Q, H, W, C]` float32, or None without a
    camera.
    """
    if config.image is None:
        return None
    horizons = jnp.array(monitor.horizons(rate_hz))
    held = jnp.broadcast_to(action, (1, max(monitor.horizons(rate_hz)), *action.shape))
    ahead, _ = model.imagine(config, params, jax.tree.map(lambda x: x[None], state.latent), held, draw=expected)
    return model.decode(config, params, jax.tree.map(lambda x: x[0, horizons - 1], ahead)).image


def coast(
    config: ModelConfig,
    monitor: MonitorConfig,
    rate_hz: float,
    params: model.Variables,
    state: MonitorState,
    action: Array,
) -> MonitorState:
    """The state after a frame that never came: everything moves on by the prior, so that the next frame is compared
    with what was forecast for its own time.
    """
    latent, _ = model.img_step(config, params, state.latent, action, draw=drawn(config))
    in_flight, _ = _fly(config, monitor.launch(rate_hz), params, state, action)
    return MonitorState(latent, in_flight, state.average, state.tick + 1)


def drawn(config: ModelConfig) -> Draw:
    """What the monitor takes of a categorical."""
    return most_likely if config.image else expected


def kinds(config: ModelConfig, errors: Array) -> list[Array]:
    """Errors `[..., P]` told apart: pixels `[..., R]`, relative pixels `[..., R]`, latents `[..., N]` and sensors
    `[..., S]`.
    """
    return jnp.split(errors, np.cumsum([config.patches, config.patches, len(config.cells)]), axis=-1)


def levels(config: ModelConfig, monitor: MonitorConfig, whitening: Array, ratio: Array) -> Array:
    """How loud each kind of error is at each horizon: `[..., Q, P]` to `[..., Q, 4]`. Of places the mean of the worst
    few, as a small flap must not drown in a quiet picture; of sensors the distance of all together. Nothing of a kind
    that does not count.
    """

    def worst(part: Array) -> Array:
        count = min(monitor.worst, part.shape[-1])
        return jax.lax.top_k(part, count)[0].mean(axis=-1) if count else jnp.zeros(part.shape[:-1])

    *places, sensors = kinds(config, ratio)
    level = jnp.stack([*map(worst, places), distance(whitening, sensors)], axis=-1)
    return jnp.where(monitor.counts, level, 0.0)


def evidence(config: ModelConfig, whitening: Array, level: Array, ratio: Array) -> Array:
    """What is averaged for the drift, of levels `[..., Q, 4]` and normalised errors `[..., Q, P]`: how loud each kind
    of place is, and the signed errors of the sensors, whitened; `[..., Q, E]`, E = 3 + S. All of it as logarithms,
    because a jam is not a drift.
    """
    return symlog(jnp.concatenate([level[..., :3], whitened(whitening, kinds(config, ratio)[3])], axis=-1))


def whitened(whitening: Array, x: Array) -> Array:
    """`[..., F]` by `[..., F, F]`."""
    return jnp.einsum("...ij,...j->...i", whitening, x)


def distance(whitening: Array, x: Array) -> Array:
    """Mean square of `[..., F]` once whitened by `[..., F, F]`, Hotelling's T2 over F: 1 is usual; 0 where F is 0."""
    return jnp.square(whitened(whitening, x)).sum(axis=-1) / max(1, x.shape[-1])


def where(config: ModelConfig, monitor: MonitorConfig, ratio: Array, calibration: Calibration) -> Array:
    """The worst of the horizons and of the kinds that count at every patch, `[rows, columns]`, of normalised errors
    `[Q, P]`.
    """
    level = calibration.level * calibration.threshold
    pixels, relative, latents, _ = (
        (counts * part / level[:, kind, None]).max(axis=0, initial=0.0)
        for kind, (counts, part) in enumerate(zip(monitor.counts, kinds(config, ratio), strict=True))
    )
    return jnp.maximum(pixels, relative).at[config.cells].max(latents).reshape(config.grid)


def _fly(
    config: ModelConfig, launch: int, params: model.Variables, state: MonitorState, action: Array
) -> tuple[LatentState, Array]:
    """Every `launch` frames the present joins the forecasts in flight, and all move on by one frame; also their priors
    `[F, N, G, V]`.
    """
    now = state.tick % launch == 0
    flying = jax.tree.map(
        lambda present, flying: jnp.where(now, jnp.concatenate([present[None], flying[:-1]]), flying),
        state.latent,
        state.in_flight,
    )
    actions = jnp.broadcast_to(action, (flying.deter.shape[0], *action.shape))
    return model.img_step(config, params, flying, actions, draw=drawn(config))


def _errors(
    config: ModelConfig, params: model.Variables, prediction: model.Prediction, observation: Observation, kl: Array
) -> Array:
    """Raw errors of every place at every horizon, `[Q, P]`."""
    pixels = relative = jnp.zeros((*kl.shape[:-1], config.patches))
    if config.image:
        error = model.image_error(prediction, observation)
        pixels = _patch_means(config, error.mean(axis=-1))
        relative = _patch_means(config, model.relative_image_error(prediction, error))
    return jnp.concatenate([pixels, relative, kl, model.sensor_residual(params, prediction, observation)], axis=-1)


def _patch_means(config: ModelConfig, pixels: Array) -> Array:
    """`[..., H, W]` to `[..., R]`."""
    return to_patches(pixels[..., None], config.patch).mean(axis=-1)


def replay(
    config: ModelConfig,
    monitor: MonitorConfig,
    rate_hz: float,
    params: model.Variables,
    calibration: Calibration,
    state: MonitorState,
    observations: Observation,
    actions: Array,
) -> tuple[MonitorState, Told]:
    """`watch` under scan over `[T]` recorded frames, and what it told of each."""

    def step(state: MonitorState, inputs: tuple[Observation, Array]) -> tuple[MonitorState, Told]:
        observation, action = inputs
        state, surprise = watch(config, monitor, rate_hz, params, calibration, state, observation, action)
        return state, Told(surprise.score, surprise.drift, surprise.errors)

    return jax.lax.scan(step, state, (observations, actions))
