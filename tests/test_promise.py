"""The promise of a calibration, tried on normal footage that was drawn anew."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import write_box_footage

from experiments import calibrate, promise, train
from wm import bundle
from wm.config import MonitorConfig
from wm.errors import InputError


def test_episodes_are_drawn_until_there_are_enough_and_no_more():
    taken = promise.draw([100] * 10, 350, np.random.default_rng(0))
    assert taken.sum() == 4
    other = promise.draw([100] * 10, 350, np.random.default_rng(1))
    assert other.sum() == 4 and not np.array_equal(taken, other)


def test_a_promise_is_kept_where_no_more_alarms_came_than_were_promised():
    rows = [
        {"hours": 16.0, "alarms": {"1.0": 2, "2.0": 2, "4.0": 9, "8.0": 0}},
        {"hours": 16.0, "alarms": {"1.0": 3, "2.0": 2, "4.0": 9, "8.0": 0}},
    ]
    told = promise.summary(rows, "alarms")
    assert (told["kept"], told["trials"], told["kept_share"]) == (1, 2, 0.5)
    assert told["kept_share_by_rate"] == {"1.0": 0.5, "2.0": 1.0, "4.0": 0.0, "8.0": 1.0}
    assert told["mean_per_shift_by_rate"]["1.0"] == pytest.approx(1.25)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Footage and a bundle that is asked for many alarms, as there is little footage."""
    folder = tmp_path_factory.mktemp("promise")
    write_box_footage(folder / "learnt", train=(200,), holdout=(700,))
    write_box_footage(folder / "normal", train=(400,) * 8)
    train.run(train.Flags(folder / "learnt", folder / "run", size="debug", steps=2, batch=2))
    calibrate.run(
        calibrate.Flags(folder / "run/bundle", folder / "learnt", folder / "bundle", false_alarms=1000, drift_s=5.0)
    )
    return folder


def test_trials_that_were_made_are_kept_and_the_report_says_how_many_kept_their_promise(made, tmp_path, monkeypatch):
    monkeypatch.setattr(promise, "ASKED", (1000.0, 4000.0))
    flags = promise.Flags(
        (made / "normal",), tmp_path / "out", made / "bundle", hours=0.03, trials=2, jobs=1, report=tmp_path / "reports"
    )
    (tmp_path / "reports").mkdir()
    monkeypatch.setattr(promise, "processes", lambda jobs: Serial())
    promise.run(flags)
    first = (tmp_path / "reports" / "calibration.json").read_text()
    (tmp_path / "out" / "trials" / "1.json").unlink()
    promise.run(flags)
    told = json.loads((tmp_path / "reports" / "calibration.json").read_text())
    assert told["rows"] == json.loads(first)["rows"]
    assert told["trials"] == 2 and 0.0 <= told["kept_share"] <= 1.0
    assert (tmp_path / "reports" / "calibration.png").stat().st_size > 0


class Serial:
    """A pool that works here and now."""

    map = staticmethod(map)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


def test_footage_that_the_model_knows_or_too_little_of_it_is_refused(made, tmp_path):
    with pytest.raises(InputError, match="was trained on"):
        promise.run(promise.Flags((made / "learnt",), tmp_path / "out", made / "bundle"))
    with pytest.raises(InputError, match=r"too few to calibrate on 4\.5 h"):
        promise.run(promise.Flags((made / "normal",), tmp_path / "out", made / "bundle"))
    assert not (tmp_path / "out").exists()


def test_a_monitor_can_be_chosen_when_it_is_calibrated(made, tmp_path):
    flags = calibrate.Flags(
        made / "run/bundle", made / "learnt", tmp_path / "short", false_alarms=1000, horizons_s=(0.0, 1.0), drift_s=5.0
    )
    calibrate.run(flags)
    short = bundle.load(tmp_path / "short")
    assert short.monitor == MonitorConfig(horizons_s=(0.0, 1.0), drift_s=5.0)
    assert short.calibration.level.shape == (2, 4)
    with pytest.raises(InputError, match="--drift-s is greater than 0"):
        calibrate.run(replace(flags, out=tmp_path / "none", drift_s=0.0))
