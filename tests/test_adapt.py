"""Models that are trained side by side: each as if it were alone, from its own minutes."""

import jax
import numpy as np
import pytest
from conftest import BOX_SPEC, write_box_footage

from experiments import adapt
from experiments.jams import Film
from wm import train
from wm.config import ModelConfig, TrainConfig
from wm.data.footage import Episode, Footage
from wm.errors import InputError

CONFIG = ModelConfig.of(BOX_SPEC, "debug")
SETTINGS = TrainConfig(steps=12, batch=2, context=4, open_loop=6, decoded=4, warmup=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapt") / "footage"
    write_box_footage(path, train=(200, 200), holdout=())
    return Footage.open(path)


@pytest.fixture(scope="module")
def pool(footage):
    return adapt._pool(adapt._episodes(footage))


def film(frames: int, onset: float) -> Film:
    seen = Episode(
        np.arange(frames, dtype=np.uint8)[:, None, None, None],
        np.zeros((frames, 1), np.float32),
        np.zeros((frames, 1), np.float32),
        np.arange(frames) / 10,
        "",
    )
    return Film(seen, onset, frames / 10)


def test_footage_is_spoilt_with_what_films_show_from_the_trouble_on_until_there_is_enough():
    first, second = adapt._troubled([film(40, 2.0), film(40, 3.0), film(40, 3.0)], 25)
    assert (first.frames[0, 0, 0, 0], len(first.times), first.times[-1]) == (20, 20, 3.9)
    assert (second.frames[0, 0, 0, 0], len(second.times), len(second.frames), len(second.actions)) == (30, 5, 5, 5)
    with pytest.raises(InputError, match="10 frames short"):
        adapt._troubled([film(40, 3.0)], 20)


def test_a_spoilt_arm_also_draws_windows_that_lie_within_the_trouble(footage):
    arm = adapt._arm(footage, 0, 400, SETTINGS.length, None)
    spoilt = adapt._spoilt(arm, 400, [12, 5, 11], SETTINGS)
    assert spoilt.starts.tolist() == [*arm.starts.tolist(), 400, 401, 402, 417, 418]
    assert spoilt.held_out is arm.held_out


def test_a_hundredth_of_what_is_calibrated_on_is_trouble_and_launches_keep_their_rhythm():
    normal = [np.zeros((1003, 1, 1)), np.zeros((998, 1, 1))]
    told = [(film(20, 0.7), np.arange(20.0)[:, None, None]), (film(20, 0.0), np.ones((20, 1, 1)))]
    first, second = adapt._spoil(normal, told, 5)
    assert first[1000:, 0, 0].tolist() == [*range(5, 20)]
    assert (len(second), second[995:].sum()) == (1000, 5)
    assert adapt._spoil(normal, [], 5)[0] is normal[0]


def test_an_arm_learns_from_its_first_minutes_and_holds_out_the_last_tenth_of_each_episode(footage):
    arm = adapt._arm(footage, 1000, 300, SETTINGS.length, None)
    last = SETTINGS.length - 1
    assert (arm.starts.min(), arm.starts.max()) == (1000, 1200 + 90 - 1 - last)
    assert not {1179, 1180, 1200 + 90 - last} & set(arm.starts.tolist())
    assert set(arm.held_out.tolist()) <= {*range(1180, 1200 - last), *range(1290, 1300 - last)}


def test_a_model_beside_another_is_trained_as_if_it_were_alone(footage, pool):
    arms = [adapt._arm(footage, 0, frames, SETTINGS.length, None) for frames in (200, 400)]
    keys = list(jax.random.split(jax.random.key(3)))
    together = adapt.side_by_side(CONFIG, SETTINGS, arms, pool, 3, keys)
    for number in (0, 1):
        (alone,) = adapt.side_by_side(CONFIG, SETTINGS, [arms[number]], pool, 3, [keys[number]])
        assert together[number][1] == pytest.approx(alone[1], rel=1e-3)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), together[number][0], alone[0])


def test_what_comes_out_is_the_best_on_held_out_windows_and_not_the_last(footage, pool, monkeypatch):
    monkeypatch.setattr(adapt, "EVERY", 3)
    found = iter([0.3, 0.1, 0.2, 0.4])
    states = []

    def told(config, settings, params, normalisers, held_out):
        states.append(params)
        return np.array([next(found)])

    monkeypatch.setattr(adapt, "_held_out_errors", told)
    arm = adapt._arm(footage, 0, 400, SETTINGS.length, None)
    ((variables, error, step),) = adapt.side_by_side(CONFIG, SETTINGS, [arm], pool, 0, [jax.random.key(0)])
    assert (error, step) == (0.1, 6)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[0]), variables["params"], states[1])
    assert not jax.tree.all(jax.tree.map(np.array_equal, states[1], states[3]))


def test_the_held_out_error_is_that_of_training(footage, pool):
    arm = adapt._arm(footage, 0, 400, SETTINGS.length, None)
    ((variables, error, _),) = adapt.side_by_side(CONFIG, SETTINGS, [arm], pool, 0, [jax.random.key(0)])
    windows = adapt._windows(pool, SETTINGS.length, arm.held_out)
    assert float(train.open_loop_error(CONFIG, SETTINGS, variables, windows)) == pytest.approx(error, rel=1e-5)


def test_an_adapted_model_starts_where_the_given_one_is(footage, pool):
    params = train.create(CONFIG, SETTINGS, train.normaliser_of(footage), seed=7).params
    arm = adapt._arm(footage, 0, 400, SETTINGS.length, None)._replace(params=params)
    still = TrainConfig(**{**vars(SETTINGS), "learning_rate": 1e-12})
    ((variables, _, _),) = adapt.side_by_side(CONFIG, still, [arm], pool, 0, [jax.random.key(0)])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), variables["params"], params)
