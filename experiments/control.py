"""The line run by whoever: fixed speeds, the operator whose footage was recorded, the plain rule, a planner, actors
that learnt in the dream, and an oracle. The planner is the runtime's, but no decision of it is ever late.

One carton of a run is in trouble, and it jams where nobody does anything; from one snapshot everybody goes on from the
same moment, through the PLC process and Modbus. In other runs nothing is in trouble, so that what somebody does in
vain costs as well. Planner and actor see with a model that has seen jams; while the one that has not is surprised, the
plain rule has it. What they come to alone, without any alarm, are arms, too; and so is the rule without its hold, as a
policy has none either. The oracle has tried beforehand, on the plant itself, and slows as little as will do.

A shift is put together from both: so many troubles, each as its run went, and for the rest of the time the line as it
goes without; a jam stops the line for as long as it takes to clear one, drawn for each run and the same for everybody.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, product, repeat
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from experiments import jams, runfolder
from experiments.cli import main, progress
from experiments.jams import KINDS, Run, Wanted
from experiments.workers import processes
from runtime import arms
from runtime.alarm import AlarmState
from runtime.arms import Arm, Start, Trouble, Watcher, begin, film, flinch
from runtime.line.cartons import TAILS
from runtime.line.line import SCANS_PER_FRAME, SPEC, Line, LineFrame
from runtime.line.operator import schedule
from runtime.line.plant import Snapshot
from runtime.loop import VALID_FOR_MS, Tick
from runtime.policy import PLANNED, Actor, Planner, Search, search
from runtime.registers import Command, Mode
from runtime.settings import ActSettings
from wm import bundle, compilation
from wm.bundle import Bundle
from wm.config import AlarmConfig
from wm.errors import InputError
from wm.planning import Plan

SHIFT_S: Final = 8 * 3600.0
TROUBLES: Final = 4  # a shift
CLEARING_MIN: Final = (8.0, 20.0)
QUIET: Final = 900_000  # from the first seed to that of the first run without trouble
RULE: Final = "rule"
CHANGED: Final = 0.01
SETTLED_S: Final = 20.0  # the last of a run, in which nothing is left of how it began
RESAMPLED: Final = 1000
NEVER: Final = Trouble(10**6, "lid")
FULL, LOWER = 1.0, 0.6
# Speed, for how long, and how long before the jam that would be: the least loss first.
SLOWDOWNS: Final = sorted(
    product((0.8, 0.5, 0.3, 0.1), (0.5, 1.0, 2.0, 4.0), (1.5, 2.0, 3.0)), key=lambda each: (1.0 - each[0]) * each[1]
)
CLEARING: Final = 0xC1EA4  # keeps its random stream apart from the plant's


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.control."""

    actor: Path
    """Bundle of the line with an actor that learnt with the guard; its model plans, too."""
    unguarded: Path
    """The same model, with an actor that learnt without the guard."""
    out: Path
    """Folder of the run. Start again with the same flags and it goes on where it stopped."""
    rule: Path = Path("runtime/line/bundle")
    """Calibrated bundle of the line that the plain rule goes by."""
    jams: int = 16
    """Runs of every kind of trouble that is there on entry."""
    late: int = 8
    """Runs of every kind that befalls a carton in mid-view."""
    quiet: int = 20
    """Runs without trouble."""
    seed: int = 3_000_000
    """Seed of the first run."""
    jobs: int = 2
    """Processes that run the line at the same time."""
    report: Path | None = None
    """Folder for plan.json, beside other reports."""


def run(flags: Flags) -> None:
    """Lets everybody run the same moments and tells what a shift comes to; writes metrics.json."""
    if min(flags.jams, flags.late, flags.quiet, flags.jobs) < 1:
        raise InputError("--jams, --late, --quiet and --jobs must be at least 1.")
    for path in (flags.actor, flags.unguarded, flags.rule):
        one = bundle.load(path)
        if one.calibration is None or one.spec != SPEC:
            raise InputError(f"{path} is not a calibrated bundle of the simulated line; give another one.")
        if path != flags.rule and one.behavior is None:
            raise InputError(f"{path} holds no actor; give the bundle that experiments.learn wrote.")
    digests = {f"{name}_sha256": bundle.digest(getattr(flags, name)) for name in ("actor", "unguarded", "rule")}
    folder = runfolder.start(flags.out, flags, **digests)
    wanted: list[Wanted] = [("entry", kind, flags.jams) for kind in TAILS]
    wanted += [("view", kind, flags.late) for kind in KINDS]
    runs = jams.kept(folder / "runs.json", wanted, flags.seed, flags.jobs)
    runs += [Run("entry", NEVER, flags.seed + QUIET + number) for number in range(flags.quiet)]
    _perform(folder, flags, runs)
    rows = [json.loads((folder / "runs" / f"{each.name}.json").read_bytes()) for each in runs]
    metrics = {
        "rows": [{"arm": name, **found} for name, found in shifts(rows).items()],
        "runs": rows,
        "provenance": runfolder.provenance(flags),
    }
    runfolder.finish(folder, metrics, flags.report and flags.report / "plan.json")
    Console(stderr=True).print(_table(metrics), f"wrote {folder}", sep="\n")


def asking(speeds: Iterable[float]) -> Watcher:
    """Who asks for one speed after another, whatever there is to see."""
    turns = enumerate(speeds, 1)

    def watch(frame: LineFrame, _: Snapshot) -> tuple[Tick, None]:
        turn, speed = next(turns)
        command = Command(turn, Mode.ACT, alarm=False, score=0.0, speed_request=speed, valid_for_ms=VALID_FOR_MS)
        return Tick(frame.time, 0.0, AlarmState(), command), None

    return watch


def recorded(seed: int) -> Iterator[float]:
    """The speeds of the operator whose footage the model and the actors know, drawn anew."""
    return iter(schedule(seed, arms.frames(arms.WARM_UP_S + arms.ARM_S), SPEC.rate_hz).tolist())


def foreknown(start: Start) -> NDArray[np.float32]:
    """The speed at each frame of an arm with the first of `SLOWDOWNS` that lets nothing jam; where none is needed, or
    none does, full speed all the time.
    """
    full = np.full(arms.frames(arms.ARM_S), FULL, np.float32)
    jam = tried(start, full)
    for speed, lasts, lead in SLOWDOWNS if jam is not None else ():
        speeds, first = full.copy(), max(0, arms.frames(jam - lead))
        speeds[first : first + arms.frames(lasts)] = speed
        if tried(start, speeds) is None:
            return speeds
    return full


def tried(start: Start, speeds: NDArray[np.float32]) -> float | None:
    """When the plant jams, seconds after the snapshot, if these speeds are asked for, each from the next frame on."""
    with Line(start.seed, tail_rate=0.0, tails=start.trouble.tails, mishaps=start.trouble.mishaps) as line:
        line.restore(start.snapshot)
        before = line.time
        for speed in (FULL, *speeds[:-1]):
            line.operator_speed = float(speed)
            for _ in range(SCANS_PER_FRAME):
                line.scan()
            if line.events.blocks:
                return line.events.blocks[0].time - before
    return None


@cache
def _model(path: Path) -> Bundle:
    compilation.keep()
    return bundle.load(path)


@cache
def _search(path: Path) -> tuple[Plan, Search]:
    return search(_model(path), PLANNED)


def _perform(folder: Path, flags: Flags, runs: Sequence[Run]) -> None:
    """All arms of the runs that have not been made yet, each written when it is done."""
    (folder / "runs").mkdir(exist_ok=True)
    missing = [each for each in runs if not (folder / "runs" / f"{each.name}.json").exists()]
    with processes(flags.jobs) as workers, progress() as bar:
        task = bar.add_task("runs", total=len(runs), completed=len(runs) - len(missing), unit="runs")
        for _ in workers.map(partial(_arms, flags, folder / "runs"), missing):
            bar.advance(task)


def deaf(model: Bundle) -> Bundle:
    """The bundle, but whatever surprises it is no alarm."""
    return replace(model, alarm=AlarmConfig(on_delay_s=arms.WARM_UP_S + arms.ARM_S + 1.0))


def idle() -> None:
    """Nobody looks on."""


def _arms(flags: Flags, folder: Path, each: Run) -> None:
    """What everybody makes of a run, to NAME.json."""
    rule, model, unguarded = (_model(path) for path in (flags.rule, flags.actor, flags.unguarded))
    start = begin(each.seed, each.trouble, idle)

    def planner() -> Planner:
        return Planner(*_search(flags.actor), each.seed)

    watchers = {
        "fixed speed": asking(repeat(FULL)),
        "fixed lower speed": asking(repeat(LOWER)),
        "as recorded": asking(recorded(each.seed)),
        RULE: flinch(rule, Mode.ACT),
        "rule, no hold": flinch(rule, Mode.ACT, act=ActSettings(hold_s=0.0)),
        "plan": flinch(rule, Mode.ACT, policy=planner(), simulator=model),
        "actor": flinch(rule, Mode.ACT, policy=Actor(model), simulator=model),
        "plan alone": flinch(deaf(model), Mode.ACT, policy=planner()),
        "actor alone": flinch(deaf(model), Mode.ACT, policy=Actor(model)),
        "actor alone, without guard": flinch(deaf(unguarded), Mode.ACT, policy=Actor(unguarded)),
        "oracle": asking(chain(repeat(FULL, len(start.warm_up)), foreknown(start))),
    }
    clearing = np.random.default_rng((CLEARING, each.seed)).uniform(*CLEARING_MIN)
    row: dict[str, Any] = {
        "seed": each.seed,
        "kind": None if each.trouble == NEVER else each.trouble.kind,
        "place": each.place,
        "clearing_s": 60.0 * float(clearing),
        "arms": {},
    }
    for name, watcher in watchers.items():
        arm = film(start, watcher, idle)
        speeds = np.array([shot.frame.action[0] for shot in arm.shots[-arms.frames(arms.ARM_S) :]])
        block = arms.block(arm)
        row["arms"][name] = {
            "blocked_s": None if block is None else arm.shots[-1].frame.time - block,
            "cartons": arms.cartons(arm),
            "settled_cartons": _out(arm, -1) - _out(arm, -1 - arms.frames(SETTLED_S)),
            "changes": changes(speeds),
            "speed": float(speeds.mean()),
            "decided": float(np.mean([shot.tick.chosen is not None for shot in arm.shots[-len(speeds) :]])),
        }
    runfolder.write_json(folder / f"{each.name}.json", row)


def shifts(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What a shift comes to with everybody, and how many cartons that is more than with the plain rule; also the 90 %
    interval of that over the runs, drawn again.
    """
    troubled, quiet = ([row for row in rows if (row["kind"] is None) == calm] for calm in (False, True))
    generator = np.random.default_rng(0)
    again = [
        (generator.integers(len(troubled), size=len(troubled)), generator.integers(len(quiet), size=len(quiet)))
        for _ in range(RESAMPLED)
    ]
    found = {}
    for name in rows[0]["arms"]:
        found[name] = shift(troubled, quiet, name)
        more = [
            shift([troubled[i] for i in some], [quiet[i] for i in others], name)["cartons"]
            - shift([troubled[i] for i in some], [quiet[i] for i in others], RULE)["cartons"]
            for some, others in again
        ]
        low, high = np.percentile(more, (5, 95))
        found[name] |= {
            "cartons_more_than_rule": found[name]["cartons"] - shift(troubled, quiet, RULE)["cartons"],
            "low": float(low),
            "high": float(high),
        }
    return found


def shift(troubled: list[dict[str, Any]], quiet: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Cartons, jams, blocked minutes and changes of speed in a shift of `TROUBLES` troubles. For the rest of it the
    line goes as it does in the quiet runs once they have settled, the jams that somebody makes there included.
    """
    count = len(troubled) / TROUBLES
    told, calm = ([row["arms"][name] for row in part] for part in (troubled, quiet))
    (formed, still), (made, lost) = (_jams(part, name) for part in (troubled, quiet))
    rest = SHIFT_S * count - arms.ARM_S * len(told) - still
    share = rest / (arms.ARM_S * len(calm) + lost)
    settled = sum(arm["settled_cartons"] for arm in calm) * arms.ARM_S / SETTLED_S
    clearing = sum(row["clearing_s"] for row in troubled if row["arms"][name]["blocked_s"] is not None)
    clearing += share * sum(row["clearing_s"] for row in quiet if row["arms"][name]["blocked_s"] is not None)
    return {
        "cartons": (sum(arm["cartons"] for arm in told) + share * settled) / count,
        "changes": (sum(arm["changes"] for arm in told) + share * sum(arm["changes"] for arm in calm)) / count,
        "jams": (formed + share * made) / count,
        "blocked_min": clearing / count / 60,
    }


def _jams(rows: list[dict[str, Any]], name: str) -> tuple[int, float]:
    """How many there were, and for how many seconds they stopped the line after their runs had ended."""
    blocked = [(row["clearing_s"], row["arms"][name]["blocked_s"]) for row in rows]
    left = [max(0.0, clearing - already) for clearing, already in blocked if already is not None]
    return len(left), sum(left)


def changes(speeds: NDArray[np.float32]) -> int:
    """How often a speed began to change, `[T]`: a ramp is one change."""
    moves = np.abs(np.diff(speeds)) > CHANGED
    return int(np.sum(moves & ~np.concatenate([[False], moves[:-1]])))


def _out(arm: Arm, frame: int) -> int:
    """Cartons that had left the line at a frame."""
    return arm.shots[frame].plant.state.cartons_out


def _table(metrics: dict[str, Any]) -> Table:
    columns = ("cartons a shift", "more than the rule", "jams", "blocked minutes", "changes of speed")
    table = Table("", *columns, title="a shift")
    for row in metrics["rows"]:
        more = f"{row['cartons_more_than_rule']:+.0f} ({row['low']:+.0f} to {row['high']:+.0f})"
        others = (f"{row[name]:.1f}" for name in ("jams", "blocked_min", "changes"))
        table.add_row(row["arm"], f"{row['cartons']:.0f}", more, *others)
    return table


if __name__ == "__main__":
    main(run)
