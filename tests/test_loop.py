"""The loop over one camera and over several, with a real if untrained model."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import untrained
from jax import Array

from runtime.alarm import AlarmSettings
from runtime.camera import Frame
from runtime.eyes import missed
from runtime.loop import Loop, Tick
from runtime.registers import Mode
from wm import bundle
from wm.bundle import Bundle
from wm.config import FootageSpec
from wm.types import LatentState

SPEC = FootageSpec(rate_hz=10.0, image=(16, 16, 3))
ALARM = AlarmSettings(on_frames=3, off_frames=10, hold_frames=20, longest_frames=300, slow_to=0.15)
STRIPED = 99 * np.eye(16, dtype=np.uint8)[..., None].repeat(3, -1)


def watch(loop: Loop, frames: int) -> list[Tick]:
    pictures = np.random.default_rng(0).integers(0, 255, (frames, 16, 16, 3), dtype=np.uint8)
    return [loop.tick([Frame(picture, t / 10, 0)], None, None) for t, picture in enumerate(pictures)]


@pytest.fixture(scope="module")
def anxious() -> Bundle:
    return untrained(SPEC, 1e-6)


@pytest.fixture(scope="module")
def calm(anxious: Bundle) -> Bundle:
    assert anxious.calibration is not None
    return replace(anxious, calibration=anxious.calibration.replace(threshold=jnp.asarray(1e6, jnp.float32)))


def test_the_heartbeat_advances_with_every_fresh_frame_and_stands_still_without(calm: Bundle) -> None:
    loop = Loop(calm, ALARM, Mode.ACT)
    assert [tick.command.heartbeat for tick in watch(loop, 3)] == [1, 2, 3]
    fault = loop.tick([None], None, None)
    assert (fault.command.heartbeat, fault.fault) == (3, "no fresh frame from the camera")
    assert watch(loop, 1)[0].command.heartbeat == 4


def test_a_surprise_that_lasts_slows_the_feeder_until_the_camera_fails(anxious: Bundle) -> None:
    loop = Loop(anxious, ALARM, Mode.ACT)
    ticks = watch(loop, 24)
    on = next(i for i, tick in enumerate(ticks) if tick.alarm.on)
    assert [tick.command.speed_request for tick in ticks] == [1.0] * on + [0.15] * (24 - on)
    assert min(tick.score for tick in ticks[on - 2 : on + 1]) >= 1.0
    withdrawn = loop.tick([None], None, None).command
    assert (withdrawn.alarm, withdrawn.speed_request) == (False, 1.0)


def test_normal_running_asks_for_nothing(calm: Bundle) -> None:
    assert all(
        tick.command.speed_request == 1.0 and not tick.alarm.on for tick in watch(Loop(calm, ALARM, Mode.ACT), 9)
    )


def test_the_same_frames_give_the_same_ticks(calm: Bundle) -> None:
    first, second = (watch(Loop(calm, ALARM, Mode.ACT), 8) for _ in range(2))
    assert [(tick.score, tick.command) for tick in first] == [(tick.score, tick.command) for tick in second]


def test_a_policy_goes_by_what_the_simulator_sees_and_the_alarm_by_what_surprises_the_model_that_watches(
    calm: Bundle, anxious: Bundle
) -> None:
    seen = []

    def choose(latent: LatentState, action: Array) -> float:
        seen.append(latent)
        return 0.6

    simulator = replace(anxious, variables=jax.tree.map(lambda x: 1.5 * x, anxious.variables))
    ticks = watch(Loop(calm, ALARM, Mode.ACT, policy=choose, simulator=simulator), 14)
    settled = calm.monitor.settle(SPEC.rate_hz)
    assert [tick.command.speed_request for tick in ticks] == [1.0] * (settled - 1) + [0.6] * (15 - settled)
    alone = Loop(simulator, ALARM, Mode.ACT)
    watch(alone, 14)
    jax.tree.map(np.testing.assert_array_equal, seen[-1], alone.present(None)[0])
    ticks = watch(Loop(anxious, ALARM, Mode.ACT, policy=choose, simulator=simulator), 14)
    assert ticks[-1].command.speed_request == ALARM.slow_to


def test_a_simulator_whose_score_is_not_a_number_leaves_it_to_the_plain_rule(calm: Bundle) -> None:
    loop = Loop(calm, ALARM, Mode.ACT, policy=lambda latent, action: 0.6, simulator=replace(calm))
    assert watch(loop, 14)[-1].chosen == 0.6
    broken = jax.tree.map(lambda x: x * jnp.nan, calm.variables)
    loop._foresees._bundle = replace(calm, variables=broken)
    picture = np.random.default_rng(1).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    tick = loop.tick([Frame(picture, 1.4, 0)], None, None)
    assert (tick.fault, tick.chosen, tick.unforeseen) == (None, None, "the model's score is not a number")


def test_after_a_fault_and_a_restart_a_policy_waits_until_both_models_have_seen_enough_again(calm: Bundle) -> None:
    loop = Loop(calm, ALARM, Mode.ACT, policy=lambda latent, action: 0.6, simulator=replace(calm))
    settled = calm.monitor.settle(SPEC.rate_hz)
    told = [False] * (settled - 1) + [True] * (15 - settled)
    assert [tick.chosen is not None for tick in watch(loop, 14)] == told
    loop.tick([None], None, None)
    assert [tick.chosen is not None for tick in watch(loop, 14)] == told
    loop.restart()
    assert [tick.chosen is not None for tick in watch(loop, 14)] == told


def test_a_score_that_is_not_a_number_is_a_fault_of_the_model(calm: Bundle) -> None:
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), calm.variables)
    (tick,) = watch(Loop(replace(calm, variables=broken), ALARM, Mode.ACT), 1)
    assert tick.fault == "the model's score is not a number"
    assert tick.command.heartbeat == 0


def test_a_camera_that_sees_nothing_is_its_own_fault_and_no_jam(anxious: Bundle) -> None:
    loop = Loop(anxious, ALARM, Mode.ACT)
    assert watch(loop, 24)[-1].alarm.on
    blank = loop.tick([Frame(np.zeros((16, 16, 3), np.uint8), 2.4, 0)], None, None)
    assert (blank.fault, blank.alarm.on) == ("the camera's picture is blank", False)
    assert (blank.command.heartbeat, blank.command.speed_request) == (24, 1.0)
    same = watch(loop, 1)[0]
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    told = [loop.tick([Frame(picture, t / 10, 0)], None, None) for t in range(20)]
    assert same.fault is None
    assert [tick.fault for tick in told] == [None] * 19 + ["the camera's picture is frozen"]


def test_frames_that_were_missed_are_coasted_over_and_after_too_many_the_monitor_starts_anew(calm: Bundle) -> None:
    for time_s, known in ((2.2, True), (3.1, False)):
        loop = Loop(calm, ALARM, Mode.ACT)
        watch(loop, 20)
        told = loop.tick([Frame(STRIPED, time_s, 0)], None, None)
        assert (told.score > 0.0) == known
        assert told.glances[0].anew != known


def test_a_gap_before_the_filter_has_settled_starts_the_monitor_anew(calm: Bundle) -> None:
    loop = Loop(calm, ALARM, Mode.ACT)
    watch(loop, 5)
    told = [loop.tick([Frame(STRIPED, (10 + t) / 10, 0)], None, None) for t in range(12)]
    assert [tick.glances[0].anew for tick in told] == [True] + [False] * 11
    assert [tick.score > 0.0 for tick in told] == [False] * 11 + [True]


def test_a_frame_that_was_seen_already_tells_nothing_new(calm: Bundle) -> None:
    loop, other = Loop(calm, ALARM, Mode.ACT), Loop(calm, ALARM, Mode.ACT)
    watch(loop, 20), watch(other, 20)
    frame, following = Frame(STRIPED, 2.0, 0), Frame(STRIPED[::-1], 2.1, 0)
    first, again = (loop.tick([frame], None, None) for _ in range(2))
    other.tick([frame], None, None)
    assert (first.score, first.command.heartbeat + 1) == (again.score, again.command.heartbeat)
    assert loop.tick([following], None, None).score == other.tick([following], None, None).score > 0.0


def test_several_cameras_are_scored_as_each_would_be_alone_and_the_loudest_counts(calm: Bundle) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (30, 2, 16, 16, 3), dtype=np.uint8)
    pictures[:, 1] = pictures[:, 1] // 4 + 90
    frames = [[Frame(picture, t / 10, 0) for picture in each] for t, each in enumerate(pictures)]
    both = Loop(calm, ALARM, Mode.ACT, ["belt", "infeed"])
    alone = [Loop(calm, ALARM, Mode.ACT) for _ in range(2)]
    for each in frames:
        together = both.tick(each, None, None)
        scores = [loop.tick([frame], None, None).score for loop, frame in zip(alone, each, strict=True)]
        np.testing.assert_allclose([float(one.surprise.score) for one in together.glances], scores, rtol=1e-4)
        assert together.score == pytest.approx(max(scores), rel=1e-4)
    assert scores[0] != scores[1]
    assert together.loudest == int(np.argmax(scores))
    assert [picture.shape for picture in both.look_ahead(None)] == [(2, 16, 16, 3)] * 2


def test_a_loud_frame_that_is_seen_again_is_no_longer_loud_than_once_and_two_cameras_do_not_add_up(
    anxious: Bundle,
) -> None:
    one = np.random.default_rng(2).integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    quiet = replace(anxious.calibration, threshold=jnp.asarray(1e6, jnp.float32))
    loop = Loop(replace(anxious, calibration=quiet), ALARM, Mode.ACT, ["belt", "infeed"])
    for t in range(20):
        loop.tick([Frame(one[t], t / 10, 0)] * 2, None, None)
    loop._eyes._bundle = anxious
    late = Frame(one[20], 2.0, 0)
    on = [loop.tick([Frame(one[20 + t], 2.0 + t / 10, 0), late], None, None).alarm.on for t in range(2)]
    assert on == [False, False]
    loop._eyes._bundle = replace(anxious, calibration=quiet)
    assert not loop.tick([Frame(one[22], 2.2, 0), late], None, None).alarm.on
    loop._eyes._bundle = anxious
    told = [loop.tick([Frame(one[23 + t], 2.3 + t / 10, 0), late], None, None) for t in range(3)]
    assert [tick.alarm.on for tick in told] == [False, False, True]
    assert {tick.camera for tick in told} <= {"belt", "infeed"}


def test_one_camera_at_fault_withdraws_the_request_and_the_others_go_on(calm: Bundle) -> None:
    pictures = np.random.default_rng(1).integers(0, 255, (30, 2, 16, 16, 3), dtype=np.uint8)
    frames = [[Frame(picture, t / 10, 0) for picture in each] for t, each in enumerate(pictures)]
    both, alone = Loop(calm, ALARM, Mode.ACT, ["belt", "infeed"]), Loop(calm, ALARM, Mode.ACT)
    for each in frames[:20]:
        both.tick(each, None, None), alone.tick(each[:1], None, None)
    blind = both.tick([frames[20][0], None], None, None)
    alone.tick(frames[20][:1], None, None)
    assert blind.fault == "infeed: no fresh frame from the camera"
    assert (blind.command.heartbeat, blind.glances[0].fault) == (20, None)
    seen = both.tick(frames[21], None, None)
    assert seen.fault is None and [each.anew for each in seen.glances] == [False, True]
    expected = alone.tick(frames[21][:1], None, None).score
    assert float(seen.glances[0].surprise.score) == pytest.approx(expected, rel=1e-4)
    assert float(seen.glances[1].surprise.score) == 0.0


def test_a_new_run_of_a_camera_forgets_the_alarm(anxious: Bundle) -> None:
    loop = Loop(anxious, ALARM, Mode.ACT)
    assert watch(loop, 24)[-1].alarm.on
    assert not loop.tick([Frame(STRIPED, 2.4, 1)], None, None).alarm.on


def compiled() -> list[int]:
    return [step._cache_size() for step in (bundle._watch_all, bundle._coast, bundle._look_ahead)]


def test_after_the_warm_up_no_frame_waits_for_a_compilation(calm: Bundle) -> None:
    loop = Loop(calm, ALARM, Mode.ACT)
    loop.warm_up(shown=True)
    before = compiled()
    watch(loop, 3)
    loop.tick([Frame(STRIPED, 0.4, 0)], None, None)
    assert loop.look_ahead(None)[0] is not None
    assert compiled() == before


def test_nor_does_the_first_one_for_which_the_plc_tells_its_tags() -> None:
    loop = Loop(untrained(FootageSpec(10.0, (16, 16, 3), ("eye",), ("speed",)), 1e6), ALARM, Mode.ACT)
    loop.warm_up(shown=True)
    before = compiled()
    loop.tick([Frame(STRIPED, 0.0, 0)], None, None)
    loop.tick([Frame(STRIPED[::-1], 0.1, 0)], np.ones(1, np.float32), np.ones(1, np.float32))
    assert compiled() == before


@pytest.mark.parametrize(("elapsed_s", "frames"), [(0.05, 0), (0.1, 0), (0.16, 0), (0.2, 1), (0.25, 1), (0.3, 2)])
def test_jitter_is_no_missed_frame(elapsed_s: float, frames: int) -> None:
    assert missed(elapsed_s, 10.0) == frames
