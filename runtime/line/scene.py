"""The cartoning line as a MuJoCo model. SI units, x along the travel, y towards the fence, z up, belt tops at z = 0."""

import math
from itertools import pairwise
from typing import Final, NamedTuple

TIMESTEP: Final = 0.004
CARTONS: Final = 8  # bodies in the pool, recycled at the exit

CARTON: Final = (0.150, 0.115, 0.070)
HALF_WIDTH: Final = CARTON[1] / 2
LID_MARGIN: Final = 0.004  # a lid is so much shorter than its carton
LID_WIDTH: Final = 0.111
LID_DAMPING: Final = 0.016

RELEASE_X: Final = -0.80
EXIT_X: Final = 0.90


class Belt(NamedTuple):
    """One conveyor: where it starts and ends, its full speed (m/s), the share of the feeder's slowing that it follows,
    and the speed at which it carries cartons sideways to the fence, whatever the feeder does: time squares them."""

    start: float
    end: float
    speed: float
    follow: float
    aligning: float

    def speed_at(self, feeder_speed: float) -> float:
        """Surface speed in m/s while the feeder runs at `feeder_speed` (0..1)."""
        return self.speed * (1.0 - self.follow * (1.0 - feeder_speed))


# Followers slow less than the feeder: the slower it runs, the wider the draw onto the next belt pulls the gaps.
BELTS: Final = (
    Belt(-1.05, -0.03, 0.40, 1.0, 0.025),
    Belt(-0.03, 0.45, 0.46, 0.95, 0.05),
    Belt(0.45, 1.05, 0.60, 0.0, 0.0),
)
SLIPPING: Final = 1  # the belt that may slip
BELT_HALF_WIDTH: Final = 0.15
FENCE_Y: Final = 0.064
FENCE_FRICTION: Final = 0.15
RAIL_HEIGHT: Final = 0.030
RAIL_THICKNESS: Final = 0.010
RAIL_PATH: Final = ((-1.05, -0.130), (0.12, -0.130), (0.16, -0.064), (1.05, -0.064))  # the opposite rail steps in

LIP_START: Final = (0.25, CARTON[2] + 0.076)  # x, z of the hold-down lip's underside
LIP_END: Final = (0.44, CARTON[2] + 0.007)
LIP_HALF_WIDTH: Final = 0.030
LIP_THICKNESS: Final = 0.004

GATE_X: Final = 0.58
GATE_EYE_X: Final = 0.55
CLEAR_EYE_X: Final = 0.66  # the escapement's own eye: a carton has left the gate
INFEED_EYE_X: Final = -0.55
GATE_STROKE: Final = 0.085
GATE_FLOOR: Final = 0.010  # height of the closed gate's lower edge, above its rubber foot
GATE_HALF: Final = (0.005, 0.050, 0.060)
GATE_FORCE: Final = 12.0
GATE_SPEED: Final = 1.20  # of the throttled cylinder, m/s


def belt_under(x: float) -> int:
    """The index in BELTS of the belt that carries a carton centred at `x`."""
    return 0 if x < BELTS[1].start else 1 if x < BELTS[2].start else 2


def mjcf(carton_length: float) -> str:
    """The line's MJCF: three belts, fence, stepped rail, lip, gate and a pool of cartons with hinged lids, so long."""
    return f"""
<mujoco model="cartoning line">
  <option timestep="{TIMESTEP}" integrator="implicitfast" cone="elliptic" impratio="10"/>
  <default>
    <geom solref="0.010 1" solimp="0.5 0.9 0.004" friction="0.3 0.005 0.0001"/>
    <default class="static"><geom type="box" contype="1" conaffinity="0" priority="1"/></default>
    <default class="belt"><geom type="box" contype="1" conaffinity="0" priority="1" friction="0.55"/></default>
    <default class="carton"><geom type="box" contype="2" conaffinity="3"/></default>
  </default>
  <worldbody>
    {"".join(_belt(index, belt) for index, belt in enumerate(BELTS))}
    {_rail("fence", BELTS[0].start, FENCE_Y, BELTS[-1].end, FENCE_Y, side=1, friction=FENCE_FRICTION)}
    {"".join(_rail(f"rail{i}", *a, *b, side=-1, friction=0.5) for i, (a, b) in enumerate(pairwise(RAIL_PATH)))}
    {_lip()}
    <body name="gate" gravcomp="1" pos="{GATE_X} 0 {GATE_FLOOR + GATE_HALF[2]}">
      <joint name="gate" type="slide" axis="0 0 1" range="0 {GATE_STROKE}" damping="{GATE_FORCE / GATE_SPEED}"/>
      <geom class="static" size="{_numbers(GATE_HALF)}" mass="0.13" friction="0.15" priority="3"/>
      <geom class="static" size="0.003 {GATE_HALF[1]} 0.004" pos="0 0 {-GATE_HALF[2]}" mass="0.02"
        friction="1.5" priority="3"/>
    </body>
    {"".join(_carton(index, carton_length) for index in range(CARTONS))}
  </worldbody>
  <actuator><motor name="gate" joint="gate"/></actuator>
</mujoco>"""


def _belt(index: int, belt: Belt) -> str:
    middle, half = (belt.start + belt.end) / 2, (belt.end - belt.start) / 2
    return (
        f'<geom name="belt{index}" class="belt" size="{half} {BELT_HALF_WIDTH} 0.02" pos="{middle} 0 -0.02" '
        f'surfacevel="{belt.speed} {belt.aligning} 0 0 0 0"/>'
    )


def _rail(name: str, x0: float, y0: float, x1: float, y1: float, *, side: int, friction: float) -> str:
    length, angle = math.hypot(x1 - x0, y1 - y0), math.atan2(y1 - y0, x1 - x0)
    x = (x0 + x1) / 2 - side * math.sin(angle) * RAIL_THICKNESS / 2
    y = (y0 + y1) / 2 + side * math.cos(angle) * RAIL_THICKNESS / 2
    return (
        f'<geom name="{name}" class="static" size="{length / 2} {RAIL_THICKNESS / 2} {RAIL_HEIGHT / 2}" '
        f'pos="{x} {y} {RAIL_HEIGHT / 2}" euler="0 0 {math.degrees(angle)}" friction="{friction}" priority="2"/>'
    )


def _lip() -> str:
    (x0, z0), (x1, z1) = LIP_START, LIP_END
    length, angle = math.hypot(x1 - x0, z1 - z0), math.atan2(z0 - z1, x1 - x0)
    x = (x0 + x1) / 2 + math.sin(angle) * LIP_THICKNESS / 2
    z = (z0 + z1) / 2 + math.cos(angle) * LIP_THICKNESS / 2
    return (
        f'<geom name="lip" class="static" size="{length / 2} {LIP_HALF_WIDTH} {LIP_THICKNESS / 2}" '
        f'pos="{x} 0 {z}" euler="0 {math.degrees(angle)} 0" friction="0.3"/>'
    )


def _carton(index: int, length: float) -> str:
    _, width, height = CARTON
    lid = length - LID_MARGIN
    return f"""
    <body name="carton{index}">
      <joint type="free" damping="0.01"/>
      <geom class="carton" size="{length / 2} {width / 2} {height / 2}" mass="0.18"/>
      <body pos="{-length / 2} 0 {height / 2}">
        <joint name="lid{index}" axis="0 -1 0" range="0 112" damping="{LID_DAMPING}" stiffness="0.0015" armature="2e-4"
          solreflimit="0.008 1" solimplimit="0.98 0.9995 0.02"/>
        <geom class="carton" size="{lid / 2} {LID_WIDTH / 2} 0.001" pos="{lid / 2} 0 0.001" mass="0.006"/>
      </body>
    </body>"""


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(map(str, values))
