"""watch(): the same bit for bit under scan, forecasts that stay in flight, scores that keep the worst places."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import noise_bundle

from wm import surprise
from wm.config import FootageSpec, ModelConfig, MonitorConfig
from wm.surprise import Calibration
from wm.types import Observation

TICKS = 50
CONFIG = ModelConfig.of(FootageSpec(10.0, (16, 24, 3), ("eye",), ("setpoint",)), "debug")
MONITOR = MonitorConfig()


def scene(key: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Pictures, sensors and actions of `TICKS` frames."""
    keys = jax.random.split(jax.random.key(key), 3)
    pictures = jax.random.randint(keys[0], (TICKS, 16, 24, 3), 0, 256).astype(jnp.uint8)
    return pictures, jax.random.normal(keys[1], (TICKS, 1)), jax.random.uniform(keys[2], (TICKS, 1))


@pytest.fixture(scope="module")
def bundle():
    return noise_bundle(CONFIG, rate_hz=10.0, tags=("eye",), actions=("setpoint",))


@pytest.fixture(scope="module")
def watched(bundle):
    """Every Surprise of a scene, one call a frame, as the runtime makes them."""
    pictures, sensors, actions = scene(0)
    state, seen = bundle.start(), []
    for image, sensor, action in zip(pictures, sensors, actions, strict=True):
        state, told = bundle.watch(state, Observation(image, sensor), action)
        seen.append(told)
    return seen


def test_the_score_under_scan_is_the_score_at_run_time_bit_for_bit(bundle, watched):
    pictures, sensors, actions = scene(0)
    _, scores, errors = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    np.testing.assert_array_equal(scores, np.stack([told.score for told in watched]))
    np.testing.assert_array_equal(errors, np.stack([told.errors for told in watched]))


def test_a_replay_in_two_parts_is_the_replay_in_one(bundle):
    pictures, sensors, actions = scene(1)
    _, whole, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    half = TICKS // 2
    state, first, _ = bundle.replay(bundle.start(), Observation(pictures[:half], sensors[:half]), actions[:half])
    _, second, _ = bundle.replay(state, Observation(pictures[half:], sensors[half:]), actions[half:])
    np.testing.assert_array_equal(whole, np.concatenate([first, second]))


def test_scores_are_causal(bundle):
    pictures, sensors, actions = scene(2)
    _, before, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    _, after, _ = bundle.replay(bundle.start(), Observation(pictures.at[45:].set(0), sensors), actions)
    np.testing.assert_array_equal(before[:45], after[:45])
    assert not np.array_equal(before[45:], after[45:])


def test_nothing_is_scored_before_the_longest_forecast_from_a_settled_filter_can_arrive(watched):
    assert all(told.score == 0.0 and np.all(told.map == 0.0) for told in watched[:40])
    assert watched[40].score > 0.0


def test_a_forecast_in_flight_follows_the_action_that_was_taken(bundle):
    pictures, sensors, actions = scene(3)
    state, _, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    last = Observation(pictures[-1], sensors[-1])
    slow, _ = bundle.watch(state, last, jnp.array([0.0]))
    fast, _ = bundle.watch(state, last, jnp.array([5.0]))
    assert not np.allclose(slow.in_flight.deter, fast.in_flight.deter)


def test_a_forecast_that_is_launched_starts_from_the_filtered_state(bundle):
    pictures, sensors, actions = scene(4)
    state, _, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    after, _ = bundle.watch(state, Observation(pictures[0], sensors[0]), actions[0])
    np.testing.assert_allclose(after.in_flight.deter[0], after.latent.deter, atol=1e-5)


def test_horizons_in_frames_follow_the_rate():
    assert MONITOR.horizons(10.0) == (1, 5, 10, 20, 30)
    assert MONITOR.horizons(2.0) == (1, 1, 2, 4, 6)


def test_after_a_missed_frame_the_next_is_compared_with_the_forecasts_for_its_own_time(bundle):
    pictures, sensors, actions = scene(6)
    state, _, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    after = bundle.coast(state, actions[0])
    assert after.tick == state.tick + 1
    np.testing.assert_allclose(after.in_flight.deter[0], after.latent.deter, atol=1e-5)
    watched, _ = bundle.watch(state, Observation(pictures[0], sensors[0]), actions[0])
    np.testing.assert_allclose(after.in_flight.deter, watched.in_flight.deter, atol=1e-5)


def test_tags_that_are_not_known_are_not_scored(bundle):
    pictures, sensors, actions = scene(7)
    state, _, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    _, told = bundle.watch(state, bundle.observation(pictures[0]), actions[0])
    assert np.all(told.errors[:, -1] == 0.0) and np.all(np.isfinite(told.errors)) and np.isfinite(told.score)


def test_the_worst_patches_of_the_map_are_what_the_score_keeps():
    config = dataclasses.replace(CONFIG, sensors=0)
    bundle = noise_bundle(config, rate_hz=10.0, tags=(), actions=("setpoint",))
    pictures, _, actions = scene(8)
    observations = Observation(pictures, jnp.zeros((TICKS, 0)))
    state, _, _ = bundle.replay(bundle.start(), observations, actions)
    _, told = bundle.watch(state, bundle.observation(pictures[0]), actions[0])
    assert np.sort(told.map.ravel())[-MONITOR.worst :].mean() >= told.score > np.median(told.map)


@pytest.mark.parametrize("jit", [False, True])
def test_the_score_keeps_the_worst_places(jit):
    ratio = np.zeros((5, 3 * CONFIG.patches + 1), np.float32)
    ratio[:, 2] = 9.0
    ratio[:, CONFIG.patches] = 12.0
    ratio[:, 2 * CONFIG.patches + 1] = 6.0
    ratio[:, 2 * CONFIG.patches + 3] = 3.0
    ratio[:, -1] = 5.0
    run = jax.jit(surprise.levels, static_argnums=(0, 1)) if jit else surprise.levels
    np.testing.assert_allclose(run(CONFIG, MONITOR, ratio), np.tile([3.0, 4.0, 3.0, 5.0], (5, 1)), rtol=1e-6)


def test_the_raw_score_is_the_strongest_level_in_units_of_the_normal_one():
    ratio = np.zeros((5, 3 * CONFIG.patches + 1), np.float32)
    level = jnp.tile(jnp.array([0.5, 1.0, 1.0, 2.0]), (5, 1))
    ratio[3, 0] = 3.0
    np.testing.assert_allclose(surprise.combine(CONFIG, MONITOR, ratio, level), (3.0 / 3) / 0.5)
    ratio[0, -1] = 10.0
    np.testing.assert_allclose(surprise.combine(CONFIG, MONITOR, ratio, level), 10.0 / 2.0)


def test_the_threshold_divides_the_score(bundle):
    pictures, sensors, actions = scene(5)
    calibration = bundle.calibration
    doubled = Calibration(calibration.scale, calibration.level, 2.0 * calibration.threshold)
    _, scores, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    _, halved, _ = bundle.__class__(**{**vars(bundle), "calibration": doubled}).replay(
        bundle.start(), Observation(pictures, sensors), actions
    )
    np.testing.assert_allclose(halved, scores / 2.0, rtol=1e-6)


def test_a_frame_is_compared_with_forecasts_no_older_than_their_horizon(bundle):
    """Between two launches every forecast in flight grows older by a frame, and then makes room for the next."""
    assert MONITOR.launch(10.0) == 5
    assert MONITOR.slots(10.0) == (-1, 0, 1, 3, 5)
    assert MONITOR.slots(2.0) == (-1, -1, 1, 3, 5)
    pictures, sensors, actions = scene(9)
    state, _, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    launched = []
    for t in range(6):
        after, _ = bundle.watch(state, Observation(pictures[t], sensors[t]), actions[t])
        launched.append(np.allclose(after.in_flight.deter[0], after.latent.deter, atol=1e-5))
        state = after
    assert launched == [True, False, False, False, False, True]


def test_several_cameras_in_one_step_see_what_each_alone_would_see(bundle):
    scenes = [scene(key) for key in (10, 11, 12)]
    states, told = zip(
        *(
            bundle.watch(bundle.start(), Observation(pictures[0], sensors[0]), actions[0])
            for pictures, sensors, actions in scenes
        ),
        strict=True,
    )
    pictures, sensors, actions = (jnp.stack([arrays[i][0] for arrays in scenes]) for i in range(3))
    starts = jax.tree.map(lambda x: jnp.stack([x] * 3), bundle.start())
    together = bundle.watch_all(starts, Observation(pictures, sensors), actions)
    alone = jax.tree.map(lambda *x: jnp.stack(x), *zip(states, told, strict=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), together, alone)


def test_a_frame_of_a_patch_that_is_not_followed_is_compared_with_the_background_in_the_light_of_the_scene():
    config = dataclasses.replace(CONFIG, followed=(1, 2, 4))
    bundle = noise_bundle(config, rate_hz=10.0, tags=("eye",), actions=("setpoint",))
    light = bundle.variables["params"]["image_decoder"]["light"]
    light["kernel"], light["bias"] = jnp.zeros_like(light["kernel"]), jnp.array([0.2] * 3 + [0.0] * 6)
    dark, bright = (jnp.full((16, 24, 3), value, jnp.uint8) for value in (0, 255))
    for image, error in ((dark, 0.6**2), (bright, 0.4**2)):
        _, told = bundle.watch(bundle.start(), bundle.observation(image, [0.0]), jnp.zeros(1))
        np.testing.assert_allclose(told.errors[:, [0, 3, 5]], error, rtol=1e-5)
    assert told.map.shape == (2, 3)


def test_the_pictures_to_come_are_those_of_every_horizon(bundle):
    pictures = bundle.look_ahead(bundle.start(), jnp.zeros(1))
    assert pictures.shape == (5, 16, 24, 3)
