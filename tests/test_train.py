"""Training: the same losses for the same seed, resumed or not, on one device or many; and when it stops."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import BOX_SPEC, write_box_footage

from wm import train
from wm.config import FootageSpec, ModelConfig, TrainConfig
from wm.data.footage import Footage, FootageWriter
from wm.errors import InputError

CONFIG = ModelConfig.of(BOX_SPEC, "debug")
SHORT = TrainConfig(steps=60, batch=4, context=4, open_loop=4, decoded=4, warmup=5)


def fit(footage, folder, stop_after=None, settings=SHORT):
    """Trains and returns what was reported and the variables; `stop_after` interrupts in that report, before its step
    is saved.
    """
    told = []

    def report(progress):
        told.append(progress)
        if len(told) == stop_after:
            raise KeyboardInterrupt

    try:
        return told, train.fit(footage, CONFIG, settings, folder, 0, report, every=10)
    except KeyboardInterrupt:
        return told, None


def damage(checkpoint):
    """Flips a bit in the largest file of its state."""
    largest = max((checkpoint / "state").rglob("*"), key=lambda file: file.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def losses(told):
    return [(progress.step, progress.terms, progress.held_out) for progress in told]


@pytest.fixture(scope="module")
def whole(box_footage, tmp_path_factory):
    return fit(box_footage, tmp_path_factory.mktemp("whole"))


def test_the_same_seed_gives_the_same_losses_to_the_bit(box_footage, whole, tmp_path):
    assert losses(fit(box_footage, tmp_path)[0]) == losses(whole[0])


def test_a_resumed_run_equals_the_uninterrupted_one_to_the_bit(box_footage, whole, tmp_path):
    first, nothing = fit(box_footage, tmp_path, stop_after=2)
    assert nothing is None
    second, variables = fit(box_footage, tmp_path)
    assert losses(first)[:1] + losses(second) == losses(whole[0])
    assert losses(first)[1] == losses(second)[0]
    jax.tree.map(np.testing.assert_array_equal, variables, whole[1])


def test_a_resumed_run_passes_over_a_damaged_checkpoint(box_footage, whole, tmp_path):
    fit(box_footage, tmp_path, stop_after=3)
    damage(tmp_path / "20")
    told, variables = fit(box_footage, tmp_path)
    assert losses(told) == losses(whole[0])[1:]
    jax.tree.map(np.testing.assert_array_equal, variables, whole[1])


def test_a_resumed_run_passes_over_an_empty_folder_that_looks_like_a_checkpoint(box_footage, whole, tmp_path):
    fit(box_footage, tmp_path, stop_after=2)
    (tmp_path / "40").mkdir()
    assert losses(fit(box_footage, tmp_path)[0]) == losses(whole[0])[1:]


def test_an_exploding_loss_stops_with_a_clear_word_and_keeps_the_last_good_checkpoint(box_footage, tmp_path):
    fit(box_footage, tmp_path, stop_after=2)
    with pytest.raises(
        InputError, match=r"(no longer finite|exploded) .*step 20; the last good checkpoint is that of step 10"
    ):
        fit(box_footage, tmp_path, settings=replace(SHORT, learning_rate=1e2))
    assert [step.name for step in tmp_path.iterdir() if step.name.isdecimal()] == ["10"]


def test_a_run_stops_early_when_the_held_out_error_no_longer_falls(box_footage, tmp_path):
    told, _ = fit(box_footage, tmp_path, settings=replace(SHORT, learning_rate=1e-30, patience=20))
    assert [progress.step for progress in told] == [10, 20, 30]
    assert {progress.best for progress in told} == {10}


def test_a_patience_shorter_than_the_way_to_the_first_report_waits_for_it(box_footage, tmp_path):
    told, _ = fit(box_footage, tmp_path, settings=replace(SHORT, learning_rate=1e-30, patience=1))
    assert [progress.step for progress in told] == [10, 20]


def test_a_damaged_best_checkpoint_is_refused_by_its_step(box_footage, tmp_path):
    still = replace(SHORT, learning_rate=1e-30, patience=20)
    fit(box_footage, tmp_path, stop_after=3, settings=still)
    damage(tmp_path / "10")
    with pytest.raises(InputError, match=r"checkpoint of step 10 .* is damaged"):
        fit(box_footage, tmp_path, settings=still)


def test_the_newest_two_checkpoints_and_the_best_are_kept_however_often_a_run_resumes(box_footage, tmp_path):
    still = replace(SHORT, learning_rate=1e-30)
    for stop_after in (3, 2, 3):
        fit(box_footage, tmp_path, stop_after=stop_after, settings=still)
    assert sorted(int(step.name) for step in tmp_path.iterdir() if step.name.isdecimal()) == [10, 40, 50]


@pytest.mark.parametrize(
    ("image", "trouble"), [(float("nan"), "is no longer finite"), (31.0, r"has exploded .* 31 after 3")]
)
def test_a_loss_that_is_not_finite_and_one_that_explodes_are_told_apart(image, trouble):
    run = train._Run(None, {}, best=0, lowest=1.0, reconstruction=3.0)
    with pytest.raises(InputError, match=trouble):
        train._check_health(run, 400, 200, {"image": image, "sensors": 0.0}, None)
    train._check_health(run, 400, 200, {"image": 29.0, "sensors": 0.0}, None)


def test_the_variables_are_those_with_the_lowest_held_out_error(box_footage, tmp_path):
    steep = replace(SHORT, learning_rate=0.1, steps=100)
    told, variables = fit(box_footage, tmp_path, settings=steep)
    lowest = min(told, key=lambda progress: progress.held_out)
    assert lowest.step == told[-1].best
    held_out = train._held_out(box_footage, steep)
    error = train.open_loop_error(CONFIG, steep, variables, held_out)
    assert float(error) == lowest.held_out


FIT = """
import json, sys
from pathlib import Path
import jax
footage, checkpoints, steps, process, coordinator = sys.argv[1:]
if coordinator:
    jax.distributed.initialize(coordinator, 2, int(process))
from test_train import CONFIG, SHORT
from wm import compilation, train
compilation.keep()
from wm.data.footage import Footage
told = []
def report(progress):
    told.append((progress.step, progress.terms, progress.held_out))
    if progress.step == int(steps):
        print(json.dumps([jax.device_count(), told]), flush=True)
        raise SystemExit
train.fit(Footage.open(Path(footage)), CONFIG, SHORT, Path(checkpoints), 0, report, every=10)
"""


def start(footage, checkpoints, *, devices=1, steps=60, process=0, coordinator=""):
    """A training process of its own, with so many virtual devices."""
    here = Path(__file__).parent
    flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "PYTHONPATH": str(here)}
    command = [sys.executable, "-c", FIT, footage.path, checkpoints, steps, process, coordinator]
    return subprocess.Popen(
        list(map(str, command)), cwd=here.parent, env=os.environ | flags, stdout=subprocess.PIPE, text=True
    )


def told_by(process, devices):
    """What it reported, once it has ended well."""
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    found, told = json.loads(out.splitlines()[-1])
    assert found == devices
    return told


def assert_close(told, expected):
    told, expected = json.loads(json.dumps([told, expected]))
    assert [step for step, _, _ in told] == [step for step, _, _ in expected]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3), told, expected)


def test_four_devices_give_the_losses_of_one_and_their_checkpoint_restores_on_one(box_footage, whole, tmp_path):
    assert_close(told_by(start(box_footage, tmp_path, devices=4, steps=30), 4), losses(whole[0])[:3])
    assert_close(told_by(start(box_footage, tmp_path), 1), losses(whole[0])[2:])


def test_two_processes_give_the_losses_of_one_and_their_checkpoint_restores_on_one(
    box_footage, whole, tmp_path, free_port
):
    pair = [
        start(box_footage, tmp_path, steps=30, process=process, coordinator=f"127.0.0.1:{free_port}")
        for process in (0, 1)
    ]
    for process in pair:
        assert_close(told_by(process, 2), losses(whole[0])[:3])
    assert_close(losses(fit(box_footage, tmp_path)[0]), losses(whole[0])[2:])


def test_a_batch_that_the_devices_cannot_share_is_refused(box_footage, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 3)
    with pytest.raises(InputError, match="a batch of 4 windows cannot be divided among 3 devices"):
        fit(box_footage, tmp_path)


def test_training_lowers_the_held_out_error(whole):
    told = whole[0]
    assert told[-1].held_out < 0.7 * told[0].held_out


def test_progress_tells_rate_and_time_left(whole):
    told = whole[0]
    assert [progress.step for progress in told] == [10, 20, 30, 40, 50, 60]
    assert all(progress.rate > 0 for progress in told)
    assert told[-1].seconds_left == 0


def test_footage_shorter_than_a_window_is_refused(tmp_path):
    footage = write_box_footage(tmp_path / "short", train=(7,))
    with pytest.raises(InputError, match=r"7 frames .* needs 8"):
        fit(footage, tmp_path / "checkpoints")


def test_the_normaliser_is_the_mean_and_spread_of_the_training_split(tmp_path):
    footage = write_box_footage(tmp_path / "box", train=(3, 3), holdout=(9,))
    normaliser = train.normaliser_of(footage)
    np.testing.assert_allclose(normaliser.sensor_mean, [1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(normaliser.sensor_std, [np.sqrt(2 / 3), 0.5], rtol=1e-6)


def test_a_tag_that_never_changes_keeps_its_unit(tmp_path):
    normaliser = train.normaliser_of(write_box_footage(tmp_path / "box", train=(4,)))
    assert normaliser.sensor_std[1] == 1.0


def test_a_tag_in_small_units_is_normalised_all_the_same(tmp_path):
    spec = FootageSpec(1.0, None, ("megapascal",))
    with FootageWriter(tmp_path / "small", spec) as writer, writer.episode("train", "x") as episode:
        for value in (0.0, 4e-4):
            episode.append(None, (value,), (), value)
    assert train.normaliser_of(Footage.open(tmp_path / "small")).sensor_std[0] == pytest.approx(2e-4)
