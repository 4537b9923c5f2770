"""The plant: MuJoCo steps the line, cartons come and go, and an oracle notes what happened (for scoring only)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Literal, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from runtime.line import camera, cartons, scene
from runtime.line.cartons import TAIL_RATE, Carton, Slip, Tail

SCAN: Final = 0.02  # seconds between looks at the eyes, the gate and the oracle
STEPS_PER_SCAN: Final = round(SCAN / scene.TIMESTEP)
CLEARANCE: Final = 0.002  # between a carton and the one released behind it, metres
GATE_DELAY: Final = 0.02
GATE_HOLD: Final = 0.02
GATE_CLOSED: Final = 0.004
SLOW: Final = 0.1  # of the belt's speed
PACE_SMOOTHING: Final = SCAN / 0.25  # contact makes a standing carton tremble
BLOCK_SECONDS: Final = 2.5
STICKS_SECONDS: Final = 1.0
WORN_FRICTION: Final = 0.50  # of the fence at a wear of 1, which also has lost
WORN_AWAY: Final = 0.004  # metres of its thickness
REACH_OF_TAIL: Final = 3  # how many cartons behind one from a tail may stand because of it


class PlantInputs(NamedTuple):
    """What the PLC's input cards see."""

    infeed_eye: bool
    gate_eye: bool
    cartons_out: int


class Onset(NamedTuple):
    """The front of a carton from a tail came into the camera's view, or a mishap befell one."""

    number: int
    kind: Tail
    time: float


class Block(NamedTuple):
    """A carton stood still on a moving belt for 2.5 s; `time` is when that began."""

    number: int
    kind: Tail | Literal["other"]
    time: float


class Events(NamedTuple):
    """What the oracle saw, for scoring only."""

    onsets: tuple[Onset, ...] = ()
    blocks: tuple[Block, ...] = ()


class Mishap(NamedTuple):
    """What happens to a carton that was released well, when its centre comes to `x` metres: its lid springs open, it is
    knocked askew, it sticks until the one behind is too close, or the belt to the transfer begins to slip.
    """

    kind: Tail
    x: float


class OnLine(NamedTuple):
    """A carton on the line: the body that plays it, its smoothed share of its belt's speed, since when it is slow, and
    until when it sticks where nothing comes too close behind it."""

    carton: Carton
    body: int
    seen: bool = False
    pace: float = 1.0
    slow_since: float | None = None
    sticks_until: float = 0.0


@dataclass(frozen=True)
class State:
    """All of the plant that is not MuJoCo's: cartons on the line in the order of their release, the rest is drawn from
    `seed`.
    """

    seed: int
    scans: int = 0
    feeder_speed: float = 1.0
    travel: tuple[float, ...] = (0.0,) * len(scene.BELTS)
    on_line: tuple[OnLine, ...] = ()
    next_number: int = 0
    last_release: float = -1.0  # in metres of infeed travel
    cartons_out: int = 0
    gate: Literal["open", "closing", "closed"] = "open"
    gate_since: float = 0.0
    clear_eye: bool = False
    blocked: bool = False
    slip: Slip | None = None
    slip_until: float = 0.0
    events: Events = field(default_factory=Events)


class Snapshot(NamedTuple):
    """Everything needed to go on from here bit for bit, in a plant made alike."""

    physics: NDArray[np.float64]
    state: State


class Plant:
    """The line with its camera. One `seed` gives one run, bit for bit; branches of it see the same cartons.

    `tail_rate` is the chance that a carton is drawn from a tail of the initial conditions; `tails` forces a kind on
    given carton numbers, and `mishaps` befall given ones on their way. Whether such a carton jams is left to the
    physics. The fence, which guides the cartons, wears by `wear_per_hour`. The cartons are `carton_length` metres long.
    `look` is how the camera sees the line, and may be changed at any time.
    """

    def __init__(
        self,
        seed: int,
        *,
        tail_rate: float = TAIL_RATE,
        tails: Mapping[int, Tail] | None = None,
        mishaps: Mapping[int, Mishap] | None = None,
        wear_per_hour: float = 0.0,
        carton_length: float = scene.CARTON[0],
        look: camera.Look = camera.THIS_LINE,
    ) -> None:
        self.seed = seed
        self.look = look
        self._wear_per_hour = wear_per_hour
        self._carton_length = carton_length
        self._tail_rate = tail_rate
        self._tails = dict(tails or {})
        self._mishaps = dict(mishaps or {})
        self._model = mujoco.MjModel.from_xml_string(scene.mjcf(carton_length))
        self._data = mujoco.MjData(self._model)
        self._gate_position, self._bodies = self._data.qpos[:1], self._data.qpos[1:].reshape(scene.CARTONS, 8)
        self._velocities = self._data.qvel[1:].reshape(scene.CARTONS, 7)
        self._lid_damping = self._model.dof_damping[1:].reshape(scene.CARTONS, 7)[:, 6]
        self._fence = self._model.geom("fence")
        self._belts = [self._model.geom(f"belt{index}").id for index in range(len(scene.BELTS))]
        self._gate_position[:] = scene.GATE_STROKE
        self._state = State(seed)

    @property
    def time(self) -> float:
        """Simulated seconds since the start."""
        return self._state.scans * SCAN

    @property
    def events(self) -> Events:
        """What the oracle has seen so far: for scoring, never for the monitor."""
        return self._state.events

    def advance(self, feeder_speed: float, seconds: float) -> PlantInputs:
        """Runs for `seconds` (whole scans of 20 ms) with the feeder and infeed belt at `feeder_speed` (0..1)."""
        self._state = replace(self._state, feeder_speed=feeder_speed)
        for _ in range(round(seconds / SCAN)):
            self._wear()
            self._release()
            self._park()
            self._befall()
            speeds = self._speeds()
            self._model.geom_surfacevel[self._belts, 0] = speeds
            mujoco.mj_step(self._model, self._data, nstep=STEPS_PER_SCAN)
            travel = tuple(way + speed * SCAN for way, speed in zip(self._state.travel, speeds, strict=True))
            self._state = replace(self._state, scans=self._state.scans + 1, travel=travel)
            self._take_out()
            self._run_gate()
            self._note_events(speeds)
        return PlantInputs(
            infeed_eye=self._eye(scene.INFEED_EYE_X),
            gate_eye=self._eye(scene.GATE_EYE_X),
            cartons_out=self._state.cartons_out,
        )

    def image(self) -> NDArray[np.uint8]:
        """The frame the camera takes now, [64, 64, 3], with its noise and the drift of the light."""
        return camera.photograph(self._scene(), self.time, self.seed, self.look)

    def picture(self, size: int = 256) -> NDArray[np.uint8]:
        """The same view for people, [size, size, 3], sharp and without noise."""
        return camera.picture(self._scene(), size, self.look)

    def snapshot(self) -> Snapshot:
        """All of the plant's state."""
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._data, physics, kind)
        return Snapshot(physics, self._state)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to `snapshot`, taken from a plant that was made alike."""
        mujoco.mj_setState(self._model, self._data, snapshot.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._state = snapshot.state
        for item in self._state.on_line:
            self._lid_damping[item.body] = scene.LID_DAMPING * item.carton.lid_damping

    def redraw(self, seed: int) -> None:
        """Another future of the same view: cartons to come are drawn from `seed`, and so is the print of those that are
        on the line and not in view yet.
        """

        def print_of(carton: Carton) -> int:
            return cartons.draw(seed, carton.number, self._tail_rate).print

        on_line = tuple(
            item if item.seen else item._replace(carton=item.carton._replace(print=print_of(item.carton)))
            for item in self._state.on_line
        )
        self._state = replace(self._state, seed=seed, on_line=on_line)

    def _wear(self) -> None:
        """The fence grows rough and recedes."""
        wear = self._wear_per_hour * self.time / 3600
        self._fence.friction[0] = scene.FENCE_FRICTION + wear * (WORN_FRICTION - scene.FENCE_FRICTION)
        self._fence.pos[1] = scene.FENCE_Y + scene.RAIL_THICKNESS / 2 + wear * WORN_AWAY

    def _release(self) -> None:
        state = self._state
        number = state.next_number
        carton = cartons.draw(state.seed, number, self._tail_rate, self._tails.get(number), self._carton_length)
        if state.travel[0] - state.last_release < carton.pitch or not self._is_clear(carton):
            return
        body = min(set(range(scene.CARTONS)) - {item.body for item in state.on_line})
        self._bodies[body] = (
            *(scene.RELEASE_X, carton.y, scene.CARTON[2] / 2),
            *(np.cos(carton.yaw / 2), 0.0, 0.0, np.sin(carton.yaw / 2)),
            carton.lid,
        )
        self._velocities[body] = 0.0
        self._velocities[body, 0] = scene.BELTS[0].speed_at(state.feeder_speed)
        self._lid_damping[body] = scene.LID_DAMPING * carton.lid_damping
        self._state = replace(
            state,
            on_line=(*state.on_line, OnLine(carton, body)),
            next_number=number + 1,
            last_release=state.travel[0],
        )

    def _is_clear(self, carton: Carton) -> bool:
        """Whether a body is free to play `carton` and the place of its release is not taken."""
        on_line = self._state.on_line
        if not on_line:
            return True
        last = self._bodies[on_line[-1].body]
        room = last[0] - scene.RELEASE_X - self._reach(_yaw(last)) - self._reach(carton.yaw)
        return len(on_line) < scene.CARTONS and room >= CLEARANCE

    def _park(self) -> None:
        """Keeps the bodies that are not on the line out of it."""
        for body in set(range(scene.CARTONS)) - {item.body for item in self._state.on_line}:
            self._bodies[body] = (float(body), 0.0, -5.0, 1.0, 0.0, 0.0, 0.0, 0.0)
            self._velocities[body] = 0.0

    def _befall(self) -> None:
        """Lets mishaps happen, and holds back the cartons that stick."""
        on_line = self._state.on_line
        for place, item in enumerate(on_line):
            mishap = self._mishaps.get(item.carton.number)
            if mishap and item.carton.tail is None and self._bodies[item.body, 0] >= mishap.x:
                self._happen(place, mishap.kind)
        for item, behind in pairwise(self._state.on_line):
            gap = self._bodies[item.body, 0] - self._bodies[behind.body, 0]
            if self.time < item.sticks_until and gap > item.carton.pitch:
                self._velocities[item.body, 0] = 0.0

    def _happen(self, place: int, kind: Tail) -> None:
        """A mishap of this kind befalls the carton at `place` of those on the line."""
        state, item = self._state, self._state.on_line[place]
        carton = cartons.draw(state.seed, item.carton.number, 0.0, kind, self._carton_length)
        carton = carton._replace(print=item.carton.print)
        body = self._bodies[item.body]
        match kind:
            case "lid":
                body[7] = carton.lid
                self._lid_damping[item.body] = scene.LID_DAMPING * carton.lid_damping
            case "skew":
                body[1], body[3:7] = carton.y, (np.cos(carton.yaw / 2), 0.0, 0.0, np.sin(carton.yaw / 2))
            case "double":
                item = item._replace(sticks_until=self.time + STICKS_SECONDS)
            case "slip":
                slip = cartons.draw_slip(state.seed, item.carton.number)
                state = replace(state, slip=slip, slip_until=self.time + slip.seconds)
        on_line = (*state.on_line[:place], item._replace(carton=carton), *state.on_line[place + 1 :])
        onsets = (*state.events.onsets, Onset(carton.number, kind, self.time))
        self._state = replace(state, on_line=on_line, events=state.events._replace(onsets=onsets))

    def _speeds(self) -> list[float]:
        """Of the belts' surfaces."""
        state = self._state
        speeds = [belt.speed_at(state.feeder_speed) for belt in scene.BELTS]
        if state.slip and self.time < state.slip_until:
            speeds[scene.SLIPPING] *= state.slip.grip
        return speeds

    def _take_out(self) -> None:
        stay = tuple(item for item in self._state.on_line if self._bodies[item.body, 0] < scene.EXIT_X)
        out = self._state.cartons_out + len(self._state.on_line) - len(stay)
        self._state = replace(self._state, on_line=stay, cartons_out=out)

    def _run_gate(self) -> None:
        """The escapement: closes when a carton has cleared it, opens once it has been shut; on a carton it waits."""
        state, now = self._state, self.time
        gate, since, clear_eye = state.gate, state.gate_since, self._eye(scene.CLEAR_EYE_X)
        if gate == "open" and state.clear_eye and not clear_eye:
            gate, since = "closing", now
        elif gate == "closing" and self._gate_position[0] < GATE_CLOSED:
            gate, since = "closed", now
        elif gate == "closed" and now - since >= GATE_HOLD:
            gate, since = "open", now
        down = gate == "closed" or (gate == "closing" and now - since >= GATE_DELAY)
        self._data.ctrl[0] = -scene.GATE_FORCE if down else scene.GATE_FORCE
        self._state = replace(state, gate=gate, gate_since=since, clear_eye=clear_eye)

    def _eye(self, x: float) -> bool:
        """Whether a carton covers the photo-eye at `x`."""
        bodies = (self._bodies[item.body] for item in self._state.on_line)
        return any(abs(body[0] - x) < self._reach(_yaw(body)) for body in bodies)

    def _reach(self, yaw: float) -> float:
        """How far a carton turned by `yaw` reaches from its centre along the belt, metres."""
        return self._carton_length / 2 * abs(np.cos(yaw)) + scene.HALF_WIDTH * abs(np.sin(yaw))

    def _note_events(self, speeds: list[float]) -> None:
        state, now = self._state, self.time
        on_line, onsets = [], list(state.events.onsets)
        for item in state.on_line:
            x, speed = self._bodies[item.body, 0], self._velocities[item.body, 0]
            belt = speeds[scene.belt_under(x)]
            pace, slow_since = item.pace, item.slow_since
            if belt > 0.0:
                pace += PACE_SMOOTHING * (speed / belt - pace)
                slow_since = None if pace >= SLOW else now if slow_since is None else slow_since
            front = x + self._reach(_yaw(self._bodies[item.body]))
            seen = item.seen or front >= camera.VIEW_START
            if seen and not item.seen and item.carton.tail and not state.blocked:
                onsets.append(Onset(item.carton.number, item.carton.tail, now))
            on_line.append(item._replace(seen=seen, pace=pace, slow_since=slow_since))
        standing = [i for i in on_line if i.slow_since is not None and now - i.slow_since > BLOCK_SECONDS]
        blocks = state.events.blocks
        if standing and not state.blocked:
            blocks = (*blocks, _attribute(standing[0], onsets))
        self._state = replace(
            state, on_line=tuple(on_line), blocked=bool(standing), events=Events(tuple(onsets), blocks)
        )

    def _scene(self) -> camera.Scene:
        items = self._state.on_line
        poses = self._bodies[[item.body for item in items]]
        prints = tuple(item.carton.print for item in items)
        return camera.Scene(poses, prints, float(self._gate_position[0]), self._state.travel, self._carton_length)


def _attribute(head: OnLine, onsets: Sequence[Onset]) -> Block:
    """The block whose foremost standing carton is `head`, laid to the closest carton from a tail within a few."""
    number, since = head.carton.number, head.slow_since or 0.0
    near = [onset for onset in onsets if -1 <= number - onset.number <= REACH_OF_TAIL]
    if not near:
        return Block(number, "other", since)
    cause = min(near, key=lambda onset: abs(number - onset.number))
    return Block(cause.number, cause.kind, since)


def _yaw(body: NDArray[np.float64]) -> float:
    _, _, _, w, x, y, z, _ = body
    return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
