"""Everything again: the commands that it would type, and the figures that it compares."""

import json
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path

import pytest

from experiments import reproduce

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("quick", [False, True])
def test_every_command_takes_the_flags_that_it_is_given(quick):
    flags = reproduce.Flags(Path("somewhere"), quick=quick)
    for job in reproduce.JOBS:
        _, module, *words = reproduce.command(job, flags)
        given = fields(import_module(module).Flags)
        known = {f"--{field.name}" for field in given}
        known |= {
            f"--{field.name}.{one.name}" for field in given if is_dataclass(field.type) for one in fields(field.type)
        }
        typed = {word for word in words if word.startswith("--")}
        assert typed <= {name.replace("_", "-") for name in known}, module


def test_the_quick_variant_changes_flags_and_keeps_the_rest():
    job = reproduce.Job(
        "normal", "record", "--minutes 5 --seed 1 --varied --footage {out}/a {data}", "--minutes 0.5 --jobs 1"
    )
    words = reproduce.command(job, reproduce.Flags(Path("/out"), quick=True, data_dir=Path("/data")))
    assert " ".join(words) == (
        "-m experiments.record --out /out/normal --minutes 0.5 --seed 1 --varied --footage /out/a /data --jobs 1"
    )


def test_every_report_in_the_repository_is_made_again():
    made = {name for job in reproduce.JOBS if "--report" in job.flags for name in REPORTS.get(job.name, (job.name,))}
    assert {path.stem for path in (ROOT / "reports").glob("*.json")} <= made


REPORTS = {
    "line_report": ("line",),
    "promise": ("calibration",),
    "adapt": ("finetune",),
    "benchmark": ("speed",),
    "benchmark_data": ("data",),
    "benchmark_runtime": ("runtime",),
    "benchmark_runtime_plan": ("runtime",),
    "control": ("plan",),
    "cartpole-balance": ("tasks",),
    "ball_in_cup-catch": ("tasks",),
    "faults": ("runtime",),
    "soak": ("runtime",),
}


def test_a_figure_stands_beside_what_was_reported(tmp_path):
    for folder, value in (("reported", 0.5), ("rebuilt", 0.6)):
        (tmp_path / folder).mkdir()
        content = {"share": value, "runs": [1], "rows": [{"variant": "all", "lead": 2.0}], "provenance": {"seed": 3}}
        (tmp_path / folder / "line.json").write_text(json.dumps(content))
    (tmp_path / "reported" / "tep.json").write_text(json.dumps({"by_fault": {"3": 0.1}}))
    assert reproduce.compared(tmp_path / "reported", tmp_path / "rebuilt") == [
        {"report": "line.json", "figure": "share", "reported": 0.5, "rebuilt": 0.6},
        {"report": "line.json", "figure": "rows.all.lead", "reported": 2.0, "rebuilt": 2.0},
        {"report": "tep.json", "figure": "by_fault.3", "reported": 0.1, "rebuilt": None},
    ]
