"""Machines without a camera: faults that are planted, the choice of a monitor, and the protocols of three data sets."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import hrss, sensors, skab, tep
from wm.errors import InputError
from wm.surprise import Told


@given(st.integers(0, 10_000), st.integers(60, 300), st.integers(1, 9), st.integers(0, 20))
def test_a_planted_fault_is_where_its_labels_are_and_never_before(seed, length, tags, first):
    generator = np.random.default_rng(seed)
    normal = generator.normal(size=(length, tags)).astype(np.float32)
    faulty, label = sensors.fault(normal, generator, first)
    inside = np.flatnonzero(label)
    assert faulty.shape == normal.shape and np.isfinite(faulty).all()
    assert len(inside) >= 2 and np.all(np.diff(inside) == 1) and inside[0] >= first
    np.testing.assert_array_equal(faulty[: inside[0]], normal[: inside[0]])


def test_the_same_seed_plants_the_same_fault():
    normal = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    one, two = (sensors.fault(normal, np.random.default_rng(3), 10) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])


def test_either_signal_is_the_louder_of_both():
    told = Told(np.array([0.5, 2.0]), np.array([1.0, 1.5]), np.zeros((2, 1, 1)))
    assert [sensors.pick(told, signal).tolist() for signal in sensors.SIGNALS] == [[0.5, 2.0], [1.0, 1.5], [1.0, 2.0]]


def test_f1_false_alarms_and_missed_rows_by_hand():
    alarmed, labels = np.array([1, 1, 0, 0, 1], bool), np.array([1, 0, 1, 0, 1], bool)
    assert skab.figures(alarmed, labels) == {"f1": pytest.approx(4 / 6), "far": 0.5, "mar": pytest.approx(1 / 3)}


def test_rates_of_faults_are_told_at_the_limit_that_a_hundredth_of_the_faultless_run_passes():
    faultless = np.arange(960.0)
    signals = {f"d{number:02d}_te": np.zeros(960) for number in tep.FAULTS} | {"d00_te": faultless}
    signals["d05_te"] = np.where(np.arange(960) >= tep.ONSET + 10, 2000.0, 0.0)
    told = tep.rates(signals)
    assert told["far"] == pytest.approx(0.01, abs=0.001) and told["far_before_faults"] == 0.0
    assert told["faults"]["5"] == {"fdr": 790 / 800, "delay_min": 30.0}
    assert told["faults"]["6"] == {"fdr": 0.0, "delay_min": None}
    assert told["mean_fdr"] == pytest.approx(790 / 800 / 21)


@pytest.mark.parametrize("one", [hrss, skab, tep])
def test_data_that_is_not_there_is_named(one, tmp_path):
    with pytest.raises(InputError, match="--data-dir"):
        one.run(one.Flags(tmp_path / "out", data_dir=tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_chemical_plant_of_noise_goes_all_the_way_to_a_report(tmp_path, monkeypatch):
    """Made-up data of two tags; fault 1 is a large step, all others are none."""
    generator = np.random.default_rng(0)

    def noise(rows):
        return generator.normal(size=(rows, 2))

    runs = {"d00": noise(500), "d00_te": noise(960)} | {f"d{number:02d}_te": noise(960) for number in tep.FAULTS}
    runs["d01_te"][tep.ONSET :] += 8.0
    (tmp_path / "tep").mkdir()
    np.savez(tmp_path / "tep" / "tep_braatz.npz", **runs)
    monkeypatch.setattr(tep, "CANDIDATES", tep.CANDIDATES[:1])
    tep.run(tep.Flags(tmp_path / "out", data_dir=tmp_path, steps=3, seeds=(0,), report=tmp_path / "reports"))
    told = json.loads((tmp_path / "reports" / "tep.json").read_text())
    assert told["faults"]["1"]["fdr"] > 0.9
    assert told["far"] == pytest.approx(0.01, abs=0.002)
    assert np.mean([told["faults"][str(number)]["fdr"] for number in range(2, 22)]) < 0.1
    assert told["provenance"]["commit"]
