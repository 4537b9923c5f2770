"""Standard tasks: what is counted and drawn, and a run that is interrupted and comes to the same."""

from itertools import count
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import tasks
from experiments.runfolder import History
from experiments.suite import REPEAT, REWARD, STEPS, Task
from experiments.tasks import Flags, Lived
from wm.config import BehaviorConfig, TrainConfig
from wm.errors import InputError

QUICK = Flags(
    Path("unused"),
    "cartpole-balance",
    steps=2 * STEPS,
    every=250,
    train=TrainConfig(batch=2, context=4, open_loop=4, decoded=4, ramp=0.02),
    behavior=BehaviorConfig(horizon=3, units=8, guard=0.0),
)


def lived(length: int, number: int) -> Lived:
    """An episode whose tags and actions tell which frame of which episode they are."""
    told = np.stack([np.full(length, number), np.arange(length)], axis=1).astype(np.float32)
    return Lived(told, -told)


def test_an_episode_has_every_step_of_the_suite_and_its_reward_as_the_last_tag():
    task = Task("cartpole-balance", 3)
    tags = [task.start()]
    while not task.ended:
        tags.append(task.step(np.zeros(1, np.float32)))
    assert len(tags) == 1 + STEPS // REPEAT
    assert task.spec.tags[-1] == REWARD and tags[0].shape == (len(task.spec.tags),)
    assert tags[0][-1] == 0.0 and 0.0 < tags[1][-1] <= REPEAT


def test_a_seed_starts_a_task_the_same_and_another_does_not():
    first, again, other = (Task("cartpole-balance", seed).start() for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_task_that_is_not_there_is_refused_with_those_that_are():
    with pytest.raises(InputError, match=r"no task 'cartpole-fly'; choose one of .*cartpole-swingup"):
        Task("cartpole-fly", 0)


def test_a_window_keeps_frames_and_their_actions_together_and_comes_from_anywhere():
    fitting = TrainConfig(batch=64, context=2, open_loop=3)
    batch = tasks.drawn([lived(20, number) for number in range(3)], fitting, seed=0, turn=7)
    np.testing.assert_array_equal(batch.observation.sensors, -batch.action)
    episodes, frames = np.moveaxis(batch.observation.sensors, -1, 0)
    assert (np.ptp(episodes, axis=1) == 0).all() and set(episodes[:, 0]) == {0, 1, 2}
    np.testing.assert_array_equal(np.diff(frames, axis=1), 1)
    assert frames[:, 0].min() == 0 and frames[:, -1].max() == 19


def test_a_batch_is_drawn_by_seed_and_turn_alone():
    known, fitting = [lived(20, 0)], TrainConfig(batch=8, context=2, open_loop=3)
    first, again, other = (tasks.drawn(known, fitting, 1, turn).action for turn in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_score_is_the_mean_of_the_last_episodes_of_every_seed():
    curves = [[{"step": STEPS * (i + 1), "score": float(base + i)} for i in range(20)] for base in (0, 100)]
    told = tasks.summary("cartpole-swingup", curves)
    assert told["scores"] == [14.5, 114.5] and told["score"] == 64.5
    assert (told["steps"], told["dreamerv3"], told["published_steps"]) == (20 * STEPS, 852.0, 500_000)


def test_what_was_interrupted_goes_on_to_the_same_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, part = tmp_path / "whole", tmp_path / "part"
    tasks.learn(QUICK, whole, 0)
    curve = History(whole / "progress.jsonl").rows()
    live, turn = tasks.live, count()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(tasks, "live", lambda *given: live(*given) if next(turn) == 0 else interrupted())
        tasks.learn(QUICK, part, 0)
    assert History(part / "progress.jsonl").rows() == curve[:1]
    tasks.learn(QUICK, part, 0)
    assert History(part / "progress.jsonl").rows() == curve and len(curve) == 2
    jax.tree.map(np.testing.assert_array_equal, *(tasks.read(each / "episodes" / "1.npz") for each in (whole, part)))


def interrupted() -> Lived:
    raise KeyboardInterrupt
