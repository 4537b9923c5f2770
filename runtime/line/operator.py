"""The operator of the line, who turns its speed up and down: for filming what speed does."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

FULL_SHARE: Final = 0.55  # of the segments
OTHER_SHARE: Final = 0.30  # at any speed; the rest are short slow-downs
SCHEDULE: Final = 0x5C4ED  # keeps the schedule's random stream apart from the plant's


def schedule(seed: int, frames: int, rate_hz: float) -> NDArray[np.float32]:
    """The operator's speed setpoint for each frame: [frames] float32 in 0.1..1.0, constant in pieces.

    Mostly 1.0, otherwise any speed in 0.1..1.0, both held 2 to 15 s; between them short slow-downs, 2 to 5 s at
    0.1..0.3, so that the model knows them.
    """
    rng = np.random.default_rng((SCHEDULE, seed))
    speeds = np.empty(frames, np.float32)
    at = 0
    while at < frames:
        draw = rng.random()
        if draw < FULL_SHARE:
            speed, seconds = 1.0, rng.uniform(2, 15)
        elif draw < FULL_SHARE + OTHER_SHARE:
            speed, seconds = rng.uniform(0.1, 1.0), rng.uniform(2, 15)
        else:
            speed, seconds = rng.uniform(0.1, 0.3), rng.uniform(2, 5)
        end = at + round(seconds * rate_hz)
        speeds[at:end] = speed
        at = end
    return speeds
