"""HRSS, the conveyors of a high storage system: a world model without a camera finds the rows that are wrong.

Trained, calibrated and chosen on the normal file alone; the labels of the other one are read for the figures.
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from experiments import evaluate, ingest, plots, runfolder, sensors
from experiments.cli import main
from wm.config import MonitorConfig
from wm.data.footage import Footage
from wm.errors import InputError

RATE_HZ = 18.0
HOLDOUT = 0.3
FALSE_ALARMS_PER_HOUR = 60.0
CANDIDATES = [
    (MonitorConfig(horizons_s=horizons, settle_s=0.0, drift_s=seconds), FALSE_ALARMS_PER_HOUR)
    for horizons in ((0.0,), (0.0, 0.5, 1.0))
    for seconds in (0.3, 0.6, 1.2)
]


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.hrss."""

    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    data_dir: Path = Path("../shared/data")
    """Folder that holds hrss/."""
    steps: int = 3000
    """Gradient steps of each model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One model each; the monitor is chosen with the first."""
    report: Path | None = None
    """Folder for hrss.json, beside other reports."""


def run(flags: Flags) -> None:
    """Rows of faulty conveyor cycles, told apart without a label."""
    normal, faulty = (flags.data_dir / "hrss" / f"HRSS_{name}_optimized.csv" for name in ("normal", "anomalous"))
    labels = read_labels(faulty)
    folder = runfolder.start(flags.out, flags)
    footage = ingested(normal, folder / "normal", HOLDOUT)
    test = ingested(faulty, folder / "faulty", 0.0)
    planted = sensors.plant(footage, "holdout", folder / "planted", copies=2, first=2, seed=0)

    choices: list[sensors.Choice] = []
    rows = []
    for seed in flags.seeds:
        model = sensors.trained(footage.path, folder / f"seed{seed}", steps=flags.steps, seed=seed)
        choices = choices or sensors.choose(model, footage, planted, CANDIDATES, evaluate.auc)
        watching = sensors.calibrated(model, footage, choices[0].monitor, FALSE_ALARMS_PER_HOUR)
        told = evaluate.watch(watching, test, "train")
        signals = {name: np.concatenate([sensors.pick(each, name) for each in told]) for name in sensors.SIGNALS}
        rows.append({"seed": seed, **{name: evaluate.auc(signal, labels) for name, signal in signals.items()}})
        plots.scores(signals, labels, RATE_HZ, folder / f"signals{seed}.png")
    signal = choices[0].signal
    found = [row[signal] for row in rows]
    metrics: dict[str, Any] = {
        "auc": float(np.mean(found)),
        "auc_spread": [min(found), max(found)],
        "signal": signal,
        "by_seed": rows,
        "chosen_on_planted_faults": sensors.told_of(choices),
        "published": {"Mahalanobis": 0.602, "nearest neighbour": 0.677, "AR(2) residual": 0.570},
        "provenance": runfolder.provenance(flags),
    }
    runfolder.finish(folder, metrics, flags.report and flags.report / "hrss.json")
    Console(stderr=True).print(f"AUC {metrics['auc']:.3f} of the {signal}, {found}\nwrote {folder}", highlight=False)


def ingested(log: Path, out: Path, holdout: float) -> Footage:
    """A file as footage, one episode a cycle; the clock of the cycle is what was done to the machine."""
    if not out.exists():
        tags = tuple(name for name in header(log) if name not in ("Timestamp", "Labels"))
        ingest.ingest(ingest.Flags((log,), out, rate_hz=RATE_HZ, tags=tags, actions=("Timestamp",), holdout=holdout))
    return Footage.open(out)


def header(log: Path) -> list[str]:
    """Names of the columns. Raises InputError where there is no such file."""
    try:
        with log.open(newline="") as file:
            return next(csv.reader(file))
    except (OSError, StopIteration):
        raise InputError(f"{log} is not there; give the folder that holds hrss/ as --data-dir.") from None


def read_labels(log: Path) -> NDArray[np.bool_]:
    """One truth a row."""
    place = header(log).index("Labels")
    with log.open(newline="") as file:
        return np.array([float(row[place]) > 0 for row in list(csv.reader(file))[1:]])


if __name__ == "__main__":
    main(run)
