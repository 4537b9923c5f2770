"""The monitor: one pure step that filters a frame, keeps the forecasts in flight, and scores what arrived.

Every tick launches a forecast. It stays in flight for K frames, moved on by the prior alone under the action that was
really taken, so that slowing the feeder is never a surprise in itself. A frame is compared with the forecasts that were
launched 1 frame, 0.5, 1, 2 and 3 s before it: in pixels, in pixels relative to the error that the model itself expects
of them, in latent space (posterior against prior) and in the sensors, each error divided by what is normal for that
horizon and that place.

Nothing is drawn at random: the filter and its forecasts take the most likely value of every categorical. A monitor that
samples surprises itself: its rare bad draws are louder than what comes before a jam.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from wm import model, rssm
from wm.config import ModelConfig, MonitorConfig
from wm.nets import to_patches
from wm.types import LatentState, Observation


@struct.dataclass
class Calibration:
    """What is normal, learnt from held-out normal footage.

    Attributes:
      scale: `[Q, P]` float32, normal error of a place at a horizon.
      level: `[Q, M]` float32, the threshold that the worst places of a horizon would have alone, for each of the M = 4
        kinds of error that `kinds` tells apart.
      threshold: `[]` float32, the raw score at which a score is 1; above 1 as all of them share one promise.
    """

    scale: Array
    level: Array
    threshold: Array


@struct.dataclass
class MonitorState:
    """What the monitor remembers between two frames of one camera.

    Attributes:
      latent: `[N, ...]`, the filtered present.
      in_flight: `[K, N, ...]`, where forecast k was launched k+1 frames ago and stands for the present.
      tick: `[]` int32, frames seen.
    """

    latent: LatentState
    in_flight: LatentState
    tick: Array


@struct.dataclass
class Surprise:
    """What one frame told.

    Attributes:
      score: `[]` float32; 1 is the alarm threshold.
      map: `[rows, columns]` float32, surprise of every patch; the worst of them reach 1 where the score does.
      errors: `[Q, P]` float32 raw errors, P = 3 N + S: of N patches the mean square (0..1 units) and the mean of it
        relative to the expected one, of N cells the divergence (nats), of S sensors the square (symlog units).
      expected: `[H, W, C]` float32, the present as it was forecast `shown_s` ago, or None without a camera.
      forecast: `[H, W, C]` float32, the picture `shown_s` from now if the action stays, or None.
    """

    score: Array
    map: Array
    errors: Array
    expected: Array | None
    forecast: Array | None


def uncalibrated(config: ModelConfig, monitor: MonitorConfig) -> Calibration:
    """A calibration that leaves errors as they are."""
    horizons = len(monitor.horizons_s)
    return Calibration(jnp.ones((horizons, 3 * config.cells + config.sensors)), jnp.ones((horizons, 4)), jnp.ones(()))


def start(config: ModelConfig, monitor: MonitorConfig, rate_hz: float) -> MonitorState:
    """The state before the first frame."""
    longest = max(monitor.horizons(rate_hz))
    return MonitorState(rssm.start(config, ()), rssm.start(config, (longest,)), jnp.zeros((), jnp.int32))


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
    horizons = monitor.horizons(rate_hz)
    compared = jnp.array(horizons) - 1

    embedding = model.encode(config, params, observation)
    latent, posterior = model.obs_step(config, params, state.latent, action, embedding, None)
    in_flight, priors = _fly(config, params, state, action)
    arrived = jax.tree.map(lambda x: x[compared], in_flight)
    prediction = model.decode(config, params, arrived)
    errors = _errors(config, params, prediction, observation, rssm.kl(posterior, priors[compared]))
    ready = state.tick >= monitor.warm(rate_hz)
    ratio = ready * errors / calibration.scale
    score = combine(config, monitor, ratio, calibration.level) / calibration.threshold

    shown = round(monitor.shown_s * rate_hz)
    held = jnp.broadcast_to(action, (1, shown, *action.shape))
    ahead, _ = model.imagine(config, params, jax.tree.map(lambda x: x[None], latent), held, None)
    forecast = model.decode(config, params, jax.tree.map(lambda x: x[0, -1], ahead)).image
    expected = None if prediction.image is None else prediction.image[horizons.index(shown)]

    places = jnp.stack(kinds(config, ratio)[:3], axis=-1) / calibration.level[:, None, :3] / calibration.threshold
    surprise = Surprise(score, places.max(axis=(0, 2)).reshape(config.grid), errors, expected, forecast)
    return MonitorState(latent, in_flight, state.tick + 1), surprise


def coast(config: ModelConfig, params: model.Variables, state: MonitorState, action: Array) -> MonitorState:
    """The state after a frame that never came: everything moves on by the prior, so that the next frame is compared
    with what was forecast for its own time.
    """
    latent, _ = model.img_step(config, params, state.latent, action, None)
    in_flight, _ = _fly(config, params, state, action)
    return MonitorState(latent, in_flight, state.tick + 1)


def kinds(config: ModelConfig, errors: Array) -> list[Array]:
    """Errors `[..., P]` told apart: pixels `[..., N]`, relative pixels `[..., N]`, latents `[..., N]` and sensors
    `[..., S]`.
    """
    return jnp.split(errors, [config.cells, 2 * config.cells, 3 * config.cells], axis=-1)


def levels(config: ModelConfig, monitor: MonitorConfig, ratio: Array) -> Array:
    """Mean of the worst places of each horizon and kind: `[..., Q, P]` to `[..., Q, 4]`. A small flap must not drown in
    a quiet picture.
    """

    def worst(part: Array) -> Array:
        count = min(monitor.worst, part.shape[-1])
        return jax.lax.top_k(part, count)[0].mean(axis=-1) if count else jnp.zeros(part.shape[:-1])

    return jnp.stack([worst(part) for part in kinds(config, ratio)], axis=-1)


def combine(config: ModelConfig, monitor: MonitorConfig, ratio: Array, level: Array) -> Array:
    """Raw score, the strongest evidence at any horizon and of any kind: normalised errors `[..., Q, P]` to `[...]`."""
    return jnp.max(levels(config, monitor, ratio) / level, axis=(-2, -1))


def _fly(config: ModelConfig, params: model.Variables, state: MonitorState, action: Array) -> tuple[LatentState, Array]:
    """The present joins the forecasts in flight, and all move on by one frame; also their priors `[K, N, G, V]`."""
    launched = jax.tree.map(
        lambda now, flying: jnp.concatenate([now[None], flying[:-1]]), state.latent, state.in_flight
    )
    actions = jnp.broadcast_to(action, (launched.deter.shape[0], *action.shape))
    return model.img_step(config, params, launched, actions, None)


def _errors(
    config: ModelConfig, params: model.Variables, prediction: model.Prediction, observation: Observation, kl: Array
) -> Array:
    """Raw errors of every place at every horizon, `[Q, P]`."""
    pixels = relative = jnp.zeros_like(kl)
    if config.image:
        error = model.image_error(prediction, observation)
        pixels = to_patches(error, config.patch).mean(axis=-1)
        ratio = model.relative_image_error(prediction, error)
        relative = to_patches(ratio[..., None], config.patch).mean(axis=-1)
    return jnp.concatenate([pixels, relative, kl, model.sensor_error(params, prediction, observation)], axis=-1)


def replay(
    config: ModelConfig,
    monitor: MonitorConfig,
    rate_hz: float,
    params: model.Variables,
    calibration: Calibration,
    state: MonitorState,
    observations: Observation,
    actions: Array,
) -> tuple[MonitorState, Array, Array]:
    """`watch` under scan over `[T]` recorded frames.

    Returns the state, the scores `[T]` and the errors `[T, Q, P]`.
    """

    def step(state: MonitorState, inputs: tuple[Observation, Array]) -> tuple[MonitorState, tuple[Array, Array]]:
        observation, action = inputs
        state, surprise = watch(config, monitor, rate_hz, params, calibration, state, observation, action)
        return state, (surprise.score, surprise.errors)

    state, (scores, errors) = jax.lax.scan(step, state, (observations, actions))
    return state, scores, errors
