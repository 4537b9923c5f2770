"""Frozen static configuration: the only place with defaults. Nothing traced lives here."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from wm.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class FootageSpec:
    """What a folder of footage holds; the model takes its input shapes from here.

    Attributes:
      rate_hz: frames a second.
      image: (height, width, channels) in pixels, or None where no camera was recorded.
      tags: names of the sensors, in the order of their columns.
      actions: names of the actions, in the order of their columns.
      crop: (left, top, width, height) in source pixels that was cut before scaling, or None for the whole frame.
    """

    rate_hz: float
    image: tuple[int, int, int] | None
    tags: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the world model. `size` picks a preset; `of` fits it to footage.

    Attributes:
      image, sensors, actions: input shapes, from the footage.
      followed: the patches of the picture that the model follows, by number in row order, each a cell of the latent
        state; None for all of them. Of the others it knows the background, as a camera that stands still allows.
      patch: side in pixels of a square patch.
      embed: units of the embedding of a patch.
      deter: deterministic units of a cell.
      groups, classes: categoricals of a cell and values of each.
      hidden: units of the hidden layers. wide: units of the picture's encoder and decoder, which run once a frame
        and not once a step of a rollout.
      unimix: share of the uniform distribution in every categorical (DreamerV3, section "World model learning").
    """

    image: tuple[int, int, int] | None
    sensors: int
    actions: int
    followed: tuple[int, ...] | None = None
    patch: int = 8
    embed: int = 64
    deter: int = 96
    groups: int = 8
    classes: int = 8
    hidden: int = 96
    wide: int = 256
    unimix: float = 0.01

    @classmethod
    def of(cls, spec: FootageSpec, size: str) -> "ModelConfig":
        """The preset `size` for footage of this `spec`, following all of its patches.

        Raises:
          InputError: `size` is no preset, or the picture cannot be cut into whole patches.
        """
        if size not in PRESETS:
            raise InputError(f"model size '{size}' is unknown; choose one of {', '.join(PRESETS)}.")
        config = cls(spec.image, len(spec.tags), len(spec.actions), **PRESETS[size])
        if spec.image and (spec.image[0] % config.patch or spec.image[1] % config.patch):
            height, width, _ = spec.image
            raise InputError(
                f"footage of {height}x{width} pixels cannot be cut into patches of {config.patch}; "
                f"ingest it at a multiple of {config.patch}."
            )
        return config

    @classmethod
    def of_tags(cls, spec: FootageSpec) -> "ModelConfig":
        """A model of the tags of this `spec` alone, of about 600,000 parameters: one cell has to hold what else many
        do.
        """
        tags = dataclasses.replace(spec, image=None, crop=None)
        return dataclasses.replace(cls.of(tags, "base"), groups=32)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches in the picture; a model without a camera has a single one."""
        return (self.image[0] // self.patch, self.image[1] // self.patch) if self.image else (1, 1)

    @property
    def patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def places(self) -> int:
        """How many places are scored before the sensors: the picture's patches twice and its cells."""
        return 2 * self.patches + len(self.cells)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """`[N]`, the patch of every cell of the latent state."""
        return np.arange(self.patches) if self.followed is None else np.array(self.followed)

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """`[R]`, the cell of every patch, N where a patch is not followed."""
        numbers = np.full(self.patches, len(self.cells))
        numbers[self.cells] = np.arange(len(self.cells))
        return numbers

    @cached_property
    def neighbours(self) -> NDArray[np.int64]:
        """`[4, N]`, the cell above, below, to the left and to the right of every cell, N where there is none."""
        number = np.pad(self.numbers.reshape(self.grid), 1, constant_values=len(self.cells))
        row, column = self.cells // self.grid[1] + 1, self.cells % self.grid[1] + 1
        steps = ((-1, 0), (1, 0), (0, -1), (0, 1))
        return np.stack([number[row + down, column + right] for down, right in steps])


PRESETS: dict[str, dict[str, Any]] = {
    "debug": dict(embed=16, deter=16, groups=2, classes=4, hidden=16, wide=16),
    "small": {},
    "base": dict(embed=96, deter=128, groups=8, classes=8, hidden=192, wide=512),
    "large": dict(embed=256, deter=384, groups=16, classes=16, hidden=512, wide=1024),
}


@dataclass(frozen=True)
class TrainConfig:
    """How a world model is fitted. Times are counted in frames.

    Attributes:
      batch: windows a step. context: frames filtered before the open loop starts. open_loop: frames predicted from
        there with the prior alone. decoded: frames decoded in each of the two, at random times.
      ramp: share of the run over which the open loop's weight rises from nothing: long rollouts of a model that knows
        nothing yet teach nothing.
      learning_rate: peak of the cosine schedule. warmup: steps of its linear rise. clip: global gradient norm.
      free_nats: KL below which a frame costs nothing. beta_dynamics, beta_representation: weights of the two sides
        of the balanced KL (DreamerV3, equation 3). beta_open_loop, beta_sensors: weights of the open-loop
        reconstruction and of the sensors beside the picture's.
      patience: steps without a lower held-out error after which a run stops.
      gain, tint, shift: how far windows are augmented, see `wm.data.augment`.
    """

    steps: int = 10_000
    batch: int = 4
    context: int = 8
    open_loop: int = 24
    ramp: float = 0.5
    decoded: int = 6
    learning_rate: float = 2e-3
    warmup: int = 200
    clip: float = 30.0
    free_nats: float = 1.0
    beta_dynamics: float = 1.0
    beta_representation: float = 0.1
    beta_open_loop: float = 1.0
    beta_sensors: float = 1.0
    patience: int = 5_000
    gain: float = 0.0
    tint: float = 0.0
    shift: int = 0

    @property
    def length(self) -> int:
        """Frames of a training window."""
        return self.context + self.open_loop


@dataclass(frozen=True)
class ActionSpace:
    """What an actor may do: bounds of every action in engineering units, `[A]` each, `low` below `high`."""

    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class BehaviorConfig:
    """How an actor and a critic learn inside the dream. What has a counterpart in DreamerV3 is as there, but for
    `starts`, `units` and `learning_rate`, which fit the smaller networks.

    Attributes:
      starts: filtered states that a step dreams from. horizon: frames of a dream.
      discount: worth of a reward one frame later. trace: lambda, the share of the dream against the critic in returns.
      entropy: weight of the actor's entropy. guard: reward that a unit of ignorance costs (`wm.guard`), 0 for none.
      units: units of the hidden layers. learning_rate: of Adam. clip: global gradient norm.
      range_decay, slow_decay: what the range of returns and the slow critic keep of themselves at each step.
    """

    starts: int = 256
    horizon: int = 15
    discount: float = 0.997
    trace: float = 0.95
    entropy: float = 3e-4
    guard: float = 1.0
    units: int = 128
    learning_rate: float = 3e-4
    clip: float = 100.0
    range_decay: float = 0.99
    slow_decay: float = 0.98


Kind = Literal["pixels", "relative", "latents", "sensors"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class MonitorConfig:
    """What `watch` compares and how it combines.

    Attributes:
      horizons_s: seconds between a forecast and the frame it is compared with, at most; 0 stands for one frame.
      launch_s: seconds between two forecasts, so that a horizon is what its name says or up to this much less.
      shown_s: seconds ahead of the forecast that is decoded for people.
      worst: how many of the worst patches make the score.
      settle_s: seconds that the filter needs from the first frame on; a forecast launched earlier is not compared.
      drift_s: seconds over which the drift averages.
      kinds: the kinds of error that count. Pixels are the finest where the picture stays what the footage showed; where
        light, noise and what stands about change from day to day, latents alone are not deafened by it.
    """

    horizons_s: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 3.0)
    launch_s: float = 0.5
    shown_s: float = 2.0
    worst: int = 3
    settle_s: float = 1.0
    drift_s: float = 60.0
    kinds: tuple[Kind, ...] = KINDS

    @property
    def counts(self) -> NDArray[np.bool_]:
        """`[M]`, whether each of the four kinds counts."""
        return np.array([kind in self.kinds for kind in KINDS])

    def horizons(self, rate_hz: float) -> tuple[int, ...]:
        """The horizons in frames, each at least one."""
        return tuple(max(1, round(seconds * rate_hz)) for seconds in self.horizons_s)

    @property
    def shown(self) -> int:
        """The place among the horizons of the one closest to `shown_s`."""
        return min(range(len(self.horizons_s)), key=lambda place: abs(self.horizons_s[place] - self.shown_s))

    def launch(self, rate_hz: float) -> int:
        """Frames between two forecasts."""
        return max(1, round(self.launch_s * rate_hz))

    def slots(self, rate_hz: float) -> tuple[int, ...]:
        """The forecast in flight that is compared at each horizon, counted from the newest; -1 is that of one frame."""
        launch = self.launch(rate_hz)
        return tuple(-1 if horizon == 1 else ceil(horizon / launch) - 1 for horizon in self.horizons(rate_hz))

    def settle(self, rate_hz: float) -> int:
        """Frames that the filter needs before its forecasts count."""
        return round(self.settle_s * rate_hz)

    def ready(self, rate_hz: float) -> tuple[int, ...]:
        """Frames from the first one to the first that is compared at each horizon."""
        return tuple(horizon + self.settle(rate_hz) for horizon in self.horizons(rate_hz))

    def warm(self, rate_hz: float) -> int:
        """Frames from the first one to the first that is compared at all horizons."""
        return max(self.ready(rate_hz))

    @property
    def drift_alarm(self) -> "AlarmConfig":
        """When the drift becomes an alarm: what happened once leaves the average within about `drift_s`, wear stays."""
        return AlarmConfig(on_delay_s=self.drift_s, off_delay_s=self.drift_s)

    def weight(self, rate_hz: float) -> float:
        """Of the newest frame in the average of the drift."""
        return 1.0 / max(1.0, self.drift_s * rate_hz)


@dataclass(frozen=True)
class AlarmConfig:
    """When a score becomes an alarm. The threshold is calibrated with these, so they travel in the bundle.

    Attributes:
      on_delay_s: seconds that the score must stay at or above 1 before the alarm comes.
      off_delay_s: seconds that it must stay below 1, by more than the deadband, before the alarm goes.
    """

    on_delay_s: float = 0.2
    off_delay_s: float = 1.0

    def on_delay(self, rate_hz: float) -> int:
        """Frames in a row at or above 1 that raise the alarm, at least one."""
        return max(1, round(self.on_delay_s * rate_hz))

    def off_delay(self, rate_hz: float) -> int:
        """Frames in a row below that end it, at least one."""
        return max(1, round(self.off_delay_s * rate_hz))


@dataclass(frozen=True)
class RewardConfig:
    """What a frame is worth, see `wm.reward`.

    Attributes:
      tags: weight of each tag by name, a frame and engineering unit; 0 for those that are not named.
      change: price of changing an action by one engineering unit.
    """

    tags: Mapping[str, float]
    change: float = 0.0


@dataclass(frozen=True)
class PlanConfig:
    """How a sequence of actions is searched for. Spreads are shares of the range between an action's bounds.

    Attributes:
      method: the cross-entropy method or model predictive path integral control, see `wm.planning.weights`.
      candidates: sequences that one decision judges, in all of its iterations together; at least four in each.
      horizon: frames of a sequence.
      iterations: times that the distribution is fitted, each to its share of the candidates.
      elites: candidates of an iteration that CEM fits.
      temperature: advantage in return, in its own units, that MPPI weighs e times as heavily.
      correlation: of the noise of two frames that follow each other, from 0 up to below 1.
      initial_std: spread of the first search, and of the frame that the horizon newly reaches. minimum_std: the spread
        that always stays, so that no search ends.
      discount: of the reward of the next frame (DreamerV3, section "Actor critic learning").

    Raises:
      InputError: an iteration has too few candidates.
    """

    method: Literal["cem", "mppi"] = "cem"
    candidates: int = 64
    horizon: int = 15
    iterations: int = 2
    elites: int = 4
    temperature: float = 0.03
    correlation: float = 0.8
    initial_std: float = 0.5
    minimum_std: float = 0.05
    discount: float = 0.997

    def __post_init__(self) -> None:
        if not 0 < self.elites <= self.drawn or self.drawn < 4:
            raise InputError(
                f"{self.candidates} candidates in {self.iterations} iterations are {self.drawn} in each; that must be "
                f"at least 4, and at least the {self.elites} elites."
            )

    @property
    def drawn(self) -> int:
        """Candidates of one iteration."""
        return self.candidates // self.iterations


def to_json(config: Any) -> dict[str, Any]:
    """A config as plain JSON values."""
    return dataclasses.asdict(config)


def from_json(cls: type[T], values: dict[str, Any]) -> T:
    """The config that `to_json` wrote. Raises pydantic.ValidationError where a value is missing or of another type."""
    return TypeAdapter(cls).validate_python(values)
