"""The alarm on the simulated line, at scale: false alarms over held-out shifts, and jams of every kind in closed loop.

Trouble is forced on one carton of a run; that it jams is found with the physics alone, before anything watches. From
one snapshot the run then goes on three times through the PLC process: with Flinch in shadow, with Flinch in act, and
with an oracle that knows of the trouble as soon as it can be seen; a fourth run, without the trouble, tells what the
line could have made. Cheap detectors see the same pictures and keep the same promise.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import chi2

from experiments import detectors, jams, runfolder
from experiments.cli import main, progress
from experiments.detectors import Detector
from experiments.jams import KINDS, Run, Wanted, unwatched
from experiments.workers import processes
from runtime import arms
from runtime.arms import assess, begin, film, flinch, lead, oracle
from runtime.line.cartons import TAILS
from runtime.line.line import SPEC
from runtime.registers import Mode
from wm import alarm, bundle, calibrate
from wm.bundle import Bundle
from wm.data.footage import Episode, Footage
from wm.errors import InputError

SHIFT_HOURS: Final = 8.0
JAMS_A_SHIFT: Final = 4
EARLY_S: Final = 1.0
FLINCH: Final = "Flinch"


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.line."""

    training: Path
    """Footage that the bundle was trained on; cheap detectors are fitted on it."""
    calibration: Path
    """Footage that the bundle was calibrated on; cheap detectors get their thresholds from it."""
    shifts: Path
    """Normal footage that nothing has seen."""
    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    bundle: Path = Path("runtime/line/bundle")
    """Calibrated bundle of the line."""
    jams: int = 20
    """Jams of every kind of trouble that is there when a carton comes into view."""
    late: int = 10
    """Jams of every kind of trouble that befalls a carton in mid-view; of slipping belts, which always do, as many as
    --jams."""
    seed: int = 500_000
    """Seed of the first run."""
    jobs: int = 2
    """Processes that run or watch the line at the same time."""
    report: Path | None = None
    """Folder for line.json, beside other reports."""


def run(flags: Flags) -> None:
    """Measures the alarm on shifts without trouble and on runs that jam; writes metrics.json."""
    if min(flags.jams, flags.late, flags.jobs) < 1:
        raise InputError("--jams, --late and --jobs must be at least 1.")
    model = bundle.load(flags.bundle)
    if model.calibration is None or model.spec != SPEC:
        raise InputError(f"{flags.bundle} is not a calibrated bundle of the simulated line; give another --bundle.")
    sets = {name: Footage.open(getattr(flags, name)) for name in ("training", "calibration", "shifts")}
    _check(model, sets)
    known = {f"{name}_fingerprint": footage.fingerprint for name, footage in sets.items()}
    known["bundle_sha256"] = bundle.digest(flags.bundle)
    folder = runfolder.start(flags.out, flags, **known)
    console = Console(stderr=True)

    cheap = detectors.fitted(sets["training"])
    thresholds = runfolder.kept(folder / "thresholds.json", lambda: _thresholds(model, cheap, flags))
    shifts = _shifts(folder, model, cheap, thresholds, flags)
    runs = jams.kept(folder / "runs.json", _wanted(flags), flags.seed, flags.jobs)
    _perform(folder, flags, runs)
    rows = []
    for each in runs:
        row = json.loads((folder / "jams" / f"{each.name}.json").read_bytes())
        rows.append(row | {"leads_s": _leads(cheap, thresholds, model, folder / "jams" / f"{each.name}.npz", row)})
    metrics = {
        **_summary(rows, shifts),
        "thresholds": thresholds,
        "runs": rows,
        "provenance": runfolder.provenance(flags),
    }
    runfolder.finish(folder, metrics, flags.report and flags.report / "line.json")
    console.print(_table(metrics), f"wrote {folder}", sep="\n")


def _check(model: Bundle, sets: dict[str, Footage]) -> None:
    """Raises InputError where footage is not what the flag says."""
    learnt = {"training": model.recipe["footage"], "calibration": model.recipe["calibrate"]}
    for name, footage in sets.items():
        calibrate.check(model, footage)
        known = footage.fingerprint in {entry["fingerprint"] for entry in learnt.values()}
        if name == "shifts" and known:
            raise InputError(f"{footage.path} is known to the bundle; give --shifts footage that nothing has seen.")
        if name in learnt and footage.fingerprint != learnt[name]["fingerprint"]:
            raise InputError(f"{footage.path} is not the footage of the bundle's {name}; give that to --{name}.")
        if not footage.frames("train"):
            raise InputError(
                f"{footage.path} has no split 'train', which is what is watched; record it with --holdout 0."
            )
    if sets["training"].fingerprint == sets["calibration"].fingerprint:
        raise InputError(
            "cheap detectors cannot be fitted and calibrated on the same footage; calibrate on another one."
        )
    if any(film["onsets"] or film["blocks"] for film in sets["shifts"].metadata["events"]):
        raise InputError(f"there is trouble in {sets['shifts'].path}; record the --shifts with --tail-rate 0.")


# Shifts


def _thresholds(model: Bundle, cheap: Detector, flags: Flags) -> dict[str, float]:
    """Thresholds of the cheap detectors for the promise that the bundle keeps."""
    footage = Footage.open(flags.calibration)
    rate_hz = footage.spec.rate_hz
    chance = model.recipe["calibrate"]["promise"]["false_alarms_per_hour"] * calibrate.BLOCK_S / 3600
    rule = {"chance": chance, "block": round(calibrate.BLOCK_S * rate_hz), "on_frames": model.alarm.on_delay(rate_hz)}
    numbers, warm = _long_enough(model, footage)
    with processes(flags.jobs) as workers, progress() as bar:
        told = workers.map(partial(_scores, cheap, flags.calibration), numbers)
        task = bar.add_task("calibrate cheap detectors", unit="episodes")
        normal = list(bar.track(told, total=len(numbers), task_id=task))
    return {name: detectors.threshold([each[name][warm:] for each in normal], **rule) for name in normal[0]}


def _scores(cheap: Detector, path: Path, number: int) -> dict[str, detectors.Scores]:
    return detectors.scores(cheap, Footage.open(path), "train", number)


def _shifts(folder: Path, model: Bundle, cheap: Detector, thresholds: dict[str, float], flags: Flags) -> dict[str, Any]:
    """Hours without trouble that were scored, and how many alarms each watcher raised."""
    footage = Footage.open(flags.shifts)
    numbers, warm = _long_enough(model, footage)
    (folder / "shifts").mkdir(exist_ok=True)
    with processes(flags.jobs) as workers, progress() as bar:
        watched = workers.map(partial(_watched, folder / "shifts", flags, cheap, thresholds), numbers)
        told = list(bar.track(watched, total=len(numbers), task_id=bar.add_task("shifts", unit="episodes")))
    scored = sum(footage.lengths("train")[number] - warm for number in numbers)
    return {
        "hours": scored / footage.spec.rate_hz / 3600,
        "alarms": {name: sum(row[name] for row in told) for name in (FLINCH, *thresholds)},
    }


def _watched(folder: Path, flags: Flags, cheap: Detector, thresholds: dict[str, float], number: int) -> dict[str, int]:
    """Alarms that each watcher raises in an episode, kept in NUMBER.json."""

    def alarms() -> dict[str, int]:
        model, footage = _model(flags.bundle), Footage.open(flags.shifts)
        raised = partial(alarm.raised, model.alarm, footage.spec.rate_hz)
        found = {FLINCH: len(raised(calibrate.replay(model, footage, "train", number, lambda _: None).score))}
        warm = model.monitor.warm(footage.spec.rate_hz)
        for name, scores in _scores(cheap, flags.shifts, number).items():
            found[name] = len(raised(scores[warm:] / thresholds[name]))
        return found

    return runfolder.kept(folder / f"{number}.json", alarms)


def _long_enough(model: Bundle, footage: Footage) -> tuple[list[int], int]:
    """Episodes that go on when the monitor is ready, and the frames until it is."""
    warm = model.monitor.warm(footage.spec.rate_hz)
    return [number for number, length in enumerate(footage.lengths("train")) if length > warm], warm


def rate(alarms: int, hours: float) -> dict[str, float]:
    """Alarms a shift, with their exact 90 % interval (Garwood 1936)."""
    shifts = hours / SHIFT_HOURS
    low = chi2.ppf(0.05, 2 * alarms) / 2 if alarms else 0.0
    return {
        "false_alarms_per_shift": alarms / shifts,
        "low": float(low) / shifts,
        "high": float(chi2.ppf(0.95, 2 * alarms + 2)) / 2 / shifts,
    }


# Jams


def _wanted(flags: Flags) -> list[Wanted]:
    wanted: list[Wanted] = [("entry", kind, flags.jams) for kind in TAILS]
    return wanted + [("view", kind, flags.jams if kind == "slip" else flags.late) for kind in KINDS]


def _perform(folder: Path, flags: Flags, runs: Sequence[Run]) -> None:
    """All arms of the runs that have not been made yet, each written when it is done."""
    (folder / "jams").mkdir(exist_ok=True)
    missing = [each for each in runs if not (folder / "jams" / f"{each.name}.json").exists()]
    with processes(flags.jobs) as workers, progress() as bar:
        task = bar.add_task("jams", total=len(runs), completed=len(runs) - len(missing), unit="runs")
        for _ in workers.map(partial(_arms, flags.bundle, folder / "jams"), missing):
            bar.advance(task)


@cache
def _model(path: Path) -> Bundle:
    return bundle.load(path)


def _arms(path: Path, folder: Path, each: Run) -> None:
    """All arms of a run: pictures and tags of the first to NAME.npz for the cheap detectors, the rest to NAME.json."""
    model, idle = _model(path), lambda: None
    start = begin(each.seed, each.trouble, idle)
    without = film(start, flinch(model, Mode.SHADOW), idle)
    acted = film(start, flinch(model, Mode.ACT), idle)
    known = film(start, oracle(model), idle)
    outcome = assess(start, without, acted)
    free = unwatched(each.seed, None).snapshot().state.cartons_out - start.snapshot.plant.state.cartons_out
    np.savez(
        folder / f"{each.name}.npz",
        frames=np.stack([shot.frame.image for shot in without.shots]),
        sensors=np.stack([shot.frame.sensors for shot in without.shots]),
        times=np.array([shot.frame.time for shot in without.shots]),
    )
    row = {
        **asdict(outcome),
        "place": each.place,
        "x": each.trouble.x,
        "lead_s": outcome.lead_s,
        "block_oracle_s": arms.block(known),
        "cartons_free": free,
        "cartons_without": arms.cartons(without),
        "cartons_with": arms.cartons(acted),
        "cartons_oracle": arms.cartons(known),
    }
    runfolder.write_json(folder / f"{each.name}.json", row)


def _leads(
    cheap: Detector, thresholds: dict[str, float], model: Bundle, path: Path, row: dict[str, Any]
) -> dict[str, float | None]:
    """How long before the jam each watcher alarmed, in the run without Flinch."""
    with np.load(path) as kept:
        times = kept["times"]
        seen = Episode(kept["frames"], kept["sensors"], np.zeros((len(times), 1), np.float32), times, path.stem)
    leads: dict[str, float | None] = {FLINCH: row["lead_s"]}
    for name, scores in cheap(seen).items():
        raised = alarm.raised(model.alarm, SPEC.rate_hz, scores / thresholds[name])
        leads[name] = lead([float(times[1 + frame]) for frame in raised], row["onset_s"], row["block_without_s"])
    return leads


# What came of them


def _summary(rows: list[dict[str, Any]], shifts: dict[str, Any]) -> dict[str, Any]:
    """The figures that the project is held to: of everything, of each kind, and of each cheap detector."""
    hours = shifts["hours"]
    alarms = rate(shifts["alarms"][FLINCH], hours)
    slowed = [row for row in rows if row["write_s"] is not None and row["block_with_s"] is None]
    lost = float(np.mean([row["cartons_free"] - row["cartons_with"] for row in slowed])) if slowed else None
    made = np.mean([row["cartons_free"] for row in rows]) / arms.ARM_S * 3600 * SHIFT_HOURS
    slow_downs = JAMS_A_SHIFT + alarms["false_alarms_per_shift"]
    told = {
        **alarms,
        "shifts": hours / SHIFT_HOURS,
        **_seen(rows, FLINCH),
        **_averted(rows),
        "cartons_lost_a_slow_down": lost,
        "throughput_cost_share": None if lost is None else float(slow_downs * lost / made),
        "kinds": {name: {**_seen(part, FLINCH), **_averted(part)} for name, part in _groups(rows)},
        "detectors": {},
    }
    for name, number in shifts["alarms"].items():
        if name != FLINCH:
            kinds = {group: _seen(part, name) for group, part in _groups(rows)}
            told["detectors"][name] = {**rate(number, hours), **_seen(rows, name), "kinds": kinds}
    return told


def _groups(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Runs by kind and place."""
    for name in dict.fromkeys((row["kind"], row["place"]) for row in rows):
        yield " ".join(name), [row for row in rows if (row["kind"], row["place"]) == name]


def _seen(rows: list[dict[str, Any]], watcher: str) -> dict[str, Any]:
    """Jams, the share that was alarmed a second or more before, and the median lead of those that were seen coming."""
    leads = [row["leads_s"][watcher] for row in rows]
    seen = [found for found in leads if found is not None]
    return {
        "jams": len(rows),
        "alarmed_share": len(seen) / len(rows),
        "alarmed_1s_share": sum(found >= EARLY_S for found in seen) / len(rows),
        "median_lead_s": float(np.median(seen)) if seen else None,
    }


def _averted(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Share of the jams that did not form with Flinch, and with the oracle."""
    return {
        "averted_share": sum(row["block_with_s"] is None for row in rows) / len(rows),
        "averted_share_oracle": sum(row["block_oracle_s"] is None for row in rows) / len(rows),
    }


def _table(metrics: dict[str, Any]) -> Table:
    table = Table(title=f"{metrics['jams']} jams, {metrics['shifts']:.1f} shifts")
    for column in ("watcher", "false alarms a shift", "1 s before", "median lead", *metrics["kinds"]):
        table.add_column(column)
    for name, row in {FLINCH: metrics, **metrics["detectors"]}.items():
        middle = "-" if row["median_lead_s"] is None else f"{row['median_lead_s']:.1f} s"
        shares = (f"{part['alarmed_1s_share']:.0%}" for part in row["kinds"].values())
        table.add_row(name, f"{row['false_alarms_per_shift']:.2f}", f"{row['alarmed_1s_share']:.0%}", middle, *shares)
    return table


if __name__ == "__main__":
    main(run)
