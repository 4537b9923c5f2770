"""Where anything ever happens in front of a camera that stands still."""

import numpy as np

from wm.data.footage import Footage

SAMPLES = 2048
LEAST_CHANGE = (16 / 255) ** 2


def followed(footage: Footage, patch: int) -> tuple[int, ...] | None:
    """The patches, by number in row order, of which some training frame differs from the mean by more than 16 grey
    levels (root mean square); None for footage without a camera.

    Looks at `SAMPLES` frames from all over the training split.
    """
    if footage.spec.image is None:
        return None
    height, width, channels = footage.spec.image
    cut = (height // patch, patch, width // patch, patch, channels)
    frames = footage.sample("train", SAMPLES).astype(np.float32) / 255
    change = np.square(frames - frames.mean(axis=0)).reshape(-1, *cut).mean(axis=(2, 4, 5)).max(axis=0)
    return tuple(np.flatnonzero(change > LEAST_CHANGE).tolist())
