"""How well world models predict the next three seconds, beside cheap predictors, on footage that they never saw."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from experiments import baselines, plots, runfolder
from experiments.cli import main, progress
from wm import bundle, calibrate, model, rssm
from wm.bundle import Bundle
from wm.config import ModelConfig
from wm.data.footage import Footage
from wm.errors import InputError
from wm.nets import expected, most_likely
from wm.types import Observation

CONTEXT_S, HORIZON_S = 4.0, 3.0
MOVING = 10 / 255
CHUNK = 16
MEAN_FRAMES = 2048
SECONDS = (1, 2, 3)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.predict."""

    bundles: tuple[Path, ...]
    """World models of the same footage, best of three or more seeds; the pictures are those of the first."""
    footage: Path
    """Their footage."""
    out: Path
    """Folder of the run."""
    split: Literal["train", "holdout"] = "holdout"
    """Split that none of them was trained on."""
    windows: int = 256
    """Stretches of seven seconds, evenly spread over the split."""
    seed: int = 0
    """Seed of the exchange of actions between the windows."""
    report: Path | None = None
    """Folder for prediction.json and its pictures, beside other reports."""


class Windows(NamedTuple):
    """Stretches of footage: `context` frames that are filtered, and K frames after them.

    Attributes:
      frames: `[B, T, H, W, C]` uint8. sensors: `[B, T, S]`. actions: `[B, T, A]`.
      moving: `[B, K, H, W]`, pixels of the frames to come that are unlike the frame before or after.
    """

    frames: NDArray[np.uint8]
    sensors: Array
    actions: Array
    moving: NDArray[np.bool_]
    context: int

    @property
    def truth(self) -> Array:
        """The frames to come, `[B, K, H, W, C]` in 0..1."""
        return self.frames[:, self.context :].astype(np.float32) / 255


class Forecast(NamedTuple):
    """What a model foretold.

    Attributes:
      pictures: `[B, K, H, W, C]` in 0..1. variance: `[B, K, H, W]`, the squared error that it expects.
      divergence: nats a frame between posterior and prior while it filtered.
    """

    pictures: Array
    variance: Array
    divergence: float


def run(flags: Flags) -> None:
    """Measures prediction error against horizon; writes metrics.json, plots, a film strip and a video."""
    if flags.windows < 1:
        raise InputError("--windows must be at least 1.")
    models = [bundle.load(path) for path in flags.bundles]
    footage = Footage.open(flags.footage)
    if footage.spec.image is None:
        raise InputError(f"the footage at {flags.footage} has no camera, so there are no pictures to predict.")
    for one in models:
        calibrate.check(one, footage)
    windows = cut(footage, flags.split, flags.windows)
    folder = runfolder.start(flags.out, flags)
    frames = [round(second * footage.spec.rate_hz) - 1 for second in SECONDS]

    mean = (footage.sample("train", MEAN_FRAMES).mean(axis=0, dtype=np.float64) / 255).astype(np.float32)
    cheap = {"mean image": errors(windows, np.broadcast_to(mean, windows.truth.shape))}
    with progress() as bar:
        count = len(windows.frames)
        task = bar.add_task("predict", total=2 * count + 2 * count * len(models), unit="windows")
        watched = partial(bar.advance, task)
        cheap["last frame"] = errors(windows, _each(windows, baselines.copy_last, watched))
        cheap["constant velocity"] = errors(windows, _each(windows, baselines.constant_velocity, watched))
        best = np.min(list(cheap.values()), axis=0)
        rows = []
        for number, one in enumerate(models):
            forecast = foretell(one, windows, watched)
            found = errors(windows, forecast.pictures)
            shuffled = errors(windows, foretell(one, shuffle(windows, flags.seed), watched).pictures)
            rows.append(
                {
                    "error": found.tolist(),
                    "ratio": (found / best).tolist(),
                    "shuffled_action_ratio": float(shuffled[1].mean() / found[1].mean()),
                    "divergence_nats": forecast.divergence,
                    "seam_ratio": seams(one.config, windows, forecast.pictures),
                    "train_minutes": one.recipe["metrics"]["minutes"],
                    "train_seed": one.recipe["train"]["seed"],
                    "fingerprint_trained": one.recipe["footage"]["fingerprint"],
                }
            )
            if number == 0:
                bins = reliability(windows, forecast)
                plots.strip(windows.truth[0], forecast.pictures[0], frames, folder / "strip.png")
                plots.film(_side_by_side(windows, forecast), footage.spec.rate_hz, folder / "prediction.mp4")

    ratios = np.array([row["ratio"] for row in rows])
    summary: dict[str, Any] = {
        f"{kind}_ratio_{second}s": float(ratios[:, index, frame].mean())
        for index, kind in enumerate(("all", "moving"))
        for second, frame in zip(SECONDS, frames, strict=True)
    }
    summary["shuffled_action_ratio"] = float(np.mean([row["shuffled_action_ratio"] for row in rows]))
    summary["train_minutes"] = float(np.max([row["train_minutes"] for row in rows]))
    metrics = {
        **summary,
        "windows": count,
        "moving_share": float(windows.moving.mean()),
        "cheap": {name: error.tolist() for name, error in cheap.items()},
        "models": rows,
        "reliability": {name: values.tolist() for name, values in bins.items()},
        "fingerprint": footage.fingerprint,
        "provenance": runfolder.provenance(flags),
    }
    told = {**cheap, "world model": np.mean([row["error"] for row in rows], axis=0)}
    spread = np.array([row["error"] for row in rows])
    plots.horizon(told, spread, footage.spec.rate_hz, folder / "horizon.png")
    plots.reliability(bins, folder / "reliability.png")
    runfolder.finish(folder, metrics)
    if flags.report:
        flags.report.mkdir(parents=True, exist_ok=True)
        runfolder.write_json(flags.report / "prediction.json", metrics)
        for name in ("horizon.png", "reliability.png", "strip.png", "prediction.mp4"):
            (flags.report / name).write_bytes((folder / name).read_bytes())
    said = ", ".join(f"{name} {value:.3f}" for name, value in summary.items())
    Console(stderr=True).print(f"{said}\nwrote {folder}", highlight=False, soft_wrap=True)


def cut(footage: Footage, split: str, count: int) -> Windows:
    """So many windows, evenly spread over the split, overlapping where they must.

    Raises:
      InputError: no episode of the split is long enough.
    """
    context, horizon = (round(seconds * footage.spec.rate_hz) for seconds in (CONTEXT_S, HORIZON_S))
    length = context + horizon + 1
    starts = [
        (number, start) for number, frames in enumerate(footage.lengths(split)) for start in range(frames - length + 1)
    ]
    if not starts:
        raise InputError(
            f"the footage at {footage.path} has no {split} episode of {length} frames; record or ingest more."
        )
    chosen = [starts[i] for i in np.linspace(0, len(starts) - 1, count).round().astype(int)]
    episodes = [footage.read(split, number, start, length) for number, start in chosen]
    frames = np.stack([episode.frames for episode in episodes if episode.frames is not None])
    changed = np.abs(np.diff(frames[:, context - 1 :].astype(np.float32) / 255, axis=1)).max(axis=-1) > MOVING
    return Windows(
        frames[:, :-1],
        np.stack([episode.sensors[:-1] for episode in episodes]),
        np.stack([episode.actions[:-1] for episode in episodes]),
        changed[:, :-1] | changed[:, 1:],
        context,
    )


def foretell(one: Bundle, windows: Windows, watched: Callable[[int], None]) -> Forecast:
    """Filters the context of every window and rolls its expectation out under the actions that were taken."""

    @jax.jit
    def ahead(frames: Array, sensors: Array, actions: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        past, future = actions[:, : windows.context], actions[:, windows.context :]
        embedding = model.encode(one.config, one.variables, Observation(frames, sensors))
        start = rssm.start(one.config, (len(frames),))
        states, posterior = model.observe(one.config, one.variables, start, embedding, past, draw=most_likely)
        divergence = rssm.kl(posterior, model.prior(one.config, one.variables, states.deter)).sum(axis=-1)
        present = jax.tree.map(lambda x: x[:, -1], states)
        dream, _ = model.imagine(one.config, one.variables, present, future, draw=expected)
        prediction = model.decode(one.config, one.variables, dream)
        assert prediction.image is not None and prediction.log_variance is not None
        return prediction.image.clip(0, 1), jax.numpy.exp(prediction.log_variance), divergence.mean()

    def chunks() -> Iterator[tuple[jax.Array, jax.Array, jax.Array]]:
        for first in range(0, len(windows.frames), CHUNK):
            here = slice(first, first + CHUNK)
            frames, sensors = windows.frames[here, : windows.context], windows.sensors[here, : windows.context]
            yield ahead(frames, sensors, windows.actions[here])
            watched(len(frames))

    pictures, variance, divergence = zip(*(jax.device_get(chunk) for chunk in chunks()), strict=True)
    return Forecast(np.concatenate(pictures), np.concatenate(variance), float(np.mean(divergence)))


def shuffle(windows: Windows, seed: int) -> Windows:
    """The same windows, each with the actions to come of another."""
    actions = windows.actions.copy()
    order = np.random.default_rng(seed).permutation(len(actions))
    actions[:, windows.context :] = windows.actions[order, windows.context :]
    return windows._replace(actions=actions)


def errors(windows: Windows, pictures: Array) -> Array:
    """Mean squared error `[2, K]` of pictures `[B, K, H, W, C]` at every frame to come, of all and of moving pixels."""
    squares = np.square(np.clip(pictures, 0, 1) - windows.truth).mean(axis=-1)
    moving = (squares * windows.moving).sum(axis=(0, 2, 3)) / np.maximum(windows.moving.sum(axis=(0, 2, 3)), 1)
    return np.stack([squares.mean(axis=(0, 2, 3)), moving])


def reliability(windows: Windows, forecast: Forecast, bins: int = 20) -> dict[str, Array]:
    """Expected and found squared error of pixels, in bins of equal size by the error that the model expects."""
    found = np.square(forecast.pictures - windows.truth).mean(axis=-1).ravel()
    order = np.argsort(forecast.variance.ravel())
    parts = np.array_split(order, bins)
    return {
        "expected": np.array([forecast.variance.ravel()[part].mean() for part in parts]),
        "found": np.array([found[part].mean() for part in parts]),
    }


def seams(config: ModelConfig, windows: Windows, pictures: Array) -> float:
    """How much rougher the error is across the borders of patches than inside them: 1 without seams."""
    error = pictures - windows.truth
    steps = np.square(np.diff(error, axis=3)).mean(axis=(0, 1, 2, 4))
    border = np.arange(1, config.image[1] if config.image else 0) % config.patch == 0
    return float(steps[border].mean() / steps[~border].mean())


def _each(windows: Windows, predictor: Callable[[Array, int], Array], watched: Callable[[int], None]) -> Array:
    pictures = []
    for frames in windows.frames:
        context = frames[: windows.context].astype(np.float32) / 255
        pictures.append(predictor(context, windows.moving.shape[1]))
        watched(1)
    return np.stack(pictures)


def _side_by_side(windows: Windows, forecast: Forecast, shown: int = 6) -> Iterator[Array]:
    """Frames of a video, `[2 H, n W, C]`: truth above forecast, of windows spread over the footage."""
    chosen = np.linspace(0, len(windows.frames) - 1, shown).round().astype(int)
    for above, below in zip(
        windows.truth[chosen].swapaxes(0, 1), forecast.pictures[chosen].swapaxes(0, 1), strict=True
    ):
        yield np.concatenate([np.concatenate(above, axis=1), np.concatenate(below, axis=1)])


if __name__ == "__main__":
    main(run)
