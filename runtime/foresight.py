"""If the feeder went at another speed, what would come? Dreamt once a second in a thread of its own, for people to look
at; the loop never waits for it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread
from typing import Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from runtime.policy import RAMP_S
from runtime.recorder import drawable, masked
from wm import model, planning
from wm.bundle import Bundle
from wm.model import Variables
from wm.nets import expected
from wm.planning import Constraints
from wm.reward import reward
from wm.types import LatentState

SPEEDS: Final = (1.0, 0.5, 0.1)
AHEAD_S: Final = 3.0
PICTURES: Final = 3  # of a branch, evenly spaced up to its end
PAUSE_S: Final = 1.0


@dataclass(frozen=True)
class Branch:
    """What is expected if the feeder goes at `speed`: `picture` `[H, PICTURES W, C]`, side by side, and the tags at its
    end; `worth` is the reward of all of it, None for a bundle that knows none.
    """

    speed: float
    picture: NDArray[np.uint8]
    tags: dict[str, float]
    worth: float | None


Look = Callable[[LatentState, Array], tuple[Branch, ...]]


class Foresight:
    """Looks ahead from the latest state that it was shown; and once from the one that it is made with, as that takes as
    long as to compile it.
    """

    def __init__(self, look: Look, latent: LatentState, action: Array) -> None:
        look(latent, action)
        self._look, self._branches = look, tuple[Branch, ...]()
        self._shown: tuple[LatentState, Array] | None = None
        self._news, self._closed = Event(), Event()
        self._thread = Thread(target=self._run, name="foresight", daemon=True)
        self._thread.start()

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The newest, none before the first."""
        return self._branches

    def show(self, latent: LatentState, action: Array) -> None:
        """The present state, and the action that led to it; waits for nothing."""
        self._shown = latent, action
        self._news.set()

    def close(self) -> None:
        """Returns when the thread has ended."""
        self._closed.set()
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        while self._news.wait():
            self._news.clear()
            if self._closed.is_set():
                return
            assert self._shown is not None
            self._branches = self._look(*self._shown)
            self._closed.wait(PAUSE_S)


def looking(one: Bundle, masks: tuple[tuple[int, int, int, int], ...] = ()) -> Look:
    """What comes of the state `[N, ...]` to which the action `[1]` led, at each of `SPEEDS`, without what is masked."""
    frames = round(AHEAD_S * one.spec.rate_hz)
    shown = np.linspace(0, frames, PICTURES + 1).round().astype(int)[1:] - 1
    constraints = Constraints(*(jnp.array([bound]) for bound in (0.0, 1.0, RAMP_S / one.spec.rate_hz)))
    worth = None if one.behavior is None else reward(one.spec, one.behavior.reward)
    wanted = jnp.broadcast_to(jnp.array(SPEEDS)[:, None, None], (len(SPEEDS), frames, 1))

    @jax.jit
    def dream(variables: Variables, latent: LatentState, action: Array) -> tuple[Array | None, Array, Array | None]:
        sequences = planning.project(constraints, action, wanted)
        present = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(SPEEDS), *x.shape)), latent)
        states, _ = model.imagine(one.config, variables, present, sequences, draw=expected)
        pictures = model.decode(one.config, variables, jax.tree.map(lambda x: x[:, shown], states)).image
        tags = model.decode_tags(one.config, variables, states)
        before = jnp.concatenate([jnp.broadcast_to(action, (len(SPEEDS), 1, 1)), sequences[:, :-1]], axis=1)
        return pictures, tags[:, -1], None if worth is None else worth(tags, sequences, before).sum(axis=-1)

    def look(latent: LatentState, action: Array) -> tuple[Branch, ...]:
        pictures, tags, worths = jax.device_get(dream(one.variables, latent, action))
        return tuple(
            Branch(
                speed,
                np.concatenate([masked(picture, masks) for picture in drawable(pictures[i])], axis=1),
                dict(zip(one.spec.tags, tags[i].tolist(), strict=True)),
                None if worths is None else float(worths[i]),
            )
            for i, speed in enumerate(SPEEDS)
        )

    return look
