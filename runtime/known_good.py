"""Bundles that a runtime's folder has run on soundly, kept to fall back on.

    OUT/bundles/DIGEST    whole copies, at most three; what was sound last is the newest

A copy appears whole or not at all, and is verified byte by byte before anything is done with it.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import NamedTuple

from runtime.eyes import NO_SCORE
from runtime.loop import Tick
from wm import bundle
from wm.bundle import Bundle
from wm.config import FootageSpec, from_json
from wm.errors import InputError
from wm.files import sync

KEPT = 3
SOUND_S = 60.0
DIGEST = re.compile("[0-9a-f]{64}")


class Chosen(NamedTuple):
    """The bundle to watch with, where it lies, and why it is not the one that was asked for, None where it is."""

    model: Bundle
    path: Path
    why: str | None = None


def choose(path: Path, folder: Path) -> Chosen:
    """The bundle at `path` or, where that is damaged or of another format, the newest sound copy in `folder` that was
    made for the same pictures, tags and actions, as far as that can still be told.

    Raises:
      InputError: there is no bundle at `path`, or it cannot be used and there is no such copy.
    """
    try:
        return Chosen(bundle.load(path), path)
    except InputError as error:
        wanted = purpose(path)
        for copy in copies(folder) if path.is_dir() else []:
            if whole(copy) and wanted in {None, purpose(copy)}:
                try:
                    return Chosen(bundle.load(copy), copy, str(error))
                except InputError:
                    continue  # of another format too
        raise


def purpose(path: Path) -> FootageSpec | None:
    """What a bundle was made for, None where that is damaged too."""
    try:
        recorded = json.loads((path / "checksums.json").read_text())["bundle.json"]
        written = (path / "bundle.json").read_bytes()
        sound = recorded == hashlib.sha256(written).hexdigest()
        return from_json(FootageSpec, json.loads(written)["spec"]) if sound else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def copies(folder: Path) -> list[Path]:
    """The newest first."""
    named = (copy for copy in folder.glob("*") if DIGEST.fullmatch(copy.name))
    return sorted(named, key=lambda copy: copy.stat().st_mtime_ns, reverse=True)


def whole(copy: Path, name: str | None = None) -> bool:
    """Whether every byte is there of the bundle whose digest is `name`, or else the name of its folder."""
    try:
        bundle.verify(copy)
        return bundle.digest(copy) == (name or copy.name)
    except (InputError, OSError):
        return False


def keep(path: Path, name: str, folder: Path) -> None:
    """Makes a copy of the bundle at `path`, whose digest is `name`, the newest in `folder`, and lets go of the oldest.

    Raises:
      InputError: the bundle has changed since.
      OSError: the disk does not take it.
    """
    copy, partial = folder / name, folder / f".partial-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    for rest in folder.glob(".*"):
        shutil.rmtree(rest)
    if whole(copy):
        os.utime(copy)
    else:
        shutil.copytree(path, partial)
        if not whole(partial, name):
            raise InputError(f"{path} is not what it was when it was loaded")
        os.utime(partial)
        for file in (*partial.rglob("*"), partial):
            sync(file)
        if copy.exists():
            _remove(copy)
        partial.rename(copy)
    sync(folder)
    for old in copies(folder)[KEPT:]:
        _remove(old)


def _remove(copy: Path) -> None:
    """It disappears whole, whenever the power fails."""
    gone = copy.with_name(f".gone-{copy.name}")
    copy.rename(gone)
    shutil.rmtree(gone)


class Probation:
    """Keeps the bundle that is watched with, once it has watched for a minute without a fault of the model; from a
    thread.

    Args:
      told: called from the thread with the bundle's digest and why it could not be kept, None where it was.
    """

    def __init__(self, path: Path, folder: Path, rate_hz: float, told: Callable[[str, str | None], None]) -> None:
        self._path, self._folder, self._told = path, folder, told
        self._name, self._frames = bundle.digest(path), round(SOUND_S * rate_hz)
        self._left = self._frames

    def turn(self, tick: Tick) -> None:
        """One turn of the loop."""
        if any(glance.fault == NO_SCORE for glance in tick.glances):
            self._left = self._frames
        elif tick.fault is None and self._left > 0:
            self._left -= 1
            if self._left == 0:
                Thread(target=self._keep, name="known good", daemon=True).start()

    def _keep(self) -> None:
        try:
            keep(self._path, self._name, self._folder)
        except (InputError, OSError) as error:
            self._told(self._name, str(error))
        else:
            self._told(self._name, None)
