"""The line run by whoever: a shift put together by hand, and one run with everybody in it."""

import json
from itertools import chain, repeat

import numpy as np
import pytest

from experiments import control
from experiments.control import Flags
from experiments.jams import Run, draw
from runtime import arms
from runtime.demo import BUNDLE
from runtime.policy import PLANNED, Planner, search
from runtime.registers import Mode
from wm import bundle
from wm.errors import InputError

ACTING = BUNDLE.with_name("acting")


def row(kind, clearing_s, **told):
    """A run with what everybody made of it: cartons, those of its last 20 s, changes, and how long it stood blocked."""
    names = ("cartons", "settled_cartons", "changes", "blocked_s")
    made = {name: dict(zip(names, values, strict=True)) for name, values in told.items()}
    return {"kind": kind, "clearing_s": clearing_s, "arms": made}


TROUBLED = [row("lid", 600.0, rule=(20, 9, 2, None), fixed=(10, 0, 0, 16.0)) for _ in range(8)]
QUIET = [row(None, 900.0, rule=(30, 20, 1, None), fixed=(30, 22, 0, None))]


def test_a_shift_is_its_troubles_its_clearing_and_for_the_rest_the_line_as_it_goes_once_it_has_settled():
    jammed = control.shift(TROUBLED, QUIET, "fixed")
    rest = 8 * 3600 - 4 * arms.ARM_S - 4 * (600.0 - 16.0)
    assert jammed["cartons"] == pytest.approx(4 * 10 + rest * 22 / 20)
    assert (jammed["jams"], jammed["blocked_min"], jammed["changes"]) == (4.0, 40.0, 0.0)
    averted = control.shift(TROUBLED, QUIET, "rule")
    rest = 8 * 3600 - 4 * arms.ARM_S
    assert averted["cartons"] == pytest.approx(4 * 20 + rest * 20 / 20)
    assert averted["changes"] == pytest.approx(4 * 2 + rest / arms.ARM_S)
    assert (averted["jams"], averted["blocked_min"]) == (0.0, 0.0)


def test_a_jam_that_somebody_makes_without_trouble_is_paid_for_as_often_as_it_comes():
    quiet = [row(None, 900.0, rule=(10, 4, 0, 0.0)), row(None, 900.0, rule=(30, 20, 0, None))]
    found = control.shift(TROUBLED, quiet, "rule")
    share = (8 * 3600 - 4 * arms.ARM_S) / (2 * arms.ARM_S + 900.0)
    assert found["jams"] == pytest.approx(share) and found["blocked_min"] == pytest.approx(share * 15.0)
    assert found["cartons"] == pytest.approx(4 * 20 + share * 24 * arms.ARM_S / 20)


def test_a_ramp_is_one_change_of_speed():
    assert control.changes(np.array([1.0, 1.0, 0.8, 0.6, 0.4, 0.4, 0.405, 1.0, 1.0, 0.9])) == 3
    assert control.changes(np.ones(5)) == 0


def test_everybody_is_compared_with_the_plain_rule_over_the_same_runs():
    found = control.shifts(TROUBLED + QUIET)
    assert found["rule"]["cartons_more_than_rule"] == found["rule"]["low"] == found["rule"]["high"] == 0.0
    less = control.shift(TROUBLED, QUIET, "fixed")["cartons"] - control.shift(TROUBLED, QUIET, "rule")["cartons"]
    assert found["fixed"]["cartons_more_than_rule"] == less
    assert found["fixed"]["low"] == pytest.approx(less) and found["fixed"]["high"] == pytest.approx(less)


def test_the_oracle_slows_as_little_as_will_do_and_the_line_goes_as_it_had_been_tried(monkeypatch):
    monkeypatch.setattr(control, "SLOWDOWNS", [(1.0, 9.0, 1.0), (0.5, 4.0, 3.0), (0.1, 9.0, 3.0)])
    each = draw("entry", "double", 5_003_000)
    start = arms.begin(each.seed, each.trouble, control.idle)
    speeds = control.foreknown(start)
    assert np.count_nonzero(speeds == 0.5) == 40 and np.count_nonzero(speeds == 1.0) == len(speeds) - 40
    jam = control.tried(start, np.ones_like(speeds))
    assert jam is not None and np.argmin(speeds) == arms.frames(jam - 3.0)
    unwatched, told = (
        arms.film(start, control.asking(chain(repeat(1.0, len(start.warm_up)), asked)), control.idle)
        for asked in (np.ones_like(speeds), speeds)
    )
    assert arms.block(unwatched) == pytest.approx(start.warm_up[-1][0].time + jam)
    assert arms.block(told) is None


def test_a_planner_with_the_shipped_simulator_averts_a_jam_by_foresight_alone():
    each, one = draw("entry", "double", 5_003_000), bundle.load(ACTING)
    start = arms.begin(each.seed, each.trouble, control.idle)
    unwatched, planned = (
        arms.film(start, watcher, control.idle)
        for watcher in (
            control.asking(repeat(1.0)),
            arms.flinch(control.deaf(one), Mode.ACT, policy=Planner(*search(one, PLANNED))),
        )
    )
    assert arms.block(unwatched) is not None and arms.block(planned) is None
    assert arms.cartons(planned) > 2 * arms.cartons(unwatched)


def test_everybody_goes_on_from_the_same_moment(acting, tmp_path, monkeypatch):
    monkeypatch.setattr(arms, "ARM_S", 2.0)
    monkeypatch.setattr(control, "SETTLED_S", 1.0)
    monkeypatch.setattr(arms, "WARM_UP_S", 1.0)
    bundle.save(acting, tmp_path / "actor")
    flags = Flags(tmp_path / "actor", tmp_path / "actor", tmp_path)
    control._arms(flags, tmp_path, Run("entry", control.NEVER, 7))
    (path,) = tmp_path.glob("*.json")
    told = json.loads(path.read_bytes())
    assert told["kind"] is None and 8 * 60 <= told["clearing_s"] <= 20 * 60
    assert list(told["arms"]) == [
        "fixed speed",
        "fixed lower speed",
        "as recorded",
        "rule",
        "rule, no hold",
        "plan",
        "actor",
        "plan alone",
        "actor alone",
        "actor alone, without guard",
        "oracle",
    ]
    assert {told["arms"][name]["speed"] for name in ("fixed speed", "rule", "rule, no hold", "oracle")} == {1.0}
    slowed = ("fixed lower speed", "plan", "actor", "plan alone", "actor alone", "actor alone, without guard")
    assert all(told["arms"][name]["speed"] < 0.95 for name in slowed)
    assert all(arm["blocked_s"] is None for arm in told["arms"].values())
    acting = [name for name in told["arms"] if name.startswith(("plan", "actor"))]
    assert {name for name, arm in told["arms"].items() if arm["decided"] > 0.9} == set(acting)


def test_a_bundle_without_an_actor_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no actor; give the bundle that experiments\.learn wrote"):
        control.run(Flags(BUNDLE, BUNDLE, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
