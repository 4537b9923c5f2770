"""Cheap predictors of the next frames, which the world model has to beat. Pictures are `[H, W, C]` in 0..1."""

import cv2
import numpy as np
from numpy.typing import NDArray

Frames = NDArray[np.float32]


def copy_last(context: Frames, horizon: int) -> Frames:
    """Nothing will change: the last of `[C, ...]` frames, `horizon` times."""
    return np.repeat(context[-1:], horizon, axis=0)


def constant_velocity(context: Frames, horizon: int) -> Frames:
    """Everything moves on as between the last two of `[C, ...]` frames: dense inverse search optical flow (Kroeger et
    al., Fast Optical Flow using Dense Inverse Search, 2016), followed back from every pixel to come.
    """
    before, now = (np.round(255 * frame.mean(axis=-1)).astype(np.uint8) for frame in context[-2:])
    back = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(now, before, None)
    rows, columns = np.mgrid[0 : now.shape[0], 0 : now.shape[1]].astype(np.float32)
    return np.stack(
        [
            cv2.remap(
                context[-1],
                columns + ahead * back[..., 0],
                rows + ahead * back[..., 1],
                cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_REPLICATE,
            ).reshape(context[-1].shape)
            for ahead in range(1, horizon + 1)
        ]
    )
