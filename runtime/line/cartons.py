"""How cartons come onto the line: the normal variation and the tail of it. Nothing here decides whether one jams."""

from typing import Final, Literal, NamedTuple

import numpy as np

from runtime.line.scene import BELTS, CARTON, FENCE_Y, HALF_WIDTH

Tail = Literal["lid", "skew", "double", "slip"]
TAILS: Final[tuple[Tail, ...]] = ("lid", "skew", "double")  # drawn by chance; a belt slips only when told to
TAIL_RATE: Final = 1.6e-4  # chance that a carton comes from a tail, all kinds together

PITCH: Final = 0.85 * BELTS[0].speed  # belt travel between releases: one carton every 0.85 s at full speed
PRINTS: Final = 6
SLIP: Final = 0x511B  # keeps the slips' random stream apart from the cartons'


class Carton(NamedTuple):
    """The state in which a carton is released: yaw and lid in radians, y and pitch (from the one before) in metres."""

    number: int
    tail: Tail | None
    pitch: float
    y: float
    yaw: float
    lid: float
    lid_damping: float
    print: int


def draw(seed: int, number: int, tail_rate: float, forced: Tail | None = None, length: float = CARTON[0]) -> Carton:
    """Draws carton `number`, `length` metres long, of the run `seed`: a pure function, so that branches of one run see
    the same cartons.
    """
    rng = np.random.default_rng([seed, number])
    by_chance = TAILS[int(rng.integers(len(TAILS)))] if rng.random() < tail_rate else None
    normal = Carton(
        number=number,
        tail=forced or by_chance,
        pitch=PITCH * float(np.clip(rng.normal(1.0, 0.03), 0.91, 1.09)),
        y=float(np.clip(rng.normal(0.0, 0.003), -0.006, 0.006)),
        yaw=float(np.radians(np.clip(rng.normal(0.0, 1.8), -5.4, 5.4))),
        lid=float(np.radians(np.clip(rng.normal(7.0, 4.0), 0.0, 19.0))),
        lid_damping=1.0,
        print=int(rng.integers(PRINTS)),
    )
    match normal.tail:
        case "lid":
            return normal._replace(lid=float(np.radians(rng.uniform(30, 78))), lid_damping=rng.uniform(0.6, 1.4))
        case "skew":
            yaw = float(np.radians(rng.uniform(16, 46)) * rng.choice((-1.0, 1.0)))
            sideways = HALF_WIDTH * np.cos(yaw) + length / 2 * abs(np.sin(yaw))
            return normal._replace(yaw=yaw, y=min(normal.y, FENCE_Y - 0.003 - float(sideways)))
        case "double":
            return normal._replace(pitch=length + float(rng.uniform(0.002, 0.050)))
        case _:
            return normal


class Slip(NamedTuple):
    """The belt to the transfer slips: for how many seconds, and the share of its speed that is left."""

    seconds: float
    grip: float


def draw_slip(seed: int, number: int) -> Slip:
    """Draws the slip that begins under carton `number` of the run `seed`."""
    rng = np.random.default_rng([seed, number, SLIP])
    return Slip(float(rng.uniform(1.0, 4.0)), float(rng.uniform(0.1, 0.5)))
