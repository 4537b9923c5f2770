"""The thin loop: frames through the model, the alarm, and into a command. It waits for nobody and touches nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jax import Array
from numpy.typing import NDArray

import wm.alarm
from runtime import alarm
from runtime.alarm import AlarmSettings, AlarmState
from runtime.camera import Frame
from runtime.eyes import Eyes, Glance
from runtime.policy import Policy
from runtime.registers import Command, Mode
from wm.alarm import Alarm
from wm.bundle import Bundle
from wm.surprise import Surprise
from wm.types import LatentState

VALID_FOR_MS = 500


class Tick(NamedTuple):
    """What one turn of the loop came to.

    Attributes:
      time: of the first camera's frame, seconds by its clock.
      score: the highest of all cameras; 1 is the alarm threshold; nan without fresh cameras and model.
      alarm: the alarm and whether the feeder should be slowed, in any mode.
      command: what goes to the PLC.
      fault: why a camera or the model is not to be trusted now, None while all are.
      glances: what each camera came to.
      drifts: whether the alarm of the slow signal stands.
      camera: the name of the loudest camera where there are several.
      chosen: the speed that the policy chose, None without one, while too little has been seen, or where it did not
        decide in time.
      unforeseen: why the simulator is not to be trusted now, None while it is, without one, or with a fault.
    """

    time: float
    score: float
    alarm: AlarmState
    command: Command
    fault: str | None = None
    glances: tuple[Glance, ...] = ()
    drifts: bool = False
    camera: str = ""
    chosen: float | None = None
    unforeseen: str | None = None

    @property
    def loudest(self) -> int:
        """Number of the camera that is surprised most, 0 where none says anything."""
        scores = [-1.0 if each.surprise is None else float(each.surprise.score) for each in self.glances]
        return scores.index(max(scores)) if scores else 0

    @property
    def surprise(self) -> Surprise | None:
        """All that the model said of the loudest camera, None where it said nothing."""
        return self.glances[self.loudest].surprise if self.glances else None

    @property
    def drift(self) -> float | None:
        """The highest of all cameras; 1 is its threshold."""
        return max((float(each.surprise.drift) for each in self.glances if each.surprise is not None), default=None)


class Loop:
    """All cameras' monitors and the line's alarm, which stands while that of any camera does. The same `tick` runs in
    real time, in replay and in the lock-step demo. One camera at fault withdraws the request: whoever relies on Flinch
    must know that it does not see all. Where there is a policy it chooses the speed, from what the first camera
    sees, while the feeder is not slowed for an alarm. It may see with another model than the one that watches, the
    simulator: one that has seen trouble knows what becomes of it, and is no longer surprised by it. Whether the camera
    is to be trusted says the model that watches.

    Attributes:
      mode: what Flinch may do; it may change between two turns.
      time: of the latest frame of the first camera, seconds by its clock.
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: AlarmSettings,
        mode: Mode,
        cameras: Sequence[str] = ("camera",),
        policy: Policy | None = None,
        simulator: Bundle | None = None,
    ) -> None:
        self.mode = mode
        self._settings, self._cameras, self._policy = settings, cameras, policy
        slow, rate_hz = bundle.monitor.drift_alarm, bundle.spec.rate_hz
        self._slow = {"on_frames": slow.on_delay(rate_hz), "off_frames": slow.off_delay(rate_hz)}
        self._fast = {"on_frames": settings.on_frames, "off_frames": settings.off_frames}
        self._heartbeat, self.time = 0, 0.0
        self._eyes = Eyes(bundle, len(cameras))
        self._foresees = self._eyes if simulator is None else Eyes(replace(simulator, view=None), 1)
        self._alarm = AlarmState()
        self._forget()

    def warm_up(self, *, shown: bool = False) -> None:
        """Compiles the model, so that the first frame does not wait for it; also the pictures to come where they are
        `shown`.
        """
        self._eyes.warm_up(shown=shown)
        if self._foresees is not self._eyes:
            self._foresees.warm_up(shown=False)
        if self._policy is not None:
            self._policy(*self.present(None))

    def tick(
        self,
        frames: Sequence[Frame | None],
        sensors: NDArray[np.float32] | None,
        action: NDArray[np.float32] | None,
    ) -> Tick:
        """One turn, see `Eyes.look`."""
        if frames[0] is not None:
            self.time = frames[0].time
        glances = self._eyes.look(frames, sensors, action)
        foreseen = glances[0]
        if self._foresees is not self._eyes:
            (foreseen,) = self._foresees.look([None if foreseen.fault else frames[0]], sensors, action)
        for name, glance in zip(self._cameras, glances, strict=True):
            if glance.fault:
                return self.fault(f"{name}: {glance.fault}" if len(glances) > 1 else glance.fault, glances)
        if any(glance.anew for glance in glances):
            self._forget()
        self._heartbeat += 1
        for number, (surprise, fresh) in enumerate((glance.surprise, glance.fresh) for glance in glances):
            if surprise is not None and fresh:
                self._jams[number] = wm.alarm.step(self._jams[number], float(surprise.score), **self._fast)
                self._drifts[number] = wm.alarm.step(self._drifts[number], float(surprise.drift), **self._slow)
        asked = self._policy if self.settled else None
        chosen = None if asked is None else asked(*self.present(action))
        on = Alarm(any(each.on for each in self._jams))
        self._alarm = alarm.follow(self._settings, self._alarm, on, chosen)
        drifts = any(each.on for each in self._drifts)
        score = max(float(glance.surprise.score) for glance in glances if glance.surprise is not None)
        command, wrong = self._command(score), foreseen.fault
        tick = Tick(self.time, score, self._alarm, command, None, glances, drifts, chosen=chosen, unforeseen=wrong)
        return tick._replace(camera=self._cameras[tick.loudest]) if len(glances) > 1 else tick

    def look_ahead(self, action: NDArray[np.float32] | None) -> list[Array | None]:
        """The pictures to come, see `Eyes.ahead`."""
        return self._eyes.ahead(action)

    def present(self, action: NDArray[np.float32] | None) -> tuple[LatentState, Array]:
        """What policy and what-if go by: what is made of the present, and the action that led to it."""
        return self._foresees.present(action)

    @property
    def settled(self) -> bool:
        """Whether enough has been seen to tell what is there."""
        return self._eyes.settled and self._foresees.settled

    def fault(self, reason: str, glances: tuple[Glance, ...] = ()) -> Tick:
        """A turn without a trusted score: the heartbeat stands still, the request is withdrawn."""
        self._forget()
        return Tick(self.time, float("nan"), self._alarm, self._command(0.0), reason, glances)

    def restart(self) -> None:
        """Forgets what was seen: what comes next is not the sequel."""
        self._eyes.forget()
        self._foresees.forget()
        self._forget()

    def _forget(self) -> None:
        self._alarm = alarm.forget(self._alarm)
        self._jams, self._drifts = ([Alarm() for _ in self._cameras] for _ in range(2))

    def _command(self, score: float) -> Command:
        return alarm.command(
            self._settings, self._alarm, self.mode, heartbeat=self._heartbeat, score=score, valid_for_ms=VALID_FOR_MS
        )
