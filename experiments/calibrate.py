"""Turns held-out normal footage and a promised false-alarm rate into a threshold."""

import dataclasses
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Literal

from rich.console import Console

from experiments import runfolder
from experiments.cli import main, progress
from wm import bundle, calibrate
from wm.config import MonitorConfig, to_json
from wm.data.footage import Footage
from wm.errors import InputError


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.calibrate."""

    bundle: Path
    """Bundle to calibrate; it stays as it is."""
    footage: Path
    """Normal footage that the model was not trained on."""
    out: Path
    """Calibrated bundle to write."""
    split: Literal["train", "holdout"] = "holdout"
    """Split of the footage."""
    false_alarms: float = 1.0
    """At most this many false alarms in a shift."""
    shift_hours: float = 8.0
    """Length of a shift in hours."""
    horizons_s: tuple[float, ...] = MonitorConfig.horizons_s
    """Seconds ahead at which forecasts are compared with what came; 0 stands for one frame."""
    settle_s: float = MonitorConfig.settle_s
    """Seconds that the model needs after the first frame before its forecasts count."""
    drift_s: float = MonitorConfig.drift_s
    """Seconds over which the slow signal averages."""


def run(flags: Flags) -> None:
    """Finds the threshold for a promised false-alarm rate; writes a calibrated bundle."""
    if not (0 < flags.false_alarms < inf and 0 < flags.shift_hours < inf):
        raise InputError("--false-alarms and --shift-hours must be greater than 0.")
    if not flags.horizons_s or min(*flags.horizons_s, flags.settle_s) < 0 or flags.drift_s <= 0:
        raise InputError("--horizons-s and --settle-s are seconds from 0, --drift-s is greater than 0.")
    if flags.out.exists():
        raise InputError(f"{flags.out} exists already; choose another folder for the bundle or remove it.")
    model = bundle.load(flags.bundle)
    footage = Footage.open(flags.footage)
    learnt = model.recipe.get("footage", {}).get("fingerprint")
    if flags.split == "train" and footage.fingerprint == learnt:
        raise InputError(f"the model was trained on this split of {flags.footage}; give footage that it has not seen.")
    monitor = dataclasses.replace(
        model.monitor, horizons_s=flags.horizons_s, settle_s=flags.settle_s, drift_s=flags.drift_s
    )
    model = dataclasses.replace(model, monitor=monitor)
    with progress() as bar:
        task = bar.add_task("calibrate", total=footage.frames(flags.split), unit="frames", visible=False)
        calibration, promises = calibrate.calibrate(
            model,
            footage,
            flags.split,
            flags.false_alarms,
            flags.shift_hours,
            lambda frames: bar.update(task, advance=frames, visible=True),
        )
    entry = {
        **runfolder.provenance(flags),
        "fingerprint": footage.fingerprint,
        "footage": footage.metadata,
        "promise": to_json(promises.score),
        "drift_promise": to_json(promises.drift),
        "left_out_s": promises.left_out_s,
    }
    view = None if footage.spec.image is None else calibrate.view(footage, flags.split)
    recipe = {**model.recipe, "calibrate": entry}
    model = dataclasses.replace(model, calibration=calibration, recipe=recipe, view=view)
    bundle.save(model, flags.out)
    kept = promises.score
    left_out = f"{promises.left_out_s:.0f} s were left out, as they stand out from all the rest\n"
    Console(stderr=True).print(
        f"threshold {kept.high:.3f} (estimate {kept.estimate:.3f}, 90 % interval from {kept.low:.3f}) for at most "
        f"{flags.false_alarms:g} false alarms in {flags.shift_hours:g} h, from {kept.hours:.2f} h of footage; of the "
        f"drift over {flags.drift_s:g} s {promises.drift.high:.3f}\n"
        f"{left_out if promises.left_out_s else ''}wrote {flags.out}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    main(run)
