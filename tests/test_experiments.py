"""From footage to a bundle to figures, through the scripts."""

import json
import shutil
import subprocess
import sys
from dataclasses import make_dataclass
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import write_box_footage

from experiments import calibrate, evaluate, finetune, runfolder, train
from wm import bundle
from wm.config import FootageSpec
from wm.data.footage import Footage, FootageWriter
from wm.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with footage, a run, and its calibrated bundle."""
    folder = tmp_path_factory.mktemp("made")
    write_box_footage(folder / "footage", train=(200,), holdout=(700,))
    train.run(train.Flags(folder / "footage", folder / "run", size="debug", steps=3, batch=2))
    calibrate.run(
        calibrate.Flags(
            folder / "run" / "bundle", folder / "footage", folder / "calibrated", false_alarms=1000, drift_s=5.0
        )
    )
    return folder


def test_training_leaves_a_bundle_that_says_how_it_was_made(made):
    loaded = bundle.load(made / "run" / "bundle")
    assert loaded.recipe["footage"]["fingerprint"] == Footage.open(made / "footage").fingerprint
    assert loaded.recipe["train"]["seed"] == 0
    assert json.loads((made / "run" / "metrics.json").read_text())["step"] == 3
    assert (made / "run" / "training.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"coordinator": "here", "processes": 2}, "--coordinator HOST:PORT"),
        ({"coordinator": "here:1"}, "--processes N"),
        ({"processes": 2}, "--coordinator HOST:PORT"),
        ({"coordinator": "here:1", "processes": 2, "process": 2}, "--process from 0"),
        ({"batch": 3, "coordinator": "here:1", "processes": 2}, "--batch 3 cannot be divided among 2"),
        ({"gain": 1.0}, "--gain and --tint are shares"),
        ({"patience": 0}, "--patience must be at least 1"),
        ({"beta_dynamics": 0.0}, "--beta-dynamics and --beta-representation must be above 0"),
        ({"open_loop": 3}, "--open-loop 6, as so many frames"),
    ],
)
def test_flags_of_training_that_cannot_be_meant_are_refused(made, tmp_path, flags, complaint):
    with pytest.raises(InputError, match=complaint):
        train.run(train.Flags(made / "footage", tmp_path / "run", **flags))
    assert not (tmp_path / "run").exists()


def test_an_adapted_bundle_goes_on_from_the_given_one_and_says_so(made, tmp_path):
    given = bundle.load(made / "run" / "bundle")
    flags = finetune.Flags(made / "run" / "bundle", made / "footage", tmp_path / "run", steps=1, learning_rate=1e-9)
    finetune.run(flags)
    adapted = bundle.load(tmp_path / "run" / "bundle")
    assert adapted.recipe["pretrained"]["train"]["commit"] == given.recipe["train"]["commit"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), adapted.variables, given.variables)


def test_a_bundle_is_not_adapted_to_footage_of_another_kind(made, tmp_path):
    spec = FootageSpec(10.0, None, ("pressure",))
    with FootageWriter(tmp_path / "other", spec, {}) as writer, writer.episode("train", "log") as episode:
        for t in range(60):
            episode.append(None, (t,), (), t / 10)
    with pytest.raises(InputError, match="ingest it alike"):
        finetune.run(finetune.Flags(made / "run" / "bundle", tmp_path / "other", tmp_path / "run", steps=1))


def test_where_windows_are_shifted_every_patch_is_followed(made):
    footage = Footage.open(made / "footage")
    assert train._model(train.Flags(footage.path, made, size="debug"), footage).followed == (0, 1, 2, 3)
    assert train._model(train.Flags(footage.path, made, size="debug", shift=1), footage).followed is None


def test_two_processes_leave_one_bundle_and_one_process_may_start_the_run_again(made, tmp_path, free_port):
    """The second part ends at once, as nothing is left to do, but it takes up the run."""
    flags = ["--footage", made / "footage", "--out", tmp_path / "run", "--size", "debug", "--steps", 3, "--batch", 2]
    together = ["--coordinator", f"127.0.0.1:{free_port}", "--processes", 2, "--process"]
    pair = [
        subprocess.Popen([sys.executable, "-m", "experiments.train", *map(str, [*flags, *together, process])], cwd=ROOT)
        for process in (0, 1)
    ]
    assert [process.wait(timeout=240) for process in pair] == [0, 0]
    shutil.move(tmp_path / "run" / "bundle", tmp_path / "first")
    train.run(train.Flags(made / "footage", tmp_path / "run", size="debug", steps=3, batch=2))
    assert bundle.load(tmp_path / "first").config == bundle.load(tmp_path / "run" / "bundle").config


def test_a_history_that_was_cut_off_in_a_line_goes_on_after_the_last_whole_one(tmp_path):
    path = tmp_path / "progress.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "lo')
    Row = make_dataclass("Row", ["step", "loss"])
    history = runfolder.History(path)
    history.append(Row(2, 5))
    assert history.rows() == [{"step": 1, "loss": 3}, {"step": 2, "loss": 5}]


def test_calibration_is_a_new_bundle_with_its_promise_and_its_view(made):
    before, after = bundle.load(made / "run" / "bundle"), bundle.load(made / "calibrated")
    assert (before.calibration, before.view) == (None, None)
    whole = np.concatenate([each.frames for each in Footage.open(made / "footage").episodes("holdout")])
    assert after.view is not None
    still = whole.std(axis=0).max(axis=-1) < 3.0
    np.testing.assert_allclose(after.view[still], whole.mean(axis=(0, -1))[still], atol=1.5)
    promise = after.recipe["calibrate"]["promise"]
    assert promise["false_alarms_per_hour"] == 1000 / 8
    assert promise["high"] >= promise["low"] > 0


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


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [
        (np.zeros(699), r"shape \(699,\), the footage has 700 frames"),
        (np.ones(700), "all alike"),
        (np.array([None] * 700), "cannot be read as labels"),
    ],
    ids=["another length", "one kind", "no numbers"],
)
def test_labels_that_cannot_be_used_are_refused_before_anything_is_written(made, tmp_path, labels, complaint):
    np.save(tmp_path / "labels.npy", labels)
    flags = evaluate.Flags(
        made / "calibrated", made / "footage", tmp_path / "run", split="holdout", labels=tmp_path / "labels.npy"
    )
    with pytest.raises(InputError, match=complaint):
        evaluate.run(flags)
    assert not (tmp_path / "run").exists()


def test_a_bundle_that_is_not_calibrated_is_not_evaluated(made, tmp_path):
    with pytest.raises(InputError, match="is not calibrated"):
        evaluate.run(evaluate.Flags(made / "run" / "bundle", made / "footage", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_model_is_not_calibrated_on_what_it_learnt_from(made, tmp_path):
    with pytest.raises(InputError, match="was trained on this split"):
        calibrate.run(calibrate.Flags(made / "run" / "bundle", made / "footage", tmp_path / "out", split="train"))


@pytest.mark.parametrize(
    ("rate", "complaint"), [(0.0, "greater than 0"), (np.nan, "greater than 0"), (6000.0, "more than one in 5 s")]
)
def test_a_promise_that_means_nothing_is_refused(made, tmp_path, rate, complaint):
    with pytest.raises(InputError, match=complaint):
        calibrate.run(calibrate.Flags(made / "run" / "bundle", made / "footage", tmp_path / "out", false_alarms=rate))
    assert not (tmp_path / "out").exists()


def test_a_run_is_not_continued_on_other_footage(made, tmp_path):
    write_box_footage(tmp_path / "footage", train=(100,))
    train.run(train.Flags(tmp_path / "footage", tmp_path / "run", size="debug", steps=1, batch=2))
    shutil.rmtree(tmp_path / "footage")
    write_box_footage(tmp_path / "footage", train=(120,))
    with pytest.raises(InputError, match="another fingerprint"):
        train.run(train.Flags(tmp_path / "footage", tmp_path / "run", size="debug", steps=1, batch=2))


def test_footage_too_short_to_train_on_leaves_nothing(tmp_path):
    write_box_footage(tmp_path / "footage", train=(20,))
    with pytest.raises(InputError, match="too short"):
        train.run(train.Flags(tmp_path / "footage", tmp_path / "run", size="debug", steps=1))
    assert not (tmp_path / "run").exists()


def test_auc_is_the_chance_that_an_anomalous_frame_scores_higher():
    scores, labels = np.array([0.1, 0.4, 0.35, 0.8], np.float32), np.array([False, False, True, True])
    assert evaluate.auc(scores, labels) == 0.75
    assert evaluate.auc(np.zeros(4, np.float32), labels) == 0.5


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
