"""Tennessee Eastman Process: a world model without a camera finds 21 faults of a simulated chemical plant.

Trained and calibrated on the faultless run d00 alone; the limit is the one that 1 % of the rows of a second faultless
run pass, as in the tables that others publish.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments import evaluate, ingest, runfolder, sensors
from experiments.cli import main
from wm.config import MonitorConfig
from wm.data.footage import Footage
from wm.errors import InputError

PERIOD_S = 180.0
HOLDOUT = 0.7
FAULTS = range(1, 22)
ONSET = 160
FAR = 0.01
FALSE_ALARMS_PER_HOUR = FAR * 3600 / PERIOD_S
IN_A_ROW = 3
CANDIDATES = [
    (MonitorConfig(horizons_s=horizons, settle_s=10 * PERIOD_S, drift_s=rows * PERIOD_S), FALSE_ALARMS_PER_HOUR)
    for horizons in ((0.0,), (20 * PERIOD_S,))
    for rows in (3, 5, 10)
]


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.tep."""

    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    data_dir: Path = Path("../shared/data")
    """Folder that holds tep/."""
    steps: int = 400
    """Gradient steps of each model."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One model each; the monitor is chosen with the first."""
    report: Path | None = None
    """Folder for tep.json, beside other reports."""


def run(flags: Flags) -> None:
    """Detection rate and delay of every fault at 1 % false alarms."""
    path = flags.data_dir / "tep" / "tep_braatz.npz"
    try:
        runs = dict(np.load(path))
    except OSError:
        raise InputError(f"{path} is not there; give the folder that holds tep/ as --data-dir.") from None
    folder = runfolder.start(flags.out, flags)
    footage = ingested(runs["d00"], folder / "d00", HOLDOUT)
    tests = {name: ingested(runs[name], folder / name, 0.0) for name in sorted(runs) if name.endswith("_te")}
    planted = sensors.plant(footage, "holdout", folder / "planted", copies=20, first=20, seed=0)

    choices: list[sensors.Choice] = []
    rows = []
    for seed in flags.seeds:
        model = sensors.trained(footage.path, folder / f"seed{seed}", steps=flags.steps, seed=seed, size="debug")
        choices = choices or sensors.choose(model, footage, planted, CANDIDATES, detected)
        watching = sensors.calibrated(model, footage, choices[0].monitor, FALSE_ALARMS_PER_HOUR)
        told = {name: evaluate.watch(watching, test, "train")[0] for name, test in tests.items()}
        for signal in sensors.SIGNALS:
            found = rates({name: sensors.pick(each, signal) for name, each in told.items()})
            rows.append({"seed": seed, "signal": signal, **found})
    chosen = [row for row in rows if row["signal"] == choices[0].signal]
    metrics: dict[str, Any] = {
        "mean_fdr": float(np.mean([row["mean_fdr"] for row in chosen])),
        "mean_fdr_spread": [min(row["mean_fdr"] for row in chosen), max(row["mean_fdr"] for row in chosen)],
        "far": float(np.mean([row["far"] for row in chosen])),
        "signal": choices[0].signal,
        "faults": {
            fault: {
                "fdr": float(np.mean([row["faults"][fault]["fdr"] for row in chosen])),
                "delay_min": [row["faults"][fault]["delay_min"] for row in chosen],
            }
            for fault in map(str, FAULTS)
        },
        "by_seed": rows,
        "chosen_on_planted_faults": sensors.told_of(choices),
        "published": {"PCA T2": 0.577, "PCA SPE": 0.626},
        "provenance": runfolder.provenance(flags),
    }
    runfolder.finish(folder, metrics, flags.report and flags.report / "tep.json")
    Console(stderr=True).print(_table(metrics), f"wrote {folder}", sep="\n")


def detected(signal: sensors.Rows, labels: NDArray[np.bool_]) -> float:
    """Share of the faulty rows above the limit that a hundredth of the others pass."""
    return float((signal[labels] > np.quantile(signal[~labels], 1 - FAR)).mean())


def rates(signals: dict[str, sensors.Rows]) -> dict[str, Any]:
    """False alarm rate, detection rates and delays at the limit that a hundredth of the faultless run passes."""
    faultless = signals["d00_te"]
    limit = np.quantile(faultless, 1 - FAR)
    faults = {}
    for number in FAULTS:
        over = signals[f"d{number:02d}_te"][ONSET:] > limit
        stays = np.convolve(over, np.ones(IN_A_ROW), "valid") == IN_A_ROW
        delay = float(np.argmax(stays)) * PERIOD_S / 60 if stays.any() else None
        faults[str(number)] = {"fdr": float(over.mean()), "delay_min": delay}
    return {
        "mean_fdr": float(np.mean([row["fdr"] for row in faults.values()])),
        "far": float((faultless > limit).mean()),
        "far_before_faults": float(np.mean([signals[f"d{n:02d}_te"][:ONSET] > limit for n in FAULTS])),
        "faults": faults,
    }


def ingested(values: np.ndarray, out: Path, holdout: float) -> Footage:
    """A run `[T, 52]` as footage, by way of a log."""
    if not out.exists():
        names = [f"x{place + 1}" for place in range(values.shape[1])]
        log = out.with_suffix(".csv")
        times = PERIOD_S * np.arange(len(values))
        np.savetxt(log, np.column_stack([times, values]), "%.9g", ",", header=",".join(["time", *names]), comments="")
        ingest.ingest(ingest.Flags((log,), out, rate_hz=1 / PERIOD_S, tags=tuple(names), holdout=holdout))
    return Footage.open(out)


def _table(metrics: dict[str, Any]) -> Table:
    told = f"mean detection rate {metrics['mean_fdr']:.3f} at {metrics['far']:.1%} false alarms ({metrics['signal']})"
    table = Table("fault", "detection rate", "delay, minutes", title=told)
    for fault, row in metrics["faults"].items():
        delays = ", ".join("-" if delay is None else f"{delay:.0f}" for delay in row["delay_min"])
        table.add_row(fault, f"{row['fdr']:.2f}", delays)
    return table


if __name__ == "__main__":
    main(run)
