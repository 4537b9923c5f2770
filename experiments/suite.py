"""Tasks of the DeepMind Control Suite (Tassa et al., 2018) from state: machines without a camera, with the reward as
one more tag.
"""

import os
from typing import Final

os.environ["MUJOCO_GL"] = "off"  # nobody looks

import mujoco
import numpy as np
from dm_control import suite
from dm_control.mujoco.wrapper.mjbindings import sizes
from numpy.typing import NDArray

from wm.config import ActionSpace, FootageSpec
from wm.errors import InputError

REPEAT: Final = 2  # of every action (DreamerV3, appendix "Environments")
REWARD: Final = "reward"
STEPS: Final = 1000  # of every episode

# dm_control 1.0.50 looks for a few arrays that MuJoCo 4.0 has not got any more.
for name, kind in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
    for field in [field for field in sizes.array_sizes[name] if not hasattr(kind, field)]:
        del sizes.array_sizes[name][field]


class Task:
    """One episode of a task, `DOMAIN-TASK`; the same seed starts it the same.

    Raises:
      InputError: the suite has no such task.
    """

    def __init__(self, name: str, seed: int) -> None:
        known = {f"{domain}-{task}": (domain, task) for domain, task in suite.ALL_TASKS}
        if name not in known:
            raise InputError(f"the suite has no task '{name}'; choose one of {', '.join(sorted(known))}.")
        self._environment = suite.load(*known[name], task_kwargs={"random": seed})
        told, bounds = self._environment.observation_spec(), self._environment.action_spec()
        tags = [f"{part}_{i}" for part, array in told.items() for i in range(int(np.prod(array.shape)))]
        self.spec = FootageSpec(
            1 / (REPEAT * self._environment.control_timestep()),
            None,
            (*tags, REWARD),
            tuple(f"action_{i}" for i in range(bounds.shape[0])),
        )
        self.space = ActionSpace(tuple(map(float, bounds.minimum)), tuple(map(float, bounds.maximum)))
        self.ended = False

    def start(self) -> NDArray[np.float32]:
        """The tags `[S]` of the first frame."""
        return self._tags(self._environment.reset().observation, 0.0)

    def step(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        """The tags `[S]` of the frame that `action` `[A]` leads to."""
        earned = 0.0
        for _ in range(REPEAT):
            found = self._environment.step(action)
            earned += found.reward
            self.ended = found.last()
            if self.ended:
                break
        return self._tags(found.observation, earned)

    def _tags(self, observation: dict[str, NDArray[np.float64]], earned: float) -> NDArray[np.float32]:
        parts = [np.ravel(part) for part in observation.values()]
        return np.concatenate([*parts, [earned]]).astype(np.float32)
