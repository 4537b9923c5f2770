"""Dreams to look at: a world model rolled forward from recorded moments, far past the length that it was trained on.

A dream is plausible for as long as it is as lively and as sharp as what the model sees when it is awake, that is, when
it decodes what it has just been shown.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import jax
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments import plots, runfolder
from experiments.cli import main, progress
from experiments.dreamer import WAYS, Dream, Dreamer, stretch
from experiments.forecast import CONTEXT_S, Array, mean_image
from wm import bundle, calibrate
from wm.bundle import Bundle
from wm.data import log
from wm.data.footage import Episode, Footage
from wm.data.loader import WindowSource
from wm.errors import InputError
from wm.files import appearing

BAND: Final = (5, 95)  # percentiles of what is seen awake
MEASURES: Final = ("motion", "sharpness", "tags")
FILMED_S: Final = 20.0
LIVELY: Final = 0.03  # of 0..1: pixels whose spread over time is more are looked at


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.dream."""

    bundle: Path
    """World model of the line."""
    footage: Path
    """Footage of it, with a camera."""
    out: Path
    """Folder of the run."""
    split: Literal["train", "holdout"] = "holdout"
    """Split of the footage."""
    episode: int = 0
    """Number of the episode from which dreams are filmed."""
    time: float = 10.0
    """The moment from which they start, seconds into the episode."""
    seconds: float = 60.0
    """How long they last; the first 20 are filmed."""
    samples: int = 3
    """How many that differ by chance alone are filmed, beside the one that is most likely."""
    hold: tuple[float, ...] = ()
    """Values of the one action, such as the feeder's speed: the same moment is dreamt on with each of them held."""
    actions: Path | None = None
    """A CSV file with a row a frame and a column an action, named like them: the dream is under these, not under what
    was done."""
    moments: int = 32
    """From how many other moments, spread over the split, it is measured how long dreams stay plausible."""
    seed: int = 0
    """Seed of the samples."""
    report: Path | None = None
    """Folder for dream.json and its pictures, beside other reports."""


def run(flags: Flags) -> None:
    """Films dreams beside the truth and measures how long they stay plausible; writes videos, a plot and dream.json."""
    one, footage = bundle.load(flags.bundle), Footage.open(flags.footage)
    _check(flags, one, footage)
    seen = stretch(footage, flags.split, flags.episode, flags.time, flags.seconds)
    rate_hz = footage.spec.rate_hz
    frames, context = round(flags.seconds * rate_hz), round(CONTEXT_S * rate_hz)
    source = WindowSource(footage, flags.split, context + frames)
    actions = seen.actions[context:] if flags.actions is None else _actions(flags.actions, footage, frames)
    folder = runfolder.start(flags.out, flags, bundle_sha256=bundle.digest(flags.bundle))
    dreamer = Dreamer(one)
    keys = jax.random.split(jax.random.key(flags.seed), max(1 + flags.samples, flags.moments))

    assert seen.frames is not None
    truth, states = seen.frames[context:].astype(np.float32) / 255, dreamer.awake(seen)
    ways = ["most likely", *["sampled"] * flags.samples]
    shown = slice(min(frames, round(FILMED_S * rate_hz)))
    dreams = [
        dreamer.dream(states, context - 1, actions[shown], way, key).pictures
        for way, key in zip(ways, keys, strict=False)
    ]
    plots.film(_beside(truth[shown], dreams), rate_hz, folder / "dream.mp4")
    if flags.hold:
        held = [np.full_like(actions[shown], value) for value in flags.hold]
        tried = [dreamer.dream(states, context - 1, each, "most likely", keys[0]).pictures for each in held]
        plots.moving([np.concatenate(each, axis=1) for each in zip(*tried, strict=True)], rate_hz, folder / "held.webp")

    spread = np.asarray(one.variables["normaliser"].sensor_std)
    chosen = np.linspace(0, len(source) - 1, flags.moments).round().astype(int)
    found = measured(dreamer, footage, [source[int(number)] for number in chosen], spread, keys)
    rows = [{"way": way, **each} for way, each in found.items()]
    plots.dreams(found, folder / "dream.png")
    metrics = {
        "rows": rows,
        "seconds": flags.seconds,
        "trained_on_s": one.recipe["settings"]["open_loop"] / rate_hz,
        "moments": flags.moments,
        "fingerprint": footage.fingerprint,
        "provenance": runfolder.provenance(flags),
    }
    runfolder.finish(folder, metrics, flags.report and flags.report / "dream.json")
    if flags.report:
        for name in ("dream.mp4", "dream.png", *(["held.webp"] if flags.hold else [])):
            with appearing(flags.report / name) as file:
                file.write_bytes((folder / name).read_bytes())
    Console(stderr=True).print(_table(rows), f"wrote {folder}", sep="\n")


def _check(flags: Flags, one: Bundle, footage: Footage) -> None:
    calibrate.check(one, footage)
    if footage.spec.image is None:
        raise InputError(f"the footage at {flags.footage} has no camera, so there is nothing to dream of.")
    if "settings" not in one.recipe:
        raise InputError(f"{flags.bundle} does not say how it was trained; give a bundle that experiments.train wrote.")
    if not footage.frames("train"):
        raise InputError(f"the footage at {flags.footage} has no split 'train', which says what is usual in it.")
    if flags.seconds < 1 or flags.samples < 1 or flags.moments < 2:
        raise InputError("--seconds and --samples must be at least 1, --moments at least 2.")
    if flags.hold and len(footage.spec.actions) != 1:
        raise InputError("--hold is for footage of one action; give --actions.")


def _actions(path: Path, footage: Footage, frames: int) -> Array:
    told = log.read(path, footage.spec.actions, rate_hz=footage.spec.rate_hz).values
    if len(told) < frames or np.isnan(told[:frames]).any():
        raise InputError(f"{path} does not hold actions for {frames} frames; give a row for each.")
    return told[:frames]


def measured(
    dreamer: Dreamer, footage: Footage, windows: Sequence[Episode], spread: Array, keys: jax.Array
) -> dict[str, dict[str, Any]]:
    """For every way to dream, and for being awake, what is measured of each second, and for how long it holds."""
    rate_hz = footage.spec.rate_hz
    context = round(CONTEXT_S * rate_hz)
    mean, lively = mean_image(footage), _lively(footage)
    told: dict[str, list[Array]] = {way: [] for way in ("awake", *WAYS)}
    errors: dict[str, list[Array]] = {way: [] for way in ("mean image", *WAYS)}
    with progress() as bar:
        task = bar.add_task("dream", unit="moments")
        for seen, key in zip(bar.track(windows, task_id=task), keys, strict=False):
            assert seen.frames is not None
            truth = seen.frames[context:].astype(np.float32) / 255
            states = dreamer.awake(seen)
            ahead = jax.tree.map(lambda x: x[context:], states)
            told["awake"].append(liveliness(dreamer.look(ahead), lively, spread, rate_hz))
            errors["mean image"].append(_error(np.broadcast_to(mean, truth.shape), truth, rate_hz))
            for way in WAYS:
                dream = dreamer.dream(states, context - 1, seen.actions[context:], way, key)
                told[way].append(liveliness(dream, lively, spread, rate_hz))
                errors[way].append(_error(dream.pictures, truth, rate_hz))
    band = np.percentile(np.concatenate(told["awake"], axis=1), BAND, axis=1)[..., None]
    cheap = np.mean(errors["mean image"], axis=0)
    found: dict[str, dict[str, Any]] = {}
    for way, curves in told.items():
        middle = np.median(curves, axis=0)
        found[way] = {name: curve.tolist() for name, curve in zip(MEASURES, middle, strict=True)}
        if way == "awake":
            found[way]["band"] = dict(zip(MEASURES, band[..., 0].T.tolist(), strict=True))
        else:
            within = ((middle >= band[0]) & (middle <= band[1])).all(axis=0)
            ratio = np.mean(errors[way], axis=0) / cheap
            found[way] |= {"plausible_s": lasts(within), "foretells_s": lasts(ratio < 1), "error_ratio": ratio.tolist()}
    return found


def liveliness(dream: Dream, lively: NDArray[np.bool_], spread: Array, rate_hz: float) -> Array:
    """Of each second, how much the lively pixels change from frame to frame and from pixel to pixel, and how much all
    tags change in their standard deviations `spread` `[S]`: `[3, seconds]`.
    """
    motion = np.abs(np.diff(dream.pictures, axis=0, prepend=dream.pictures[:1])).mean(axis=-1)[:, lively].mean(axis=1)
    down, along = (np.abs(np.diff(dream.pictures, axis=axis)).mean(axis=-1) for axis in (1, 2))
    sharp = down[:, lively[1:]].mean(axis=1) + along[:, lively[:, 1:]].mean(axis=1)
    tags = np.abs(np.diff(dream.tags, axis=0, prepend=dream.tags[:1]) / spread).sum(axis=1)
    return np.stack([_seconds(each, rate_hz) for each in (motion, sharp, tags)])


def lasts(holds: NDArray[np.bool_]) -> int:
    """Seconds until something first does not hold."""
    return len(holds) if holds.all() else int(holds.argmin())


def _lively(footage: Footage) -> NDArray[np.bool_]:
    """The pixels `[H, W]` in which something happens."""
    return footage.sample("train", 512).astype(np.float32).std(axis=0).mean(axis=-1) / 255 > LIVELY


def _error(pictures: Array, truth: Array, rate_hz: float) -> Array:
    return _seconds(np.square(pictures - truth).mean(axis=(1, 2, 3)), rate_hz)


def _seconds(values: Array, rate_hz: float) -> Array:
    """Means over whole seconds: `[K]` to `[seconds]`."""
    frames = round(rate_hz)
    return values[: len(values) // frames * frames].reshape(-1, frames).mean(axis=1)


def _beside(truth: Array, dreams: list[Array]) -> Iterator[Array]:
    """Frames of a video, `[2 H, n W, C]`: truth above each dream."""
    for above, *below in zip(truth, *dreams, strict=True):
        yield np.concatenate([np.concatenate([above] * len(below), axis=1), np.concatenate(below, axis=1)])


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("way to dream", "plausible for", "foretells for", title="dreams")
    for row in rows:
        if "plausible_s" in row:
            table.add_row(row["way"], f"{row['plausible_s']} s", f"{row['foretells_s']} s")
    return table


if __name__ == "__main__":
    main(run)
