"""The thin loop: a frame through the model, the alarm, and into a command. It waits for nobody and touches nothing."""

from math import isfinite
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

import wm.alarm
from runtime import alarm, sight
from runtime.alarm import AlarmSettings, AlarmState
from runtime.registers import Command, Mode
from runtime.sight import Sight, View
from wm.bundle import Bundle
from wm.surprise import Surprise

VALID_FOR_MS = 500
NO_SCORE = "the model's score is not a number"


class Tick(NamedTuple):
    """What one turn of the loop came to.

    Attributes:
      time: of the frame, seconds by the source's clock.
      score: 1 is the alarm threshold; nan without a fresh camera and model.
      alarm: the alarm and whether the feeder should be slowed, in any mode.
      command: what goes to the PLC.
      fault: why camera or model are not to be trusted now, None while they are.
      surprise: all that the model said, None where it said nothing.
      drifts: whether the alarm of the slow signal stands.
    """

    time: float
    score: float
    alarm: AlarmState
    command: Command
    fault: str | None = None
    surprise: Surprise | None = None
    drifts: bool = False


class Loop:
    """One camera's monitor and alarm. The same `tick` runs in real time, in replay and in the lock-step demo.

    Attributes:
      mode: what Flinch may do; it may change between two turns.
    """

    def __init__(self, bundle: Bundle, settings: AlarmSettings, mode: Mode) -> None:
        self.mode = mode
        self._bundle, self._settings = bundle, settings
        self._heartbeat = 0
        self._monitor, self._alarm, self._drift = bundle.start(), AlarmState(), wm.alarm.Alarm()
        self._view, self._sight = View.of(bundle), Sight()

    def warm_up(self, *, shown: bool = False) -> None:
        """Compiles the model, so that the first frame does not wait for it; also the pictures to come where they are
        `shown`.
        """
        shape = self._bundle.spec.image
        blank = None if shape is None else np.zeros(shape, np.uint8)
        state = self._bundle.coast(self._bundle.start(), self._bundle.action())
        state, _ = self._bundle.watch(state, self._bundle.observation(blank), self._bundle.action())
        if shown:
            self._bundle.look_ahead(state, self._bundle.action())

    def tick(
        self,
        image: NDArray[np.uint8],
        sensors: NDArray[np.float32] | None,
        action: NDArray[np.float32] | None,
        time: float,
    ) -> Tick:
        """One fresh frame.

        Args:
          image: [H, W, C]. sensors: [S], or None while the PLC does not tell. action: [A], likewise.
          time: seconds by the source's clock.
        """
        self._sight, wrong = sight.step(self._view, self._bundle.spec.rate_hz, self._sight, image)
        if wrong:
            return self.fault(wrong, time)
        observation = self._bundle.observation(image, sensors)
        self._monitor, surprise = self._bundle.watch(self._monitor, observation, self._taken(action))
        score = float(surprise.score)
        if not isfinite(score):
            return self.fault(NO_SCORE, time)
        self._heartbeat += 1
        self._alarm = alarm.step(self._settings, self._alarm, score)
        slow, rate_hz = self._bundle.monitor.drift_alarm, self._bundle.spec.rate_hz
        on_frames, off_frames = slow.on_delay(rate_hz), slow.off_delay(rate_hz)
        self._drift = wm.alarm.step(self._drift, float(surprise.drift), on_frames=on_frames, off_frames=off_frames)
        return Tick(time, score, self._alarm, self._command(score), None, surprise, self._drift.on)

    def look_ahead(self, action: NDArray[np.float32] | None) -> Array | None:
        """The pictures to come, for people, see `wm.surprise.look_ahead`."""
        return self._bundle.look_ahead(self._monitor, self._taken(action))

    def coast(self, frames: int, action: NDArray[np.float32] | None) -> None:
        """So many frames were missed: the monitor moves on without them, or forgets where that were too many."""
        if frames > self._bundle.monitor.settle(self._bundle.spec.rate_hz):
            self.restart()
            return
        for _ in range(frames):
            self._monitor = self._bundle.coast(self._monitor, self._taken(action))

    def fault(self, reason: str, time: float) -> Tick:
        """A turn without a trusted score: the heartbeat stands still, the request is withdrawn, the monitor forgets."""
        self.restart()
        return Tick(time, float("nan"), self._alarm, self._command(0.0), reason)

    def restart(self) -> None:
        """Forgets what was seen: what comes next is not the sequel."""
        self._monitor, self._alarm = self._bundle.start(), alarm.forget(self._alarm)
        self._drift = wm.alarm.Alarm()

    def _taken(self, action: NDArray[np.float32] | None) -> Array:
        return self._bundle.action() if action is None else jnp.asarray(action)

    def _command(self, score: float) -> Command:
        return alarm.command(
            self._settings, self._alarm, self.mode, heartbeat=self._heartbeat, score=score, valid_for_ms=VALID_FOR_MS
        )
