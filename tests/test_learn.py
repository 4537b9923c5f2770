"""Learning in the dream, from footage to a bundle that holds an actor, on a machine of one tag."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import noise_bundle

from experiments import dreamer, learn
from experiments.learn import Flags
from wm import actor, behavior, bundle, rssm
from wm.config import BehaviorConfig, FootageSpec, ModelConfig
from wm.data.footage import Footage, FootageWriter
from wm.errors import InputError
from wm.types import Batch, Observation

SPEC = FootageSpec(10.0, None, ("level",), ("valve",))
BEHAVIOR = BehaviorConfig(starts=8, horizon=3, units=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model that has learnt nothing, and footage of two lengths."""
    path = tmp_path_factory.mktemp("learn")
    with FootageWriter(path / "footage", SPEC) as writer:
        for number, length in enumerate((50, 21)):
            with writer.episode("train", "tank") as episode:
                for t in range(length):
                    episode.append(None, (np.sin(t),), (number + 0.01 * t,), t / 10)
    one = noise_bundle(ModelConfig.of(SPEC, "debug"), rate_hz=10.0, tags=SPEC.tags, actions=SPEC.actions)
    bundle.save(one, path / "bundle")
    return path


def flags(folder: Path, out: str, **others) -> Flags:
    given = {"steps": 5, "reward": {"level": 1.0}, "behavior": BEHAVIOR} | others
    return Flags(bundle=folder / "bundle", footage=folder / "footage", out=folder / out, **given)


def test_settled_states_of_the_footage_are_starts_and_go_with_the_actions_that_led_to_them(folder, monkeypatch):
    monkeypatch.setattr(learn, "KEPT", 10)
    one, footage = bundle.load(folder / "bundle"), Footage.open(folder / "footage")
    starts = learn.filtered(one, footage)
    assert len(starts) == 3 * (31 + 2)
    states, actions = starts.drawn(0, 7, 2000)
    again, _ = starts.drawn(0, 7, 2000)
    jax.tree.map(np.testing.assert_array_equal, states, again)
    known = [(number, first + t) for number, count in ((0, 31), (1, 2)) for first in range(count) for t in (10, 14, 18)]
    assert {round(float(each), 2) for each in actions[:, 0]} == {round(number + 0.01 * t, 2) for number, t in known}
    episode = next(footage.episodes("train"))
    window = Batch(Observation(None, episode.sensors[None, :20]), episode.actions[None, :20])
    found = states.deter[np.isclose(actions[:, 0], 0.10)]
    assert len(found)
    for each in found:
        np.testing.assert_allclose(each, dreamer.filtered(one, window).deter[0, 10], atol=1e-5)


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
        actor.act(one.behavior.config, one.behavior.space, one.behavior.actor, latent, np.ones(1), key)
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
        ({"reward": {"rate": 1.0}}, "of a tag 'rate'"),
    ],
)
def test_what_cannot_be_learnt_is_told_in_a_sentence(folder, given, said):
    with pytest.raises(InputError, match=said):
        learn.run(flags(folder, "wrong", **given))
    assert not (folder / "wrong").exists()
