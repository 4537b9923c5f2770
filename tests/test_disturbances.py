"""What is told of a change that is no jam: before it and after it, counted by hand."""

import json

import numpy as np
import pytest

from experiments import disturbances, jams
from experiments.jams import Film, Run
from runtime import arms
from runtime.camera import Frame
from runtime.demo import BUNDLE
from runtime.line.camera import THIS_LINE
from runtime.line.line import Line
from runtime.line.program import SCAN_S
from runtime.line.scene import BELTS
from runtime.loop import Loop
from runtime.registers import Mode
from wm import bundle
from wm.data.footage import Episode
from wm.errors import InputError
from wm.surprise import Told


def test_alarms_and_drift_are_told_apart_by_the_moment_of_the_change():
    score, drift = np.zeros(7350), np.zeros(7350)
    score[100:105] = score[3610:3615] = score[6000:7000] = 2.0
    drift[3900:] = 1.5
    told = disturbances.changed(bundle.load(BUNDLE), Told(score, drift, np.zeros(0)), 3600)
    assert (told["alarms_per_hour_before"], told["alarms_per_hour_after"]) == (10.0, 10.0)
    assert told["alarm_stands_after"] == pytest.approx(1008 / 3600)
    assert (told["drift_before"], told["drift_after_s"]) == (False, 89.9)


def test_a_drift_that_stands_already_is_told_as_nought_seconds():
    told = disturbances.changed(bundle.load(BUNDLE), Told(np.zeros(1600), np.full(1600, 2.0), np.zeros(0)), 800)
    assert (told["drift_before"], told["drift_after_s"]) == (True, 0.0)


def test_a_jam_counts_as_seen_a_second_before_and_an_alarm_before_the_trouble_as_raised_in_vain(monkeypatch):
    times = np.arange(100) / 10
    seen = Episode(np.zeros((100, 1, 1, 1), np.uint8), np.zeros((100, 0)), np.zeros((100, 0)), times, "film")
    scores = {place: np.zeros(100) for place in (2.0, 8.5)}
    scores[2.0][10:15] = scores[2.0][50:60] = scores[8.5][80:90] = 2.0
    monkeypatch.setattr(disturbances, "watch", lambda _, one: Told(scores[one.onset], np.zeros(100), np.zeros(0)))
    films = [Film(seen, np.float64(onset), np.float64(9.0)) for onset in scores]
    told = json.loads(json.dumps(disturbances._seen(bundle.load(BUNDLE), films)))
    assert told == {"alarmed_1s_share": 0.5, "alarms_before_trouble": 2}


def test_a_look_may_change_while_the_line_runs_and_the_line_does_not():
    with Line(3, tail_rate=0.0) as line, Line(3, tail_rate=0.0) as other:
        while line.time < 8.0:
            line.scan(), other.scan()
        other.plant.look = disturbances.CHANGES["two prints never seen"].look
        one, two = line.step(), other.step()
        assert np.array_equal(one.sensors, two.sensors)
        assert np.abs(one.image.astype(int) - two.image).max() > 60
        other.plant.look = THIS_LINE
        assert np.array_equal(line.step().image, other.step().image)


def test_footage_that_ends_before_the_change_counts_is_refused(tmp_path):
    with pytest.raises(InputError, match="--minutes must be at least 1,"):
        disturbances.run(disturbances.Flags(out=tmp_path / "out", minutes=0.5))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("length", [0.125, 0.165])
def test_cartons_of_another_length_cover_an_eye_for_as_long_as_they_are_and_do_not_jam(length):
    with Line(3, tail_rate=0.0, carton_length=length) as line:
        line.plant.advance(1.0, 10.0)
        scans = [line.plant.advance(1.0, SCAN_S) for _ in range(3000)]
        covered_s = SCAN_S * sum(each.infeed_eye for each in scans)
        cartons = scans[-1].cartons_out - scans[0].cartons_out
        assert covered_s * BELTS[0].speed / cartons == pytest.approx(length, rel=0.04)
        assert not line.events.blocks


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("none", None),
        ("two prints never seen", None),
        ("lamps at 80 %", "the light is"),
        ("lamps at 50 %", "the light is"),
        ("camera knocked by half a degree", "the camera has moved by"),
        ("camera knocked by 3 degrees", "the camera sees something else"),
    ],
)
def test_the_runtime_tells_lamps_that_fail_and_a_knocked_camera_at_the_first_frame(change, told):
    with Line(5, tail_rate=0.0) as line:
        while line.time < 8.0:
            line.scan()
        frames = [line.step().image for _ in range(3)]
        line.plant.look = disturbances.CHANGES[change].look
        frames += [line.step().image for _ in range(3)]
    found = disturbances.sighted(bundle.load(BUNDLE), frames, 3)
    assert found["camera_fault_before"] == 0.0
    assert (found["camera_fault_after"], found["camera_fault_after_s"]) == ((1.0, 0.0) if told else (0.0, None))
    assert (found["camera_fault"] or "").startswith(told or "")


def test_a_camera_that_swaps_red_and_blue_is_told_at_the_first_frame_and_believed_again_after_it():
    model = bundle.load(BUNDLE)
    loop = Loop(model, arms.alarm_settings(model), Mode.SHADOW)
    told = []
    with Line(5, tail_rate=0.0) as line:
        while line.time < 8.0:
            line.scan()
        for number in range(9):
            frame = line.step()
            image = frame.image[..., ::-1].copy() if 3 <= number < 6 else frame.image
            told.append(loop.tick([Frame(image, frame.time, 0)], frame.sensors, frame.action).fault)
    assert told == [None] * 3 + ["the camera's colours are not those it was taught"] * 3 + [None] * 3


def test_jams_that_were_found_already_come_back_as_they_were(tmp_path, monkeypatch):
    found = [Run("entry", arms.Trouble(79, "lid"), 5, 0.125), Run("view", arms.Trouble(80, "skew", -0.2), 6)]
    monkeypatch.setattr(jams, "find", lambda *_: found)
    assert jams.kept(tmp_path / "runs.json", [], 0, 1) == found
    monkeypatch.setattr(jams, "find", lambda *_: [])
    assert jams.kept(tmp_path / "runs.json", [], 0, 1) == found
