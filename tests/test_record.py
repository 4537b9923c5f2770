from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.record import Flags, record
from runtime.line.line import SPEC, Line
from runtime.line.operator import schedule
from wm.data.footage import Footage
from wm.errors import InputError


@given(seed=st.integers(0, 2**32), frames=st.integers(1, 2000))
def test_the_schedule_holds_allowed_speeds_for_allowed_times(seed: int, frames: int) -> None:
    speeds = schedule(seed, frames, rate_hz=10.0)
    assert speeds.shape == (frames,) and speeds.dtype == np.float32
    assert speeds.min() >= np.float32(0.1) and speeds.max() <= 1.0
    changes = np.flatnonzero(np.diff(speeds)) + 1
    holds = np.diff(changes)
    assert (holds >= 20).all()
    slow = speeds[changes[:-1]] < 1.0 if len(changes) else np.array([], bool)
    assert (holds[slow] <= 150).all()


def test_the_schedule_is_mostly_full_speed_with_slow_downs_and_everything_between() -> None:
    speeds = schedule(0, 36_000, rate_hz=10.0)
    assert 0.5 < (speeds == 1.0).mean() < 0.75
    assert 0.05 < (speeds <= 0.3).mean() < 0.25
    assert np.histogram(speeds[speeds < 1], bins=9, range=(0.1, 1.0))[0].min() > 0


def test_one_seed_gives_one_schedule() -> None:
    np.testing.assert_array_equal(schedule(5, 500, 10.0), schedule(5, 500, 10.0))
    assert not np.array_equal(schedule(5, 500, 10.0), schedule(6, 500, 10.0))


def test_recorded_footage_is_the_line_itself_on_the_schedule(tmp_path: Path) -> None:
    record(Flags(out=tmp_path / "footage", minutes=0.1, episodes=2, seed=5, holdout=0.25))
    footage = Footage.open(tmp_path / "footage")
    assert footage.spec == SPEC
    assert (footage.lengths("train"), footage.lengths("holdout")) == ([60, 30], [30])
    assert [events["seed"] for events in footage.metadata["events"]] == [5, 6]
    assert [entry.name for entry in tmp_path.iterdir()] == ["footage"]
    episode = next(footage.episodes("train"))
    line = Line(5)
    assert episode.frames is not None and episode.source == "line, seed 5"
    for t, speed in enumerate(schedule(5, 60, SPEC.rate_hz)):
        line.operator_speed = float(speed)
        seen = line.step()
        np.testing.assert_array_equal(episode.frames[t], seen.image)
        np.testing.assert_array_equal(episode.sensors[t], seen.sensors)
        np.testing.assert_array_equal(episode.actions[t], seen.action)
        assert episode.times[t] == seen.time


def test_without_variation_the_line_runs_at_full_speed(tmp_path: Path) -> None:
    record(Flags(out=tmp_path / "footage", minutes=0.05, seed=5, vary=False, holdout=0, jobs=1))
    (episode,) = Footage.open(tmp_path / "footage").episodes("train")
    np.testing.assert_array_equal(episode.actions, np.ones((30, 1)))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"minutes": 0.0}, "must be greater than 0"),
        ({"jobs": 0}, "must be greater than 0"),
        ({"tail_rate": 1.5}, "--tail-rate is a chance"),
        ({"holdout": -0.1}, "--holdout is a share"),
    ],
)
def test_unusable_flags_are_refused_and_nothing_is_written(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        record(Flags(**{"out": tmp_path / "footage", "minutes": 1.0, **changed}))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_varied_footage_shows_another_line_in_every_episode(tmp_path: Path) -> None:
    record(Flags(out=tmp_path / "lines", minutes=0.05, episodes=2, seed=5, holdout=0.0, varied=True))
    footage = Footage.open(tmp_path / "lines")
    first, second = (footage.read("train", number, 0, 1).frames for number in (0, 1))
    assert first is not None and second is not None
    assert np.abs(first.astype(int) - second).mean() > 10
