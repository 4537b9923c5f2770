"""Who chooses the feeder's speed while nothing is alarming: an actor that learnt in the dream, or a planner that dreams
ahead now. Actor and critic travel in the bundle that they dream with. What they choose passes the alarm's limits, the
mode, the clamp and the allow-list as the plain rule's request does, and where they do not decide in time, the plain
rule stands.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from math import isfinite
from time import monotonic
from typing import Final, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from wm import actor, planning
from wm.actor import Params
from wm.bundle import Bundle
from wm.config import PlanConfig
from wm.model import Variables
from wm.planning import Constraints, Plan
from wm.reward import reward
from wm.types import LatentState

PLANNED: Final = PlanConfig(candidates=16, iterations=2, elites=3)  # what two cores do within a deadline
RAMP_S: Final = 2.0  # a second, the drive's own way down
WORTHWHILE: Final = 0.5  # units of the reward, on the line about half a carton
CAUTION: Final = 1.0  # of these, too
STALE_S: Final = 0.5  # as long as a command is valid


Search = Callable[[Plan, LatentState, Array, Array], tuple[Plan, Array]]


class Policy(Protocol):
    """The speed to ask for, 0 to 1, in a state `[N, ...]` to which `action` `[A]` led; None for none."""

    def __call__(self, latent: LatentState, action: Array) -> float | None: ...


class Actor:
    """The most likely action of the bundle's actor."""

    def __init__(self, model: Bundle) -> None:
        learnt = model.behavior
        assert learnt is not None
        self._act = partial(actor.act, learnt.config, learnt.space, learnt.actor)

    def __call__(self, latent: LatentState, action: Array) -> float | None:
        return float(self._act(latent, action)[0])


class Planner:
    """The first action of the sequences that are found, warm-started from frame to frame: all of the speed where the
    way to it is as good as the best, up to `WORTHWHILE`, and else the most cautious of those that are, up to `CAUTION`.
    What comes beyond the horizon is worth what the critic says.
    """

    def __init__(self, first: Plan, search: Search, seed: int = 0) -> None:
        self._last, self._search = first, search
        self._key, self._turn = jax.random.key(seed), 0

    def __call__(self, latent: LatentState, action: Array) -> float | None:
        self._turn += 1
        key = jax.random.fold_in(self._key, self._turn)
        self._last, chosen = self._search(self._last, latent, action, key)
        return float(chosen)


class InTime:
    """A policy in a thread of its own: what it has not decided `deadline_s` after it was asked is not waited for, and
    what it has decided of the frame before stands; but nothing of before a gap in what was seen.
    """

    def __init__(self, policy: Policy, deadline_s: float) -> None:
        self._policy, self._deadline_s = policy, deadline_s
        self._thread = ThreadPoolExecutor(1, "policy")
        self._asked: Future[float | None] | None = None
        self._since = 0.0

    def __call__(self, latent: LatentState, action: Array) -> float | None:
        before = None
        if self._asked is not None:
            if not self._asked.done():
                return None
            before = _number(self._asked.result()) if monotonic() - self._since < STALE_S else None
        self._since = monotonic()
        self._asked = self._thread.submit(self._policy, latent, action)
        try:
            return _number(self._asked.result(self._deadline_s))
        except TimeoutError:
            return before


def _number(chosen: float | None) -> float | None:
    return chosen if chosen is not None and isfinite(chosen) else None


def search(model: Bundle, config: PlanConfig) -> tuple[Plan, Search]:
    """The plan before the first search, and a search: from the last plan, the present state, the action in force and a
    key to the next plan and the first action `[]`. What is discounted is so as the critic does it.
    """
    learnt = model.behavior
    assert learnt is not None
    config = replace(config, discount=learnt.config.discount)
    low, high = (jnp.array(bound) for bound in (learnt.space.low, learnt.space.high))
    constraints = Constraints(low, high, jnp.full_like(low, RAMP_S / model.spec.rate_hz))
    worth = reward(model.spec, learnt.reward)

    @jax.jit  # all that has learnt is an argument: a critic that knows nothing yet is miscompiled as a constant
    def decide(
        variables: Variables, critic: Params, last: Plan, latent: LatentState, before: Array, key: Array
    ) -> tuple[Plan, Array]:
        value = partial(actor.value, learnt.config, learnt.space, critic)
        objective = planning.objective(model.config, variables, worth, config.discount, latent, before, value)
        last, decision = planning.plan(config, objective, constraints, last, before, key)
        lost = decision.expected - decision.returns
        cautious = jnp.min(decision.candidates[:, 0, 0], where=lost <= CAUTION, initial=decision.sequence[0, 0])
        return last, jnp.where(lost[planning.HIGHEST] <= WORTHWHILE, high[0], cautious)

    return planning.start(config, constraints, high), partial(decide, model.variables, learnt.critic)
