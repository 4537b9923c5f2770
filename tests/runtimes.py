"""Runtimes as processes: their settings, how they start, and what they leave behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime import journal
from runtime.journal import Entry


def settings_file(tmp_path: Path, **values: Any) -> Path:
    """Settings of a runtime that writes to tmp_path/run; values are TOML literals, `section__key` for a section's."""
    sections: dict[str, list[str]] = {"": [f'out = "{tmp_path / "run"}"']}
    for key, value in values.items():
        section, _, name = key.rpartition("__")
        sections.setdefault(section, []).append(
            f"{name} = {json.dumps(str(value) if isinstance(value, Path) else value)}"
        )
    heads = {"": [], "camera": ["[[cameras]]"]}
    lines = ["\n".join(heads.get(section, [f"[{section}]"]) + keys) for section, keys in sections.items()]
    file = tmp_path / "settings.toml"
    file.write_text("\n".join(lines))
    return file


def start(settings: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime", "--settings", str(settings)]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(settings.parent.parent),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | cache)


def ticks_of(tmp_path: Path) -> list[dict[str, Any]]:
    file = tmp_path / "run" / "ticks.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def journal_of(tmp_path: Path) -> list[Entry]:
    rows = list(journal.read(tmp_path / "run" / "journal.db"))
    assert journal.broken(rows) is None
    return [row.entry for row in rows]


def wait_for(wanted: Callable[[], bool]) -> None:
    for _ in range(600):
        if wanted():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")
