"""What would come at other speeds: the world model's own forecast, and a thread that nobody waits for."""

from dataclasses import replace
from threading import Event, Semaphore, Thread

import jax.numpy as jnp
import numpy as np
import pytest

from runtime import foresight
from runtime.demo import BUNDLE
from runtime.foresight import PICTURES, SPEEDS, Branch, Foresight, looking
from wm import bundle, planning, rssm
from wm.actor import Behavior
from wm.config import ActionSpace, BehaviorConfig, RewardConfig
from wm.nets import symexp
from wm.planning import Constraints

NOTHING = Branch(1.0, np.zeros((2, 2 * PICTURES, 3), np.uint8), {}, None)


@pytest.fixture(scope="module")
def model():
    return bundle.load(BUNDLE)


def test_a_branch_is_what_the_model_predicts_under_that_speed_on_the_ramp(model):
    state, action = model.start(), jnp.array([1.0])
    found = looking(model)(state.latent, action)
    assert [branch.speed for branch in found] == list(SPEEDS)
    constraints = Constraints(*(jnp.array([bound]) for bound in (0.0, 1.0, foresight.RAMP_S / 10)))
    for branch in found:
        held = planning.project(constraints, action, jnp.full((30, 1), branch.speed))
        expected = model.predict(state, held)
        shown = 255 * np.clip(np.asarray(expected.image)[[9, 19, 29]], 0, 1)
        np.testing.assert_allclose(branch.picture, np.concatenate(shown, axis=1), atol=0.6)
        tags = model.variables["normaliser"].tags(symexp(expected.sensors[-1]))
        np.testing.assert_allclose(list(branch.tags.values()), tags, rtol=1e-3, atol=1e-3)
        assert branch.worth is None


def test_a_branch_is_worth_its_reward_where_the_bundle_knows_one(model):
    config, space = BehaviorConfig(units=8), ActionSpace((0.1,), (1.0,))
    learnt = Behavior(config, space, RewardConfig({}, change=2.0), *({}, {}))
    found = looking(replace(model, behavior=learnt))(rssm.start(model.config, ()), jnp.array([1.0]))
    assert [branch.worth for branch in found] == pytest.approx([-2.0 * (1.0 - speed) for speed in SPEEDS], abs=1e-5)


def test_nobody_waits_for_what_is_looked_at_in_a_thread(monkeypatch):
    monkeypatch.setattr(foresight, "PAUSE_S", 0.0)
    go, at, looked = Event(), Semaphore(0), []

    def look(latent, action):
        looked.append(latent)
        at.release()
        if latent is not None:
            go.wait()
        return (NOTHING,)

    ahead = Foresight(look, None, jnp.array([1.0]))
    ahead.show(0, jnp.array([1.0]))
    assert at.acquire(timeout=10) and at.acquire(timeout=10)
    for number in range(1, 5):
        ahead.show(number, jnp.array([1.0]))
    assert ahead.branches == () and looked == [None, 0]
    go.set()
    assert at.acquire(timeout=10)
    ahead.close()
    assert looked == [None, 0, 4] and ahead.branches == (NOTHING,)


def test_one_that_is_closed_ends_whatever_it_was_at():
    for _ in range(50):
        ahead = Foresight(lambda latent, action: (NOTHING,), None, jnp.array([1.0]))
        ahead.show(0, jnp.array([1.0]))
        closer = Thread(target=ahead.close)
        closer.start()
        closer.join(10)
        assert not closer.is_alive()
