import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments import cli, runfolder
from wm.errors import InputError


@dataclass(frozen=True)
class Flags:
    out: Path
    seed: int = 3


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (InputError("the video\nis broken"), 2, "error: the video is broken\n"),
        (
            PermissionError(13, "Permission denied", "a"),
            2,
            "error: [Errno 13] Permission denied: 'a'; give another file or folder.\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_expected_end_is_an_exit_code_and_at_most_one_line(
    raised: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(flags: Flags) -> None:
        raise raised

    monkeypatch.setattr("sys.argv", ["x", "--out", "here"])
    monkeypatch.setattr("os._exit", sys.exit)
    with pytest.raises(SystemExit) as exit_:
        cli.main(run)
    assert (exit_.value.code, capsys.readouterr().err) == (code, said)


def test_flags_reach_the_experiment_and_unknown_ones_fail(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Flags] = []

    def run(flags: Flags) -> None:
        seen.append(flags)

    monkeypatch.setattr("sys.argv", ["x", "--out", "here", "--seed", "4"])
    cli.main(run)
    assert seen == [Flags(Path("here"), 4)]
    monkeypatch.setattr("sys.argv", ["x", "--out", "here", "--sede", "4"])
    with pytest.raises(SystemExit) as exit_:
        cli.main(run)
    assert exit_.value.code == 2 and "--sede" in capsys.readouterr().err and len(seen) == 1


def test_a_run_folder_tells_how_it_was_started_and_what_came_out(tmp_path: Path) -> None:
    folder = runfolder.start(tmp_path / "runs" / "a", Flags(Path("here")))
    runfolder.finish(folder, {"loss": 1.5})
    assert json.loads((folder / "config.json").read_bytes()) == {"out": "here", "seed": 3}
    assert json.loads((folder / "metrics.json").read_bytes()) == {"loss": 1.5}
    (begun,) = map(json.loads, (folder / "starts.jsonl").read_text().splitlines())
    assert begun["seed"] == 3 and begun["versions"]["numpy"] and begun["commit"]
    assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "metrics.json", "starts.jsonl"]


def test_each_part_of_a_report_changes_its_own_figures_and_says_where_they_come_from(tmp_path):
    report = tmp_path / "reports" / "runtime.json"
    runfolder.merge(report, {"median_ms": 8.0}, {"latency": {"seed": 0}})
    runfolder.merge(report, {"soak": {"frames": 9}}, {"soak": {"seed": 1}})
    runfolder.merge(report, {"median_ms": 7.0}, {"latency": {"seed": 2}})
    assert json.loads(report.read_bytes()) == {
        "median_ms": 7.0,
        "soak": {"frames": 9},
        "provenance": {"latency": {"seed": 2}, "soak": {"seed": 1}},
    }


def test_a_run_folder_opens_again_for_the_same_flags_only(tmp_path: Path) -> None:
    folder = runfolder.start(tmp_path / "a", Flags(Path("here")))
    runfolder.start(folder, Flags(Path("here")))
    assert len((folder / "starts.jsonl").read_text().splitlines()) == 2
    with pytest.raises(InputError, match="is a run with another seed"):
        runfolder.start(folder, Flags(Path("here"), seed=4))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not the folder of a run"):
        runfolder.start(tmp_path / "b", Flags(Path("here")))


def test_a_changed_file_that_is_no_report_makes_the_commit_dirty_for_what_starts_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> None:
        subprocess.run(("git", "-c", "user.name=x", "-c", "user.email=x@x", *arguments), cwd=tmp_path, check=True)

    monkeypatch.setattr(runfolder, "__file__", str(tmp_path / "runfolder.py"))
    git("init", "-q")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "table").write_text("1")
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    (tmp_path / "reports" / "table").write_text("2")
    runfolder.commit.cache_clear()
    assert len(runfolder.commit()) == 40
    (tmp_path / "file").write_text("2")
    assert not runfolder.commit().endswith("+dirty")
    runfolder.commit.cache_clear()
    assert runfolder.commit().endswith("+dirty")
    runfolder.commit.cache_clear()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's tunables")
def test_a_process_starts_again_once_to_have_huge_pages_and_keeps_its_arguments() -> None:
    code = "import os, sys; from experiments.cli import huge_pages; print('start', flush=True); huge_pages(); "
    code += "print(os.environ['GLIBC_TUNABLES'], *sys.argv[1:])"
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", code, "--steps", "3"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["start", "start", "glibc.malloc.hugetlb=1 --steps 3"]
