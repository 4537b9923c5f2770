"""From footage to a bundle to figures, through the scripts."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import write_box_footage

from experiments import calibrate, evaluate, train
from wm import bundle
from wm.data.footage import Footage
from wm.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with footage, a run, and its calibrated bundle."""
    folder = tmp_path_factory.mktemp("made")
    write_box_footage(folder / "footage", train=(200,), holdout=(700,))
    train.run(train.Flags(folder / "footage", folder / "run", size="debug", steps=3, batch=2))
    calibrate.run(
        calibrate.Flags(folder / "run" / "bundle", folder / "footage", folder / "calibrated", false_alarms=100)
    )
    return folder


def test_training_leaves_a_bundle_that_says_how_it_was_made(made):
    loaded = bundle.load(made / "run" / "bundle")
    assert loaded.recipe["footage"]["fingerprint"] == Footage.open(made / "footage").fingerprint
    assert loaded.recipe["train"]["seed"] == 0
    assert json.loads((made / "run" / "metrics.json").read_text())["step"] == 3
    assert (made / "run" / "training.png").stat().st_size > 0


def test_calibration_is_a_new_bundle_with_its_promise(made):
    assert bundle.load(made / "run" / "bundle").calibration is None
    promise = bundle.load(made / "calibrated").recipe["calibrate"]["promise"]
    assert promise["false_alarms_per_hour"] == 100 / 8
    assert promise["threshold"] > 0


def test_evaluation_scores_every_frame_against_the_truth(made):
    labels = np.arange(700) >= 300
    np.save(made / "labels.npy", labels)
    evaluate.run(
        evaluate.Flags(
            made / "calibrated", made / "footage", made / "scored", split="holdout", labels=made / "labels.npy"
        )
    )
    metrics = json.loads((made / "scored" / "metrics.json").read_text())
    scores = np.load(made / "scored" / "scores.npz")["scores"]
    assert scores.shape == (700,)
    assert metrics["raw_micro_auc"] == evaluate.auc(scores, labels)
    assert metrics["hours"] == pytest.approx(700 / 36000)


def test_labels_of_another_length_are_refused_before_anything_is_written(made):
    np.save(made / "short.npy", np.zeros(699))
    with pytest.raises(InputError, match=r"shape \(699,\), the footage has 700 frames"):
        evaluate.run(
            evaluate.Flags(
                made / "calibrated", made / "footage", made / "refused", split="holdout", labels=made / "short.npy"
            )
        )
    assert not (made / "refused").exists()


def test_auc_is_the_chance_that_an_anomalous_frame_scores_higher():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8], np.float32), np.array([False, False, True, True])
    assert evaluate.auc(scores, labels) == 0.75
    assert evaluate.auc(np.zeros(4, np.float32), labels) == 0.5
    with pytest.raises(InputError, match="all alike"):
        evaluate.auc(scores, np.ones(4, bool))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("experiments.train", "--footage", "nowhere", "--out", "run"), "no footage at nowhere"),
        (("experiments.calibrate", "--bundle", "nowhere", "--footage", "f", "--out", "b"), "nowhere is not a bundle"),
        (("experiments.evaluate", "--bundle", "nowhere", "--footage", "f", "--out", "b"), "nowhere is not a bundle"),
    ],
)
def test_input_that_is_not_there_is_one_line_and_exit_code_two(words, complaint, tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2
    assert told.stderr.startswith("error: ") and complaint in told.stderr
    assert told.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
