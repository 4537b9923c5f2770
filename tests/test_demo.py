"""The demo: honest figures from what happened, and a run that happens the same way twice."""

from dataclasses import replace
from pathlib import Path

import av
import pytest

from runtime import demo, story
from runtime.demo import Outcome
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
    assert {kind for _, kind in troubles} == {"lid", "skew", "double"}


def test_a_run_happens_the_same_way_twice_and_becomes_a_video(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "RUN_IN_S", 1.0)
    monkeypatch.setattr(demo, "WARM_UP_S", 0.4)
    monkeypatch.setattr(demo, "ARM_S", 1.0)
    model = bundle.load(demo.BUNDLE)
    runs = [demo.perform(model, 4, lambda _: lambda: None) for _ in range(2)]
    assert runs[0][0] == runs[1][0]
    scores = [[shot.tick.score for shot in reel.without.shots + reel.acted.shots] for _, reel in runs]
    assert scores[0] == scores[1]
    reel = runs[0][1]
    pictures = [story.title(reel), story.scene(reel, len(reel.without.shots) - 1)]
    assert {picture.size for picture in pictures} == {story.SIZE}
    story.encode(tmp_path / "story.mp4", pictures * 3)
    with av.open(str(tmp_path / "story.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 6


def test_an_out_that_is_a_file_is_refused(tmp_path: Path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot be a folder"):
        demo.run((4,), tmp_path / "taken")
