"""Processes that an experiment divides its work among."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from threading import Thread


def processes(jobs: int) -> ProcessPoolExecutor:
    """So many workers; they die at once when they are interrupted, or when their parent is gone."""
    return ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _mortal)


def _mortal() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    Thread(target=_follow, daemon=True).start()


def _follow() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
