"""Everything again: the commands that it would type, and the figures that it compares."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import reproduce

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("quick", [False, True])
def test_every_command_takes_the_flags_that_it_is_given(quick):
    flags = reproduce.Flags(Path("somewhere"), quick=quick)
    told: dict[str, str] = {}
    for job in reproduce.JOBS:
        _, module, *words = reproduce.command(job, flags)
        if module not in told:
            asked = [sys.executable, "-m", module, "--help"]
            told[module] = subprocess.run(asked, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for word in words:
            assert not word.startswith("--") or word in told[module], f"{module} {word}"


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
}


def test_a_figure_stands_beside_what_was_reported(tmp_path):
    for folder, value in (("reported", 0.5), ("rebuilt", 0.6)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "line.json").write_text(json.dumps({"share": value, "rows": [1]}))
    assert reproduce.compared(tmp_path / "reported", tmp_path / "rebuilt") == [
        {"report": "line.json", "figure": "share", "reported": 0.5, "rebuilt": 0.6}
    ]
