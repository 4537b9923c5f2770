"""What is not a jam: another product, a lamp that fails, a camera that is knocked.

A sound line is filmed; half-way something about it changes for good. Then runs that jam are filmed as they are from
there on: whether Flinch alarms in vain, whether its slow signal says that something is not as it was, whether the
runtime says that its camera does not see what it was taught, and what is still seen coming. A new product counts from
when the last of the old cartons would have left the view, as here all that are in view change at once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments import jams, runfolder
from experiments.cli import main, progress
from experiments.jams import Film, Run, Wanted, film, lead, watch
from experiments.line import EARLY_S
from runtime import arms, sight
from runtime.line.camera import THIS_LINE, Look
from runtime.line.cartons import TAILS
from runtime.line.line import SPEC, Line
from runtime.line.scene import CARTON
from runtime.sight import Sight, View
from wm import alarm, bundle
from wm.bundle import Bundle
from wm.errors import InputError
from wm.surprise import Told
from wm.types import Observation


def _turned(degrees: float) -> Look:
    """The camera turned by so much along the belt, so that it looks past its target, and about its own axis."""
    x, y, z = THIS_LINE.target
    aside = math.dist(THIS_LINE.eye, THIS_LINE.target) * math.tan(math.radians(degrees))
    return THIS_LINE._replace(target=(x + aside, y, z), roll=THIS_LINE.roll + math.radians(degrees))


class Change(NamedTuple):
    """How the line is from half-way on: what its camera sees, and how long its cartons are, in metres."""

    look: Look = THIS_LINE
    carton_length: float = CARTON[0]


TURNED_OVER_S: Final = 15.0
LEAST_MIN: Final = 1.0  # so that as much again counts
CHANGES: Final = {
    "none": Change(),
    "two prints never seen": Change(THIS_LINE._replace(prints=(6, 7) * 3)),
    "cartons of 125 mm, not 150": Change(carton_length=0.125),
    "cartons of 165 mm, not 150": Change(carton_length=0.165),
    "lamps at 80 %": Change(THIS_LINE._replace(brightness=0.8)),
    "lamps at 50 %": Change(THIS_LINE._replace(brightness=0.5)),
    "camera knocked by half a degree": Change(_turned(0.5)),
    "camera knocked by 3 degrees": Change(_turned(3.0)),
}


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.disturbances."""

    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    bundle: Path = Path("runtime/line/bundle")
    """Calibrated bundle of the line."""
    minutes: float = 20.0
    """Simulated minutes of a sound line, the change half-way."""
    jams: int = 5
    """Jams of every kind of trouble that is there on entry, filmed anew for every change."""
    seed: int = 970_000
    """Seed of the sound line, and of the first run that may jam."""
    jobs: int = 2
    """Processes that look for jams at the same time."""
    report: Path | None = None
    """Folder for disturbances.json, beside other reports."""


def run(flags: Flags) -> None:
    """Alarms, drift and jams seen under changes that are no jam; writes metrics.json."""
    if flags.minutes < LEAST_MIN or min(flags.jams, flags.jobs) < 1:
        raise InputError(f"--minutes must be at least {LEAST_MIN:g}, --jams and --jobs at least 1.")
    model = bundle.load(flags.bundle)
    if model.calibration is None or model.spec != SPEC:
        raise InputError(f"{flags.bundle} is not a calibrated bundle of the simulated line; give another --bundle.")
    folder = runfolder.start(flags.out, flags, bundle_sha256=bundle.digest(flags.bundle))
    wanted: list[Wanted] = [("entry", kind, flags.jams) for kind in TAILS]
    rows = []
    for number, (name, change) in enumerate(CHANGES.items()):
        found = folder / f"runs-{change.carton_length}.json"
        runs = jams.kept(found, wanted, flags.seed, flags.jobs, change.carton_length)
        path = folder / f"{number}.json"
        rows.append({"change": name, **runfolder.kept(path, partial(_measured, flags, model, change, runs))})
    metrics = {"rows": rows, "jams": len(TAILS) * flags.jams, "provenance": runfolder.provenance(flags)}
    runfolder.finish(folder, metrics, flags.report and flags.report / "disturbances.json")
    Console(stderr=True).print(_table(metrics), f"wrote {folder}", sep="\n")


def _measured(flags: Flags, model: Bundle, change: Change, runs: list[Run]) -> dict[str, Any]:
    half = round(flags.minutes * 60 * SPEC.rate_hz / 2)
    middle = arms.RUN_IN_S + half / SPEC.rate_hz
    with progress() as bar:
        task = bar.add_task("sound line", total=2 * half, unit="frames")
        shots = []
        for (look, carton_length), start in ((Change(), arms.RUN_IN_S), (change, middle)):
            with Line(flags.seed, tail_rate=0.0, carton_length=carton_length, look=look) as line:
                while line.time < start:
                    line.scan()
                shots += [line.step() for _ in bar.track(range(half), task_id=task)]
    frames, sensors, actions = (
        jnp.asarray(np.stack([getattr(shot, name) for shot in shots])) for name in ("image", "sensors", "action")
    )
    told = model.replay(model.start(), Observation(frames, sensors), actions)[1]
    sights = sighted(model, [shot.image for shot in shots], half)
    return {**changed(model, told, half), **sights, **_seen(model, [film(each, change.look) for each in runs])}


def changed(model: Bundle, told: Told, half: int) -> dict[str, Any]:
    """Alarms an hour and the share of the time that the alarm stands, before the change at frame `half` and once the
    view has turned over after it, and how long after it the drift stood first; None where it never did, 0 where it
    did already.
    """
    later = half + round(TURNED_OVER_S * SPEC.rate_hz)
    alarms = np.array(alarm.raised(model.alarm, SPEC.rate_hz, told.score))
    stands = np.array(alarm.standing(model.alarm, SPEC.rate_hz, told.score))
    drifts = np.array(alarm.standing(model.monitor.drift_alarm, SPEC.rate_hz, told.drift))
    frames_an_hour = SPEC.rate_hz * 3600
    return {
        "alarms_per_hour_before": float((alarms < half).sum() / half * frames_an_hour),
        "alarms_per_hour_after": float((alarms >= later).sum() / (len(stands) - later) * frames_an_hour),
        "alarm_stands_before": float(stands[:half].mean()),
        "alarm_stands_after": float(stands[later:].mean()),
        "drift_before": bool(drifts[:half].any()),
        "drift_after_s": float(drifts[half:].argmax() / SPEC.rate_hz) if drifts[half:].any() else None,
    }


def sighted(model: Bundle, frames: Sequence[NDArray[np.uint8]], half: int) -> dict[str, Any]:
    """What the runtime says of its camera: the share of frames with which something is wrong before and after the
    change, how long after it that was first told, and what.
    """
    view, state, told = View.of(model), Sight(), []
    for frame in frames:
        state, wrong = sight.step(view, SPEC.rate_hz, state, frame)
        told.append(wrong)
    bad = np.array([wrong is not None for wrong in told])
    first = int(bad[half:].argmax()) if bad[half:].any() else None
    return {
        "camera_fault_before": float(bad[:half].mean()),
        "camera_fault_after": float(bad[half:].mean()),
        "camera_fault_after_s": None if first is None else first / SPEC.rate_hz,
        "camera_fault": None if first is None else told[half + first],
    }


def _seen(model: Bundle, films: list[Film]) -> dict[str, Any]:
    """Of jams, those that were alarmed a second or more before by an alarm that was not standing or raised already when
    the trouble began.
    """
    early, vain = 0, 0
    for one in films:
        raised = alarm.raised(model.alarm, SPEC.rate_hz, watch(model, one).score)
        before = lead(one, raised)
        early += before is not None and before >= EARLY_S
        vain += int(np.sum(one.seen.times[raised] < one.onset))
    return {"alarmed_1s_share": early / len(films), "alarms_before_trouble": vain}


def _table(metrics: dict[str, Any]) -> Table:
    table = Table(title=f"changes half-way, and {metrics['jams']} jams afterwards")
    columns = ("alarms an hour before", "after", "it stands after", "drift after", "camera fault after", "jams seen")
    for column in ("change", *columns):
        table.add_column(column)
    for row in metrics["rows"]:
        after = [row["drift_after_s"], row["camera_fault_after_s"]]
        drift, fault = ("-" if seconds is None else f"{seconds:.1f} s" for seconds in after)
        rates = (f"{row[f'alarms_per_hour_{name}']:.0f}" for name in ("before", "after"))
        stands, seen = (f"{row[name]:.0%}" for name in ("alarm_stands_after", "alarmed_1s_share"))
        table.add_row(row["change"], *rates, stands, drift, fault, seen)
    return table


if __name__ == "__main__":
    main(run)
