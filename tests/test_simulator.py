"""A runtime that foresees with another bundle than the one that watches."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import untrained
from runtimes import journal_of, settings_file, start, ticks_of

from runtime.__main__ import Flags, main
from runtime.camera import Frame
from runtime.demo import BUNDLE
from runtime.line.line import SPEC as LINE_SPEC
from runtime.line.line import Line
from runtime.run import Watch, load
from runtime.settings import read_settings
from wm import bundle
from wm.bundle import Bundle
from wm.errors import InputError


def test_a_policy_needs_a_bundle_that_has_learnt_to_act(shop: Path, tmp_path: Path) -> None:
    settings = settings_file(tmp_path, bundle=shop / "anxious", act__policy="plan", camera__source=shop / "belt.mp4")
    with pytest.raises(InputError, match="holds no actor, which policy plan needs"):
        main(Flags(settings=settings))
    assert not (tmp_path / "run").exists()
    assert main(Flags(what="check", settings=settings)) == 1


def test_a_simulator_of_another_line_and_one_that_is_not_there_are_refused(shop: Path, tmp_path: Path) -> None:
    bundle.save(untrained(replace(LINE_SPEC, rate_hz=25.0), 1e-6), tmp_path / "other")
    for name, why in (("other", "is for other pictures, tags or actions than"), ("nowhere", "is not a bundle")):
        settings = settings_file(
            tmp_path, bundle=shop / "anxious", act__simulator=tmp_path / name, camera__source=shop / "belt.mp4"
        )
        with pytest.raises(InputError, match=f"{name} {why}"):
            main(Flags(settings=settings))
        assert not (tmp_path / "run").exists()


def test_with_a_damaged_simulator_the_plain_rule_watches_on_and_an_alarm_and_a_check_say_so(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(shop / "anxious", tmp_path / "damaged")
    (tmp_path / "damaged" / "card.md").write_text("")
    settings = settings_file(
        tmp_path,
        bundle=shop / "anxious",
        act__policy="plan",
        act__simulator=tmp_path / "damaged",
        camera__source=shop / "belt.mp4",
        camera__replay=True,
    )
    assert main(Flags(what="check", settings=settings)) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert "simulator FAULT" in told and "card.md is damaged" in told and told.count("FAULT") == 1
    process = start(settings)
    assert process.wait(120) == 0
    (alarm,) = [entry for entry in journal_of(tmp_path) if entry.name == "bundle"]
    assert (alarm.kind, alarm.after) == ("alarm", "unacknowledged") and "the plain rule has it" in alarm.why
    assert len(ticks_of(tmp_path)) == 30


def test_a_simulator_foresees_for_the_policy_and_the_journal_says_which_it_was(
    shop: Path, acting: Bundle, tmp_path: Path
) -> None:
    bundle.save(acting, tmp_path / "acting")
    settings = read_settings(
        settings_file(
            tmp_path,
            bundle=BUNDLE,
            act__policy="actor",
            act__simulator=tmp_path / "acting",
            act__deadline_s=0.5,
            camera__source=shop / "belt.mp4",
        )
    )
    watch = Watch(settings, load(settings))
    with Line(5, tail_rate=0.0) as line:
        for _ in range(14):
            frame = line.step()
            watch.turn([Frame(frame.image, frame.time, 0)], 0)
    watch.close("told to stop")
    settled = acting.monitor.settle(10.0)
    assert [row["chosen"] is not None for row in ticks_of(tmp_path)] == [False] * (settled - 1) + [True] * (
        15 - settled
    )
    first = journal_of(tmp_path)[0]
    assert f"simulator {bundle.digest(tmp_path / 'acting')}" in first.why


def test_a_simulator_that_is_not_calibrated_is_refused(shop: Path, acting: Bundle, tmp_path: Path) -> None:
    bundle.save(replace(acting, calibration=None), tmp_path / "raw")
    settings = settings_file(tmp_path, bundle=BUNDLE, act__simulator=tmp_path / "raw", camera__source=shop / "belt.mp4")
    with pytest.raises(InputError, match="raw is not calibrated"):
        main(Flags(settings=settings))
    assert not (tmp_path / "run").exists()
