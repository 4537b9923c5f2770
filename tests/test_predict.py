"""The prediction report: what is measured, by hand on small pictures, and the whole of it on small footage."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import noise_bundle

from experiments import baselines, forecast, predict
from experiments.forecast import Forecast, Windows
from wm import bundle
from wm.config import FootageSpec, ModelConfig
from wm.data.footage import Footage, FootageWriter
from wm.errors import InputError

SPEC = FootageSpec(10.0, (32, 32, 3), (), ("speed",))


def belt(t: float) -> np.ndarray:
    """A smooth texture that moves two pixels a frame to the right."""
    columns, rows = np.meshgrid(np.arange(32), np.arange(32))
    wave = np.sin((columns - 2 * t) / 3) + np.sin(rows / 4)
    return np.repeat((127 + 60 * wave).astype(np.uint8)[..., None], 3, axis=-1)


@pytest.fixture(scope="module")
def footage(tmp_path_factory: pytest.TempPathFactory) -> Footage:
    path = tmp_path_factory.mktemp("belt") / "footage"
    with FootageWriter(path, SPEC) as writer:
        for split, length in (("train", 80), ("holdout", 80)):
            with writer.episode(split, "belt") as episode:
                for t in range(length):
                    episode.append(belt(t), (), (1.0,), t / 10)
    return Footage.open(path)


def test_the_last_frame_stays() -> None:
    context = np.stack([np.full((4, 4, 3), value, np.float32) for value in (0.1, 0.2)])
    np.testing.assert_array_equal(baselines.copy_last(context, 3), np.full((3, 4, 4, 3), np.float32(0.2)))


def test_constant_velocity_follows_what_moves_evenly() -> None:
    context = np.stack([belt(t) for t in range(4)]).astype(np.float32) / 255
    to_come = np.stack([belt(t) for t in range(4, 7)]).astype(np.float32) / 255
    moved = np.abs(baselines.constant_velocity(context, 3) - to_come)[:, 8:-8, 12:-8].mean()
    assert moved < 0.25 * np.abs(baselines.copy_last(context, 3) - to_come)[:, 8:-8, 12:-8].mean()


def test_errors_are_means_of_squares_over_all_and_over_moving_pixels() -> None:
    frames = np.zeros((1, 3, 2, 2, 3), np.uint8)
    moving = np.zeros((1, 2, 2, 2), bool)
    moving[0, :, 0, 0] = True
    pictures = np.zeros((1, 2, 2, 2, 3), np.float32)
    pictures[0, 1, 0, 0] = 0.4
    windows = Windows(frames, np.zeros((1, 3, 0)), np.zeros((1, 3, 0)), moving, 1)
    np.testing.assert_allclose(forecast.errors(windows, pictures), [[0.0, 0.04], [0.0, 0.16]], rtol=1e-6)


def test_a_model_that_knows_its_error_is_reliable() -> None:
    generator = np.random.default_rng(0)
    sigma = generator.choice([0.02, 0.1], (4, 5, 16, 16)).astype(np.float32)
    pictures = 0.5 + sigma[..., None] * generator.normal(size=(4, 5, 16, 16, 3))
    frames = np.full((4, 6, 16, 16, 3), 128, np.uint8)
    windows = Windows(frames, np.zeros((4, 6, 0)), np.zeros((4, 6, 0)), sigma > 0, 1)
    bins = forecast.reliability(windows, Forecast(pictures, np.square(sigma), 0.0), bins=2)
    np.testing.assert_allclose(bins["found"], bins["expected"], rtol=0.1)


def test_seams_are_told_from_roughness_everywhere() -> None:
    config = ModelConfig.of(SPEC, "debug")
    frames = np.zeros((2, 3, 32, 32, 3), np.uint8)
    windows = Windows(frames, np.zeros((2, 3, 0)), np.zeros((2, 3, 0)), np.zeros((2, 2, 32, 32), bool), 1)
    rough = np.random.default_rng(0).normal(size=(2, 2, 32, 32, 3))
    assert forecast.seams(config, windows, rough) == pytest.approx(1.0, abs=0.1)
    steps = np.repeat(np.random.default_rng(1).normal(size=(2, 2, 32, 4, 3)), 8, axis=3)
    assert forecast.seams(config, windows, steps + 0.1 * rough) > 10
    assert forecast.seams(config, windows, (steps + 0.1 * rough).swapaxes(2, 3)) > 10


def test_seams_are_looked_for_where_something_is_followed() -> None:
    config = replace(ModelConfig.of(SPEC, "debug"), followed=(0, 1, 4, 5))
    frames = np.zeros((2, 3, 32, 32, 3), np.uint8)
    windows = Windows(frames, np.zeros((2, 3, 0)), np.zeros((2, 3, 0)), np.zeros((2, 2, 32, 32), bool), 1)
    smooth = 0.1 * np.random.default_rng(0).normal(size=(2, 2, 32, 32, 3))
    elsewhere, here = smooth.copy(), smooth.copy()
    elsewhere[:, :, 24:] += 1.0
    here[:, :, 8:] += 1.0
    assert forecast.seams(config, windows, elsewhere) == pytest.approx(1.0, abs=0.2)
    assert forecast.seams(config, windows, here) > 5


def test_shuffled_actions_are_those_of_other_windows_and_only_those_to_come(footage: Footage) -> None:
    windows = forecast.cut(footage, "holdout", 5)
    numbered = windows._replace(actions=np.arange(5.0)[:, None, None] * np.ones_like(windows.actions))
    shuffled = forecast.shuffle(numbered, 0)
    np.testing.assert_array_equal(shuffled.actions[:, :40], numbered.actions[:, :40])
    assert sorted(shuffled.actions[:, 40, 0]) == [0, 1, 2, 3, 4]
    assert list(shuffled.actions[:, 40, 0]) != [0, 1, 2, 3, 4]


def test_the_report_holds_every_figure_and_picture(footage: Footage, tmp_path: Path) -> None:
    made = noise_bundle(ModelConfig.of(SPEC, "debug"), rate_hz=10.0, tags=(), actions=("speed",))
    recipe = {"metrics": {"minutes": 1.5}, "train": {"seed": 0}, "footage": {"fingerprint": "x"}}
    bundle.save(replace(made, recipe=recipe), tmp_path / "bundle")
    predict.run(
        predict.Flags((tmp_path / "bundle",), footage.path, tmp_path / "run", windows=4, report=tmp_path / "reports")
    )
    told = json.loads((tmp_path / "reports" / "prediction.json").read_text())
    for name in ("moving_ratio_1s", "all_ratio_3s", "shuffled_action_ratio", "train_minutes", "moving_share"):
        assert told[name] > 0
    one = told["models"][0]
    assert len(one["error"][0]) == len(one["error_most_likely"][1]) == 30
    assert one["shuffled_action_ratio"] == pytest.approx(
        np.mean(one["error_shuffled_actions"][1]) / np.mean(one["error"][1])
    )
    for name in ("horizon.png", "reliability.png", "strip.png", "prediction.mp4"):
        assert (tmp_path / "reports" / name).stat().st_size > 1000


def test_what_moves_is_well_above_the_noise_of_a_camera() -> None:
    noise = np.random.default_rng(0).normal(128, 3, (2, 64, 64, 3)).round().astype(np.uint8)
    noise[1, 10:20, 10:20] += 20
    moved = forecast.moves(noise[0], noise[1])
    assert moved[10:20, 10:20].all()
    assert moved.sum() == 100


def test_a_bundle_is_not_measured_on_what_it_was_trained_on(footage: Footage, tmp_path: Path) -> None:
    made = noise_bundle(ModelConfig.of(SPEC, "debug"), rate_hz=10.0, tags=(), actions=("speed",))
    recipe = {"metrics": {"minutes": 1.5}, "train": {"seed": 0}, "footage": {"fingerprint": footage.fingerprint}}
    bundle.save(replace(made, recipe=recipe), tmp_path / "bundle")
    flags = predict.Flags((tmp_path / "bundle",), footage.path, tmp_path / "run", split="train")
    with pytest.raises(InputError, match="was trained on this split"):
        predict.run(flags)
    assert not (tmp_path / "run").exists()


def test_footage_that_is_too_short_is_refused(tmp_path: Path) -> None:
    with FootageWriter(tmp_path / "short", SPEC) as writer, writer.episode("holdout", "belt") as episode:
        for t in range(70):
            episode.append(belt(t), (), (1.0,), t / 10)
    with pytest.raises(InputError, match=r"longest holdout episode has 70 frames .* needs 71"):
        forecast.cut(Footage.open(tmp_path / "short"), "holdout", 3)
