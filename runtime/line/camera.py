"""The line's camera: what it sees from where it hangs, and how its sensor sees it.

What does not move is drawn once; belts, cartons and gate are drawn each frame, with twice as many pixels a side as are
given out.
"""

import math
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.line import scene
from runtime.line.cartons import PRINTS
from runtime.line.raster import AMBIENT, LIGHT, Array, Canvas, Quad
from runtime.line.textures import BELT_PERIOD, Texture, belt_texture, carton_textures, floor_texture, plain

SIZE: Final = 64
VIEW_START: Final = -0.52  # where the belt comes into the view

SHOT_NOISE: Final = 0.012
READ_NOISE: Final = 0.003
FIXED_PATTERN: Final = 0.006


class Look(NamedTuple):
    """How a line looks: where its camera hangs, what it looks at (metres), how it is rolled (radians) and its focal
    length in image sides; the turn of all colours about grey (radians), how bright its lamps are, whether the line runs
    the other way round, and which print its cartons bear in the place of each.
    """

    eye: tuple[float, float, float] = (0.34, -0.80, 1.16)
    target: tuple[float, float, float] = (0.115, 0.01, 0.03)
    roll: float = math.radians(58.0)
    focal: float = 1.52
    hue: float = 0.0
    brightness: float = 1.0
    mirrored: bool = False
    prints: tuple[int, ...] = tuple(range(PRINTS))


THIS_LINE: Final = Look()


def another_look(seed: int) -> Look:
    """How another line looks, drawn from `seed`: all of its jam-prone part is in view, as on this one."""
    rng = np.random.default_rng([seed, 0x100C])
    eye, target = (np.array(place) + rng.uniform(-1, 1, 3) * reach for place, reach in _NEARBY)
    return Look(
        eye=tuple(eye.tolist()),
        target=tuple(target.tolist()),
        roll=THIS_LINE.roll + float(rng.uniform(-0.35, 0.35)),
        focal=THIS_LINE.focal * float(rng.uniform(0.9, 1.08)),
        hue=float(rng.uniform(-np.pi, np.pi)),
        brightness=float(rng.uniform(0.75, 1.15)),
        mirrored=bool(rng.integers(2)),
    )


_NEARBY: Final = ((THIS_LINE.eye, (0.15, 0.20, 0.12)), (THIS_LINE.target, (0.03, 0.02, 0.0)))


class Scene(NamedTuple):
    """What moves: cartons' poses [N, 8] (position, quaternion, lid angle), their prints, gate height, belts' travel,
    and the cartons' length in metres.
    """

    cartons: NDArray[np.float64]
    prints: tuple[int, ...]
    gate: float
    travel: tuple[float, ...]
    carton_length: float = scene.CARTON[0]


def photograph(view: Scene, time: float, seed: int, look: Look = THIS_LINE) -> NDArray[np.uint8]:
    """The frame [64, 64, 3] as the sensor gives it: light that drifts with `time`, shot and fixed-pattern noise."""
    image = _render(view, SIZE, look) * _light(time, seed)
    noise = np.random.default_rng([seed, round(time * 1000)]).standard_normal(image.shape, dtype=np.float32)
    image = image + (READ_NOISE + SHOT_NOISE * np.sqrt(image)) * noise + _fixed_pattern()
    return _to_bytes(image)


def picture(view: Scene, size: int, look: Look = THIS_LINE) -> NDArray[np.uint8]:
    """The same view, [size, size, 3], in steady light and without noise."""
    return _to_bytes(_render(view, size, look))


def _to_bytes(image: Array) -> NDArray[np.uint8]:
    return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)


def _light(time: float, seed: int) -> Array:
    """Gain [64, 64, 3] of the light: brightness, tint and a gradient over the frame, each wandering slowly."""
    rng = np.random.default_rng([seed, 1 << 32])
    periods = np.array([41.0, 173.0, 811.0, 3607.0])
    phases = rng.uniform(0.0, 2 * np.pi, (6, 4))
    wander = np.sin(2 * np.pi * time / periods + phases) @ np.array([0.10, 0.25, 0.30, 0.35])
    row, column = np.mgrid[-1.0 : 1.0 : SIZE * 1j, -1.0 : 1.0 : SIZE * 1j]
    field = 1.0 + 0.07 * wander[0] + 0.04 * (wander[1] * row + wander[2] * column)
    return (field[..., None] * (1.0 + 0.02 * wander[3:])).astype(np.float32)


@cache
def _fixed_pattern() -> Array:
    return (FIXED_PATTERN * np.random.default_rng(7).standard_normal((SIZE, SIZE, 3))).astype(np.float32)


def _projection(pixels: int, look: Look) -> NDArray[np.float64]:
    """The 3x4 matrix from homogeneous world coordinates to homogeneous pixel coordinates."""
    eye, focal = np.array(look.eye), look.focal * pixels
    forward = (look.target - eye) / np.linalg.norm(look.target - eye)
    level = np.cross(forward, [0.0, 0.0, 1.0])
    level /= np.linalg.norm(level)
    below = np.cross(forward, level)
    right = np.cos(look.roll) * level + np.sin(look.roll) * below
    down = np.cos(look.roll) * below - np.sin(look.roll) * level
    rotation = np.stack([right, down, forward])
    intrinsics = np.array([[focal, 0.0, pixels / 2], [0.0, focal, pixels / 2], [0.0, 0.0, 1.0]])
    return intrinsics @ np.column_stack([rotation, -rotation @ eye])


# The frame


class _Backdrop(NamedTuple):
    """What never moves, drawn once: its canvas, and for each belt the pixels that show it and their place on it."""

    canvas: Canvas
    ground: NDArray[np.bool_]
    belts: tuple[tuple[NDArray[np.intp], Array, NDArray[np.intp], Array], ...]  # pixels, x, texture row, brightness
    textures: tuple[Texture, ...]


@cache
def _backdrop(size: int, look: Look) -> _Backdrop:
    pixels, eye = 2 * size, np.array(look.eye)
    projection = _projection(pixels, look)
    canvas = Canvas(np.zeros((pixels, pixels, 3), np.float32), np.zeros((pixels, pixels), np.float32), projection, eye)
    canvas.draw(_floor(size))
    belt_of = np.full((pixels, pixels), -1)
    for index, belt in enumerate(scene.BELTS):
        before = canvas.nearness.copy()
        canvas.draw([_belt_quad(belt)])
        belt_of[canvas.nearness > before] = index
    ground = belt_of >= 0
    canvas.colour[ground] = 1.0
    for corners in _fixed_shadows():
        canvas.shade(corners, ground)
    before = canvas.nearness.copy()
    canvas.draw(_fixtures(eye))
    ground &= canvas.nearness <= before
    belts = []
    textures = tuple(belt_texture(index, size) for index in range(len(scene.BELTS)))
    to_ground = np.linalg.inv(projection[:, [0, 1, 3]])
    for index in range(len(scene.BELTS)):
        where = np.flatnonzero(ground & (belt_of == index))
        x, y, w = to_ground @ np.stack([where % pixels + 0.5, where // pixels + 0.5, np.ones(len(where))])
        across = (y / w + scene.BELT_HALF_WIDTH) / (2 * scene.BELT_HALF_WIDTH)
        row = np.clip(across * textures[index].shape[0], 0, textures[index].shape[0] - 1).astype(np.intp)
        brightness = canvas.colour.reshape(-1, 3)[where] * np.float32(AMBIENT + (1 - AMBIENT) * LIGHT[2])
        belts.append((where, (x / w).astype(np.float32), row, brightness))
    return _Backdrop(canvas, ground, tuple(belts), textures)


def _render(view: Scene, size: int, look: Look) -> Array:
    """The clean frame [size, size, 3], about 0..1."""
    backdrop = _backdrop(size, look)
    canvas = backdrop.canvas._replace(colour=backdrop.canvas.colour.copy(), nearness=backdrop.canvas.nearness.copy())
    flat = canvas.colour.reshape(-1, 3)
    for (where, x, row, brightness), texture, travel in zip(
        backdrop.belts, backdrop.textures, view.travel, strict=True
    ):
        along = (x - np.float32(travel % BELT_PERIOD)) / np.float32(BELT_PERIOD) % 1.0
        column = (along * texture.shape[1]).astype(np.intp) % texture.shape[1]
        flat[where] = texture[row, column] * brightness
    for pose in view.cartons:
        canvas.shade(_carton_shadow(pose, view.carton_length), backdrop.ground)
    canvas.shade(_dropped(_box_corners(*_gate_box(view.gate))), backdrop.ground)
    for pose, print_number in zip(view.cartons, view.prints, strict=True):
        canvas.draw(_carton(pose, view.carton_length, carton_textures(look.prints[print_number], size), canvas.eye))
    canvas.draw(_box(*_gate_box(view.gate), plain(0.96, 0.72, 0.10), canvas.eye))
    colour = _lit(canvas.colour, look)
    return (colour[::2, ::2] + colour[::2, 1::2] + colour[1::2, ::2] + colour[1::2, 1::2]) / np.float32(4)


def _lit(colour: Array, look: Look) -> Array:
    """Colours under the lamps of a line; this line's are as they are."""
    if look.hue or look.brightness != 1.0:
        grey = np.full((3, 3), 1 / 3)
        across = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
        turn = grey + np.cos(look.hue) * (np.eye(3) - grey) + np.sin(look.hue) * across
        colour = np.maximum(colour @ (look.brightness * turn.T).astype(np.float32), np.float32(0))
    return colour[:, ::-1] if look.mirrored else colour


# The things in it


def _box(
    centre: NDArray[np.float64], half: NDArray[np.float64], texture: Texture, eye: NDArray[np.float64]
) -> Iterator[Quad]:
    """The three faces of an upright box that the camera sees."""
    for axis in range(3):
        side = np.zeros(3)
        side[axis] = half[axis] if eye[axis] > centre[axis] else -half[axis]
        u, v = np.zeros(3), np.zeros(3)
        u[(axis + 1) % 3], v[(axis + 2) % 3] = half[(axis + 1) % 3], half[(axis + 2) % 3]
        yield Quad(centre + side - u - v, 2 * u, 2 * v, texture)


def _box_corners(centre: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, 8).T
    return centre + signs * half


def _dropped(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners' shadows on the belts."""
    return corners - corners[:, 2:] / LIGHT[2] * LIGHT


def _wall(path: tuple[tuple[float, float], ...], thickness: float, texture: Texture) -> Iterator[Quad]:
    """A rail of the scene's height along `path`, its far side at `thickness` in y: top and the side to the camera."""
    up = np.array([0.0, 0.0, scene.RAIL_HEIGHT])
    for (x0, y0), (x1, y1) in pairwise(path):
        along = np.array([x1 - x0, y1 - y0, 0.0])
        for y in (min(0.0, thickness), max(0.0, thickness)):
            yield Quad(np.array([x0, y0 + y, 0.0]), along, up, texture)
        yield Quad(np.array([x0, y0, scene.RAIL_HEIGHT]), along, np.array([0.0, thickness, 0.0]), texture)


def _gate_box(height: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    half = np.array(scene.GATE_HALF)
    return np.array([scene.GATE_X, 0.0, scene.GATE_FLOOR + half[2] + height]), half


_FENCE_PATH: Final = ((scene.BELTS[0].start, scene.FENCE_Y), (scene.BELTS[-1].end, scene.FENCE_Y))


def _belt_quad(belt: scene.Belt) -> Quad:
    width = 2 * scene.BELT_HALF_WIDTH
    origin = np.array([belt.start, -scene.BELT_HALF_WIDTH, 0.0])
    return Quad(origin, np.array([belt.end - belt.start, 0.0, 0.0]), np.array([0.0, width, 0.0]), plain(1, 1, 1))


def _floor(size: int) -> Iterator[Quad]:
    yield Quad(np.array([-2.5, -2.0, -0.55]), np.array([5.0, 0.0, 0.0]), np.array([0.0, 5.0, 0.0]), floor_texture(size))


def _fixtures(eye: NDArray[np.float64]) -> Iterator[Quad]:
    steel, frame, dark = plain(0.80, 0.83, 0.86), plain(0.30, 0.42, 0.56), plain(0.10, 0.10, 0.11)
    for side in (-1, 1):
        centre = np.array([0.0, side * (scene.BELT_HALF_WIDTH + 0.018), -0.03])
        yield from _box(centre, np.array([1.05, 0.018, 0.045]), frame, eye)
    for belt in scene.BELTS[1:]:
        centre = np.array([belt.start, 0.0, 0.0005])
        yield from _box(centre, np.array([0.006, scene.BELT_HALF_WIDTH, 0.0005]), dark, eye)
    yield from _wall(_FENCE_PATH, scene.RAIL_THICKNESS, steel)
    yield from _wall(scene.RAIL_PATH, -scene.RAIL_THICKNESS, steel)
    yield from _lip(eye)
    for y in (-0.115, 0.115):
        yield from _box(np.array([scene.GATE_X, y, 0.10]), np.array([0.008, 0.008, 0.10]), plain(0.36, 0.38, 0.41), eye)


def _lip(eye: NDArray[np.float64]) -> Iterator[Quad]:
    """The hold-down lip in signal orange, and the arm that carries it from behind the fence."""
    (x0, z0), (x1, z1) = scene.LIP_START, scene.LIP_END
    half, thick = scene.LIP_HALF_WIDTH, scene.LIP_THICKNESS
    along, wide = np.array([x1 - x0, 0.0, z1 - z0]), np.array([0.0, 2 * half, 0.0])
    orange = plain(0.95, 0.42, 0.12)
    yield Quad(np.array([x0, -half, z0 + thick]), along, wide, orange)
    yield Quad(np.array([x0, -half, z0]), along, np.array([0.0, 0.0, thick]), orange)
    yield from _box(*_lip_arm(), plain(0.36, 0.38, 0.41), eye)
    yield from _box(np.array([0.36, 0.135, 0.07]), np.array([0.012, 0.012, 0.07]), plain(0.36, 0.38, 0.41), eye)


def _lip_arm() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([0.36, 0.075, 0.128]), np.array([0.008, 0.060, 0.008])


def _fixed_shadows() -> Iterator[NDArray[np.float64]]:
    (x0, z0), (x1, z1) = scene.LIP_START, scene.LIP_END
    half = scene.LIP_HALF_WIDTH
    yield _dropped(np.array([(x, y, z) for x, z in ((x0, z0), (x1, z1)) for y in (-half, half)]))
    yield _dropped(_box_corners(*_lip_arm()))
    for path, thickness in ((_FENCE_PATH, scene.RAIL_THICKNESS), (scene.RAIL_PATH, -scene.RAIL_THICKNESS)):
        for a, b in pairwise(path):
            yield _dropped(
                np.array([(x, y + t, z) for x, y in (a, b) for t in (0.0, thickness) for z in (0.0, scene.RAIL_HEIGHT)])
            )


def _carton_axes(
    pose: NDArray[np.float64], length: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Rotation [3, 3], hinge's middle and lid's direction (both in the world) of a carton so long, at its pose [8]."""
    w, x, y, z = pose[3:7]
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    hinge = pose[:3] + rotation @ np.array([-length / 2, 0.0, scene.CARTON[2] / 2 + 0.001])
    return rotation, hinge, rotation @ np.array([np.cos(pose[7]), 0.0, np.sin(pose[7])])


def _carton_shadow(pose: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    rotation, hinge, lid = _carton_axes(pose, length)
    walls = pose[:3] + _box_corners(np.zeros(3), np.array((length, *scene.CARTON[1:])) / 2) @ rotation.T
    side, tip = rotation[:, 1] * scene.LID_WIDTH / 2, hinge + lid * (length - scene.LID_MARGIN)
    return _dropped(np.vstack([walls, tip - side, tip + side]))


def _carton(
    pose: NDArray[np.float64], length: float, textures: dict[str, Texture], eye: NDArray[np.float64]
) -> Iterator[Quad]:
    """A carton's four walls, its open top and its lid; the lid shows its print from outside, board from inside."""
    rotation, hinge, lid = _carton_axes(pose, length)
    centre = pose[:3]
    size = (length, *scene.CARTON[1:])
    front, left, up = (rotation[:, axis] * size[axis] for axis in range(3))
    for outward, along in ((front, left), (left, front), (-front, left), (-left, front)):
        origin = centre + (outward - along + up) / 2
        if outward @ (eye - centre - outward / 2) > 0:
            yield Quad(origin, along, -up, textures["side"])
    yield Quad(centre + (up - front - left) / 2, front, left, textures["inside"])
    side = rotation[:, 1] * scene.LID_WIDTH
    from_above = (eye - hinge) @ (rotation @ np.array([-np.sin(pose[7]), 0.0, np.cos(pose[7])])) > 0
    yield Quad(hinge - side / 2, lid * (length - scene.LID_MARGIN), side, textures["lid" if from_above else "board"])
