"""What `experiments.line` reports: counted by hand, and drawn from the seed alone."""

import dataclasses

import pytest

from experiments import line
from runtime import arms
from runtime.arms import Arm, Trouble, begin, film, flinch, oracle
from runtime.demo import BUNDLE
from runtime.registers import Mode
from wm import bundle
from wm.data.footage import Footage
from wm.errors import InputError

ROW = {
    "kind": "lid",
    "place": "entry",
    "leads_s": {"Flinch": 2.0, "cheap": None},
    "block_with_s": None,
    "block_oracle_s": None,
    "cartons_lost": 10,
    "cartons_lost_without": 26,
    "cartons_per_minute_without": 10.0,
}
LATE = ROW | {"kind": "skew", "place": "view", "leads_s": {"Flinch": 0.5, "cheap": 1.0}, "block_with_s": 70.0}
SHIFTS = {"hours": 16.0, "alarms": {"Flinch": 1, "cheap": 0}}


def test_no_alarm_in_a_shift_may_still_be_three():
    found = line.rate(0, 8.0)
    assert (found["false_alarms_per_shift"], found["low"]) == (0.0, 0.0)
    assert found["high"] == pytest.approx(2.9957, abs=1e-4)


def test_alarms_are_told_a_shift_with_their_exact_interval():
    found = line.rate(4, 16.0)
    assert found["false_alarms_per_shift"] == 2.0
    assert (found["low"], found["high"]) == pytest.approx((1.3663 / 2, 9.1535 / 2), abs=1e-4)


def test_the_summary_counts_jams_leads_and_what_was_averted():
    told = line._summary([ROW, ROW, ROW, LATE], SHIFTS)
    assert (told["jams"], told["shifts"], told["alarmed_share"], told["alarmed_1s_share"]) == (4, 2.0, 1.0, 0.75)
    assert (told["median_lead_s"], told["averted_share"], told["averted_share_oracle"]) == (2.0, 0.75, 1.0)
    assert told["kinds"]["skew view"] == {
        "jams": 1,
        "alarmed_share": 1.0,
        "alarmed_1s_share": 0.0,
        "median_lead_s": 0.5,
        "averted_share": 0.0,
        "averted_share_oracle": 1.0,
    }
    cheap = told["detectors"]["cheap"]
    assert (cheap["false_alarms_per_shift"], cheap["alarmed_1s_share"], cheap["median_lead_s"]) == (0.0, 0.25, 1.0)
    assert cheap["kinds"]["lid entry"]["median_lead_s"] is None


def test_slowing_costs_what_it_loses_in_a_shift_of_four_jams_and_the_false_alarms():
    told = line._summary([ROW], SHIFTS)
    made = (10.0 * arms.ARM_S / 60 + 26) / arms.ARM_S * 3600 * 8
    assert told["throughput_cost_share"] == pytest.approx(4.5 * 10 / made)


def test_trouble_is_a_pure_function_of_the_seed_and_happens_in_view():
    drawn = [line._draw("view", "slip", seed) for seed in range(50)]
    assert drawn == [line._draw("view", "slip", seed) for seed in range(50)]
    assert all(each.trouble.x is not None and line.WHERE[0] <= each.trouble.x <= line.WHERE[1] for each in drawn)
    assert line._draw("entry", "lid", 3).trouble.x is None


def test_footage_that_the_bundle_knows_is_refused_as_shifts(box_footage: Footage, monkeypatch: pytest.MonkeyPatch):
    model = bundle.load(BUNDLE)
    recipe = {"footage": {"fingerprint": box_footage.fingerprint}, "calibrate": {"fingerprint": "another"}}
    model = dataclasses.replace(model, recipe=recipe)
    monkeypatch.setattr(line.calibrate, "check", lambda *_: None)
    with pytest.raises(InputError, match="is known to the bundle"):
        line._check(model, {"shifts": box_footage})
    with pytest.raises(InputError, match="is not the footage of the bundle's calibration"):
        line._check(model, {"calibration": box_footage})
    line._check(model, {"training": box_footage})


@pytest.fixture(scope="module")
def slips() -> tuple[Arm, Arm]:
    """A belt that slips, without anybody acting and with the oracle."""
    model = bundle.load(BUNDLE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arms, "RUN_IN_S", 2.0)
        patch.setattr(arms, "WARM_UP_S", 1.0)
        patch.setattr(arms, "ARM_S", 14.0)
        start = begin(50000, Trouble(3, "slip", -0.2), lambda: None)
        watchers = flinch(model, Mode.SHADOW), oracle(model)
        without, known = (film(start, watch, lambda: None) for watch in watchers)
    return without, known


def test_the_oracle_slows_the_line_once_trouble_is_there_and_keeps_it_from_jamming(slips: tuple[Arm, Arm]):
    without, known = slips
    (onset,) = known.events.onsets
    asked = [shot.frame.time for shot in known.shots if shot.frame.status.in_force]
    assert without.events.blocks and not known.events.blocks
    assert onset.time < asked[0] < onset.time + 0.6


def test_arms_are_alike_until_somebody_acts(slips: tuple[Arm, Arm]):
    without, known = slips
    for one, other in zip(without.shots, known.shots, strict=True):
        if other.frame.status.in_force:
            break
        assert (one.frame.image == other.frame.image).all()
    assert other.frame.status.in_force
