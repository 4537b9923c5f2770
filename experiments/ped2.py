"""UCSD Ped2: a walkway on which people walk, until somebody rides.

Trained and calibrated on the normal clips alone. How far ahead to compare and over how long to smooth the score is
chosen on people who walk too fast through held-out clips; labels and masks are read for the figures alone.
"""

import time
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.signal import lfilter

from experiments import detectors, evaluate, ingest, plots, runfolder, sensors, train, walkers
from experiments.cli import huge_pages, main
from wm import bundle, calibrate
from wm.bundle import Bundle
from wm.config import KINDS, Kind, MonitorConfig, TrainConfig, from_json
from wm.data.footage import Footage
from wm.data.loader import windows
from wm.errors import InputError
from wm.surprise import Told
from wm.train import create, train_step

SIZE = 128, 192
HOLDOUT = 0.33
FALSE_ALARMS_PER_HOUR = 60.0
COPIES = 4
TIMED_STEPS = 40
HORIZONS_S = ((0.0,), (0.0, 0.5), (0.0, 0.5, 1.0))
HEARD: tuple[tuple[Kind, ...], ...] = (KINDS, ("relative", "latents"), ("latents",))
SMOOTHED_S = (0.1, 0.3, 0.6, 1.0)
PUBLISHED = {
    "ConvLSTM-AE": 0.912,
    "MemAE": 0.941,
    "Future Frame Prediction": 0.954,
    "MNAD": 0.970,
    "HF2-VAD, pretrained detector and flow": 0.993,
}
Scores = NDArray[Any]
Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.ped2."""

    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    data_dir: Path = Path("../shared/data")
    """Folder that holds ucsd_ped2/."""
    size: str = "small"
    """Preset of the model."""
    steps: int = 6000
    """Gradient steps."""
    seed: int = 0
    """Seed of the model."""
    report: Path | None = None
    """Folder for ped2.json and ped2.png, beside other reports."""


def run(flags: Flags) -> None:
    """Frames with somebody who does not walk, told apart without a label."""
    data = flags.data_dir / "ucsd_ped2"
    if not (data / "training").is_dir():
        raise InputError(f"{data} does not hold Ped2; give the folder that holds ucsd_ped2/ as --data-dir.")
    folder = runfolder.start(flags.out, flags)
    places = [folder, *([flags.report] if flags.report else [])]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    footage = ingested(data / "training", folder / "normal", HOLDOUT)
    test = ingested(data / "testing", folder / "test", 0.0)
    planted = walkers.plant(footage, folder / "planted", copies=COPIES, seed=0)
    model = trained(footage, folder / "model", flags)

    choices = choose(model, footage, planted)
    horizons_s, kinds, smoothed_s = (choices[0][name] for name in ("horizons_s", "kinds", "smoothed_s"))
    watching = calibrated(model, footage, horizons_s, kinds)
    told = evaluate.watch(watching, test, "train")
    smooth = partial(smoothed, frames=round(smoothed_s * test.spec.rate_hz))
    scores = [smooth(np.asarray(each.score)) for each in told]

    labels = np.split(np.load(data / "test_frame_labels.npy").astype(bool), np.cumsum(test.lengths("train"))[:-1])
    masks = np.load(data / "test_pixel_masks_packbits.npz")
    moved = [detectors.scores(detectors.frame_difference, test, "train", clip) for clip in range(len(told))]
    metrics: dict[str, Any] = {
        **figures(scores, labels),
        "raw_micro_auc_not_smoothed": figures([np.asarray(each.score) for each in told], labels)["raw_micro_auc"],
        "train_minutes": model.recipe["metrics"]["steps_run"] * seconds_a_step(footage, model) / 60,
        "trained": {"minutes": model.recipe["metrics"]["minutes"], "device": model.recipe["train"]["device"]},
        "localised": localised(watching, told, labels, [masks[name] for name in masks.files]),
        "horizons_s": horizons_s,
        "kinds": kinds,
        "smoothed_s": smoothed_s,
        "frame_difference": figures([smooth(each) for each in moved], labels),
        "chosen_on_planted_walkers": choices,
        "published_normalised_micro_auc": PUBLISHED,
        "provenance": runfolder.provenance(flags),
    }
    joined = np.concatenate(scores), np.concatenate(labels)
    for place in places:
        plots.scores({"score": joined[0]}, joined[1], test.spec.rate_hz, place / "ped2.png")
    runfolder.finish(folder, metrics, flags.report and flags.report / "ped2.json")
    Console(stderr=True).print(
        f"causal raw micro AUC {metrics['raw_micro_auc']:.3f}; normalised in each clip, micro "
        f"{metrics['normalised_micro_auc']:.3f} and macro {metrics['normalised_macro_auc']:.3f}\nwrote {folder}",
        highlight=False,
    )


def ingested(clips: Path, out: Path, holdout: float) -> Footage:
    """All clips of a folder as footage in grey, one episode a clip."""
    if not out.exists():
        ingest.ingest(ingest.Flags(tuple(sorted(clips.glob("*.mp4"))), out, SIZE, channels=1, holdout=holdout))
    return Footage.open(out)


def trained(footage: Footage, out: Path, flags: Flags) -> Bundle:
    """The world model, trained now or by an earlier start. What moves here is small and faint, so a nat is cheap; a
    window is short, as nobody knows where people will have walked in three seconds.
    """
    train.run(
        train.Flags(
            footage.path,
            out,
            size=flags.size,
            steps=flags.steps,
            batch=8,
            context=10,
            open_loop=6,
            beta_dynamics=0.04,
            beta_representation=0.004,
            gain=0.1,
            seed=flags.seed,
        )
    )
    return bundle.load(out / "bundle")


def seconds_a_step(footage: Footage, model: Bundle) -> float:
    """Median time of a training step on this machine, whatever the model was trained on."""
    settings = from_json(TrainConfig, model.recipe["settings"])
    batches = windows(footage, "train", length=settings.length, batch=settings.batch, seed=0)
    normaliser, key = model.variables["normaliser"], jax.random.key(0)
    state, times = create(model.config, settings, normaliser, 0), []
    for batch in islice(batches, TIMED_STEPS + 1):
        began = time.monotonic()
        state, _ = jax.block_until_ready(train_step(model.config, settings, state, normaliser, batch, key))
        times.append(time.monotonic() - began)
    return float(np.median(times[1:]))


def calibrated(model: Bundle, footage: Footage, horizons_s: tuple[float, ...], kinds: tuple[Kind, ...]) -> Bundle:
    """The model with a monitor of these horizons and kinds, calibrated on the held-out clips."""
    monitor = MonitorConfig(horizons_s=horizons_s, settle_s=0.3, drift_s=5.0, kinds=kinds)
    return sensors.calibrated(model, footage, monitor, FALSE_ALARMS_PER_HOUR)


def choose(model: Bundle, footage: Footage, planted: Footage) -> list[dict[str, Any]]:
    """How well planted walkers are told apart with each set of horizons and kinds of error, and over how long the score
    is smoothed, the best first.
    """
    labels = [np.array(each, bool) for each in planted.metadata["labels"]]
    choices = []
    for horizons_s in HORIZONS_S:
        told = evaluate.watch(calibrated(model, footage, horizons_s, KINDS), planted, "train")
        for kinds in HEARD:
            watching = calibrated(model, footage, horizons_s, kinds)
            scores = [_scores(watching, np.asarray(each.errors)) for each in told]
            for smoothed_s in SMOOTHED_S:
                frames = round(smoothed_s * planted.spec.rate_hz)
                found = figures([smoothed(each, frames) for each in scores], labels)
                choices.append({"horizons_s": horizons_s, "kinds": kinds, "smoothed_s": smoothed_s, **found})
    return sorted(choices, key=lambda choice: -choice["raw_micro_auc"])


def _scores(model: Bundle, errors: NDArray[np.float32]) -> Scores:
    assert model.calibration is not None
    return calibrate.scores(model.calibration, calibrate.levels(model, model.calibration, errors))


def smoothed(scores: Scores, frames: int) -> Scores:
    """The exponentially weighted mean of the scores `[T]` so far, over about so many frames."""
    started, _ = lfilter([1.0 / frames], [1.0, 1.0 / frames - 1.0], scores, zi=[scores[0] * (1.0 - 1.0 / frames)])
    return started


def figures(scores: list[Scores], labels: list[Labels]) -> dict[str, float]:
    """Area under the ROC curve of frames: `raw`, as the scores came, which an alarm can do; `normalised`, each clip by
    its own extremes as the published figures are, which it cannot, of all frames together (micro) and as the mean over
    the clips that have frames of both kinds (macro).
    """
    normalised = [(score - score.min()) / (np.ptp(score) + 1e-12) for score in scores]
    mixed = [(score, truth) for score, truth in zip(normalised, labels, strict=True) if 0 < truth.mean() < 1]
    return {
        "raw_micro_auc": evaluate.auc(np.concatenate(scores), np.concatenate(labels)),
        "normalised_micro_auc": evaluate.auc(np.concatenate(normalised), np.concatenate(labels)),
        "normalised_macro_auc": float(np.mean([evaluate.auc(*clip) for clip in mixed])),
    }


def localised(
    model: Bundle, told: list[Told], labels: list[Labels], masks: list[NDArray[np.uint8]]
) -> dict[str, float]:
    """Of the anomalous frames, the share whose loudest patch touches what is wrong by the masks, bits
    `[T, H, W / 8]`; and the share of patches that do, which is what a guess finds.
    """
    assert model.calibration is not None
    rows, columns = model.config.grid
    hits, guesses = [], []
    for each, truth, bits in zip(told, labels, masks, strict=True):
        where = calibrate.maps(model, model.calibration, each.errors)[truth].reshape(truth.sum(), -1)
        wrong = np.unpackbits(bits, axis=-1)[truth]
        high, wide = wrong.shape[1] // rows, wrong.shape[2] // columns
        touched = wrong[:, : high * rows, : wide * columns].reshape(-1, rows, high, columns, wide).any(axis=(2, 4))
        touched = touched.reshape(len(touched), -1)
        hits.append(touched[np.arange(len(where)), where.argmax(axis=1)])
        guesses.append(touched.mean(axis=1))
    return {"share": float(np.concatenate(hits).mean()), "by_chance": float(np.concatenate(guesses).mean())}


if __name__ == "__main__":
    huge_pages()
    main(run)
