"""A world model that is shown a recorded stretch and dreams on from it."""

from functools import partial
from typing import Final, NamedTuple

import jax

from experiments.forecast import CONTEXT_S, Array
from wm import model, rssm
from wm.bundle import Bundle
from wm.data.footage import Episode, Footage
from wm.errors import InputError
from wm.nets import Draw, expected, most_likely, sampled
from wm.types import Batch, LatentState, Observation

WAYS: Final[dict[str, Draw]] = {"sampled": sampled, "most likely": most_likely, "expected": expected}
"""Ways to dream: `sampled` draws every categorical, as a simulator does; `most likely` takes the likeliest; `expected`
carries probabilities on, as a forecast does."""


class Dream(NamedTuple):
    """Pictures `[K, H, W, C]` in 0..1 and tags `[K, S]` in engineering units, one a frame."""

    pictures: Array
    tags: Array


class Dreamer:
    """A world model that filters a recorded stretch and dreams on from it, compiled once."""

    def __init__(self, one: Bundle) -> None:
        self._one = one
        self._filter = jax.jit(partial(filtered, one))
        self._imagine = {way: jax.jit(partial(_dreamt, one, draw)) for way, draw in WAYS.items()}
        self._decode = jax.jit(partial(_decoded, one))

    def awake(self, seen: Episode) -> LatentState:
        """The states `[T]` in which the model is while it is shown a stretch."""
        window = jax.tree.map(lambda x: x[None], Batch(Observation(seen.frames, seen.sensors), seen.actions))
        return jax.tree.map(lambda x: x[0], self._filter(window))

    def dream(self, states: LatentState, frame: int, actions: Array, way: str, key: jax.Array) -> Dream:
        """What it dreams from the state at a frame on, under `[K, A]` actions."""
        present = jax.tree.map(lambda x: x[frame], states)
        return self.look(self._imagine[way](present, actions, key))

    def look(self, states: LatentState) -> Dream:
        """What is to be seen in states."""
        return Dream(*jax.device_get(self._decode(states)))


def stretch(footage: Footage, split: str, number: int, time: float, seconds: float) -> Episode:
    """What a dream of so many seconds needs of an episode: the context before the moment `time`, the truth after it.

    Raises:
      InputError: there is no such episode, or it is not as long.
    """
    lengths, rate_hz = footage.lengths(split), footage.spec.rate_hz
    if not 0 <= number < len(lengths):
        raise InputError(f"the {split} split has {len(lengths)} episodes, the first is 0; give another --episode.")
    last = (lengths[number] - round(seconds * rate_hz)) / rate_hz
    if not CONTEXT_S <= time <= last:
        span = f"from {CONTEXT_S:g} to {last:g} s on"
        raise InputError(f"{seconds:g} s ahead are known {span} in episode {number}; give another --time.")
    moment, context, ahead = (round(each * rate_hz) for each in (time, CONTEXT_S, seconds))
    return footage.read(split, number, moment - context, context + ahead)


def filtered(one: Bundle, windows: Batch) -> LatentState:
    """The states `[B, T]` in which a model is that is shown windows `[B, T]`, by the most likely values."""
    embedding = model.encode(one.config, one.variables, windows.observation)
    start = rssm.start(one.config, (len(windows.action),))
    return model.observe(one.config, one.variables, start, embedding, windows.action, draw=most_likely)[0]


def _dreamt(one: Bundle, draw: Draw, present: LatentState, actions: Array, key: jax.Array) -> LatentState:
    start = jax.tree.map(lambda x: x[None], present)
    states, _ = model.imagine(one.config, one.variables, start, actions[None], key, draw)
    return jax.tree.map(lambda x: x[0], states)


def _decoded(one: Bundle, states: LatentState) -> tuple[jax.Array, jax.Array]:
    prediction = model.decode(one.config, one.variables, states)
    assert prediction.image is not None
    return prediction.image.clip(0, 1), model.decode_tags(one.config, one.variables, states)
