"""Surfaces of the line as small images, as fine as the frame they are drawn for can show."""

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from runtime.line import scene

Texture = NDArray[np.float32]

BELT_PERIOD: Final = 0.96  # metres after which a belt looks the same again
TEXELS: Final = 1.5  # a metre, for each pixel of the image's side
FINER: Final = 4  # times as many columns and rows are drawn as are kept, against jagged prints

_INKS: Final = np.array(
    [
        [[0.97, 0.96, 0.93], [0.85, 0.16, 0.17]],
        [[0.14, 0.38, 0.78], [0.98, 0.98, 0.98]],
        [[0.16, 0.58, 0.33], [0.98, 0.86, 0.25]],
        [[0.99, 0.80, 0.22], [0.20, 0.18, 0.30]],
        [[0.93, 0.50, 0.60], [0.99, 0.97, 0.94]],
        [[0.40, 0.76, 0.84], [0.10, 0.20, 0.42]],
        [[0.24, 0.16, 0.12], [0.93, 0.88, 0.80]],  # this and what follows only come with a changeover
        [[0.55, 0.30, 0.62], [0.96, 0.93, 0.55]],
    ]
)
_BOARD: Final = (0.80, 0.66, 0.47)
_SHADE: Final = (0.16, 0.11, 0.07)
_BELT_COLOURS: Final = ((0.23, 0.32, 0.29), (0.27, 0.27, 0.30), (0.22, 0.27, 0.35))


@cache
def plain(red: float, green: float, blue: float) -> Texture:
    """One colour."""
    return np.array([[[red, green, blue]]], np.float32)


@cache
def carton_textures(number: int, size: int) -> dict[str, Texture]:
    """A carton's surfaces, for an image of `size` pixels: print `number` on lid and sides, bare board inside."""
    u, v = _grid(scene.CARTON[0], scene.CARTON[1], size)
    ground, ink = _INKS[number]
    shape = (
        np.abs(v - 0.5) < 0.16,
        np.hypot((u - 0.5) * 1.3, v - 0.5) < 0.30,
        np.abs(u + 0.77 * v - 0.88) < 0.20,
        (u - 0.5) * (v - 0.5) > 0,
        (np.abs(u - 0.5) < 0.13) | (np.abs(v - 0.5) < 0.17),
        (np.abs(u - 0.25) < 0.12) | (np.abs(u - 0.75) < 0.12),
        np.abs(np.hypot((u - 0.5) * 1.3, v - 0.5) - 0.30) < 0.08,
        (u * 6 % 1.0 < 0.5) & (np.abs(v - 0.5) < 0.32),
    )[number]
    side_u, side_v = _grid(scene.CARTON[0], scene.CARTON[2], size)
    band = np.abs(side_v - 0.5) < 0.2
    rim = (np.minimum(u, 1 - u) < 0.06) | (np.minimum(v, 1 - v) < 0.08)
    return {
        "lid": _edged(np.where(shape[..., None], ink, ground), u, v),
        "side": _edged(np.where(band[..., None], ink, ground) * 0.92, side_u, side_v),
        "inside": _kept(np.where(rim[..., None], _BOARD, _SHADE)),
        "board": _edged(np.broadcast_to(_BOARD, (*u.shape, 3)), u, v),
    }


@cache
def belt_texture(index: int, size: int) -> Texture:
    """A belt's period: rows across, columns along; blotches, cleats and one pale seam."""
    u, v = _grid(BELT_PERIOD, 2 * scene.BELT_HALF_WIDTH, size)
    rng = np.random.default_rng([11, index])
    blotch = np.zeros_like(u)
    for _ in range(24):
        along, across = rng.integers(1, 9), rng.uniform(0.0, 3.0)
        blotch += np.cos(2 * np.pi * (along * u + across * v + rng.random())) / along**0.5
    brightness = 1.0 + 0.045 * blotch
    brightness *= np.where(u * 12 % 1.0 < 0.16, 0.66, 1.0)
    seam = np.abs(u - 0.5) < 0.010
    colour = np.array(_BELT_COLOURS[index]) * brightness[..., None]
    return _kept(np.where(seam[..., None], 0.50, colour))


@cache
def floor_texture(size: int) -> Texture:
    """Concrete with the walkways' yellow lines."""
    u, v = _grid(5.0, 5.0, min(size, 128) // 2)
    rng = np.random.default_rng(13)
    cloud = np.zeros_like(u)
    for _ in range(10):
        cloud += np.cos(2 * np.pi * (rng.uniform(-4, 4) * u + rng.uniform(-4, 4) * v + rng.random()))
    line = (np.abs(v - 0.345) < 0.008) | (np.abs(v - 0.68) < 0.008)
    return _kept(np.where(line[..., None], (0.80, 0.68, 0.25), (0.50, 0.52, 0.51)) * (1.0 + 0.02 * cloud)[..., None])


def _grid(length: float, width: float, size: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where on a surface of `length` x `width` metres its fine columns and rows lie, 0..1."""
    columns, rows = (FINER * max(4, round(extent * size * TEXELS)) for extent in (length, width))
    u, v = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    return u, v


def _edged(colour: NDArray[np.float64], u: NDArray[np.float64], v: NDArray[np.float64]) -> Texture:
    """The surface with its edges a little darker, as folded board shows them."""
    edge = (np.minimum(u, 1 - u) < 0.035) | (np.minimum(v, 1 - v) < 0.05)
    return _kept(colour * np.where(edge, 0.72, 1.0)[..., None])


def _kept(fine: NDArray[np.float64]) -> Texture:
    """The texture of a finely drawn surface."""
    rows, columns, _ = fine.shape
    return fine.reshape(rows // FINER, FINER, columns // FINER, FINER, 3).mean(axis=(1, 3)).astype(np.float32)
