"""Whether calibration keeps its promise: thresholds from some hours of normal footage, false alarms counted in others.

Every trial draws the episodes that it calibrates on anew, and counts alarms in all that it did not draw.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from experiments import plots, runfolder
from experiments.cli import main, progress
from experiments.workers import processes
from wm import alarm, bundle, calibrate
from wm.data.footage import Footage
from wm.errors import InputError
from wm.files import appearing

ASKED = (1.0, 2.0, 4.0, 8.0)
SHIFT_HOURS = 8.0


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.promise."""

    footage: tuple[Path, ...]
    """Normal footage that the model was not trained on."""
    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    bundle: Path = Path("runtime/line/bundle")
    """Bundle to calibrate."""
    hours: float = 4.5
    """Footage that a trial calibrates on."""
    trials: int = 20
    """How often episodes are drawn anew."""
    seed: int = 0
    """Seed of the draws."""
    jobs: int = 2
    """Processes that work at the same time."""
    report: Path | None = None
    """Folder for calibration.json and calibration.png, beside other reports."""


def run(flags: Flags) -> None:
    """Promised against observed false alarms over resampled normal footage."""
    if min(flags.trials, flags.jobs) < 1 or flags.hours <= 0:
        raise InputError("--trials and --jobs must be at least 1, --hours above 0.")
    model = bundle.load(flags.bundle)
    sets = [Footage.open(path) for path in flags.footage]
    for footage in sets:
        calibrate.check(model, footage)
        if footage.fingerprint == model.recipe["footage"]["fingerprint"]:
            raise InputError(f"the model was trained on {footage.path}; give footage that it has not seen.")
    whole = sum(footage.hours("train") for footage in sets)
    if whole < 2 * flags.hours:
        raise InputError(f"{whole:.1f} h are too few to calibrate on {flags.hours:g} h and to count in as many.")
    known = {
        "fingerprints": [footage.fingerprint for footage in sets],
        "bundle_sha256": bundle.digest(flags.bundle),
    }
    folder = runfolder.start(flags.out, flags, **known)
    episodes = _watched(folder, flags, sets)
    rows = _tried(folder, flags, episodes)
    metrics = {
        **summary(rows, "alarms"),
        "drift": summary(rows, "drift_alarms"),
        "rows": rows,
        "provenance": runfolder.provenance(flags),
    }
    plots.promises(rows, folder / "calibration.png")
    if flags.report:
        plots.promises(rows, flags.report / "calibration.png")
    runfolder.finish(folder, metrics, flags.report and flags.report / "calibration.json")
    Console(stderr=True).print(
        f"at most as many false alarms as promised in {metrics['kept']} of {metrics['trials']} trials, of the drift in "
        f"{metrics['drift']['kept']}\nwrote {folder}",
        highlight=False,
    )


def _watched(folder: Path, flags: Flags, sets: Sequence[Footage]) -> list[Path]:
    """Raw errors of every episode, each in a file of its own."""
    (folder / "errors").mkdir(exist_ok=True)
    episodes = [
        (footage.path, number, folder / "errors" / f"{place}-{number}.npy")
        for place, footage in enumerate(sets)
        for number in range(len(footage.lengths("train")))
    ]
    missing = [episode for episode in episodes if not episode[2].exists()]
    with processes(flags.jobs) as pool, progress() as bar:
        task = bar.add_task("watch", total=len(episodes), completed=len(episodes) - len(missing), unit="episodes")
        for _ in pool.map(partial(_watch, flags.bundle), missing):
            bar.advance(task)
    return [path for *_, path in episodes]


def _watch(path: Path, episode: tuple[Path, int, Path]) -> None:
    footage, number, out = episode
    told = calibrate.replay(bundle.load(path), Footage.open(footage), "train", number, lambda frames: None)
    with appearing(out) as file, file.open("wb") as stream:
        np.save(stream, told.errors)


def _tried(folder: Path, flags: Flags, episodes: list[Path]) -> list[dict[str, Any]]:
    """All trials, each written when it is done."""
    (folder / "trials").mkdir(exist_ok=True)
    missing = [trial for trial in range(flags.trials) if not _row(folder, trial).exists()]
    with processes(flags.jobs) as pool, progress() as bar:
        task = bar.add_task("trials", total=flags.trials, completed=flags.trials - len(missing), unit="trials")
        for _ in pool.map(partial(_try, folder, flags, episodes), missing):
            bar.advance(task)
    return [json.loads(_row(folder, trial).read_bytes()) for trial in range(flags.trials)]


def _row(folder: Path, trial: int) -> Path:
    return folder / "trials" / f"{trial}.json"


def _try(folder: Path, flags: Flags, episodes: list[Path], trial: int) -> None:
    model = bundle.load(flags.bundle)
    errors = {path: np.load(path, mmap_mode="r") for path in episodes}
    drawn = draw(
        [len(errors[path]) for path in episodes],
        flags.hours * 3600 * model.spec.rate_hz,
        np.random.default_rng([flags.seed, trial]),
    )
    chosen = [np.asarray(errors[path]) for path, taken in zip(episodes, drawn, strict=True) if taken]
    normal = calibrate.learn(model, chosen)
    calibrations = {asked: calibrate.promise(model, normal, asked, SHIFT_HOURS) for asked in ASKED}
    del chosen, normal
    rest = [path for path, taken in zip(episodes, drawn, strict=True) if not taken]
    counts, drifts = dict.fromkeys(ASKED, 0), dict.fromkeys(ASKED, 0)
    for path in rest:
        known, whole = calibrations[ASKED[0]][0], np.asarray(errors[path])
        levels, distances = calibrate.levels(model, known, whole), calibrate.drifts(model, known, whole)
        for asked, (calibration, _) in calibrations.items():
            scores = calibrate.scores(calibration, levels)
            counts[asked] += len(alarm.raised(model.alarm, model.spec.rate_hz, scores))
            slow = calibrate.drift_scores(calibration, distances)
            drifts[asked] += len(alarm.raised(model.monitor.drift_alarm, model.spec.rate_hz, slow))
    hours = sum(len(errors[path]) for path in rest) / model.spec.rate_hz / 3600
    row = {
        "trial": trial,
        "hours": hours,
        "calibrated_hours": calibrations[ASKED[0]][1].score.hours,
        "thresholds": {str(asked): promises.score.high for asked, (_, promises) in calibrations.items()},
        "alarms": {str(asked): counts[asked] for asked in ASKED},
        "drift_alarms": {str(asked): drifts[asked] for asked in ASKED},
    }
    runfolder.write_json(_row(folder, trial), row)


def draw(lengths: Sequence[int], frames: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Which episodes of so many frames are drawn until at least `frames` are."""
    order = generator.permutation(len(lengths))
    enough = int(np.searchsorted(np.cumsum(np.array(lengths)[order]), frames)) + 1
    taken = np.zeros(len(lengths), bool)
    taken[order[:enough]] = True
    return taken


def summary(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """In how many trials no more alarms of this name came than were promised, at one a shift and at each rate that was
    asked for.
    """

    def per_shift(row: dict[str, Any], asked: float) -> float:
        return row[name][str(asked)] / row["hours"] * SHIFT_HOURS

    kept = {asked: sum(per_shift(row, asked) <= asked for row in rows) for asked in ASKED}
    return {
        "trials": len(rows),
        "kept": kept[ASKED[0]],
        "kept_share": kept[ASKED[0]] / len(rows),
        "kept_share_by_rate": {str(asked): kept[asked] / len(rows) for asked in ASKED},
        "mean_per_shift_by_rate": {
            str(asked): float(np.mean([per_shift(row, asked) for row in rows])) for asked in ASKED
        },
        "hours_counted": float(np.mean([row["hours"] for row in rows])),
    }


if __name__ == "__main__":
    main(run)
