"""SKAB: a world model without a camera watches a water loop whose valves close and whose pump suffers.

One model for all 34 experiments, in units of the first 400 rows of each, which are normal use: half of them is learnt
from and half held out, as are pieces of a long run without anomalies. The monitor is chosen on faults planted into
other pieces of that run; labels are read afterwards, for the figures.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments import evaluate, ingest, plots, runfolder, sensors
from experiments.cli import main
from wm.config import FootageSpec, MonitorConfig
from wm.data.footage import Footage, FootageWriter
from wm.data.log import Log
from wm.errors import InputError

RATE_HZ = 1.0
REFERENCE = 400
TRAINED = 200
PIECE = 1150
HIGHEST_FAR = 0.15
CANDIDATES = [
    (MonitorConfig(horizons_s=(horizon,), settle_s=10.0, drift_s=seconds), false_alarms_per_hour)
    for horizon in (10.0, 30.0, 60.0)
    for seconds in (10.0, 20.0)
    for false_alarms_per_hour in (3.0, 10.0, 30.0, 60.0)
]
PUBLISHED = {
    "Conv-AE": (0.78, 0.1355, 0.2802),
    "MSET": (0.78, 0.3973, 0.1413),
    "T2+Q": (0.76, 0.2662, 0.2492),
    "LSTM-AE": (0.74, 0.2996, 0.2592),
    "T2": (0.66, 0.1921, 0.4260),
    "IsolationForest": (0.29, 0.0256, 0.8289),
}


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.skab."""

    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    data_dir: Path = Path("../shared/data")
    """Folder that holds skab/."""
    steps: int = 1500
    """Gradient steps of each model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One model each; the monitor is chosen with the first."""
    report: Path | None = None
    """Folder for skab.json, beside other reports."""


class Experiment(NamedTuple):
    """A file: its values `[T, 8]` in units of its first rows, and whether a row is anomalous `[T]`."""

    name: str
    values: sensors.Rows
    labels: NDArray[np.bool_]


def run(flags: Flags) -> None:
    """F1, false alarm rate and missed alarm rate over the rows after the first 400 of every file."""
    experiments, pieces, tags = read(flags.data_dir / "skab" / "data")
    folder = runfolder.start(flags.out, flags)
    spec = FootageSpec(RATE_HZ, None, tags)
    first_rows = [each._replace(values=each.values[:REFERENCE]) for each in experiments]
    footage = written(folder / "normal", spec, [*first_rows, *pieces[::2]], TRAINED)
    whole = written(folder / "experiments", spec, experiments)
    calm = written(folder / "calm", spec, pieces[1::2])
    planted = sensors.plant(calm, "train", folder / "planted", copies=10, first=REFERENCE, seed=0)
    labels = np.concatenate([each.labels[REFERENCE:] for each in experiments])

    choices: list[sensors.Choice] = []
    rows = []
    for seed in flags.seeds:
        model = sensors.trained(footage.path, folder / f"seed{seed}", steps=flags.steps, seed=seed, size="debug")
        choices = choices or sensors.choose(model, footage, planted, CANDIDATES, f1)
        watching = sensors.calibrated(model, footage, choices[0].monitor, choices[0].false_alarms_per_hour)
        told = evaluate.watch(watching, whole, "train")
        for name in sensors.SIGNALS:
            signal = np.concatenate([sensors.pick(each, name)[REFERENCE:] for each in told])
            rows.append({"seed": seed, "signal": name, **figures(signal >= 1.0, labels)})
            if name == choices[0].signal:
                plots.scores({name: signal}, labels, RATE_HZ, folder / f"signal{seed}.png")
    chosen = [row for row in rows if row["signal"] == choices[0].signal]
    metrics: dict[str, Any] = {
        **{name: float(np.mean([row[name] for row in chosen])) for name in ("f1", "far", "mar")},
        "signal": choices[0].signal,
        "by_seed": rows,
        "chosen_on_planted_faults": sensors.told_of(choices),
        "published": {name: dict(zip(("f1", "far", "mar"), row, strict=True)) for name, row in PUBLISHED.items()},
        "provenance": runfolder.provenance(flags),
    }
    runfolder.finish(folder, metrics, flags.report and flags.report / "skab.json")
    Console(stderr=True).print(_table(metrics), f"wrote {folder}", sep="\n")


def read(folder: Path) -> tuple[list[Experiment], list[Experiment], tuple[str, ...]]:
    """The 34 experiments, pieces of the run without anomalies, and the names of the tags."""
    paths = [path for name in ("valve1", "valve2", "other") for path in sorted((folder / name).glob("*.csv"))]
    calm = folder / "anomaly-free" / "anomaly-free.csv"
    if not paths or not calm.exists():
        raise InputError(f"{folder} does not hold SKAB; give the folder that holds skab/ as --data-dir.")
    experiments = []
    for path in paths:
        names, values = _values(path)
        experiments.append(Experiment(f"{path.parent.name}/{path.name}", _scaled(values[:, :8]), values[:, 8] > 0))
    _, values = _values(calm)
    normal = np.zeros(PIECE, bool)
    pieces = [
        Experiment(f"{calm.name} from {first}", _scaled(values[first : first + PIECE, :8]), normal)
        for first in range(0, len(values) - PIECE + 1, PIECE)
    ]
    return experiments, pieces, tuple(names[1:9])


def _values(path: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Names of the columns, and all of them but the first, the time."""
    with path.open(newline="") as file:
        names, *rows = csv.reader(file, delimiter=";")
    return names, np.array([row[1:] for row in rows], np.float64)


def _scaled(values: NDArray[np.float64]) -> sensors.Rows:
    first = values[:REFERENCE]
    return ((values - first.mean(axis=0)) / (first.std(axis=0) + 1e-6)).astype(np.float32)


def written(out: Path, spec: FootageSpec, experiments: list[Experiment], trained: int | None = None) -> Footage:
    """Experiments as footage, all rows but so many of each held out."""
    if not out.exists():
        with FootageWriter(out, spec, {}) as writer:
            for each in experiments:
                times = np.arange(len(each.values)) / RATE_HZ
                for split, part in (("train", slice(trained)), ("holdout", slice(trained or len(times), None))):
                    ingest.write_log(writer, split, each.name, Log(times[part], each.values[part]))
    return Footage.open(out)


def f1(signal: sensors.Rows, labels: NDArray[np.bool_]) -> float:
    """Of rows at or above the calibrated threshold; one less where too many of the normal ones are."""
    found = figures(signal >= 1.0, labels)
    return found["f1"] - (found["far"] > HIGHEST_FAR)


def figures(alarmed: NDArray[np.bool_], labels: NDArray[np.bool_]) -> dict[str, float]:
    """F1, the share of normal rows that were alarmed and of anomalous ones that were missed."""
    hits, false, missed = (alarmed & labels).sum(), (alarmed & ~labels).sum(), (~alarmed & labels).sum()
    return {
        "f1": float(2 * hits / max(1, 2 * hits + false + missed)),
        "far": float(false / (~labels).sum()),
        "mar": float(missed / labels.sum()),
    }


def _table(metrics: dict[str, Any]) -> Table:
    table = Table("", "F1", "false alarms", "missed", title=f"SKAB, {metrics['signal']}, mean of all seeds")
    for name, row in {"Flinch": metrics, **metrics["published"]}.items():
        table.add_row(name, f"{row['f1']:.2f}", f"{row['far']:.1%}", f"{row['mar']:.1%}")
    return table


if __name__ == "__main__":
    main(run)
