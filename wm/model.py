"""The world model as pure functions of its variables: `init`, `encode`, `obs_step`, `img_step`, `observe`, `imagine`,
`decode`, `decode_tags`, `loss`.

`variables` is a plain nested dict: `params` is learnt, `normaliser` holds the mean and standard deviation of the
footage's sensors and actions. No function here knows which network library made them.
"""

from functools import singledispatch
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array

from wm import rssm
from wm.config import ModelConfig, TrainConfig
from wm.nets import Draw, Encoder, ImageDecoder, SensorDecoder, half_sampled, sampled, symexp, symlog
from wm.types import Batch, LatentState, Normaliser, Observation

Variables = dict[str, Any]

GREY_LEVEL = 1 / 255


@struct.dataclass
class Prediction:
    """What the decoder says of a latent state.

    Attributes:
      image: `[..., H, W, C]` float32, 0..1 where the model is right, or None without a camera.
      log_variance: `[..., H, W]` float32, log of the squared error that the model expects of a pixel, or None.
      sensors: `[..., S]` float32, symlog of the normalised tags.
    """

    image: Array | None
    log_variance: Array | None
    sensors: Array


class Networks(nn.Module):
    """All that is learnt."""

    config: ModelConfig
    encoder_type: ClassVar[Any] = Encoder
    image_decoder_type: ClassVar[Any] = ImageDecoder

    def setup(self) -> None:
        self.encoder = self.encoder_type(self.config)
        self.rssm = rssm.RSSM(self.config)
        if self.config.image:
            self.image_decoder = self.image_decoder_type(self.config)
        if self.config.sensors:
            self.sensor_decoder = SensorDecoder(self.config)

    def encode(self, image: Array | None, sensors: Array) -> Array:
        return self.encoder(image, sensors)

    def advance(self, state: LatentState, action: Array) -> Array:
        return self.rssm.advance(state, action)

    def prior(self, deter: Array) -> Array:
        return self.rssm.prior(deter)

    def posterior(self, deter: Array, embedding: Array) -> Array:
        return self.rssm.posterior(deter, embedding)

    def decode(self, features: Array) -> Prediction:
        image, log_variance = self.image_decoder(features) if self.config.image else (None, None)
        return Prediction(image, log_variance, self.decode_sensors(features))

    def decode_sensors(self, features: Array) -> Array:
        return self.sensor_decoder(features) if self.config.sensors else jnp.zeros((*features.shape[:-2], 0))

    def everything(self, image: Array | None, sensors: Array, action: Array) -> Prediction:
        embedding = self.encode(image, sensors)
        state = rssm.start(self.config, sensors.shape[:-1])
        deter = self.advance(state, action)
        self.posterior(deter, embedding), self.prior(deter)
        return self.decode(rssm.flatten(state))


@singledispatch
def networks(config: ModelConfig) -> Networks:
    """The networks of a config; a rival architecture registers its own for its own kind of config."""
    return Networks(config)


def init(config: ModelConfig, normaliser: Normaliser, key: Array) -> Variables:
    """Fresh variables."""
    image = jnp.zeros(config.image) if config.image else None
    params = networks(config).init(
        key, image, jnp.zeros(config.sensors), jnp.zeros(config.actions), method="everything"
    )["params"]
    return {"params": params, "normaliser": normaliser}


def encode(config: ModelConfig, variables: Variables, observation: Observation) -> Array:
    """Embeddings `[..., N, embed]` of raw observations."""
    image = None if observation.image is None else observation.image.astype(jnp.float32) / 255.0
    return _apply(config, variables, "encode", image, variables["normaliser"].sensors(observation.sensors))


def img_step(
    config: ModelConfig,
    variables: Variables,
    state: LatentState,
    action: Array,
    key: Array | None = None,
    draw: Draw = sampled,
) -> tuple[LatentState, Array]:
    """One frame ahead without looking: the next state, its categoricals drawn from the prior, and the prior's log
    probabilities `[..., N, G, V]`. `action` `[..., A]` is raw.
    """
    deter = _apply(config, variables, "advance", state, variables["normaliser"].actions(action))
    prior = _apply(config, variables, "prior", deter)
    return LatentState(deter, draw(key, prior)), prior


def obs_step(
    config: ModelConfig,
    variables: Variables,
    state: LatentState,
    action: Array,
    embedding: Array,
    key: Array | None = None,
    draw: Draw = sampled,
) -> tuple[LatentState, Array]:
    """One frame ahead, then the look: the next state, its categoricals drawn from the posterior, and the posterior's
    log probabilities `[..., N, G, V]`. `action` `[..., A]` is raw and led to the frame of `embedding`.
    """
    deter = _apply(config, variables, "advance", state, variables["normaliser"].actions(action))
    posterior = _apply(config, variables, "posterior", deter, embedding)
    return LatentState(deter, draw(key, posterior)), posterior


def observe(
    config: ModelConfig,
    variables: Variables,
    state: LatentState,
    embedding: Array,
    action: Array,
    key: Array | None = None,
    draw: Draw = sampled,
) -> tuple[LatentState, Array]:
    """Filters `[B, T]` embeddings and actions from `state` `[B]`: all states and posteriors, `[B, T]`."""

    def step(
        state: LatentState, inputs: tuple[Array, Array, Array | None]
    ) -> tuple[LatentState, tuple[LatentState, Array]]:
        action, embedding, key = inputs
        state, posterior = obs_step(config, variables, state, action, embedding, key, draw)
        return state, (state, posterior)

    inputs = (_time_first(action), _time_first(embedding), _split(key, action.shape[1]))
    _, outputs = jax.lax.scan(step, state, inputs)
    return jax.tree.map(_time_first, outputs)


def imagine(
    config: ModelConfig,
    variables: Variables,
    state: LatentState,
    action: Array,
    key: Array | None = None,
    draw: Draw = sampled,
) -> tuple[LatentState, Array]:
    """Rolls the prior forward from `state` `[B]` under `action` `[B, K, A]`: all states and priors, `[B, K]`."""

    def step(state: LatentState, inputs: tuple[Array, Array | None]) -> tuple[LatentState, tuple[LatentState, Array]]:
        action, key = inputs
        state, prior = img_step(config, variables, state, action, key, draw)
        return state, (state, prior)

    _, outputs = jax.lax.scan(step, state, (_time_first(action), _split(key, action.shape[1])))
    return jax.tree.map(_time_first, outputs)


def prior(config: ModelConfig, variables: Variables, deter: Array) -> Array:
    """The prior's log probabilities `[..., N, G, V]` at deterministic states `[..., N, D]`."""
    return _apply(config, variables, "prior", deter)


def decode(config: ModelConfig, variables: Variables, state: LatentState) -> Prediction:
    """What the camera and the sensors should show in `state`."""
    return _apply(config, variables, "decode", rssm.flatten(state))


def decode_tags(config: ModelConfig, variables: Variables, state: LatentState) -> Array:
    """What the tags should read in `state`, `[..., S]` in engineering units, without the cost of a picture."""
    sensors = _apply(config, variables, "decode_sensors", rssm.flatten(state))
    return variables["normaliser"].tags(symexp(sensors))


def image_error(prediction: Prediction, observation: Observation) -> Array:
    """Squared error of a picture in 0..1 units, `[..., H, W, C]`."""
    assert prediction.image is not None and observation.image is not None
    return jnp.square(prediction.image - observation.image.astype(jnp.float32) / 255.0)


def relative_image_error(prediction: Prediction, error: Array) -> Array:
    """A picture's squared error `[..., H, W, C]` in units of the variance that the model expects, `[..., H, W]`: 1 is
    as expected. A grey level is added to the error, so that no pixel is ever expected to be exact.
    """
    assert prediction.log_variance is not None
    return (error.mean(axis=-1) + GREY_LEVEL**2) * jnp.exp(-prediction.log_variance)


def sensor_error(variables: Variables, prediction: Prediction, observation: Observation) -> Array:
    """Squared error of the sensors in symlog of their normalised values, `[..., S]`; none for one that is not known."""
    error = jnp.square(prediction.sensors - symlog(variables["normaliser"].sensors(observation.sensors)))
    return jnp.where(jnp.isnan(observation.sensors), 0.0, error)


def sensor_residual(variables: Variables, prediction: Prediction, observation: Observation) -> Array:
    """What was seen less what was foretold of the sensors, in standard deviations, `[..., S]`; none for one that is not
    known. Linear, so that sensors that go together have errors that go together.
    """
    residual = variables["normaliser"].sensors(observation.sensors) - symexp(prediction.sensors)
    return jnp.where(jnp.isnan(observation.sensors), 0.0, residual)


def loss(
    config: ModelConfig,
    train: TrainConfig,
    variables: Variables,
    batch: Batch,
    key: Array,
    open_loop_weight: Array | float = 1.0,
) -> tuple[Array, dict[str, Array]]:
    """Loss of a `[B, T]` batch, T = context + open_loop, and its named terms, each a mean over windows and frames.
    `open_loop_weight` `[]` is the share of the open loop's weight that counts yet.

    The reconstruction of filtered states, the reconstruction of an open-loop rollout that starts after the context
    (both at random frames: decoding is what costs; half of the windows roll out samples, as a simulator does, and half
    the expected values, as a forecast does), the balanced KL with free nats (DreamerV3, equations 2 and 3), and
    the Gaussian log likelihood of the pictures' errors, which fits the variance alone.
    """
    keys = iter(jax.random.split(key, 4))
    still = jax.lax.stop_gradient
    size = batch.action.shape[0]
    embedding = encode(config, variables, batch.observation)
    states, posterior = observe(config, variables, rssm.start(config, (size,)), embedding, batch.action, next(keys))
    priors = prior(config, variables, states.deter)

    def reconstruction(states: LatentState, observation: Observation, key: Array) -> dict[str, Array]:
        times = jax.lax.top_k(jax.random.uniform(key, states.deter.shape[1:2]), train.decoded)[1]
        states, observation = jax.tree.map(lambda x: x[:, times], (states, observation))
        prediction = decode(config, variables, states)
        terms = {}
        if prediction.log_variance is not None:
            error = image_error(prediction, observation)
            terms["image"] = jnp.sum(error, axis=(-3, -2, -1)).mean()
            relative = relative_image_error(prediction, still(error))
            terms["variance"] = jnp.mean(relative + prediction.log_variance)
        if config.sensors:
            terms["sensors"] = jnp.sum(sensor_error(variables, prediction, observation), axis=-1).mean()
        return terms

    terms = reconstruction(states, batch.observation, next(keys))
    ahead = jax.tree.map(lambda x: x[:, train.context :], batch)
    launch = jax.tree.map(lambda x: x[:, train.context - 1], states)
    dream, _ = imagine(config, variables, launch, ahead.action, next(keys), half_sampled)
    for name, value in reconstruction(dream, ahead.observation, next(keys)).items():
        terms[f"open_loop_{name}"] = value

    for name, divergence in {
        "kl_dynamics": rssm.kl(still(posterior), priors),
        "kl_representation": rssm.kl(posterior, still(priors)),
    }.items():
        terms[name] = jnp.maximum(divergence.sum(axis=-1), train.free_nats).mean()

    weights: dict[str, Array | float] = {
        "image": 1.0,
        "variance": 1.0,
        "sensors": train.beta_sensors,
        "open_loop_image": open_loop_weight * train.beta_open_loop,
        "open_loop_variance": 1.0,
        "open_loop_sensors": open_loop_weight * train.beta_open_loop * train.beta_sensors,
        "kl_dynamics": train.beta_dynamics,
        "kl_representation": train.beta_representation,
    }
    return sum((weights[name] * value for name, value in terms.items()), jnp.zeros(())), terms


def _apply(config: ModelConfig, variables: Variables, method: str, *args: Any) -> Any:
    return networks(config).apply({"params": variables["params"]}, *args, method=method)


def _split(key: Array | None, steps: int) -> Array | None:
    return None if key is None else jax.random.split(key, steps)


def _time_first(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1)
