"""Makes everything again that stands in reports/: footage, models, bundles and every table and plot, from their seeds.

One command after another, as a user would type them. What is there already is not made again, so it may be stopped and
started at any time. At the end each figure stands beside the one in reports/.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from experiments import runfolder
from experiments.cli import main
from wm.errors import InputError

ROOT = Path(__file__).parents[1]
NAMES = {"model", "variant", "change", "injected", "way", "arm"}
MADE = ("footage.json", "metrics.json", "checksums.json")  # one of them says that a folder is whole


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.reproduce."""

    out: Path
    """Folder for all of it. Start again with the same flags and it goes on where it stopped."""
    quick: bool = False
    """In an hour or two rather than in a day: little footage and hardly any training, so that the figures mean nothing,
    but every script runs to its end, except for those that measure time, which are left out."""
    data_dir: Path = Path("../shared/data")
    """Folder that holds ucsd_ped2/, skab/, hrss/ and tep/; what needs one that is not there is left out."""


class Job(NamedTuple):
    """One command: the experiment that makes the folder `name`, its flags, those that are otherwise in the quick
    variant (None: left out there), and the public data that it needs.
    """

    name: str
    experiment: str
    flags: str
    quick: str | None = ""
    data: str | None = None


NORMAL = "--tail-rate 0 --holdout 0"
JOBS = (
    Job(
        "footage/line",
        "record",
        "--minutes 5 --episodes 24 --seed 100000 --tail-rate 0 --holdout 0.1",
        "--minutes 1 --episodes 4 --holdout 0.3",
    ),
    Job("footage/normal", "record", f"--minutes 5 --episodes 54 --seed 200000 {NORMAL}", "--minutes 2 --episodes 24"),
    Job("footage/hour", "record", f"--minutes 5 --episodes 12 --seed 300000 {NORMAL}", "--minutes 1 --episodes 1"),
    Job("footage/shifts", "record", f"--minutes 30 --episodes 48 --seed 600000 {NORMAL}", "--minutes 1 --episodes 12"),
    Job(
        "footage/lines",
        "record",
        f"--minutes 3 --episodes 24 --seed 800000 {NORMAL} --varied",
        "--minutes 1 --episodes 2",
    ),
    Job(
        "footage/this_line", "record", f"--minutes 5 --episodes 24 --seed 1000000 {NORMAL}", "--minutes 1 --episodes 2"
    ),
    *(
        Job(
            f"seed{seed}",
            "train",
            f"--footage {{out}}/footage/line --steps 13000 --seed {seed}",
            "--steps 2 --size debug",
        )
        for seed in range(3)
    ),
    Job(
        "bundle",
        "calibrate",
        "--bundle {out}/seed0/bundle --footage {out}/footage/normal --split train",
        "--false-alarms 8",
    ),
    Job("hour", "evaluate", "--bundle {out}/bundle --footage {out}/footage/hour"),
    Job(
        "prediction",
        "predict",
        "--bundles {out}/seed0/bundle {out}/seed1/bundle {out}/seed2/bundle --footage {out}/footage/normal "
        "--split train --report {out}/reports",
        "--windows 4",
    ),
    Job("oracle", "oracle", "--footage {out}/footage/line --report {out}/reports", "--lines 2 --futures 3"),
    Job(
        "architectures",
        "architectures",
        "--footage {out}/footage/line --minutes 10 --report {out}/reports",
        None,
    ),
    Job(
        "line_report",
        "line",
        "--training {out}/footage/line --calibration {out}/footage/normal --shifts {out}/footage/shifts "
        "--bundle {out}/bundle --report {out}/reports",
        "--jams 1 --late 1",
    ),
    Job(
        "promise",
        "promise",
        "--footage {out}/footage/normal {out}/footage/shifts --bundle {out}/bundle --report {out}/reports",
        "--hours 0.15 --trials 1",
    ),
    Job(
        "dream",
        "dream",
        "--bundle {out}/bundle --footage {out}/footage/this_line --split train --time 60 --hold 1.0 0.5 0.2 "
        "--report {out}/reports",
        "--time 10 --seconds 10 --moments 2",
    ),
    Job("footage/experience", "experience", "--trouble 0.12", "--minutes 4"),
    Job("experience", "train", "--footage {out}/footage/experience --steps 14000", "--steps 2 --size debug"),
    Job(
        "whatif",
        "plan",
        "--bundle {out}/experience/bundle --footage {out}/footage/experience --episode 3 --time 30.5 --seconds 5 "
        "--candidates 1.0 0.5 0.1",
        "--episode 0 --time 5 --seconds 1",
    ),
    Job(
        "acting",
        "calibrate",
        "--bundle {out}/experience/bundle --footage {out}/footage/normal --split train",
        "--false-alarms 8",
    ),
    *(
        Job(
            name,
            "learn",
            "--bundle {out}/acting --footage {out}/footage/experience --steps 2000 --behavior.discount 0.995 "
            f"--behavior.starts 128 --behavior.learning-rate 1e-3 --behavior.guard {guard}",
            "--steps 2",
        )
        for name, guard in {"guarded": 1, "unguarded": 0}.items()
    ),
    Job(
        "control",
        "control",
        "--actor {out}/guarded/bundle --unguarded {out}/unguarded/bundle --rule {out}/bundle --report {out}/reports",
        "--jams 1 --late 1 --quiet 1",
    ),
    *(
        Job(
            task,
            "tasks",
            f"--task {task} --steps 40000 --behavior.learning-rate 1e-3 --behavior.discount 0.99 "
            "--report {out}/reports",
            "--steps 1000 --seeds 1",
        )
        for task in ("cartpole-balance", "ball_in_cup-catch")
    ),
    Job("drift", "drift", "--bundle {out}/bundle --report {out}/reports", "--hours 0.05"),
    Job(
        "ablation",
        "ablation",
        "--footage {out}/footage/normal --bundle {out}/bundle --report {out}/reports",
        "--jams 1 --false-alarms 20",
    ),
    Job(
        "disturbances",
        "disturbances",
        "--bundle {out}/bundle --minutes 10 --jams 2 --report {out}/reports",
        "--jams 1 --minutes 1",
    ),
    Job(
        "adapt",
        "adapt",
        "--lines {out}/footage/lines --footage {out}/footage/this_line --normal {out}/footage/normal --steps 8000 "
        "--tuning-steps 8000 --tuning-rate 2e-3 --report {out}/reports",
        "--minutes 1 2 --steps 1 --tuning-steps 1 --jams 1 --false-alarms 20",
    ),
    Job("ped2", "ped2", "--data-dir {data} --report {out}/reports", "--size debug --steps 2", "ucsd_ped2"),
    Job("tep", "tep", "--data-dir {data} --report {out}/reports", "--steps 2 --seeds 0", "tep"),
    Job("hrss", "hrss", "--data-dir {data} --report {out}/reports", "--steps 2 --seeds 0", "hrss"),
    Job("skab", "skab", "--data-dir {data} --report {out}/reports", "--steps 2 --seeds 0", "skab"),
    Job("benchmark", "benchmark", "--bundle {out}/bundle --report {out}/reports", None),
    Job("benchmark_runtime", "benchmark_runtime", "--bundle {out}/bundle --report {out}/reports", None),
    Job(
        "benchmark_runtime_plan",
        "benchmark_runtime",
        "--bundle {out}/bundle --simulator {out}/guarded/bundle --policy plan --report {out}/reports",
        None,
    ),
    Job("faults", "faults", "--bundle {out}/bundle --report {out}/reports", None),
    Job("soak", "soak", "--bundle {out}/bundle --report {out}/reports", None),
    Job("benchmark_data", "benchmark_data", "--report {out}/reports", None),
)


def run(flags: Flags) -> None:
    """Makes all reports again and tells their figures beside those of the repository."""
    folder = runfolder.start(flags.out, flags)
    console = Console(stderr=True)
    (folder / "reports").mkdir(exist_ok=True)
    for job in JOBS:
        made = folder / job.name
        if flags.quick and job.quick is None:
            continue
        if job.data and not (flags.data_dir / job.data).is_dir():
            console.print(f"left out {job.name}: {flags.data_dir / job.data} is not there", highlight=False)
            continue
        if any((made / name).exists() for name in MADE):
            continue
        arguments = command(job, flags)
        console.rule(" ".join(("python", *arguments)), align="left", characters="-")
        code = subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False).returncode
        if code:
            raise InputError(f"{job.name} ended with {code}; see what it said above, mend it and start again.")
    rows = compared(ROOT / "reports", folder / "reports")
    runfolder.finish(folder, {"figures": rows, "provenance": runfolder.provenance(flags)})
    console.print(_table(rows), f"wrote {folder}", sep="\n")


def command(job: Job, flags: Flags) -> list[str]:
    """What comes after `python` on its command line."""
    words = _parsed(job.flags) | (_parsed(job.quick or "") if flags.quick else {})
    places = {"out": str(flags.out.absolute()), "data": str(flags.data_dir.absolute())}
    told = [word.format(**places) for flag, values in words.items() for word in (flag, *values)]
    return ["-m", f"experiments.{job.experiment}", "--out", f"{places['out']}/{job.name}", *told]


def _parsed(flags: str) -> dict[str, list[str]]:
    """Flags with their values, in order."""
    found: dict[str, list[str]] = {}
    for word in flags.split():
        if word.startswith("--"):
            found[word] = []
        else:
            found[next(reversed(found))].append(word)
    return found


def compared(reported: Path, rebuilt: Path) -> list[dict[str, Any]]:
    """Every figure of every report, as it stands and as it came out again, None where it is not there."""
    rows = []
    for name in sorted({path.name for folder in (reported, rebuilt) for path in folder.glob("*.json")}):
        before, after = (
            figures(json.loads((folder / name).read_bytes())) if (folder / name).exists() else {}
            for folder in (reported, rebuilt)
        )
        for figure in {**before, **after}:
            told = {"reported": before.get(figure), "rebuilt": after.get(figure)}
            rows.append({"report": name, "figure": figure, **told})
    return rows


def figures(content: Any, name: str = "") -> dict[str, float]:
    """The numbers of a report by their dotted names; rows go by what they are called, and lists without names, which
    are curves and single runs, are left out.
    """
    if isinstance(content, int | float):
        return {name: content}
    if isinstance(content, dict):
        parts = [(key, value) for key, value in content.items() if key != "provenance"]
    elif isinstance(content, list) and all(isinstance(row, dict) and NAMES & row.keys() for row in content):
        parts = [(row[next(key for key in row if key in NAMES)], row) for row in content]
    else:
        return {}
    return {key: value for part, inner in parts for key, value in figures(inner, f"{name}.{part}".lstrip(".")).items()}


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table("report", "figure", "in reports/", "made again")
    for row in rows:
        told = ("-" if row[name] is None else f"{row[name]:.4g}" for name in ("reported", "rebuilt"))
        table.add_row(row["report"], row["figure"], *told)
    return table


if __name__ == "__main__":
    main(run)
