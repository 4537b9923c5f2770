"""Where anything ever happens in front of a camera that stands still."""

import numpy as np

from wm.data.footage import RECORD_FRAMES, Footage

SAMPLES = 2048
LEAST_CHANGE = (16 / 255) ** 2


def followed(footage: Footage, patch: int) -> tuple[int, ...] | None:
    """The patches, by number in row order, of which some training frame differs from the mean by more than 16 grey
    levels (root mean square); None for footage without a camera.

    Looks at one frame each of up to `SAMPLES` records, evenly spread over the training split.
    """
    if footage.spec.image is None:
        return None
    height, width, channels = footage.spec.image
    cut = (height // patch, patch, width // patch, patch, channels)
    records = [
        (number, start)
        for number, length in enumerate(footage.lengths("train"))
        for start in range(0, length, RECORD_FRAMES)
    ]
    chosen = {records[i] for i in np.linspace(0, len(records) - 1, SAMPLES).round().astype(int)}
    pictures = [footage.read("train", number, start, 1).frames for number, start in sorted(chosen)]
    frames = np.concatenate([picture for picture in pictures if picture is not None]).astype(np.float32) / 255
    change = np.square(frames - frames.mean(axis=0)).reshape(-1, *cut).mean(axis=(2, 4, 5)).max(axis=0)
    return tuple(np.flatnonzero(change > LEAST_CHANGE).tolist())
