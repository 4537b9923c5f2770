"""What `experiments.line` reports: counted by hand, and drawn from the seed alone."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from experiments import jams, line, runfolder
from runtime import arms
from runtime.arms import Arm, Trouble, begin, film, flinch, oracle
from runtime.demo import BUNDLE
from runtime.line.line import SPEC
from runtime.registers import Mode
from wm import bundle
from wm.data.footage import Footage, FootageWriter
from wm.errors import InputError

ROW = {
    "kind": "lid",
    "place": "entry",
    "leads_s": {"Flinch": 2.0, "cheap": None},
    "block_with_s": None,
    "block_oracle_s": None,
    "write_s": 69.0,
    "cartons_free": 30,
    "cartons_with": 20,
}
LATE = ROW | {
    "kind": "skew",
    "place": "view",
    "leads_s": {"Flinch": 0.5, "cheap": 1.0},
    "block_with_s": 70.0,
    "cartons_with": 4,
}
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


def test_slowing_costs_what_it_loses_where_it_averts_in_a_shift_of_four_jams_and_the_false_alarms():
    told = line._summary([ROW, LATE], SHIFTS)
    assert told["cartons_lost_a_slow_down"] == 10.0
    assert told["throughput_cost_share"] == pytest.approx(4.5 * 10 / (30 / arms.ARM_S * 3600 * 8))
    assert line._summary([LATE], SHIFTS)["throughput_cost_share"] is None


def test_trouble_is_a_pure_function_of_the_seed_and_happens_in_view():
    drawn = [jams.draw("view", "slip", seed) for seed in range(50)]
    assert drawn == [jams.draw("view", "slip", seed) for seed in range(50)]
    assert all(each.trouble.x is not None and jams.WHERE[0] <= each.trouble.x <= jams.WHERE[1] for each in drawn)
    assert jams.draw("entry", "lid", 3).trouble.x is None


@pytest.fixture
def sets(tmp_path: Path) -> dict[str, Footage]:
    """Footage of the line for training, for calibration and of shifts, of a few frames each."""

    def made(name: str, onsets: list[int]) -> Footage:
        with FootageWriter(tmp_path / name, SPEC, {"events": [{"onsets": onsets, "blocks": []}]}) as writer:
            for split in ("train", "holdout"):
                with writer.episode("holdout" if name == "held" else split, name) as episode:
                    episode.append(np.zeros(SPEC.image, np.uint8), np.full(5, len(name)), np.zeros(1), 0.0)
        return Footage.open(tmp_path / name)

    return {
        name: made(name, [7] * (name == "trouble")) for name in ("training", "calibration", "shifts", "trouble", "held")
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"calibration": "training"}, "is not the footage of the bundle's calibration"),
        ({"training": "calibration"}, "is not the footage of the bundle's training"),
        ({"shifts": "training"}, "is known to the bundle"),
        ({"shifts": "trouble"}, "there is trouble in"),
        ({"shifts": "held"}, "has no split 'train'"),
    ],
)
def test_footage_that_cannot_count_is_refused(sets: dict[str, Footage], changed: dict[str, str], said: str | None):
    model = bundle.load(BUNDLE)
    recipe = {"footage": sets["training"].fingerprint, "calibrate": sets["calibration"].fingerprint}
    model = dataclasses.replace(model, recipe={name: {"fingerprint": value} for name, value in recipe.items()})
    given = {name: sets[changed.get(name, name)] for name in ("training", "calibration", "shifts")}
    with nullcontext() if said is None else pytest.raises(InputError, match=said):
        line._check(model, given)


def test_an_alarm_is_told_at_the_time_of_its_own_frame(tmp_path: Path):
    times = 60.0 + 0.1 * np.arange(40)
    np.savez(tmp_path / "run.npz", frames=np.zeros((40, 8, 8, 3), np.uint8), sensors=np.zeros((40, 5)), times=times)
    scores = np.zeros(39)
    scores[19:] = 3.0
    row = {"lead_s": 1.5, "onset_s": 61.0, "block_without_s": 64.0}
    leads = line._leads(lambda _: {"made": scores}, {"made": 2.0}, bundle.load(BUNDLE), tmp_path / "run.npz", row)
    raised = 62.0 + 0.1 * (bundle.load(BUNDLE).alarm.on_delay(10.0) - 1)
    assert leads == {"Flinch": 1.5, "made": pytest.approx(64.0 - raised)}


def test_what_was_found_before_is_not_looked_for_again(tmp_path: Path):
    assert runfolder.kept(tmp_path / "found.json", lambda: [1, 2]) == [1, 2]
    assert runfolder.kept(tmp_path / "found.json", lambda: pytest.fail("looked for again")) == [1, 2]


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
