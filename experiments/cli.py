"""From a command line to a call: what every experiment does first."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn

from wm import compilation
from wm.errors import InputError, interrupted, refuse

HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def main(run: Callable[[Any], object]) -> None:
    """Parses the flags of `run`'s one argument, a frozen dataclass, and runs it.

    Exit code 0; 2 for a flag or an input that cannot be used, with one line on stderr; 130 when interrupted.
    """
    kind = next(iter(get_type_hints(run).values()))
    program = f"python -m experiments.{Path(sys.argv[0]).stem}"
    flags = tyro.cli(kind, prog=program, description=run.__doc__)
    compilation.keep()
    try:
        run(flags)
    except InputError as error:
        refuse(error)
    except OSError as error:
        refuse(InputError(f"{error}; give another file or folder."))
    except KeyboardInterrupt:
        interrupted()


def huge_pages() -> None:
    """Starts the process again with its memory in huge pages, unless somebody has set glibc's tunables already. A
    training step maps its scratch memory anew, which costs much in pages of 4 KiB.
    """
    if sys.platform == "linux" and not HUGE_PAGES.keys() & os.environ.keys():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | HUGE_PAGES)


def check_holdout(holdout: float) -> None:
    """Raises InputError for a share that is not in [0, 1)."""
    if not 0 <= holdout < 1:
        raise InputError(f"--holdout is a share of the time from 0 up to below 1, not {holdout}")


def progress() -> Progress:
    """A progress bar on stderr with count, items a second and time left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


class RateColumn(ProgressColumn):
    """Items a second, in the unit that the task names."""

    def render(self, task: Task) -> str:
        speed = task.finished_speed or task.speed
        return "" if speed is None else f"{speed:.1f} {task.fields['unit']}/s"
