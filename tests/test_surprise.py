"""watch(): the same bit for bit under scan, forecasts that stay in flight, scores that keep the worst places."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import noise_bundle

from wm import surprise
from wm.config import FootageSpec, ModelConfig, MonitorConfig
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
    _, scanned = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    for name in ("score", "drift", "errors"):
        np.testing.assert_array_equal(getattr(scanned, name), np.stack([getattr(told, name) for told in watched]))


def test_a_replay_in_two_parts_is_the_replay_in_one(bundle):
    pictures, sensors, actions = scene(1)
    _, whole = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    half = TICKS // 2
    state, first = bundle.replay(bundle.start(), Observation(pictures[:half], sensors[:half]), actions[:half])
    _, second = bundle.replay(state, Observation(pictures[half:], sensors[half:]), actions[half:])
    for name in ("score", "drift", "errors"):
        parts = [getattr(first, name), getattr(second, name)]
        np.testing.assert_array_equal(getattr(whole, name), np.concatenate(parts))


def test_scores_are_causal(bundle):
    pictures, sensors, actions = scene(2)
    _, before = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    _, after = bundle.replay(bundle.start(), Observation(pictures.at[45:].set(0), sensors), actions)
    np.testing.assert_array_equal(before.score[:45], after.score[:45])
    assert not np.array_equal(before.score[45:], after.score[45:])


def test_a_forecast_in_flight_follows_the_action_that_was_taken(bundle):
    pictures, sensors, actions = scene(3)
    state, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    last = Observation(pictures[-1], sensors[-1])
    slow, _ = bundle.watch(state, last, jnp.array([0.0]))
    fast, _ = bundle.watch(state, last, jnp.array([5.0]))
    assert not np.allclose(slow.in_flight.deter, fast.in_flight.deter)


def test_a_forecast_that_is_launched_starts_from_the_filtered_state(bundle):
    pictures, sensors, actions = scene(4)
    state, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    after, _ = bundle.watch(state, Observation(pictures[0], sensors[0]), actions[0])
    np.testing.assert_allclose(after.in_flight.deter[0], after.latent.deter, atol=1e-5)


def test_horizons_in_frames_follow_the_rate():
    assert MONITOR.horizons(10.0) == (1, 5, 10, 20, 30)
    assert MONITOR.horizons(2.0) == (1, 1, 2, 4, 6)


def test_after_a_missed_frame_the_next_is_compared_with_the_forecasts_for_its_own_time(bundle):
    pictures, sensors, actions = scene(6)
    state, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    after = bundle.coast(state, actions[0])
    assert after.tick == state.tick + 1
    np.testing.assert_allclose(after.in_flight.deter[0], after.latent.deter, atol=1e-5)
    watched, _ = bundle.watch(state, Observation(pictures[0], sensors[0]), actions[0])
    np.testing.assert_allclose(after.in_flight.deter, watched.in_flight.deter, atol=1e-5)


def test_tags_that_are_not_known_are_not_scored(bundle):
    pictures, sensors, actions = scene(7)
    state, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    _, told = bundle.watch(state, bundle.observation(pictures[0]), actions[0])
    assert np.all(told.errors[:, -1] == 0.0) and np.all(np.isfinite(told.errors)) and np.isfinite(told.score)


def test_the_worst_patches_of_the_map_are_what_the_score_keeps():
    config = dataclasses.replace(CONFIG, sensors=0)
    bundle = noise_bundle(config, rate_hz=10.0, tags=(), actions=("setpoint",))
    pictures, _, actions = scene(8)
    observations = Observation(pictures, jnp.zeros((TICKS, 0)))
    state, _ = bundle.replay(bundle.start(), observations, actions)
    _, told = bundle.watch(state, bundle.observation(pictures[0]), actions[0])
    assert np.sort(told.map.ravel())[-MONITOR.worst :].mean() >= told.score > np.median(told.map)


@pytest.mark.parametrize("jit", [False, True])
def test_the_score_keeps_the_worst_places_and_all_sensors_together(jit):
    config = dataclasses.replace(CONFIG, sensors=2)
    ratio = np.zeros((5, 3 * CONFIG.patches + 2), np.float32)
    ratio[:, 2] = 9.0
    ratio[:, CONFIG.patches] = 12.0
    ratio[:, 2 * CONFIG.patches + 1] = 6.0
    ratio[:, 2 * CONFIG.patches + 3] = 3.0
    ratio[:, -2:] = 5.0, -1.0
    whitening = jnp.tile(jnp.array([[1.0, 1.0], [0.0, 2.0]]), (5, 1, 1))
    run = jax.jit(surprise.levels, static_argnums=(0, 1)) if jit else surprise.levels
    told = run(config, MONITOR, whitening, ratio)
    np.testing.assert_allclose(told, np.tile([3.0, 4.0, 3.0, (4.0**2 + 2.0**2) / 2], (5, 1)), rtol=1e-6)


@pytest.mark.parametrize("jit", [False, True])
def test_evidence_of_a_drift_is_how_loud_places_are_and_the_signed_errors_of_sensors(jit):
    ratio = np.zeros((1, 3 * CONFIG.patches + 1), np.float32)
    ratio[:, -1] = -(np.e - 1) / 2
    level, whitening = jnp.array([[np.e**2 - 1, 0.0, np.e - 1, 7.0]]), jnp.array([[[2.0]]])
    run = jax.jit(surprise.evidence, static_argnums=0) if jit else surprise.evidence
    np.testing.assert_allclose(run(CONFIG, whitening, level, ratio), [[2.0, 0.0, 1.0, -1.0]], rtol=1e-6)


def test_a_horizon_is_scored_once_a_forecast_from_a_settled_filter_can_arrive_there(bundle, watched):
    deaf = bundle.calibration.replace(level=bundle.calibration.level.at[:-1].set(1e9))
    pictures, sensors, actions = scene(0)
    _, told = dataclasses.replace(bundle, calibration=deaf).replay(
        bundle.start(), Observation(pictures, sensors), actions
    )
    assert MONITOR.ready(10.0) == (11, 15, 20, 30, 40)
    assert all(told.score == 0.0 and np.all(told.map == 0.0) for told in watched[:11])
    assert watched[11].score > 0.0
    assert np.all(told.score[:40] < 1e-6) and told.score[40] > 1e-3


def test_the_drift_is_the_distance_of_averaged_evidence_and_forgets_at_its_own_pace(bundle):
    """A monitor whose average remembers two frames of 10 Hz."""
    quick = dataclasses.replace(bundle, monitor=dataclasses.replace(MONITOR, drift_s=0.2))
    pictures, sensors, actions = scene(0)
    _, told = quick.replay(quick.start(), Observation(pictures, sensors), actions)
    whitening = jnp.tile(jnp.eye(1), (5, 1, 1))
    level = surprise.levels(CONFIG, MONITOR, whitening, told.errors)
    seen = np.asarray(surprise.evidence(CONFIG, whitening, level, told.errors))
    average, drifts = np.zeros((5, 4)), []
    for t in range(40, TICKS):
        average = (average + seen[t]) / 2
        drifts.append(np.square(average).mean(axis=-1).max())
    assert np.all(told.drift[:40] == 0.0)
    np.testing.assert_allclose(told.drift[40:], drifts, rtol=1e-4)


def test_a_picture_says_nothing_of_sensors_and_the_distance_of_none_is_nought():
    assert surprise.distance(jnp.zeros((0, 0)), jnp.zeros((7, 0))).tolist() == [0.0] * 7


def test_the_threshold_divides_the_score(bundle):
    pictures, sensors, actions = scene(5)
    calibration = bundle.calibration
    doubled = calibration.replace(threshold=2.0 * calibration.threshold)
    _, told = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
    _, halved = bundle.__class__(**{**vars(bundle), "calibration": doubled}).replay(
        bundle.start(), Observation(pictures, sensors), actions
    )
    np.testing.assert_allclose(halved.score, told.score / 2.0, rtol=1e-6)


def test_a_frame_is_compared_with_forecasts_no_older_than_their_horizon(bundle):
    """Between two launches every forecast in flight grows older by a frame, and then makes room for the next."""
    assert MONITOR.launch(10.0) == 5
    assert MONITOR.slots(10.0) == (-1, 0, 1, 3, 5)
    assert MONITOR.slots(2.0) == (-1, -1, 1, 3, 5)
    pictures, sensors, actions = scene(9)
    state, _ = bundle.replay(bundle.start(), Observation(pictures, sensors), actions)
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


def test_a_kind_that_does_not_count_is_neither_in_the_levels_nor_on_the_map():
    config = ModelConfig(image=(16, 16, 1), sensors=1, actions=0)
    ratio = jnp.ones((1, 13)).at[0, 0].set(9.0).at[0, 8].set(3.0).at[0, 12].set(4.0)
    monitor = MonitorConfig(horizons_s=(0.0,), worst=1, kinds=("latents",))
    calibration = surprise.uncalibrated(config, monitor, 10.0)
    np.testing.assert_allclose(surprise.levels(config, monitor, calibration.whitening, ratio), [[0, 0, 3, 0]])
    np.testing.assert_allclose(surprise.where(config, monitor, ratio[0:1], calibration), [[3, 1], [1, 1]])
    everything = MonitorConfig(horizons_s=(0.0,), worst=1)
    np.testing.assert_allclose(surprise.levels(config, everything, calibration.whitening, ratio), [[9, 1, 3, 16]])
    np.testing.assert_allclose(surprise.where(config, everything, ratio, calibration), [[9, 1], [1, 1]])
