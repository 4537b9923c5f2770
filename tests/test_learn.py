"""Learning in the dream, from footage to a bundle that holds an actor, on a machine of one tag."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import noise_bundle

from experiments import learn
from experiments.learn import Flags
from wm import behavior, bundle, rssm
from wm.config import BehaviorConfig, FootageSpec, ModelConfig, RewardConfig
from wm.data.footage import Footage, FootageWriter
from wm.errors import InputError

SPEC = FootageSpec(10.0, None, ("level",), ("valve",))
BEHAVIOR = BehaviorConfig(starts=8, horizon=3, units=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model that has learnt nothing, and footage of two lengths."""
    path = tmp_path_factory.mktemp("learn")
    with FootageWriter(path / "footage", SPEC) as writer:
        for length in (50, 21):
            with writer.episode("train", "tank") as episode:
                for t in range(length):
                    episode.append(None, (np.sin(t),), (0.5 + 0.1 * (t % 3),), t / 10)
    one = noise_bundle(ModelConfig.of(SPEC, "debug"), rate_hz=10.0, tags=SPEC.tags, actions=SPEC.actions)
    bundle.save(one, path / "bundle")
    return path


def flags(folder: Path, out: str, **others) -> Flags:
    given = {"steps": 5, "reward": RewardConfig({"level": 1.0}), "behavior": BEHAVIOR} | others
    return Flags(bundle=folder / "bundle", footage=folder / "footage", out=folder / out, **given)


def test_every_fourth_state_of_the_footage_is_a_start_and_goes_with_the_action_that_led_to_it(folder):
    footage = Footage.open(folder / "footage")
    starts = learn.filtered(bundle.load(folder / "bundle"), footage)
    assert len(starts) == 50 // 4 + 21 // 4
    states, actions = starts.drawn(0, 7, 6)
    again, _ = starts.drawn(0, 7, 6)
    assert states.deter.shape == (6, 1, 16) and actions.shape == (6, 1)
    jax.tree.map(np.testing.assert_array_equal, states, again)
    wanted = {float(np.float32(0.5 + 0.1 * (t % 3))) for t in range(50)}
    assert set(actions[:, 0].tolist()) <= wanted


def test_footage_that_is_filtered_in_parts_comes_to_the_same_states(folder, monkeypatch):
    one, footage = bundle.load(folder / "bundle"), Footage.open(folder / "footage")
    whole = learn.filtered(one, footage)
    monkeypatch.setattr(learn, "CHUNK", 8)
    parts = learn.filtered(one, footage)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), whole.drawn(0, 0, 16), parts.drawn(0, 0, 16))


def test_a_run_that_was_interrupted_comes_to_the_same_actor_bit_for_bit(folder, monkeypatch):
    monkeypatch.setattr(learn, "EVERY", 2)
    learn.run(flags(folder, "whole"))
    step, done = behavior.step, []

    def interrupted(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(1)
        return step(*arguments)

    monkeypatch.setattr(behavior, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        learn.run(flags(folder, "broken"))
    assert not (folder / "broken" / "bundle").exists()
    monkeypatch.setattr(behavior, "step", step)
    learn.run(flags(folder, "broken"))
    whole, resumed = (bundle.load(folder / name / "bundle").behavior for name in ("whole", "broken"))
    jax.tree.map(np.testing.assert_array_equal, (whole.actor, whole.critic), (resumed.actor, resumed.critic))
    told = [json.loads((folder / name / "metrics.json").read_bytes()) for name in ("whole", "broken")]
    assert told[0]["return"] == told[1]["return"] and (folder / "whole" / "learning.png").exists()


def test_the_bundle_acts_within_its_bounds_and_says_how_it_learnt(folder):
    learn.run(flags(folder, "bounds", low=(0.25,), high=(0.75,)))
    one = bundle.load(folder / "bounds" / "bundle")
    latent = rssm.start(one.config, ())
    acts = [
        behavior.act(one.behavior.config, one.behavior.space, one.behavior.actor, latent, np.ones(1), key)
        for key in (None, *jax.random.split(jax.random.key(0), 20))
    ]
    assert min(acts) >= 0.25 and max(acts) <= 0.75
    assert one.recipe["learn"]["footage"] == Footage.open(folder / "footage").fingerprint


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"low": (0.1, 0.1)}, "a value for each of valve"),
        ({"low": (1.0,)}, "--low must be below --high"),
        ({"steps": 0}, "--steps must be at least 1"),
        ({"reward": RewardConfig({"rate": 1.0})}, "of a tag 'rate'"),
    ],
)
def test_what_cannot_be_learnt_is_told_in_a_sentence(folder, given, said):
    with pytest.raises(InputError, match=said):
        learn.run(flags(folder, "wrong", **given))
    assert not (folder / "wrong").exists()
