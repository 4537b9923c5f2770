"""What is told of a guide that wears."""

import json

import numpy as np
import pytest

from experiments import drift, record
from runtime.demo import BUNDLE
from wm import bundle
from wm.data.footage import Footage
from wm.errors import InputError
from wm.surprise import Told


def test_the_first_drift_that_stands_for_a_minute_is_told_with_the_wear_and_the_alarms_before_it():
    score, slow = np.zeros(6000), np.zeros(6000)
    slow[100:600] = 3.0
    score[[100, 101, 5000, 5001]] = 2.0
    slow[1201:] = 1.5
    told = drift.figures(bundle.load(BUNDLE), Told(score, slow, np.zeros(0)), 0.5)
    assert told == {
        "drift_alarms": 1,
        "first_drift_minutes": pytest.approx(3.0),
        "wear_then": pytest.approx(0.5 * 3 / 60),
        "drift_max": 3.0,
        "alarms": 2,
        "alarms_before_drift": 1,
    }


def test_a_line_that_never_drifts_says_so():
    told = drift.figures(bundle.load(BUNDLE), Told(np.zeros(100), np.zeros(100), np.zeros(0)), 0.0)
    assert told["first_drift_minutes"] is None and told["wear_then"] is None and told["drift_alarms"] == 0


def test_a_worn_and_a_sound_line_are_filmed_watched_and_reported(tmp_path):
    flags = drift.Flags(tmp_path / "out", hours=0.01, wear_per_hour=50.0, report=tmp_path)
    drift.run(flags)
    told = json.loads((tmp_path / "drift.json").read_text())
    assert told["worn"]["blocks"] == 0 and told["sound"]["alarms"] == 0
    assert (tmp_path / "drift.png").stat().st_size > 0
    sound, worn = (Footage.open(tmp_path / "out" / name).read("train", 0, 350, 10).frames for name in ("sound", "worn"))
    assert not np.array_equal(sound, worn)


def test_less_than_no_wear_is_refused(tmp_path):
    with pytest.raises(InputError, match="--wear-per-hour is 0 or more"):
        record.record(record.Flags(tmp_path / "out", 1.0, wear_per_hour=-1.0))
