"""The deployed artefact: whole or refused by name."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import noise_bundle

from wm import actor, bundle, rssm
from wm.actor import Behavior
from wm.config import ActionSpace, BehaviorConfig, FootageSpec, ModelConfig, RewardConfig
from wm.errors import InputError
from wm.files import checksums
from wm.types import Observation

TAGS, ACTIONS = ("eye", "speed"), ("setpoint",)
CONFIG = ModelConfig.of(FootageSpec(10.0, (16, 16, 3), TAGS, ACTIONS), "debug")


@pytest.fixture(scope="module")
def made():
    bare = noise_bundle(CONFIG, rate_hz=10.0, tags=TAGS, actions=ACTIONS)
    return replace(bare, view=jnp.arange(256.0).reshape(16, 16))


@pytest.fixture(scope="module")
def folder(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundles") / "line"
    bundle.save(made, path)
    return path


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def test_what_was_saved_is_what_is_loaded(made, folder):
    loaded = bundle.load(folder)
    assert (loaded.spec, loaded.config, loaded.monitor, loaded.alarm) == (
        made.spec,
        made.config,
        made.monitor,
        made.alarm,
    )
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, made.variables)
    jax.tree.map(np.testing.assert_array_equal, loaded.calibration, made.calibration)
    np.testing.assert_array_equal(loaded.view, made.view)


def test_a_loaded_bundle_scores_as_the_one_that_was_saved(made, folder):
    image = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    seen, actions = Observation(image, np.zeros((40, 2), np.float32)), np.zeros((40, 1), np.float32)
    scores = [one.replay(one.start(), seen, actions)[1].score for one in (made, bundle.load(folder))]
    np.testing.assert_array_equal(*scores)


def test_an_actor_and_its_critic_travel_with_the_model_and_act_alike(made, tmp_path):
    config, space, key = BehaviorConfig(units=8), ActionSpace((0.1,), (1.0,)), jax.random.key(3)
    fresh = actor.fresh(made.config, config, space, key)
    noisy = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(key, x.shape), fresh)
    learnt = Behavior(config, space, RewardConfig({"eye": 2.0}, change=0.5), *noisy)
    bundle.save(replace(made, behavior=learnt), tmp_path / "bundle")
    loaded = bundle.load(tmp_path / "bundle").behavior
    assert (loaded.config, loaded.space, loaded.reward) == (learnt.config, learnt.space, learnt.reward)
    latent, before = rssm.start(made.config, ()), np.ones(1, np.float32)
    acts = [actor.act(one.config, one.space, one.actor, latent, before) for one in (learnt, loaded)]
    np.testing.assert_array_equal(*acts)
    jax.tree.map(np.testing.assert_array_equal, loaded.critic, learnt.critic)
    assert made.behavior is None
    assert (
        "setpoint from 0.1 to 1, for 2 a unit of eye, less 0.5 a change"
        in (tmp_path / "bundle" / "card.md").read_text()
    )


def test_a_bundle_without_tags_actions_or_calibration_is_saved_and_loaded(tmp_path):
    config = ModelConfig.of(FootageSpec(10.0, (16, 16, 1)), "debug")
    one = noise_bundle(config, rate_hz=10.0, tags=(), actions=())
    bundle.save(one.__class__(**{**vars(one), "calibration": None}), tmp_path / "bundle")
    loaded = bundle.load(tmp_path / "bundle")
    assert loaded.calibration is None
    with pytest.raises(InputError, match=r"not calibrated; run experiments\.calibrate"):
        loaded.watch(loaded.start(), loaded.observation(np.zeros((16, 16, 1), np.uint8)), loaded.action())


def test_a_flipped_bit_in_any_file_is_refused_by_name(copy):
    for file in sorted(path for path in copy.rglob("*") if path.is_file() and path.stat().st_size):
        sound = file.read_bytes()
        middle = len(sound) // 2
        file.write_bytes(sound[:middle] + bytes([sound[middle] ^ 1]) + sound[middle + 1 :])
        with pytest.raises(InputError) as refusal:
            bundle.load(copy)
        assert str(copy) in str(refusal.value)
        file.write_bytes(sound)
    bundle.load(copy)


def test_a_missing_file_is_refused_by_name(copy):
    (copy / "bundle.json").unlink()
    with pytest.raises(InputError, match=r"bundle\.json is missing"):
        bundle.load(copy)


def test_a_file_that_does_not_belong_is_refused_by_name(copy):
    (copy / "arrays" / "stray").write_text("x")
    with pytest.raises(InputError, match="stray is not part of the bundle"):
        bundle.load(copy)


def test_a_truncated_array_is_refused_by_name(copy):
    largest = max((file for file in copy.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{largest.name} is damaged"):
        bundle.load(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(InputError, match="is not a bundle"):
        bundle.load(tmp_path)
    with pytest.raises(InputError, match="is not a bundle"):
        bundle.load(tmp_path / "nowhere")


def test_a_newer_format_is_refused(copy):
    document = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps({**document, "format": 99}))
    sums = copy / "checksums.json"
    sums.write_text(json.dumps(checksums(copy)))
    with pytest.raises(InputError, match="bundle format 99"):
        bundle.load(copy)


def test_an_existing_folder_is_never_overwritten(made, folder):
    with pytest.raises(InputError, match="exists already"):
        bundle.save(made, folder)


def test_a_save_that_fails_leaves_nothing_behind(made, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "_card", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bundle.save(made, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_a_prediction_is_one_picture_a_frame(made):
    prediction = made.predict(made.start(), np.zeros((7, 1), np.float32))
    assert prediction.image.shape == (7, 16, 16, 3)
    assert prediction.sensors.shape == (7, 2)
