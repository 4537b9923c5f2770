import numpy as np
import pytest

from runtime.line import camera, scene
from runtime.line.camera import Scene

UPRIGHT = (1.0, 0.0, 0.0, 0.0)
STILL = (0.0, 0.0, 0.0)


def carton(x: float, y: float = 0.0, lid: float = 0.0) -> np.ndarray:
    return np.array([x, y, scene.CARTON[2] / 2, *UPRIGHT, lid])


def view(*cartons: np.ndarray, gate: float = scene.GATE_STROKE, travel: tuple[float, ...] = STILL) -> Scene:
    return Scene(np.array(cartons).reshape(-1, 8), (0,) * len(cartons), gate, travel)


def changed(one: Scene, other: Scene, size: int = 64) -> np.ndarray:
    """Where two scenes look clearly different, [size, size]."""
    first, second = (camera.picture(each, size).astype(int) for each in (one, other))
    return np.abs(first - second).max(axis=2) > 25


def test_a_frame_is_64_by_64_rgb_bytes():
    frame = camera.photograph(view(carton(0.0)), 0.0, 1)
    assert frame.shape == (64, 64, 3) and frame.dtype == np.uint8
    assert 60 < frame.mean() < 160


def test_an_empty_line_can_be_looked_at():
    assert camera.photograph(view(), 0.0, 1).std() > 10


@pytest.mark.parametrize("size", [64, 128])
def test_a_picture_has_the_size_asked_for(size: int):
    assert camera.picture(view(carton(0.1)), size).shape == (size, size, 3)


def test_a_frame_depends_only_on_scene_time_and_seed():
    frame = camera.photograph(view(carton(0.0)), 2.0, 1)
    assert np.array_equal(frame, camera.photograph(view(carton(0.0)), 2.0, 1))
    assert not np.array_equal(frame, camera.photograph(view(carton(0.0)), 2.1, 1))
    assert not np.array_equal(frame, camera.photograph(view(carton(0.0)), 2.0, 2))


def test_noise_is_small_and_the_light_wanders_slowly():
    frames = [camera.photograph(view(), time, 3).astype(float) for time in (0.0, 0.1, 600.0)]
    assert 0.5 < np.std(frames[1] - frames[0]) < 5.0
    assert abs(frames[1].mean() - frames[0].mean()) < 0.5
    assert 0.5 < abs(frames[2].mean() - frames[0].mean()) < 25.0


@pytest.mark.parametrize("x", [-0.45, -0.2, 0.0, 0.2, 0.58])
def test_a_carton_is_seen_all_along_the_view(x: float):
    assert changed(view(), view(carton(x))).sum() > 60


@pytest.mark.parametrize("x", [-0.80, 0.90])
def test_a_carton_outside_the_view_is_not_seen(x: float):
    assert changed(view(), view(carton(x))).sum() == 0


def test_a_carton_travels_from_the_lower_left_to_the_upper_right():
    places = np.array([np.argwhere(changed(view(), view(carton(x)))).mean(axis=0) for x in (-0.4, 0.1, 0.5)])
    row_steps, column_steps = np.diff(places, axis=0).T
    assert (row_steps < 0).all() and (column_steps > 0).all()


@pytest.mark.parametrize("x", [-0.4, -0.1, 0.1])
def test_an_open_lid_is_plain_to_see(x: float):
    assert changed(view(carton(x)), view(carton(x, lid=np.radians(50)))).sum() > 50


def test_a_turned_carton_is_plain_to_see():
    turned = carton(-0.2)
    turned[3:7] = np.cos(np.radians(15)), 0.0, 0.0, np.sin(np.radians(15))
    assert changed(view(carton(-0.2)), view(turned)).sum() > 20


def test_the_gate_is_seen_to_move():
    assert changed(view(gate=0.0), view(gate=scene.GATE_STROKE)).sum() > 15


def test_the_belt_is_seen_to_run_and_comes_round():
    still = camera.picture(view(), 64)
    assert not np.array_equal(still, camera.picture(view(travel=(0.04, 0.0, 0.0)), 64))
    assert np.array_equal(still, camera.picture(view(travel=(camera.BELT_PERIOD, 0.0, 0.0)), 64))


def test_the_lip_hides_what_is_under_it_and_not_what_is_before_it():
    orange = camera.picture(view(), 64).astype(int)
    lip = (orange[..., 0] - orange[..., 2]) > 120
    hidden = changed(view(), view(carton(0.345))) & lip
    assert lip.sum() > 20 and hidden.sum() < 0.2 * lip.sum()


@pytest.mark.parametrize("seed", range(6))
def test_on_another_line_a_carton_is_seen_all_along_the_way_too(seed: int):
    look = camera.another_look(seed)
    empty = camera.picture(view(), 64, look).astype(int)
    for x in (-0.2, 0.0, 0.2, 0.45):
        seen = np.abs(camera.picture(view(carton(x)), 64, look) - empty).max(axis=2) > 25
        assert seen.sum() > 40


def test_another_line_is_this_line_to_nobody():
    frames = [camera.picture(view(carton(0.0)), 64, camera.another_look(seed)).astype(int) for seed in (1, 2)]
    assert np.array_equal(frames[0], camera.picture(view(carton(0.0)), 64, camera.another_look(1)))
    assert min(np.abs(frame - camera.picture(view(carton(0.0)), 64)).mean() for frame in frames) > 10
    assert np.abs(frames[0] - frames[1]).mean() > 10


def test_colours_turn_about_grey_and_lamps_make_all_of_them_darker():
    plain = camera.picture(view(carton(0.0)), 64).astype(float)
    turned = camera.picture(view(carton(0.0)), 64, camera.Look(hue=2 * np.pi / 3)).astype(float)
    middle = (plain.max(axis=2) < 200) & (plain.min(axis=2) > 20)
    np.testing.assert_allclose(turned[middle], np.roll(plain, 1, axis=2)[middle], atol=2)
    dark = camera.picture(view(carton(0.0)), 64, camera.Look(brightness=0.5)).astype(float)
    np.testing.assert_allclose(dark[middle], plain[middle] / 2, atol=1.5)


def test_a_mirrored_line_runs_the_other_way_round():
    mirrored = camera.picture(view(carton(0.1)), 64, camera.Look(mirrored=True))
    np.testing.assert_allclose(mirrored.astype(int), camera.picture(view(carton(0.1)), 64)[:, ::-1], atol=1)
