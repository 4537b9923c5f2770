"""Bundles to fall back on: which are kept, which is chosen, and that no kill leaves half of one."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import noise_bundle
from PIL import Image

from runtime import journal, known_good
from runtime.__main__ import Flags, main
from runtime.alarm import AlarmState
from runtime.camera import Frame
from runtime.eyes import NO_SCORE, Glance
from runtime.known_good import Probation, choose, copies, keep, whole
from runtime.loop import Tick
from runtime.registers import Command, Mode
from runtime.run import Watch
from runtime.settings import read_settings
from wm import bundle
from wm.config import FootageSpec, ModelConfig
from wm.errors import InputError
from wm.files import checksums
from wm.surprise import Surprise

SPEC = FootageSpec(10.0, (16, 16, 3))


def made(path: Path, spec: FootageSpec = SPEC, **recipe: Any) -> Path:
    model = noise_bundle(ModelConfig.of(spec, "debug"), rate_hz=spec.rate_hz, tags=spec.tags, actions=spec.actions)
    bundle.save(replace(model, recipe=recipe), path)
    return path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four bundles for one purpose, and one for another."""
    folder = tmp_path_factory.mktemp("shop")
    alike = [made(folder / f"line{number}", number=number) for number in range(4)]
    return [*alike, made(folder / "other", replace(SPEC, tags=("eye",)))]


@pytest.fixture
def line(shop: list[Path], tmp_path: Path) -> Path:
    return shutil.copytree(shop[0], tmp_path / "line")


def damage(path: Path, name: str = "card.md") -> None:
    file = path / name
    file.write_bytes(file.read_bytes()[:-1])


def kept(path: Path, folder: Path) -> Path:
    keep(path, bundle.digest(path), folder)
    return folder / bundle.digest(path)


def test_the_three_that_were_sound_last_are_kept_whole(shop: list[Path], tmp_path: Path) -> None:
    made_of = [kept(path, tmp_path) for path in (shop[0], shop[1], shop[2], shop[0], shop[3])]
    assert copies(tmp_path) == [made_of[4], made_of[3], made_of[2]]
    assert all(whole(copy) for copy in copies(tmp_path))
    assert sorted(tmp_path.iterdir()) == sorted(copies(tmp_path))


def test_what_somebody_else_put_beside_them_stays(shop: list[Path], tmp_path: Path) -> None:
    mine = shutil.copytree(shop[4], tmp_path / "mine")
    for path in shop[:4]:
        kept(path, tmp_path)
    assert whole(mine, bundle.digest(shop[4])) and len(copies(tmp_path)) == 3


def test_a_sound_bundle_is_used_though_copies_are_there(shop: list[Path], line: Path, tmp_path: Path) -> None:
    kept(shop[1], tmp_path / "bundles")
    found = choose(line, tmp_path / "bundles")
    assert (found.path, found.why) == (line, None)


@pytest.mark.parametrize("name", ["card.md", "bundle.json", "checksums.json"])
def test_for_a_damaged_bundle_the_newest_sound_copy_stands_in(
    shop: list[Path], line: Path, tmp_path: Path, name: str
) -> None:
    earlier, rotten = kept(shop[1], tmp_path / "bundles"), kept(shop[2], tmp_path / "bundles")
    damage(rotten)
    (line / name).write_bytes((line / name).read_bytes()[:-9])
    found = choose(line, tmp_path / "bundles")
    assert found.path == earlier
    assert found.model.recipe == {"number": 1}
    assert found.why is not None and f"{name} is damaged" in found.why


def test_for_a_bundle_of_another_format_a_copy_stands_in(shop: list[Path], line: Path, tmp_path: Path) -> None:
    earlier = kept(line, tmp_path / "bundles")
    document = json.loads((line / "bundle.json").read_text())
    (line / "bundle.json").write_text(json.dumps({**document, "format": 99}))
    (line / "checksums.json").write_text(json.dumps(checksums(line)))
    kept(line, tmp_path / "bundles")
    found = choose(line, tmp_path / "bundles")
    assert found.path == earlier
    assert found.why is not None and "bundle format 99" in found.why


def test_what_was_made_for_another_purpose_or_is_not_what_its_name_says_never_stands_in(
    shop: list[Path], line: Path, tmp_path: Path
) -> None:
    kept(shop[4], tmp_path / "bundles")
    shutil.copytree(shop[1], tmp_path / "bundles" / "renamed")
    damage(line)
    with pytest.raises(InputError, match=r"card\.md is damaged"):
        choose(line, tmp_path / "bundles")


def test_a_name_that_leads_nowhere_is_a_mistake_and_no_damage(shop: list[Path], tmp_path: Path) -> None:
    kept(shop[0], tmp_path / "bundles")
    with pytest.raises(InputError, match="nowhere is not a bundle"):
        choose(tmp_path / "nowhere", tmp_path / "bundles")


def test_what_has_changed_since_it_was_loaded_is_not_kept(shop: list[Path], line: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    with pytest.raises(InputError, match="is not what it was"):
        keep(line, bundle.digest(shop[1]), folder)
    assert copies(folder) == []
    rotten = kept(line, folder)
    damage(rotten)
    assert whole(kept(line, folder))


class KilledError(BaseException):
    pass


def killed(work: Callable[[], object], number: int) -> bool:
    """Does work until its `number`-th call that changes a disk, and whether it got so far."""
    left = number

    def counted(_: object, event: str, called: Any) -> None:
        nonlocal left
        changing = {"open", "rename", "mkdir", "rmdir", "unlink", "utime", "fsync", "sendfile", "chmod"}
        if event == "c_call" and called.__name__ in changing:
            left -= 1
            if left == 0:
                raise KilledError

    sys.setprofile(counted)
    try:
        work()
    except KilledError:
        return True
    finally:
        sys.setprofile(None)
    return False


def small(path: Path) -> Path:
    """What is verified as a bundle is."""
    path.mkdir()
    (path / "card.md").write_text(path.name)
    (path / "checksums.json").write_text(json.dumps(checksums(path)))
    return path


def test_whenever_it_is_killed_every_copy_is_whole_and_the_newest_before_is_there(tmp_path: Path) -> None:
    folder, paths = tmp_path / "bundles", [small(tmp_path / name) for name in "abcd"]
    number, going = 0, True
    while going:
        number += 1
        shutil.rmtree(folder, ignore_errors=True)
        first, *_, last = [kept(path, folder) for path in paths[:3]]
        going = killed(lambda: kept(paths[3], folder), number)
        assert last in copies(folder) and all(whole(copy) for copy in copies(folder))
        kept(paths[3], folder)
        assert not first.exists() and len(list(folder.iterdir())) == 3
    assert number > 20


def test_a_kill_9_leaves_no_half_bundle_that_could_be_chosen(shop: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "bundles"
    paths = [str(path) for path in shop[:4]]
    code = (
        "from itertools import cycle; from pathlib import Path; from runtime.known_good import keep; "
        f"from wm import bundle; [keep(Path(p), bundle.digest(Path(p)), Path({str(folder)!r})) for p in cycle({paths})]"
    )
    for pause in (0.0, 0.13, 0.31):
        process = subprocess.Popen([sys.executable, "-c", code])
        before = time.time_ns()
        while not any(copy.stat().st_mtime_ns > before for copy in folder.glob("[!.]*")):
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.wait()
        assert copies(folder) and all(whole(copy) for copy in copies(folder))


def test_a_bundle_is_on_probation_until_it_has_watched_for_a_minute_without_a_fault_of_the_model(
    line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str | None]] = []
    monkeypatch.setattr(known_good, "Thread", Now)
    probation = Probation(line, tmp_path / "bundles", 10.0, lambda *words: told.append(words))
    command = Command(1, Mode.SHADOW, False, 0.0, 1.0, 500)
    surprise = Surprise(*[np.zeros(())] * len(fields(Surprise)))
    watched = Tick(0.0, 0.5, AlarmState(), command, None, (Glance(None, surprise),))
    blind, broken = (
        watched._replace(fault=fault, glances=(Glance(fault),)) for fault in ("the picture is blank", NO_SCORE)
    )
    for tick in [watched] * 599 + [broken] + [watched] * 599 + [blind] * 50:
        probation.turn(tick)
    assert told == []
    for _ in range(700):
        probation.turn(watched)
    assert told == [(bundle.digest(line), None)]
    assert whole(tmp_path / "bundles" / bundle.digest(line))


def test_what_cannot_be_kept_is_told(line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str | None]] = []
    monkeypatch.setattr(known_good, "Thread", Now)
    monkeypatch.setattr(known_good, "SOUND_S", 0.1)
    (tmp_path / "bundles").write_text("a file")
    probation = Probation(line, tmp_path / "bundles", 10.0, lambda *words: told.append(words))
    surprise = Surprise(*[np.zeros(())] * len(fields(Surprise)))
    probation.turn(
        Tick(0.0, 0.5, AlarmState(), Command(1, Mode.SHADOW, False, 0.0, 1.0, 500), None, (Glance(None, surprise),))
    )
    ((name, why),) = told
    assert (name, why is not None and "File exists" in why) == (bundle.digest(line), True)


class Now:
    """A thread that is done at once."""

    def __init__(self, target: Callable[[], None], **_: Any) -> None:
        self.start = target


@pytest.fixture
def settings(line: Path, tmp_path: Path) -> Path:
    """Settings of a runtime that watches a film of ten pictures."""
    (tmp_path / "film").mkdir()
    for number, picture in enumerate(np.random.default_rng(0).integers(0, 255, (10, 16, 16, 3), np.uint8)):
        Image.fromarray(picture).save(tmp_path / "film" / f"{number}.png")
    file = tmp_path / "settings.toml"
    source = f'[[cameras]]\nsource = "{tmp_path / "film"}"\nreplay = true\n'
    file.write_text(f'bundle = "{line}"\nout = "{tmp_path / "out"}"\n{source}')
    return file


def test_a_runtime_falls_back_with_an_alarm_and_a_check_says_so_and_without_a_copy_both_refuse(
    shop: list[Path], line: Path, settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(line)
    with pytest.raises(InputError, match=r"card\.md is damaged"):
        main(Flags(settings=settings))
    assert not (tmp_path / "out").exists()
    earlier = kept(shop[1], tmp_path / "out" / "bundles")
    assert main(Flags(what="check", settings=settings)) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "card.md is damaged" in told and f"Flinch would run on an earlier model, {earlier}" in told
    assert told.count("FAULT") == 1

    command = [sys.executable, "-m", "runtime", "--settings", str(settings)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=os.environ)
    assert f"watches with {earlier}" in ended.stderr
    rows = list(journal.read(tmp_path / "out" / "journal.db"))
    assert journal.broken(rows) is None
    assert rows[0].entry.why == f"bundle {earlier.name}"
    (alarm,) = [row.entry for row in rows if row.entry.name == "bundle"]
    assert (alarm.kind, alarm.after) == ("alarm", "unacknowledged")
    assert "card.md is damaged" in alarm.why


def test_a_runtime_keeps_what_it_has_watched_with_for_long_enough_and_writes_it_down(
    line: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_good, "SOUND_S", 0.3)
    known = read_settings(settings)
    watch = Watch(known, choose(line, tmp_path / "out" / "bundles"))
    for number, picture in enumerate(np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), np.uint8)):
        watch.turn([Frame(picture, number / 10, 0)], 0)
    until = time.monotonic() + 60
    while not (rows := [row for row in journal.read(known.out / "journal.db") if row.entry.kind == "bundle"]):
        assert time.monotonic() < until
        time.sleep(0.05)
    watch.close("told to stop")
    assert [(row.entry.name, row.entry.after) for row in rows] == [(bundle.digest(line), "kept")]
    assert [whole(copy) for copy in copies(known.out / "bundles")] == [True]


def test_a_copy_may_be_named_as_the_bundle(shop: list[Path], tmp_path: Path) -> None:
    copy = kept(shop[0], tmp_path / "bundles")
    newer = kept(shop[1], tmp_path / "bundles")
    found = choose(copy, tmp_path / "bundles")
    assert (found.path, found.why) == (copy, None)
    assert copies(tmp_path / "bundles") == [newer, copy]
    kept(copy, tmp_path / "bundles")
    assert copies(tmp_path / "bundles") == [copy, newer]
