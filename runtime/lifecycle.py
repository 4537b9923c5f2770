"""The life of an alarm in the terms of ISA-18.2 and IEC 62682: a pure state machine over seconds.

                condition comes              acknowledged
    NORMAL ----------------------> UNACK ----------------> ACKED
      ^  ^                           |                       |
      |  |   not latched, or acked   | condition goes        | condition goes
      |  +---------------------------+                       |
      |          acknowledged        v                       |
      +--------------------------- RTN_UNACK (latched)       |
      +------------------------------------------------------+

Beside it an alarm may be shelved by the operator until a moment that he names, or suppressed by design while what it
rests on is at fault. Then it is not announced, and asks for nothing; its life goes on underneath.
"""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

ROUNDING_S = 1e-6


class Life(Enum):
    NORMAL = "normal"
    UNACK = "unacknowledged"
    ACKED = "acknowledged"
    RTN_UNACK = "returned, unacknowledged"


ACTIVE = {Life.UNACK, Life.ACKED}


@dataclass(frozen=True)
class Point:
    """One alarm.

    Attributes:
      name: what it is called.
      priority: 1 is the highest.
      consequence, response: what happens if nobody does anything, and what to do; for the operator.
      on_delay_s, off_delay_s: how long the condition must have come or gone.
      latched: whether it stays until it is acknowledged, once its condition is gone.
    """

    name: str
    priority: int
    consequence: str
    response: str
    on_delay_s: float = 0.0
    off_delay_s: float = 0.0
    latched: bool = True


class State(NamedTuple):
    """An alarm now.

    Attributes:
      life: where it is.
      since: when it came there, seconds.
      contrary: since when the condition contradicts `life`, None while it does not.
      shelved: until when it is shelved, None where it is not.
      suppressed: whether it is suppressed by design.
    """

    life: Life = Life.NORMAL
    since: float = 0.0
    contrary: float | None = None
    shelved: float | None = None
    suppressed: bool = False

    @property
    def active(self) -> bool:
        return self.life in ACTIVE

    @property
    def hidden(self) -> bool:
        return self.shelved is not None or self.suppressed

    @property
    def announced(self) -> bool:
        """Whether it stands in the operator's list."""
        return self.life is not Life.NORMAL and not self.hidden


def step(point: Point, state: State, time: float, *, condition: bool, suppressed: bool = False) -> State:
    """The alarm at `time`, no earlier than before, with its condition as it is now."""
    if state.shelved is not None and time >= state.shelved:
        state = state._replace(shelved=None)
    state = state._replace(suppressed=suppressed)
    if condition == state.active:
        return state._replace(contrary=None)
    contrary = time if state.contrary is None else state.contrary
    if time - contrary < (point.on_delay_s if condition else point.off_delay_s) - ROUNDING_S:
        return state._replace(contrary=contrary)
    gone = Life.RTN_UNACK if point.latched and state.life is Life.UNACK else Life.NORMAL
    return state._replace(life=Life.UNACK if condition else gone, since=time, contrary=None)


def acknowledge(state: State, time: float) -> State:
    """The operator has seen it."""
    after = {Life.UNACK: Life.ACKED, Life.RTN_UNACK: Life.NORMAL}.get(state.life)
    return state if after is None else state._replace(life=after, since=time)


def shelve(state: State, until: float) -> State:
    """The operator does not want to hear of it until then."""
    return state._replace(shelved=until)


def unshelve(state: State) -> State:
    return state._replace(shelved=None)
