"""What each part of the score is worth: horizons, kinds of error, and how places are told apart.

Every variant keeps the same promise on the same normal footage and watches the same jams; all are made from the errors
of one and the same replay.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments import evaluate, jams, runfolder
from experiments.cli import main
from experiments.jams import KINDS, Wanted, film, lead, watch
from experiments.line import EARLY_S
from runtime.line.cartons import TAILS
from runtime.line.line import SPEC
from wm import alarm, bundle, calibrate, surprise
from wm.bundle import Bundle
from wm.config import KINDS as ERROR_KINDS
from wm.data.footage import Footage
from wm.errors import InputError
from wm.surprise import Calibration

CALIBRATED_SHARE = 2 / 3
Errors = NDArray[np.float32]


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.ablation."""

    footage: Path
    """Normal footage that the model was not trained on: two thirds to calibrate on, the rest to count alarms in."""
    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    bundle: Path = Path("runtime/line/bundle")
    """Bundle of the line."""
    jams: int = 10
    """Jams of every kind of trouble, on entry and in mid-view."""
    false_alarms: float = 1.0
    """At most this many false alarms in a shift."""
    shift_hours: float = 8.0
    """Length of a shift in hours."""
    seed: int = 950_000
    """Seed of the first run that may jam."""
    jobs: int = 2
    """Processes that look for jams at the same time."""
    report: Path | None = None
    """Folder for ablation.json, beside other reports."""


class Variant(NamedTuple):
    """A score that lacks something.

    Attributes:
      heard: `[Q, M]`, which horizons and kinds of error count.
      placed: whether an error is divided by what is normal at its place, or by the mean over all places of its kind.
      worst: how many of the worst places count; None for as many as the monitor has.
    """

    heard: NDArray[np.bool_]
    placed: bool = True
    worst: int | None = None


def run(flags: Flags) -> None:
    """Detection with parts of the score taken away; writes metrics.json."""
    model = bundle.load(flags.bundle)
    footage = Footage.open(flags.footage)
    calibrate.check(model, footage)
    if model.spec != SPEC:
        raise InputError(f"{flags.bundle} is not a bundle of the simulated line; give another --bundle.")
    if model.recipe["footage"]["fingerprint"] == footage.fingerprint:
        raise InputError(f"the model was trained on {flags.footage}; give footage that it has not seen.")
    if min(flags.jams, flags.jobs) < 1 or min(flags.false_alarms, flags.shift_hours) <= 0:
        raise InputError("--jams and --jobs must be at least 1, --false-alarms and --shift-hours above 0.")
    lengths = footage.lengths("train")
    calibrated = round(CALIBRATED_SHARE * len(lengths))
    calibrate.afford(model, lengths[:calibrated], flags.false_alarms, flags.shift_hours)
    folder = runfolder.start(
        flags.out, flags, fingerprint=footage.fingerprint, bundle_sha256=bundle.digest(flags.bundle)
    )
    wanted: list[Wanted] = [("entry", kind, flags.jams) for kind in TAILS]
    wanted += [("view", kind, flags.jams) for kind in KINDS]
    runs = jams.kept(folder / "runs.json", wanted, flags.seed, flags.jobs)
    films = [film(each) for each in runs]
    episodes = [np.asarray(told.errors) for told in evaluate.watch(model, footage, "train")]
    normal = calibrate.learn(model, episodes[:calibrated])
    seen = [np.asarray(watch(model, one).errors) for one in films]
    hours = sum(len(each) for each in episodes[calibrated:]) / SPEC.rate_hz / 3600
    rows = []
    for name, variant in variants(model).items():
        raised = _watcher(flags, model, normal, variant, episodes[:calibrated])
        leads = [lead(one, raised(errors)) for one, errors in zip(films, seen, strict=True)]
        early = np.array([found is not None and found >= EARLY_S for found in leads])
        by_place = {
            place: float(early[np.array([each.place == place for each in runs])].mean()) for place in ("entry", "view")
        }
        told = [found for found in leads if found is not None]
        rows.append(
            {
                "variant": name,
                "alarmed_1s_share": float(early.mean()),
                **{f"alarmed_1s_share_{place}": share for place, share in by_place.items()},
                "median_lead_s": float(np.median(told)) if told else None,
                "false_alarms": sum(len(raised(errors)) for errors in episodes[calibrated:]),
            }
        )
        Console(stderr=True).print(rows[-1], highlight=False)
    metrics: dict[str, Any] = {
        "jams": len(films),
        "hours_counted": hours,
        "rows": rows,
        "provenance": runfolder.provenance(flags),
    }
    runfolder.finish(folder, metrics, flags.report and flags.report / "ablation.json")
    Console(stderr=True).print(_table(metrics), f"wrote {folder}", sep="\n")


def variants(model: Bundle) -> dict[str, Variant]:
    """The score as it is, and what it would be with less."""
    horizons = model.monitor.horizons_s
    everything = np.ones((len(horizons), len(ERROR_KINDS)), bool)

    def one(axis: int, index: int, counts: bool) -> Variant:
        heard = np.full_like(everything, not counts)
        np.moveaxis(heard, axis, 0)[index] = counts
        return Variant(heard)

    return {
        "as it is": Variant(everything),
        **{f"only {seconds:g} s ahead": one(0, place, True) for place, seconds in enumerate(horizons)},
        **{f"only {kind}": one(1, place, True) for place, kind in enumerate(ERROR_KINDS)},
        **{f"without {kind}": one(1, place, False) for place, kind in enumerate(ERROR_KINDS)},
        "all places alike": Variant(everything, placed=False),
        "worst place alone": Variant(everything, worst=1),
        "mean of all places": Variant(everything, worst=model.config.places),
    }


def _watcher(
    flags: Flags, model: Bundle, normal: calibrate.Normal, variant: Variant, episodes: list[Errors]
) -> "partial[list[int]]":
    """What tells at which frames a variant raises an alarm, of the errors `[T, Q, P]` of an episode."""
    worst = model.monitor.worst if variant.worst is None else variant.worst
    watching = replace(model, monitor=replace(model.monitor, worst=worst))
    scale = normal.scale if variant.placed else _alike(model, normal.scale)
    known = surprise.uncalibrated(model.config, model.monitor, SPEC.rate_hz).replace(
        scale=jnp.asarray(scale), whitening=jnp.asarray(normal.whitening)
    )
    begin = min(model.monitor.ready(SPEC.rate_hz))
    as_it_is = variant.placed and variant.worst is None
    levels = normal.levels if as_it_is else [calibrate.levels(watching, known, each)[begin:] for each in episodes]
    heard = [variant.heard * each for each in levels]
    calibration, _ = calibrate.promise(watching, normal._replace(levels=heard), flags.false_alarms, flags.shift_hours)
    return partial(_raised, watching, calibration.replace(scale=known.scale), variant.heard)


def _raised(model: Bundle, calibration: Calibration, heard: NDArray[np.bool_], errors: Errors) -> list[int]:
    scores = calibrate.scores(calibration, heard * calibrate.levels(model, calibration, errors))
    return alarm.raised(model.alarm, SPEC.rate_hz, scores)


def _alike(model: Bundle, scale: Errors) -> Errors:
    """The mean over all places of a kind for each of them, `[L, Q, P]`; sensors keep their own."""
    *places, sensors = (np.asarray(kind) for kind in surprise.kinds(model.config, jnp.asarray(scale)))
    alike = [np.broadcast_to(kind.mean(axis=-1, keepdims=True), kind.shape) for kind in places]
    return np.concatenate([*alike, sensors], axis=-1)


def _table(metrics: dict[str, Any]) -> Table:
    table = Table(title=f"{metrics['jams']} jams, {metrics['hours_counted']:.1f} h without one")
    for column in ("score", "1 s before", "on entry", "in view", "median lead", "false alarms"):
        table.add_column(column)
    for row in metrics["rows"]:
        middle = "-" if row["median_lead_s"] is None else f"{row['median_lead_s']:.1f} s"
        shares = (row[f"alarmed_1s_share{place}"] for place in ("", "_entry", "_view"))
        table.add_row(row["variant"], *(f"{share:.0%}" for share in shares), middle, str(row["false_alarms"]))
    return table


if __name__ == "__main__":
    main(run)
