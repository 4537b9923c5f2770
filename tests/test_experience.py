"""Experience from jam to jam: what is filmed, for how long, and which cartons are in trouble."""

from pathlib import Path

import numpy as np
import pytest

from experiments import experience
from experiments.experience import CLEARED_S, Flags
from runtime.arms import NUMBERS, RUN_IN_S
from runtime.line.line import SPEC
from wm.data.footage import Footage
from wm.errors import InputError


def test_half_of_the_trouble_is_there_on_entry_and_the_cartons_that_fill_the_line_have_none():
    tails, mishaps = experience.troubles(3, 0.2)
    assert not tails.keys() & mishaps.keys() and min(*tails, *mishaps) >= NUMBERS.start
    assert 60 < len(tails) < 130 and 60 < len(mishaps) < 130
    assert experience.troubles(3, 0.2) == (tails, mishaps)
    assert experience.troubles(3, 0.0) == ({}, {})


def test_an_episode_ends_a_while_after_its_jam_and_begins_on_a_full_line():
    one = next(one for seed in range(9) if len((one := experience.lived(seed, 900, 0.5)).times) < 900)
    assert one.times[0] == pytest.approx(RUN_IN_S + 1 / SPEC.rate_hz)
    still = np.abs(np.diff(one.frames[-50:].astype(int), axis=0)).mean()
    assert still < np.abs(np.diff(one.frames[:50].astype(int), axis=0)).mean()
    assert len(one.times) > CLEARED_S * SPEC.rate_hz


def test_the_frames_that_are_still_due_for_training_come_first():
    assert experience.parts(10, 25) == (range(10), range(10, 10))
    assert experience.parts(10, 4) == (range(4), range(4, 10))
    assert experience.parts(10, -3) == (range(0), range(10))


def test_as_much_is_filmed_as_was_asked_for_whatever_runs_at_the_same_time(tmp_path: Path):
    for jobs in (1, 2):
        experience.run(Flags(out=tmp_path / str(jobs), minutes=0.1, longest=0.06, trouble=0.0, jobs=jobs, seed=5))
    one, two = (Footage.open(tmp_path / str(jobs)) for jobs in (1, 2))
    assert (one.lengths("train"), one.lengths("holdout")) == ([36, 18], [6])
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("given", [{"longest": 0.0005}, {"longest": 20.0}, {"minutes": 0.0}, {"trouble": 1.5}])
def test_what_cannot_be_filmed_is_told_in_a_sentence(tmp_path: Path, given):
    with pytest.raises(InputError, match="--longest at most 10"):
        experience.run(Flags(out=tmp_path / "out", **given))
    assert not (tmp_path / "out").exists()
