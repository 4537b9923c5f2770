"""Where anything ever happens in front of a camera that stands still."""

from functools import reduce

import numpy as np

from wm.data.footage import Footage
from wm.errors import InputError

SAMPLES = 2048
LEAST_CHANGE = 16.0**2


def followed(footage: Footage, patch: int) -> tuple[int, ...] | None:
    """The patches, by number in row order, of which some training frame differs from the mean by more than 16 grey
    levels (root mean square); None for footage without a camera.

    Looks at `SAMPLES` frames from all over the training split.

    Raises:
      InputError: nothing moves anywhere.
    """
    if footage.spec.image is None:
        return None
    height, width, channels = footage.spec.image
    cut = (height // patch, patch, width // patch, patch, channels)
    frames = footage.sample("train", SAMPLES)
    mean = frames.mean(axis=0, dtype=np.float32)
    changes = (np.square(frame - mean).reshape(cut).mean(axis=(1, 3, 4)) for frame in frames)
    found = np.flatnonzero(reduce(np.maximum, changes) > LEAST_CHANGE)
    if not len(found):
        raise InputError(
            f"nothing moves in the training footage at {footage.path}: no patch of {patch}x{patch} pixels ever differs "
            "from its mean by more than 16 grey levels; cut it closer to what moves."
        )
    return tuple(found.tolist())
