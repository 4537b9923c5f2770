"""What the model makes of one or several like cameras: each has a monitor of its own, all step in one compiled call."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from runtime import sight
from runtime.camera import Frame
from runtime.sight import Sight, View
from wm.bundle import Bundle
from wm.surprise import MonitorState, Surprise
from wm.types import LatentState, Observation

NO_FRAME = "no fresh frame from the camera"
NO_SCORE = "the model's score is not a number"
JITTER = 0.75  # frames


class Glance(NamedTuple):
    """What one camera came to.

    Attributes:
      fault: why camera or model are not to be trusted now, None while they are.
      surprise: all that the model said of its last frame, in NumPy; None while there is a fault.
      anew: whether its monitor has just begun anew, as this frame is not the sequel of the one before.
      fresh: whether its frame had not been seen before.
    """

    fault: str | None = NO_FRAME
    surprise: Surprise | None = None
    anew: bool = False
    fresh: bool = False


class Eyes:
    """So many cameras of one bundle."""

    def __init__(self, bundle: Bundle, count: int) -> None:
        self._bundle, self._count = bundle, count
        self._view, self._foretells_colours = View.of(bundle), True
        self.forget()

    def forget(self) -> None:
        """Whatever was seen: what comes next is not the sequel."""
        each = range(self._count)
        self._monitors = jax.tree.map(lambda x: jnp.stack([x] * self._count), self._bundle.start())
        self._frames: list[Frame | None] = [None for _ in each]
        self._sights = [Sight() for _ in each]
        self._glances = [Glance() for _ in each]

    def warm_up(self, *, shown: bool) -> None:
        """Compiles everything, the pictures to come only where they are `shown`."""
        shape, action = self._bundle.spec.image, self._bundle.action()
        assert shape is not None
        for number in range(self._count):
            self._coast(number, 1, action)
        _, told = self._watch([np.zeros(shape, np.uint8)] * self._count, None, action)
        self._foretells_colours = sight.foretold(self._view, np.asarray(told.expected)[0])
        if shown:
            self._bundle.look_ahead(self._of(0), action)
        self.forget()

    def look(
        self,
        frames: Sequence[Frame | None],
        sensors: NDArray[np.float32] | None,
        action: NDArray[np.float32] | None,
    ) -> tuple[Glance, ...]:
        """The latest frame of each camera, None where there is no fresh one; one that was seen already tells nothing
        new. Sensors `[S]` and action `[A]` are None while the PLC does not tell.
        """
        taken = self._taken(action)
        self._glances = [glance._replace(anew=False, fresh=False) for glance in self._glances]
        due = [number for number, frame in enumerate(frames) if self._due(number, frame, taken)]
        if due:
            blank = np.zeros(self._bundle.spec.image or (), np.uint8)
            images = [frame.image if frame and number in due else blank for number, frame in enumerate(frames)]
            before, (self._monitors, told) = self._monitors, self._watch(images, sensors, taken)
            for number in range(self._count):
                if number in due:
                    self._tell(number, images[number], jax.tree.map(lambda x, n=number: x[n], told))
                else:
                    self._put(number, jax.tree.map(lambda x, n=number: x[n], before))
        return tuple(self._glances)

    def ahead(self, action: NDArray[np.float32] | None) -> list[Array | None]:
        """The pictures to come of each camera, for people, see `wm.surprise.look_ahead`."""
        taken = self._taken(action)
        return [
            None if glance.fault else self._bundle.look_ahead(self._of(number), taken)
            for number, glance in enumerate(self._glances)
        ]

    @property
    def settled(self) -> bool:
        """Whether the first camera's monitor is to be trusted and has seen enough to tell what is there."""
        seen = int(self._monitors.tick[0]) >= self._bundle.monitor.settle(self._bundle.spec.rate_hz)
        return seen and not self._glances[0].fault

    def present(self, action: NDArray[np.float32] | None) -> tuple[LatentState, Array]:
        """What the first camera's monitor makes of the present, and the action that led to it."""
        return jax.tree.map(lambda x: x[0], self._monitors.latent), self._taken(action)

    def _due(self, number: int, frame: Frame | None, action: Array) -> bool:
        """Whether a frame is to be watched; where it is not to be trusted, that is what is told."""
        before, self._frames[number] = self._frames[number], frame
        if frame is None:
            self._glances[number] = Glance()
            return False
        if frame is before:
            return False
        rate_hz = self._bundle.spec.rate_hz
        self._sights[number], wrong = sight.step(self._view, rate_hz, self._sights[number], frame.image)
        if wrong:
            self._glances[number] = Glance(wrong)
            return False
        sequel = before is not None and before.run == frame.run and not self._glances[number].fault
        gap = missed(frame.time - before.time, rate_hz) if before and sequel else None
        settle = self._bundle.monitor.settle(rate_hz)
        if gap is None or gap > settle or (gap and int(self._monitors.tick[number]) < settle):
            self._put(number, self._bundle.start())
            self._glances[number] = Glance(None, None, anew=True)
        else:
            self._coast(number, gap, action)
            self._glances[number] = Glance(None)
        return True

    def _tell(self, number: int, image: NDArray[np.uint8], surprise: Surprise) -> None:
        wrong = NO_SCORE if not isfinite(float(surprise.score)) else None
        if wrong is None and surprise.expected is not None and self._foretells_colours:
            wrong = sight.recoloured(self._view, np.asarray(surprise.expected), image)
        self._glances[number] = Glance(wrong) if wrong else Glance(None, surprise, self._glances[number].anew, True)

    def _watch(
        self, images: list[NDArray[np.uint8]], sensors: NDArray[np.float32] | None, action: Array
    ) -> tuple[MonitorState, Surprise]:
        one = self._bundle.observation(None, sensors).sensors
        observations = Observation(jnp.asarray(np.stack(images)), jnp.tile(one, (self._count, 1)))
        monitors, told = self._bundle.watch_all(self._monitors, observations, jnp.tile(action, (self._count, 1)))
        return monitors, jax.device_get(told)

    def _coast(self, number: int, frames: int, action: Array) -> None:
        """So many frames were missed: the monitor moves on without them."""
        for _ in range(frames):
            self._put(number, self._bundle.coast(self._of(number), action))

    def _of(self, number: int) -> MonitorState:
        return jax.tree.map(lambda x: x[number], self._monitors)

    def _put(self, number: int, monitor: MonitorState) -> None:
        self._monitors = jax.tree.map(lambda all_, one: all_.at[number].set(one), self._monitors, monitor)

    def _taken(self, action: NDArray[np.float32] | None) -> Array:
        return self._bundle.action() if action is None else jnp.asarray(action)


def missed(elapsed_s: float, rate_hz: float) -> int:
    """Frames that are missing between two that came so far apart; three quarters of a frame are jitter."""
    return max(0, int(elapsed_s * rate_hz - JITTER))
