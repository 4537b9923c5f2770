"""A z-buffer rasteriser in numpy: textured quads under one light, and the shadows they throw.

A quad's homography gives for each pixel of its bounding box the place on the quad and 1/depth.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.line.textures import Texture

Array = NDArray[np.float32]

LIGHT: Final = np.array([-0.42, -0.36, 0.83]) / np.linalg.norm([-0.42, -0.36, 0.83])
AMBIENT: Final = 0.52
SHADOW: Final = 0.50


class Quad(NamedTuple):
    """A flat surface with its corner at `origin`; the texture's columns run along `across`, its rows along `down`."""

    origin: NDArray[np.float64]
    across: NDArray[np.float64]
    down: NDArray[np.float64]
    texture: Texture


class Canvas(NamedTuple):
    """Colour [P, P, 3] and 1/depth [P, P] of what has been drawn, seen from `eye` through `projection` [3, 4]."""

    colour: Array
    nearness: Array
    projection: NDArray[np.float64]
    eye: NDArray[np.float64]

    def draw(self, quads: Iterable[Quad]) -> None:
        """Draws the quads where they are nearer than what is there."""
        origin, across, down, textures = zip(*quads, strict=True)
        corners = np.stack([np.array(across), np.array(down), np.array(origin)], axis=2)
        homographies = self.projection[:, :3] @ corners
        homographies[:, :, 2] += self.projection[:, 3]
        inverses = np.linalg.inv(homographies).astype(np.float32)
        boxes = _bounds(homographies @ _CORNERS, len(self.colour))
        for inverse, box, texture, light in zip(inverses, boxes, textures, _brightness(corners, self.eye), strict=True):
            x, y = _pixel_centres(box)
            place = inverse[:, 0, None, None] * x + (inverse[:, 1, None, None] * y + inverse[:, 2, None, None])
            nearness = place[2]
            with np.errstate(divide="ignore", invalid="ignore"):  # pixels on the quad's horizon lie outside of it
                u, v = place[:2] / nearness
            nearer = (u >= 0) & (u < 1) & (v >= 0) & (v < 1) & (nearness > self.nearness[box])
            height, width, _ = texture.shape
            texels = texture[(v[nearer] * height).astype(np.intp), (u[nearer] * width).astype(np.intp)]
            self.colour[box][nearer] = texels * light
            self.nearness[box][nearer] = nearness[nearer]

    def shade(self, corners: NDArray[np.float64], ground: NDArray[np.bool_]) -> None:
        """Darkens the convex hull of `corners` [N, 3] where the canvas shows `ground`."""
        projected = self.projection[:, :3] @ corners.T + self.projection[:, 3:]
        (box,) = _bounds(projected[None], len(self.colour))
        x, y = _pixel_centres(box)
        start = _hull((projected[:2] / projected[2]).T)[:, :, None, None]
        edge = np.roll(start, -1, axis=0) - start
        inside = np.all(edge[:, 0] * (y - start[:, 1]) >= edge[:, 1] * (x - start[:, 0]), axis=0)
        self.colour[box][inside & ground[box]] *= np.float32(SHADOW)


_CORNERS: Final = np.array([[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]])


def _brightness(corners: NDArray[np.float64], eye: NDArray[np.float64]) -> Array:
    """How bright the light makes quads with columns across, down and origin [N, 3, 3] to `eye`."""
    (ax, ay, az), (dx, dy, dz), origin = corners.transpose(2, 1, 0)
    normal = np.stack([ay * dz - az * dy, az * dx - ax * dz, ax * dy - ay * dx])
    normal *= np.sign((normal * (eye[:, None] - origin)).sum(0)) / np.sqrt((normal**2).sum(0))
    return (AMBIENT + (1.0 - AMBIENT) * np.maximum(0.0, LIGHT @ normal)).astype(np.float32)


def _bounds(projected: NDArray[np.float64], pixels: int) -> list[tuple[slice, slice]]:
    """The rows and columns of the image that each set of homogeneous points [N, 3, M] spans."""
    places = projected[:, :2] / projected[:, 2:]
    low = np.clip(np.floor(places.min(axis=2)), 0, pixels).astype(int)
    high = np.clip(np.ceil(places.max(axis=2)), 0, pixels).astype(int)
    return [(slice(top, bottom), slice(left, right)) for (left, top), (right, bottom) in zip(low, high, strict=True)]


def _pixel_centres(box: tuple[slice, slice]) -> tuple[Array, Array]:
    """The columns' and the rows' centres of a part of the image, to be broadcast against one another."""
    rows, columns = (np.arange(side.start, side.stop, dtype=np.float32) + np.float32(0.5) for side in box)
    return columns, rows[:, None]


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The convex hull of points [N, 2], clockwise as seen on the image (Andrew's monotone chain)."""
    ordered = sorted(map(tuple, points))

    def chain(path: Iterable[tuple[float, ...]]) -> list[tuple[float, ...]]:
        hull: list[tuple[float, ...]] = []
        for x, y in path:
            while len(hull) > 1 and (hull[-1][0] - hull[-2][0]) * (y - hull[-2][1]) <= (hull[-1][1] - hull[-2][1]) * (
                x - hull[-2][0]
            ):
                hull.pop()
            hull.append((x, y))
        return hull[:-1]

    return np.array(chain(ordered) + chain(reversed(ordered)))
