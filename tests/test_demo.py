"""The demo: honest figures from what happened, and a run that happens the same way twice."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from PIL import Image

from runtime import arms, demo, story
from runtime.arms import Outcome
from runtime.line import server
from wm import bundle
from wm.errors import InputError

JAM = Outcome(
    seed=1,
    kind="lid",
    carton=79,
    onset_s=70.0,
    left_s=None,
    alarms_without_s=(70.5,),
    alarms_with_s=(70.5,),
    write_s=70.6,
    block_without_s=72.5,
    block_with_s=None,
    cartons_per_minute_without=20.0,
    cartons_per_minute_with=60.0,
)
PASSES = replace(JAM, seed=2, block_without_s=None, left_s=75.0, alarms_without_s=(), alarms_with_s=())


def test_the_lead_is_from_the_alarm_to_the_jam_that_would_have_been():
    assert JAM.lead_s == pytest.approx(2.0)


def test_an_alarm_after_the_jam_has_begun_is_no_warning():
    assert replace(JAM, alarms_without_s=(72.6,)).lead_s is None


def test_an_alarm_before_the_carton_came_into_view_did_not_mean_it():
    late = replace(JAM, alarms_without_s=(69.0, 72.0))
    assert late.lead_s == pytest.approx(0.5)


def test_an_alarm_that_no_jam_follows_is_false():
    assert JAM.false_alarms_s == ()
    alarmed = replace(PASSES, alarms_without_s=(66.0, 71.0, 80.0))
    assert alarmed.false_alarms_s == (66.0, 71.0, 80.0)
    assert alarmed.false_alarms_on_precursors_s == (71.0,)
    assert replace(JAM, alarms_without_s=(60.0, 70.5)).false_alarms_s == (60.0,)


def test_the_summary_adds_up():
    late = replace(JAM, seed=3, alarms_without_s=(73.0,), block_with_s=72.5)
    alarmed = replace(PASSES, seed=4, alarms_without_s=(71.0,))
    summary = demo.summarise([JAM, PASSES, late, alarmed])
    assert summary["seeds"] == [1, 2, 3, 4]
    assert (summary["jams_without"], summary["jams_with"]) == (2, 1)
    assert summary["lead_times_s"] == [2.0, None]
    assert (summary["false_alarms"], summary["false_alarms_on_precursors"]) == (1, 1)
    assert (summary["cartons_per_minute_without"], summary["cartons_per_minute_with"]) == (20.0, 60.0)
    assert len(summary["runs"]) == 4


def test_trouble_is_a_pure_function_of_the_seed_and_of_every_kind():
    troubles = [demo.trouble(seed) for seed in range(60)]
    assert troubles == [demo.trouble(seed) for seed in range(60)]
    assert {trouble.kind for trouble in troubles} == {"lid", "skew", "double"}


def test_the_story_shows_the_runs_that_jam_and_each_kind_before_a_second_of_it():
    kinds = ("lid", "lid", "skew", "lid", "lid", "double")
    jams = [replace(JAM, kind=kind) for kind in kinds]
    assert demo.starring([PASSES, *jams]) == [1, 2, 3, 6]
    assert demo.starring([PASSES, PASSES]) == [0, 1]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a few seconds, before the tail carton has come into view."""
    for name, seconds in (("RUN_IN_S", 1.0), ("WARM_UP_S", 0.4), ("ARM_S", 1.0)):
        monkeypatch.setattr(arms, name, seconds)
    monkeypatch.setattr(story, "TITLE_S", 0.1)
    monkeypatch.setattr(story, "CLOSING_S", 0.2)


@pytest.mark.usefixtures("brief")
def test_a_run_happens_the_same_way_twice():
    model = bundle.load(demo.BUNDLE)
    runs = [demo.perform(model, 4, lambda _: lambda: None) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    scores = [[shot.tick.score for shot in reel.without.shots + reel.acted.shots] for _, reel in runs]
    assert scores[0] == scores[1]


@pytest.mark.usefixtures("brief")
def test_the_demo_ends_with_a_summary_a_video_and_a_still(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert demo.run((4, 5), tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["story.mp4", "story.png", "summary.json"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["seeds"], summary["jams_without"], summary["lead_times_s"]) == ([4, 5], 0, [])
    with av.open(str(tmp_path / "story.mp4")) as video:
        sizes = [(frame.width, frame.height) for frame in video.decode(video=0)]
    assert sizes == [story.SIZE] * (2 * (1 + 14) + 2)
    assert Image.open(tmp_path / "story.png").size == story.SIZE
    assert "0 of 2 runs jammed without Flinch, 0 with it" in capsys.readouterr().out


@pytest.mark.usefixtures("brief")
def test_an_interrupt_leaves_no_plc_process_behind(monkeypatch: pytest.MonkeyPatch):
    started: list[int] = []
    running = server.running

    @contextmanager
    def noted(**options: Any) -> Iterator[server.Running]:
        with running(**options) as plc:
            started.append(plc.pid)
            yield plc

    def scene(name: str) -> Callable[[], None]:
        def tick() -> None:
            if "Flinch" in name:
                raise KeyboardInterrupt

        return tick

    monkeypatch.setattr(server, "running", noted)
    with pytest.raises(KeyboardInterrupt):
        demo.perform(bundle.load(demo.BUNDLE), 4, scene)
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


def test_a_missing_bundle_is_refused_and_nothing_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(demo, "BUNDLE", tmp_path / "nowhere")
    with pytest.raises(InputError, match="nowhere is not a bundle"):
        demo.run((4,), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be a folder"):
        demo.run((4,), tmp_path / "taken")
