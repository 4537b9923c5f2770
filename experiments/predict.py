"""How well world models predict the next three seconds, beside cheap predictors, on footage that they never saw."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from experiments import baselines, plots, runfolder
from experiments.cli import main, progress
from experiments.forecast import (
    SECONDS,
    Array,
    Forecast,
    Windows,
    cut,
    errors,
    foretell,
    mean_image,
    reliability,
    seams,
    shuffle,
)
from wm import bundle, calibrate
from wm.data.footage import Footage
from wm.errors import InputError
from wm.files import appearing
from wm.nets import most_likely


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.predict."""

    bundles: tuple[Path, ...]
    """World models of several seeds, three or more to tell luck from skill; the pictures are those of the first."""
    footage: Path
    """Footage of their line."""
    out: Path
    """Folder of the run."""
    split: Literal["train", "holdout"] = "holdout"
    """Split of the footage; it is refused where one of them was trained on it."""
    windows: int = 256
    """Stretches of seven seconds, evenly spread over the split."""
    seed: int = 0
    """Seed of the exchange of actions between the windows."""
    report: Path | None = None
    """Folder for prediction.json and its pictures, beside other reports."""


def run(flags: Flags) -> None:
    """Measures prediction error against horizon; writes metrics.json, plots, a film strip and a video."""
    if flags.windows < 1:
        raise InputError("--windows must be at least 1.")
    models = [bundle.load(path) for path in flags.bundles]
    footage = Footage.open(flags.footage)
    if footage.spec.image is None:
        raise InputError(f"the footage at {flags.footage} has no camera, so there are no pictures to predict.")
    for path, one in zip(flags.bundles, models, strict=True):
        calibrate.check(one, footage)
        if "metrics" not in one.recipe:
            raise InputError(f"{path} does not say how it was trained; give a bundle that experiments.train wrote.")
        if flags.split == "train" and one.recipe["footage"]["fingerprint"] == footage.fingerprint:
            raise InputError(f"{path} was trained on this split of {flags.footage}; give footage that it has not seen.")
    windows = cut(footage, flags.split, flags.windows)
    folder = runfolder.start(flags.out, flags)
    frames = [round(second * footage.spec.rate_hz) - 1 for second in SECONDS]

    cheap = {"mean image": errors(windows, np.broadcast_to(mean_image(footage), windows.truth.shape))}
    with progress() as bar:
        count = len(windows.frames)
        task = bar.add_task("predict", total=2 * count + 3 * count * len(models), unit="windows")
        watched = partial(bar.advance, task)
        cheap["last frame"] = errors(windows, _each(windows, baselines.copy_last, watched))
        cheap["constant velocity"] = errors(windows, _each(windows, baselines.constant_velocity, watched))
        best = np.min(list(cheap.values()), axis=0)
        rows = []
        for number, one in enumerate(models):
            forecast = foretell(one, windows, watched)
            found = errors(windows, forecast.pictures)
            shuffled = errors(windows, foretell(one, shuffle(windows, flags.seed), watched).pictures)
            compared = errors(windows, foretell(one, windows, watched, most_likely).pictures)
            rows.append(
                {
                    "error": found.tolist(),
                    "ratio": (found / best).tolist(),
                    "error_shuffled_actions": shuffled.tolist(),
                    "shuffled_action_ratio": float(shuffled[1].mean() / found[1].mean()),
                    "error_most_likely": compared.tolist(),
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
    runfolder.finish(folder, metrics, flags.report and flags.report / "prediction.json")
    if flags.report:
        for name in ("horizon.png", "reliability.png", "strip.png", "prediction.mp4"):
            with appearing(flags.report / name) as file:
                file.write_bytes((folder / name).read_bytes())
    said = ", ".join(f"{name} {value:.3f}" for name, value in summary.items())
    Console(stderr=True).print(f"{said}\nwrote {folder}", highlight=False, soft_wrap=True)


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
