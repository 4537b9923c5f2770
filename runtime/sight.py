"""Whether a camera still sees what it was taught: blind, frozen, knocked or in another light, it is its own fault and
never a jam.

The footage that a bundle was calibrated on has a mean picture, its view. Where nothing ever moves, a frame is that view
in some light and not shifted: gain x (view - shift . slope of the view) + offset, four numbers by least squares (the
translation of Lucas and Kanade, An Iterative Image Registration Technique, 1981). What they leave unexplained is
something else that stands there.
"""

from itertools import combinations
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from wm.bundle import Bundle

FROZEN_S = 2.0
BLANK = 3.0  # grey levels, standard deviation
SHIFTED = 0.25  # pixels
UNLIKE = 0.2  # of the variance
DIMMED = 0.12
LEAST_STILL = 64  # pixels
COLOURLESS = 3.0  # grey levels between two channels
RECOLOURED = 0.25  # of the colour that is known
FORETOLD = 0.9  # correlation


class View(NamedTuple):
    """What a frame is held against.

    Attributes:
      still: `[H, W]`, where nothing ever moves, S pixels.
      parts: `[S, 4]` float32, what they consist of: the view, one, and the view's slope across and down, negative.
      solve: `[4, S]` float32, its pseudo-inverse.
    """

    still: NDArray[np.bool_]
    parts: NDArray[np.float32]
    solve: NDArray[np.float32]

    @classmethod
    def of(cls, bundle: Bundle) -> Self | None:
        """None where the bundle knows no view, or no place where nothing moves."""
        config = bundle.config
        if bundle.view is None or config.followed is None or not config.image:
            return None
        still = np.ones(config.patches, bool)
        still[config.cells] = False
        still = np.kron(still.reshape(config.grid), np.ones((config.patch, config.patch), bool)).astype(bool)
        if still.sum() < LEAST_STILL:
            return None
        view = np.asarray(bundle.view)
        down, across = np.gradient(view)
        parts = np.stack([view, np.ones_like(view), -across, -down], axis=-1)[still]
        return cls(still, parts, np.linalg.pinv(parts))


class Sight(NamedTuple):
    """The last frame `[H, W, C]`, and how many in a row were just like it."""

    last: NDArray[np.uint8] | None = None
    same: int = 0


def step(view: View | None, rate_hz: float, sight: Sight, image: NDArray[np.uint8]) -> tuple[Sight, str | None]:
    """One more frame `[H, W, C]`, and what is wrong with it, None where nothing is."""
    same = sight.same + 1 if sight.last is not None and np.array_equal(image, sight.last) else 0
    wrong = "the camera's picture is frozen" if same >= FROZEN_S * rate_hz else _compared(view, image)
    return Sight(image, same), wrong


def recoloured(view: View | None, expected: NDArray[np.float32], image: NDArray[np.uint8]) -> str | None:
    """Whether a frame `[H, W, C]` has other colours than the model foretold, in 0..1: where nothing ever moves, what
    lies between two channels must be there again.
    """
    if view is None:
        return None
    known, seen = (255.0 * expected[view.still], image[view.still].astype(np.float32))
    for one, other in combinations(range(image.shape[-1]), 2):
        was, now = (pixels[:, one] - pixels[:, other] for pixels in (known, seen))
        if np.mean(was**2) > COLOURLESS**2 and was @ now < RECOLOURED * (was @ was):
            return "the camera's colours are not those it was taught"
    return None


def foretold(view: View | None, expected: NDArray[np.float32]) -> bool:
    """Whether the model foretells the view, `[H, W, C]` in 0..1, before it has seen anything; else its colours say
    nothing of a camera that has just come.
    """
    if view is None:
        return False
    return bool(np.corrcoef(view.parts[:, 0], expected[view.still].mean(axis=-1))[0, 1] > FORETOLD)


def _compared(view: View | None, image: NDArray[np.uint8]) -> str | None:
    if image.std(axis=(0, 1)).max() < BLANK:
        return "the camera's picture is blank"
    if view is None:
        return None
    seen = image.mean(axis=-1, dtype=np.float32)[view.still]
    found = view.solve @ seen
    gain, _, across, down = map(float, found)
    left = float(np.var(seen - view.parts @ found) / np.var(seen))
    shift = float(np.hypot(across, down)) / max(abs(gain), 1e-6)
    if left > UNLIKE:
        return "the camera sees something else than it was taught"
    if shift > SHIFTED:
        return f"the camera has moved by {shift:.1f} pixels"
    if abs(gain - 1.0) > DIMMED:
        return f"the light is {gain:.0%} of what it was"
    return None
