"""UCSD Ped2: a walkway on which people walk, until somebody rides.

What is wrong here is how fast it goes and not what it looks like, so the model sees two more channels beside the grey
one: how far every pixel moved along and down since the last two frames. It forecasts all three.

Trained and calibrated on the normal clips alone. How far ahead to compare and over how long to smooth the score is
chosen on people who walk too fast through held-out clips; labels and masks are read for the figures alone.
"""

import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
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
from wm.data.footage import SPLITS, Episode, Footage, FootageWriter
from wm.data.loader import windows
from wm.errors import InputError
from wm.surprise import Told
from wm.train import create, train_step

SIZE = 128, 192
HOLDOUT = 0.33
FALSE_ALARMS_PER_HOUR = 60.0
COPIES = 4
LAG = 2
REST, LEVELS_A_PIXEL = 128, 64
TIMED_STEPS = 40
HORIZONS_S = ((0.0,), (0.0, 0.5), (0.0, 0.5, 1.0))
HEARD: tuple[tuple[Kind, ...], ...] = (KINDS, ("pixels",), ("relative",), ("latents",), ("relative", "latents"))
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
    grey = ingested(data / "training", folder / "grey" / "normal", HOLDOUT)
    footage = moving(grey, folder / "normal")
    test = moving(ingested(data / "testing", folder / "grey" / "test", 0.0), folder / "test")
    planted = moving(walkers.plant(grey, folder / "grey" / "planted", copies=COPIES, seed=0), folder / "planted")
    model = trained(footage, folder / "model", flags)

    choices = choose(model, footage, planted)
    horizons_s, kinds, smoothed_s = (choices[0][name] for name in ("horizons_s", "kinds", "smoothed_s"))
    watching = calibrated(model, footage, horizons_s, kinds)
    told = evaluate.watch(watching, test, "train")
    stated = scored(watching, evaluate.watch(watching, footage, "holdout"), told)
    smooth = partial(smoothed, frames=round(smoothed_s * test.spec.rate_hz))
    scores = [smooth(each) for each in stated]

    labels = np.split(np.load(data / "test_frame_labels.npy").astype(bool), np.cumsum(test.lengths("train"))[:-1])
    masks = np.load(data / "test_pixel_masks_packbits.npz")
    clips = [detectors.scores(trivial, test, "train", clip) for clip in range(len(told))]
    metrics: dict[str, Any] = {
        **figures(scores, labels),
        "raw_micro_auc_not_smoothed": figures(stated, labels)["raw_micro_auc"],
        "train_minutes": model.recipe["metrics"]["steps_run"] * seconds_a_step(footage, model) / 60,
        "trained": {"minutes": model.recipe["metrics"]["minutes"], "device": model.recipe["train"]["device"]},
        "localised": localised(watching, told, labels, [masks[name] for name in masks.files]),
        "horizons_s": horizons_s,
        "kinds": kinds,
        "smoothed_s": smoothed_s,
        "trivial": {name: figures([smooth(clip[name]) for clip in clips], labels) for name in clips[0]},
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


def moving(footage: Footage, out: Path) -> Footage:
    """Grey footage with its optical flow as two more channels, along and down the picture."""
    if out.exists():
        return Footage.open(out)
    assert footage.spec.image
    with FootageWriter(out, replace(footage.spec, image=(*footage.spec.image[:2], 3)), footage.metadata) as writer:
        for split in SPLITS:
            for episode in footage.episodes(split):
                assert episode.frames is not None
                frames = np.concatenate([episode.frames, flow(episode.frames[..., 0])], axis=-1)
                with writer.episode(split, episode.source) as copy:
                    for frame, *rest in zip(frames, episode.sensors, episode.actions, episode.times, strict=True):
                        copy.append(frame, *rest)
    return Footage.open(out)


def flow(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """How far what is now seen moved in a frame, as the mean of the last two: `[T, H, W]` to `[T, H, W, 2]`, 128 at
    rest and 64 levels a pixel, at most 2 pixels; dense inverse search as in `experiments.detectors`.
    """
    search = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    moved = np.zeros((*frames.shape, 2), np.float32)
    for now in range(LAG, len(frames)):
        moved[now] = search.calc(frames[now - LAG], frames[now], None) / LAG
    return np.clip(np.round(REST + LEVELS_A_PIXEL * moved), 0, 255).astype(np.uint8)


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
        everything = calibrated(model, footage, horizons_s, KINDS)
        normal, told = evaluate.watch(everything, footage, "holdout"), evaluate.watch(everything, planted, "train")
        for kinds in HEARD:
            scores = scored(calibrated(model, footage, horizons_s, kinds), normal, told)
            for smoothed_s in SMOOTHED_S:
                frames = round(smoothed_s * planted.spec.rate_hz)
                found = figures([smoothed(each, frames) for each in scores], labels)
                choices.append({"horizons_s": horizons_s, "kinds": kinds, "smoothed_s": smoothed_s, **found})
    return sorted(choices, key=lambda choice: -choice["raw_micro_auc"])


def scored(model: Bundle, normal: list[Told], told: list[Told]) -> list[Scores]:
    """The score of every frame of the clips that were watched; before the first forecast for it nothing is known of a
    frame, and it counts as what is usual in the normal clips, the median.
    """
    first = min(model.monitor.ready(model.spec.rate_hz))
    usual = np.median(np.concatenate([_scores(model, each)[first:] for each in normal]))
    return [np.concatenate([np.full(first, usual), _scores(model, each)[first:]]) for each in told]


def _scores(model: Bundle, told: Told) -> Scores:
    assert model.calibration is not None
    return calibrate.scores(model.calibration, calibrate.levels(model, model.calibration, np.asarray(told.errors)))


def smoothed(scores: Scores, frames: int) -> Scores:
    """The exponentially weighted mean of the scores `[T]` so far, over about so many frames."""
    started, _ = lfilter([1.0 / frames], [1.0, 1.0 / frames - 1.0], scores, zi=[scores[0] * (1.0 - 1.0 / frames)])
    return started


def trivial(episode: Episode) -> dict[str, Scores]:
    """Trivial scores `[T - 1]`: the zone of the grey channel that changed most, and the fastest patch."""
    assert episode.frames is not None
    grey = episode._replace(frames=episode.frames[..., :1])
    return {"frame_difference": detectors.frame_difference(grey), "fastest_patch": fastest_patch(episode)}


def fastest_patch(episode: Episode) -> Scores:
    """The flow of the patch of 8x8 pixels that moves fastest, `[T - 1]`."""
    assert episode.frames is not None
    count, height, width, _ = episode.frames[1:].shape
    moved = np.linalg.norm(episode.frames[1:, ..., 1:].astype(np.float32) - REST, axis=-1)
    return moved.reshape(count, height // 8, 8, width // 8, 8).mean(axis=(2, 4)).max(axis=(1, 2))


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
