"""A camera that is blind, frozen, knocked or in another light says so itself."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import noise_bundle
from scipy import ndimage

from runtime import sight
from runtime.sight import Sight, View
from wm.config import ModelConfig

CONFIG = ModelConfig(image=(32, 32, 3), sensors=0, actions=0, followed=(5, 6), patch=8)
SCENE = ndimage.gaussian_filter(np.random.default_rng(0).uniform(0, 255, (48, 48)), 2.0)
SCENE = 128 + 30 * (SCENE - SCENE.mean()) / SCENE.std()


def seen(down: float = 0.0, across: float = 0.0, gain: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """The scene as a camera `[32, 32]` that was moved by so many pixels sees it."""
    return gain * ndimage.shift(SCENE, (down, across), order=3)[8:40, 8:40] + offset


def picture(grey: np.ndarray, seed: int = 1) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, 1.5, (*grey.shape, 3))
    return np.clip(np.round(grey[..., None] + noise), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def view() -> View:
    bundle = replace(noise_bundle(CONFIG, rate_hz=10.0, tags=(), actions=()), view=seen().astype(np.float32))
    view = View.of(bundle)
    assert view is not None
    return view


def wrong(view: View | None, image: np.ndarray) -> str | None:
    return sight.step(view, 10.0, Sight(), image)[1]


def test_what_was_taught_is_in_order_whatever_moves_where_things_move(view):
    grey = seen()
    grey[8:16, 8:24] = 255
    assert wrong(view, picture(grey)) is None


@pytest.mark.parametrize(("down", "across"), [(0.6, 0.0), (0.0, -0.6), (0.4, 0.4)])
def test_a_knocked_camera_is_told_by_how_far_it_moved(view, down, across):
    assert wrong(view, picture(seen(down, across))) == "the camera has moved by 0.6 pixels"
    assert wrong(view, picture(seen(down / 6, across / 6))) is None


def test_lamps_that_fail_are_told_by_how_much_light_is_left(view):
    assert wrong(view, picture(seen(gain=0.8, offset=5.0))) == "the light is 80% of what it was"
    assert wrong(view, picture(seen(gain=0.93))) is None


def test_what_stands_in_the_view_is_something_else(view):
    grey = seen()
    grey[:, 24:] = 30
    assert wrong(view, picture(grey)) == "the camera sees something else than it was taught"


def test_a_blank_picture_is_told_without_a_view():
    assert wrong(None, picture(np.full((32, 32), 6.0))) == "the camera's picture is blank"
    assert wrong(None, picture(seen())) is None


def test_a_picture_is_frozen_after_two_seconds_without_the_least_change(view):
    state, told = Sight(), []
    for seed in (1, *[2] * 21, 3):
        state, found = sight.step(view, 10.0, state, picture(seen(), seed))
        told.append(found)
    assert told == [None] * 21 + ["the camera's picture is frozen", None]


def test_a_bundle_without_a_view_or_without_a_still_place_compares_nothing():
    bundle = noise_bundle(CONFIG, rate_hz=10.0, tags=(), actions=())
    everywhere = replace(bundle, config=replace(CONFIG, followed=None), view=seen().astype(np.float32))
    assert View.of(bundle) is None
    assert View.of(everywhere) is None


def test_colours_that_are_not_those_foretold_are_told_and_a_dimmer_light_or_what_moves_is_not(view):
    colours = np.stack([seen() * 0.6, seen(), seen() * 0.8], axis=-1)
    expected, image = (colours / 255).astype(np.float32), np.round(colours).astype(np.uint8)
    image[8:16, 8:24] = (255, 0, 0)
    assert sight.recoloured(view, expected, image) is None
    assert sight.recoloured(view, expected, image // 2) is None
    told = "the camera's colours are not those it was taught"
    assert sight.recoloured(view, expected, image[..., ::-1]) == told
    assert sight.recoloured(view, expected, image.mean(axis=-1, keepdims=True).repeat(3, -1).astype(np.uint8)) == told
    grey = seen()[..., None].repeat(3, -1)
    assert sight.recoloured(view, (grey / 255).astype(np.float32), image[..., ::-1]) is None
    assert sight.recoloured(None, expected, image[..., ::-1]) is None


def test_a_model_that_does_not_foretell_the_view_says_nothing_of_colours(view):
    expected = np.stack([seen() * 0.6, seen(), seen() * 0.8], axis=-1).astype(np.float32) / 255
    assert sight.foretold(view, expected)
    assert not sight.foretold(view, expected[::-1, ::-1])
    assert not sight.foretold(None, expected)
