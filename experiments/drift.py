"""A guide that wears: the slow signal against the alarm, beside a line that does not wear.

Both lines are filmed from the same seed, without trouble and at full speed.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from experiments import evaluate, plots, record, runfolder
from experiments.cli import main
from runtime.line.line import SPEC
from wm import alarm, bundle
from wm.bundle import Bundle
from wm.data.footage import Footage
from wm.errors import InputError
from wm.surprise import Told


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.drift."""

    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    bundle: Path = Path("runtime/line/bundle")
    """Calibrated bundle of the line."""
    hours: float = 2.0
    """Simulated hours of each line."""
    wear_per_hour: float = 0.5
    """How fast the guide wears; at a wear of 1 it is rough and 4 mm thinner."""
    seed: int = 700_000
    """Seed of both lines."""
    report: Path | None = None
    """Folder for drift.json and drift.png, beside other reports."""


def run(flags: Flags) -> None:
    """When the slow signal tells of a guide that wears, and what the alarm makes of it."""
    if min(flags.hours, flags.wear_per_hour) <= 0:
        raise InputError("--hours and --wear-per-hour must be above 0.")
    model = bundle.load(flags.bundle)
    if model.calibration is None or model.spec != SPEC:
        raise InputError(f"{flags.bundle} is not a calibrated bundle of the simulated line; give another --bundle.")
    folder = runfolder.start(flags.out, flags, bundle_sha256=bundle.digest(flags.bundle))
    told, metrics = {}, {}
    for name, wear in (("sound", 0.0), ("worn", flags.wear_per_hour)):
        footage = _filmed(folder / name, flags, wear)
        (told[name],) = evaluate.watch(model, footage, "train")
        metrics[name] = figures(model, told[name], wear)
        metrics[name]["blocks"] = len(footage.metadata["events"][0]["blocks"])
    plots.drift(told, SPEC.rate_hz, folder / "drift.png")
    if flags.report:
        plots.drift(told, SPEC.rate_hz, flags.report / "drift.png")
    runfolder.finish(
        folder, {**metrics, "provenance": runfolder.provenance(flags)}, flags.report and flags.report / "drift.json"
    )
    Console(stderr=True).print(metrics, f"wrote {folder}", sep="\n")


def figures(model: Bundle, told: Told, wear_per_hour: float) -> dict[str, Any]:
    """When the drift raised its alarm, how worn the guide was, and how many alarms there were until then and in all."""
    passed = alarm.raised(model.monitor.drift_alarm, SPEC.rate_hz, told.drift)
    alarms = alarm.raised(model.alarm, SPEC.rate_hz, told.score)
    minutes = passed[0] / SPEC.rate_hz / 60 if passed else None
    return {
        "drift_alarms": len(passed),
        "first_drift_minutes": minutes,
        "wear_then": None if minutes is None else wear_per_hour * minutes / 60,
        "drift_max": float(np.max(told.drift)),
        "alarms": len(alarms),
        "alarms_before_drift": sum(not passed or frame < passed[0] for frame in alarms),
    }


def _filmed(path: Path, flags: Flags, wear: float) -> Footage:
    if not path.exists():
        take = record.Flags(
            path, 60 * flags.hours, seed=flags.seed, tail_rate=0.0, wear_per_hour=wear, vary=False, holdout=0.0
        )
        record.record(take)
    return Footage.open(path)


if __name__ == "__main__":
    main(run)
