"""The folder of a run: how it was started, and what came out."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wm.errors import InputError
from wm.files import appearing, sync

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "tensorflow-datasets", "numpy", "av", "mujoco-core")


def start(folder: Path, flags: Any, **resolved: Any) -> Path:
    """Makes the folder of a run, or opens it again for a run with the same config.

    config.json holds the flags and what they led to; starts.jsonl gains a line at every start: see `provenance`.

    Args:
      folder: usually runs/NAME.
      flags: the experiment's frozen dataclass.
      resolved: what the flags led to and must not change either.

    Raises:
      InputError: the folder is a run with other flags, or something else.
    """
    folder = Path(folder)
    config = json.loads(json.dumps({**asdict(flags), **resolved}, default=str))
    written = folder / "config.json"
    if written.is_file():
        earlier = json.loads(written.read_bytes())
        changed = sorted(key for key in {*earlier, *config} if earlier.get(key) != config.get(key))
        if changed:
            raise InputError(f"{folder} is a run with another {', '.join(changed)}: give --out a new folder")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} exists and is not the folder of a run: give --out a new folder")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(written, config)
    with (folder / "starts.jsonl").open("a") as starts:
        starts.write(json.dumps(provenance(flags)) + "\n")
    return folder


def finish(folder: Path, metrics: dict[str, Any], report: Path | None = None) -> None:
    """Writes a report where one is asked for, and the same as metrics.json, each whole or not at all: where that is
    there, the run is done.
    """
    if report:
        report.parent.mkdir(parents=True, exist_ok=True)
        write_json(report, metrics)
    write_json(folder / "metrics.json", metrics)


def merge(report: Path, found: dict[str, Any], sources: dict[str, Any]) -> None:
    """Writes what was found, and where each part of it comes from, into a report that others write too: what they have
    written stays.
    """
    before = json.loads(report.read_bytes()) if report.exists() else {"provenance": {}}
    report.parent.mkdir(parents=True, exist_ok=True)
    write_json(report, {**before, **found, "provenance": {**before["provenance"], **sources}})


def provenance(flags: Any) -> dict[str, Any]:
    """Where a result comes from: command, commit (+dirty where files differ from it), versions, seed, cores, time."""
    return {
        "command": ["python", "-m", f"experiments.{Path(sys.argv[0]).stem}", *sys.argv[1:]],
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "seed": getattr(flags, "seed", None),
        "cores": len(os.sched_getaffinity(0)),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@cache
def commit() -> str:
    """The commit that runs, as it was when first asked for: "+dirty" where tracked files other than reports differ from
    it, "unknown" outside a repository.
    """

    def git(*arguments: str) -> str:
        here = Path(__file__).parent
        return subprocess.run(("git", *arguments), cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        dirty = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)reports")
        return git("rev-parse", "HEAD") + ("+dirty" if dirty else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically: a reader sees the old file or the new one."""
    with appearing(path) as file:
        file.write_text(json.dumps(content, indent=1))


def kept(path: Path, find: Callable[[], Any]) -> Any:
    """What was found, from the file where an earlier start has written it."""
    if not path.exists():
        write_json(path, find())
    return json.loads(path.read_bytes())


class History:
    """progress.jsonl of a run: one line a report, kept over restarts; a line that was not finished is taken out."""

    def __init__(self, path: Path) -> None:
        self._path = path
        if path.exists():
            whole, _, unfinished = path.read_text().rpartition("\n")
            if unfinished:
                with appearing(path) as file:
                    file.write_text(f"{whole}\n" if whole else "")

    def rows(self) -> list[dict[str, Any]]:
        """Everything that was reported, by step, each step as it was reported last."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [row for _, row in sorted({row["step"]: row for row in map(json.loads, lines)}.items())]

    def append(self, progress: Any) -> None:
        """Adds a report, a dataclass with a `step`; returns once it is on the disk."""
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(progress)) + "\n")
        sync(self._path)
