"""Workers of an experiment."""

import os
import subprocess
import sys
import time
from pathlib import Path

SLEEPS = """
import os, time
from pathlib import Path
from experiments.workers import processes

def sleep(path):
    Path(path).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    with processes(1) as workers:
        workers.submit(sleep, {path!r}).result()
"""


def test_a_worker_does_not_outlive_its_parent(tmp_path: Path):
    told, script = tmp_path / "pid", tmp_path / "sleeps.py"
    script.write_text(SLEEPS.format(path=str(told)))
    root = Path(__file__).parents[1]
    parent = subprocess.Popen([sys.executable, script], env=os.environ | {"PYTHONPATH": str(root)})
    assert until(lambda: told.exists() and told.read_text() != "")
    worker = Path("/proc") / told.read_text()
    assert worker.exists()
    parent.kill()
    parent.wait()
    assert until(lambda: not worker.exists())


def until(true) -> bool:
    """Whether it becomes true within half a minute."""
    patient = time.monotonic() + 30
    while not true():
        if time.monotonic() > patient:
            return False
        time.sleep(0.05)
    return True
