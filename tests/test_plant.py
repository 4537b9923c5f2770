from functools import cache

import numpy as np
import pytest

from runtime.line import scene
from runtime.line.cartons import TAILS, Carton, Tail, draw, draw_slip
from runtime.line.plant import Mishap, Plant, Snapshot

FRAME = 0.1


def run(plant: Plant, seconds: float, feeder_speed: float = 1.0) -> Plant:
    for _ in range(round(seconds / FRAME)):
        plant.advance(feeder_speed, FRAME)
    return plant


def same(one: Snapshot, other: Snapshot) -> bool:
    return np.array_equal(one.physics, other.physics) and one.state == other.state


def until_block(plant: Plant, feeder_speed_after_onset: float = 1.0) -> Plant:
    """Runs until a block is noted, or long enough that there would have been one."""
    while plant.time < 9.0 and not plant.events.blocks:
        plant.advance(feeder_speed_after_onset if plant.events.onsets else 1.0, FRAME)
    return plant


def severity(carton: Carton) -> float:
    return {"lid": carton.lid, "skew": abs(carton.yaw), "double": -carton.pitch}[carton.tail]


def worst_seeds(kind: Tail) -> list[int]:
    """Seeds whose third carton is drawn furthest from the normal, the worst first."""
    return sorted(range(30), key=lambda seed: -severity(draw(seed, 2, 0.0, kind)))


@cache
def jammed(kind: Tail) -> Plant:
    plants = (until_block(Plant(seed, tail_rate=0.0, tails={2: kind})) for seed in worst_seeds(kind))
    return next(plant for plant in plants if plant.events.blocks)


def test_one_seed_gives_one_run_bit_for_bit():
    one, other = run(Plant(5), 6.0), run(Plant(5), 6.0)
    assert same(one.snapshot(), other.snapshot())
    assert np.array_equal(one.image(), other.image())


def test_another_seed_gives_another_run():
    one, other = run(Plant(5), 4.0), run(Plant(6), 4.0)
    assert not np.array_equal(one.snapshot().physics, other.snapshot().physics)
    assert not np.array_equal(one.image(), other.image())


@pytest.mark.parametrize("kind", TAILS)
def test_a_restored_plant_replays_bit_for_bit_after_another_branch(kind: Tail):
    plant = run(Plant(3, tails={2: kind}), 4.0)
    start = plant.snapshot()
    run(plant, 3.0)
    first, picture = plant.snapshot(), plant.image()
    plant.restore(start)
    run(plant, 3.0, feeder_speed=0.1)
    assert not same(plant.snapshot(), first)
    plant.restore(start)
    run(plant, 3.0)
    assert same(plant.snapshot(), first)
    assert np.array_equal(plant.image(), picture)


def test_a_snapshot_goes_on_in_a_new_plant_of_the_same_seed():
    plant = run(Plant(4, tails={2: "lid"}), 4.0)
    twin = Plant(4, tails={2: "lid"})
    twin.restore(plant.snapshot())
    assert same(run(plant, 2.0).snapshot(), run(twin, 2.0).snapshot())


def test_a_redrawn_plant_has_the_same_view_and_another_future():
    plant = run(Plant(4, tail_rate=0.0), 8.0)
    present, picture = plant.snapshot(), plant.image()
    run(plant, 2.0)
    first, future = plant.snapshot(), plant.image()
    plant.restore(present)
    plant.redraw(99)
    assert np.array_equal(plant.image(), picture)
    assert not np.array_equal(run(plant, 2.0).image(), future)
    plant.restore(present)
    assert same(run(plant, 2.0).snapshot(), first)


def test_looking_does_not_change_the_run():
    watched, unwatched = Plant(7), Plant(7)
    for _ in range(30):
        watched.advance(1.0, FRAME)
        watched.image()
        watched.picture(96)
    assert same(watched.snapshot(), run(unwatched, 3.0).snapshot())


def test_scans_of_a_plc_and_whole_frames_give_the_same_run():
    frames, scans = run(Plant(8), 3.0), Plant(8)
    for _ in range(150):
        scans.advance(1.0, 0.02)
    assert same(frames.snapshot(), scans.snapshot())


def test_normal_cartons_pass_at_seventy_a_minute_without_a_block():
    plant = run(Plant(1, tail_rate=0.0), 40.0)
    assert not plant.events.blocks and not plant.events.onsets
    assert 60 <= plant.advance(1.0, FRAME).cartons_out / 40.0 * 60.0 <= 71


def test_a_slow_feeder_releases_fewer_cartons_and_is_no_block():
    plant = run(Plant(2, tail_rate=0.0), 6.0)
    before = plant.snapshot().state.next_number
    run(plant, 20.0, feeder_speed=0.1)
    assert plant.snapshot().state.next_number - before in (2, 3)
    assert not plant.events.blocks


def test_a_stopped_feeder_releases_nothing_and_is_no_block():
    plant = run(Plant(2, tail_rate=0.0), 6.0)
    before = plant.snapshot().state.next_number
    run(plant, 10.0, feeder_speed=0.0)
    assert plant.snapshot().state.next_number == before
    assert not plant.events.blocks


def test_the_eyes_see_cartons_come_and_go():
    plant = Plant(1, tail_rate=0.0)
    seen = [plant.advance(1.0, 0.02) for _ in range(500)]
    assert {inputs.infeed_eye for inputs in seen} == {inputs.gate_eye for inputs in seen} == {False, True}
    counts = [inputs.cartons_out for inputs in seen]
    assert counts == sorted(counts) and counts[-1] > 3


@pytest.mark.parametrize("kind", TAILS)
def test_each_tail_can_jam_and_is_seen_before_it_does(kind: Tail):
    (onset,), (block, *_) = jammed(kind).events
    assert (onset.kind, block.kind, onset.number, block.number) == (kind, kind, 2, 2)
    assert block.time - onset.time > 1.5


@pytest.mark.parametrize("kind", TAILS)
def test_slowing_the_feeder_at_once_keeps_most_tails_from_jamming(kind: Tail):
    plants = [Plant(seed, tail_rate=0.0, tails={2: kind}) for seed in range(6)]
    assert sum(bool(until_block(plant, feeder_speed_after_onset=0.1).events.blocks) for plant in plants) <= 1


def test_cartons_pile_up_behind_a_block_and_the_plant_goes_on():
    plant = Plant(jammed("skew").seed, tail_rate=0.0, tails={2: "skew"})
    plant.restore(jammed("skew").snapshot())
    run(plant, 4.0)
    assert len(plant.snapshot().state.on_line) > 4
    assert np.isfinite(plant.snapshot().physics).all()


MISHAPS = (*TAILS, "slip")


@cache
def struck(kind: Tail) -> Plant:
    """Just after a mishap befell the fourth carton in the middle of the view."""
    plant = Plant(50000, tail_rate=0.0, mishaps={3: Mishap(kind, -0.2)})
    while not plant.events.onsets:
        plant.advance(1.0, 0.02)
    return plant


@pytest.mark.parametrize("kind", MISHAPS)
def test_a_mishap_befalls_a_carton_where_it_is_told_to_and_is_noted_then(kind: Tail):
    twin = Plant(50000, tail_rate=0.0)
    (onset,) = struck(kind).events.onsets
    while twin.time < onset.time - 0.01:
        twin.advance(1.0, 0.02)
    body = next(item.body for item in twin.snapshot().state.on_line if item.carton.number == 3)
    assert -0.2 <= twin.snapshot().physics[2 + 8 * body] < -0.19
    assert (onset.number, onset.kind) == (3, kind)
    assert onset.time == pytest.approx(struck(kind).time, abs=0.021)


@pytest.mark.parametrize("kind", MISHAPS)
def test_a_restored_plant_replays_a_mishap_bit_for_bit(kind: Tail):
    plant = Plant(50000, tail_rate=0.0, mishaps={3: Mishap(kind, -0.2)})
    plant.restore(struck(kind).snapshot())
    first = run(plant, 3.0).snapshot()
    plant.restore(struck(kind).snapshot())
    assert same(run(plant, 3.0).snapshot(), first)


@pytest.mark.parametrize("kind", MISHAPS)
def test_each_mishap_can_jam(kind: Tail):
    def jams(seed: int) -> bool:
        plant = Plant(seed, tail_rate=0.0, mishaps={3: Mishap(kind, -0.2)})
        while plant.time < 16.0 and not plant.events.blocks:
            plant.advance(1.0, FRAME)
        return bool(plant.events.blocks)

    assert any(jams(seed) for seed in range(50000, 50004))


def test_a_carton_sticks_no_longer_than_a_second_on_a_slow_line():
    plant = Plant(50000, tail_rate=0.0, mishaps={3: Mishap("double", -0.2)})
    plant.restore(struck("double").snapshot())
    run(plant, 2.0, feeder_speed=0.1)
    assert all(item.slow_since is None for item in plant.snapshot().state.on_line)


def test_a_belt_slips_for_its_time_and_grips_again():
    slip = draw_slip(50000, 3)
    plant = Plant(50000, tail_rate=0.0, mishaps={3: Mishap("slip", -0.2)})
    plant.restore(struck("slip").snapshot())
    began = plant.snapshot().state.travel[scene.SLIPPING]
    run(plant, 5.0)
    lost = 5.0 * scene.BELTS[scene.SLIPPING].speed - (plant.snapshot().state.travel[scene.SLIPPING] - began)
    speed = scene.BELTS[scene.SLIPPING].speed
    assert lost == pytest.approx(speed * (1 - slip.grip) * slip.seconds, abs=0.04 * speed)


def test_a_tail_changes_only_its_own_carton():
    assert draw(9, 4, 0.0) == draw(9, 4, 0.0)
    assert draw(9, 5, 0.0, "lid")._replace(tail=None, lid=0.0, lid_damping=1.0) == draw(9, 5, 0.0)._replace(lid=0.0)


@pytest.mark.parametrize("seed", range(40))
def test_a_skewed_carton_is_released_between_the_rails(seed: int):
    carton = draw(seed, 0, 0.0, "skew")
    half = scene.HALF_WIDTH * np.cos(carton.yaw) + scene.CARTON[0] / 2 * abs(np.sin(carton.yaw))
    assert scene.RAIL_PATH[0][1] < carton.y - half and carton.y + half < scene.FENCE_Y


def test_about_as_many_cartons_come_from_a_tail_as_the_rate_says():
    kinds = [draw(1, number, 0.3).tail for number in range(400)]
    assert 90 <= sum(kind is not None for kind in kinds) <= 150
    assert set(TAILS) <= set(kinds)


def test_a_guide_that_wears_lets_cartons_stray_and_none_strays_on_a_sound_one():
    def straying(plant: Plant) -> float:
        """Spread in millimetres across the belt, of cartons that were pressed against the fence."""
        ways = []
        while plant.time < 40.0:
            plant.advance(1.0, FRAME)
            state = plant.snapshot().state
            poses = plant._bodies[[item.body for item in state.on_line]]
            ways += [1000 * pose[1] for pose in poses if 0.2 < pose[0] < 0.5]
        return float(np.std(ways))

    sound, worn = (Plant(5, tail_rate=0.0, wear_per_hour=wear) for wear in (0.0, 90.0))
    assert straying(worn) > 2 * straying(sound)


def test_a_worn_plant_goes_on_from_its_snapshot_bit_for_bit():
    first, second = (Plant(5, tail_rate=0.0, wear_per_hour=60.0) for _ in range(2))
    run(first, 4.0)
    second.restore(first.snapshot())
    assert same(run(first, 2.0).snapshot(), run(second, 2.0).snapshot())
