"""Who chooses the speed: what an actor and a planner ask for, how late they may be, and what has the last word."""

from dataclasses import replace
from pathlib import Path
from threading import Event

import jax.numpy as jnp
import numpy as np
import pytest

from runtime import arms, policy
from runtime.arms import flinch
from runtime.line.line import Line
from runtime.policy import Actor, InTime, Planner, search
from runtime.registers import Mode
from wm import rssm
from wm.config import PlanConfig, RewardConfig

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def frames():
    with Line(5, tail_rate=0.0) as line:
        while line.time < 10.0:
            line.scan()
        return [line.step() for _ in range(45)]


@pytest.fixture(scope="module")
def latent(acting):
    return rssm.start(acting.config, ())


def test_what_is_chosen_is_asked_for_and_what_surprises_is_left_to_the_plain_rule(acting, frames):
    watch = flinch(acting, Mode.ACT, policy=lambda latent, action: 0.7)
    calm = [watch(frame, None)[0] for frame in frames]
    settled = acting.monitor.settle(acting.spec.rate_hz)
    assert {tick.command.speed_request for tick in calm[: settled - 1]} == {1.0}
    assert {tick.command.speed_request for tick in calm[settled - 1 :]} == {0.7}
    strange = frames[-1].image.copy()
    strange[24:40, 24:40] = 255
    surprised = [watch(frames[-1]._replace(image=strange, time=frames[-1].time + t / 10), None)[0] for t in (1, 2, 3)]
    assert surprised[-1].alarm.slow
    assert surprised[-1].command.speed_request == arms.alarm_settings(acting).slow_to


@pytest.mark.parametrize("mode", [Mode.OFF, Mode.SHADOW, Mode.ADVISE])
def test_in_no_other_mode_anything_is_asked_for(acting, frames, mode):
    watch = flinch(acting, mode, policy=lambda latent, action: 0.7)
    assert {watch(frame, None)[0].command.speed_request for frame in frames[:5]} == {1.0}


def test_who_does_not_decide_leaves_it_to_the_plain_rule(acting, frames):
    watch = flinch(acting, Mode.ACT, policy=lambda latent, action: None)
    assert {watch(frame, None)[0].command.speed_request for frame in frames[:5]} == {1.0}


@pytest.mark.parametrize(
    ("worth", "chosen"),
    [
        (-0.01, [0.8, 0.8, 0.8, 0.8, 0.8]),
        (-0.09, [0.6, 0.4, 0.2, 0.2, 0.8]),  # full speed loses more than half a unit, and less than one
        (-10.0, [0.6, 0.4, 0.2, 0.2, 0.8]),
    ],
)
def test_a_planner_slows_on_the_ramp_and_only_where_it_is_worthwhile_and_else_asks_for_all(
    acting, latent, worth, chosen
):
    slower = replace(acting.behavior, reward=RewardConfig({"feeder_speed": worth}))
    planner = Planner(*search(replace(acting, behavior=slower), PlanConfig()))
    told = [planner(latent, jnp.array([speed])) for speed in (0.8, 0.6, 0.4, 0.0, 1.0)]
    np.testing.assert_allclose(told, chosen, atol=1e-6)


def test_an_actor_that_knows_nothing_chooses_the_middle(acting, latent):
    assert Actor(acting)(latent, jnp.array([1.0])) == pytest.approx(0.5)


def test_who_is_late_is_not_waited_for_and_asked_again_only_when_done(latent):
    go, asked = Event(), []

    def slow(latent, action):
        asked.append(float(action[0]))
        go.wait()
        return 0.3

    in_time = InTime(slow, deadline_s=0.02)
    assert in_time(latent, np.array([1.0])) is None
    assert in_time(latent, np.array([2.0])) is None and asked == [1.0]
    go.set()
    in_time._asked.result()
    assert in_time(latent, np.array([3.0])) == 0.3 and asked == [1.0, 3.0]


def test_for_a_choice_that_is_late_the_one_of_the_frame_before_stands(latent):
    go = Event()

    def slow(latent, action):
        assert action[0] < 3.0 or go.wait(10)
        return float(action[0])

    in_time = InTime(slow, deadline_s=1.0)
    assert in_time(latent, np.array([0.5])) == 0.5
    in_time._deadline_s = 0.02
    assert [in_time(latent, np.array([number])) for number in (3.0, 4.0)] == [0.5, None]
    go.set()
    in_time._asked.result()
    go.clear()
    assert in_time(latent, np.array([5.0])) == 3.0
    go.set()


def test_a_choice_from_before_a_gap_does_not_stand(latent, monkeypatch):
    now, go = [10.0], Event()
    monkeypatch.setattr(policy, "monotonic", lambda: now[0])

    def slow(latent, action):
        assert action[0] < 1.0 or go.wait(10)
        return float(action[0])

    in_time = InTime(slow, deadline_s=1.0)
    assert in_time(latent, np.array([0.5])) == 0.5
    in_time._deadline_s, now[0] = 0.02, 10.0 + policy.STALE_S
    assert in_time(latent, np.array([1.0])) is None
    go.set()


def test_a_choice_that_is_not_a_number_is_none(latent):
    assert InTime(lambda latent, action: float("nan"), deadline_s=1.0)(latent, np.array([1.0])) is None
