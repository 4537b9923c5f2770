"""Runs the monitor over recorded footage, exactly as the runtime would, and scores it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import mannwhitneyu

from experiments import plots, runfolder
from experiments.cli import main, progress
from wm import alarm, bundle, calibrate
from wm.bundle import Bundle
from wm.data.footage import Footage
from wm.errors import InputError
from wm.surprise import Told


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.evaluate."""

    bundle: Path
    """Calibrated bundle."""
    footage: Path
    """Footage that was neither trained nor calibrated on."""
    out: Path
    """Folder of the run."""
    split: Literal["train", "holdout"] = "train"
    """Split of the footage."""
    labels: Path | None = None
    """Truth for scoring only: a .npy file with one 0 or 1 for every frame of the split, in order."""


def run(flags: Flags) -> None:
    """Scores footage; writes scores.npz, metrics.json and scores.png."""
    model = bundle.load(flags.bundle)
    footage = Footage.open(flags.footage)
    calibrate.check(model, footage)
    if model.calibration is None:
        raise InputError(f"{flags.bundle} is not calibrated; run experiments.calibrate on normal footage first.")
    lengths = footage.lengths(flags.split)
    if not lengths:
        raise InputError(f"the footage at {flags.footage} has no split '{flags.split}'; choose the other --split.")
    labels = None if flags.labels is None else read_labels(flags.labels, sum(lengths))
    folder = runfolder.start(flags.out, flags)

    episodes = watch(model, footage, flags.split)
    scores, drifts = (np.concatenate([getattr(told, name) for told in episodes]) for name in ("score", "drift"))
    rate_hz = footage.spec.rate_hz
    hours = len(scores) / rate_hz / 3600
    alarms = sum(len(alarm.raised(model.alarm, rate_hz, told.score)) for told in episodes)
    metrics: dict[str, Any] = {
        "hours": hours,
        "alarms": alarms,
        "alarms_per_hour": alarms / hours,
        "score_median": float(np.median(scores)),
        "score_max": float(scores.max()),
        "drift_alarms": sum(len(alarm.raised(model.monitor.drift_alarm, rate_hz, told.drift)) for told in episodes),
        "drift_max": float(drifts.max()),
        "fingerprint": footage.fingerprint,
    }
    if labels is not None:
        metrics["raw_micro_auc"] = auc(scores, labels)
    np.savez_compressed(folder / "scores.npz", scores=scores, drifts=drifts, lengths=lengths)
    plots.scores({"score": scores, "drift": drifts}, labels, footage.spec.rate_hz, folder / "scores.png")
    runfolder.finish(folder, metrics)
    said = f"{hours:.2f} h, {alarms} alarms, {metrics['drift_alarms']} of the drift"
    if labels is not None:
        said += f", causal raw micro frame AUC {metrics['raw_micro_auc']:.4f}"
    Console(stderr=True).print(f"{said}\nwrote {folder}", highlight=False)


def watch(model: Bundle, footage: Footage, split: str) -> list[Told]:
    """Every episode of the split, exactly as the runtime would watch it."""
    lengths = footage.lengths(split)
    with progress() as bar:
        task = bar.add_task("evaluate", total=sum(lengths), unit="frames")
        done = partial(bar.advance, task)
        return [calibrate.replay(model, footage, split, number, done) for number in range(len(lengths))]


def read_labels(path: Path, frames: int) -> NDArray[np.bool_]:
    """One truth a frame, `[frames]`. Raises InputError where the file cannot be read, has another length, or holds one
    kind only.
    """
    try:
        labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        labels = None
    if not isinstance(labels, np.ndarray):
        raise InputError(f"{path} cannot be read as labels; give a .npy file with a 0 or 1 for every frame.")
    if labels.shape != (frames,):
        raise InputError(f"{path} holds labels of shape {labels.shape}, the footage has {frames} frames.")
    if labels.all() or not labels.any():
        raise InputError(f"the labels in {path} are all alike, so there is nothing to tell apart; give both kinds.")
    return labels.astype(bool)


def auc(scores: NDArray[np.float32], labels: NDArray[np.bool_]) -> float:
    """Area under the ROC curve of all frames together, scores as they came: the chance that an anomalous frame scores
    above a normal one, ties half.
    """
    return float(mannwhitneyu(scores[labels], scores[~labels]).statistic / labels.sum() / (~labels).sum())


if __name__ == "__main__":
    main(run)
