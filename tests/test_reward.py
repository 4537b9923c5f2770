"""What a frame is worth, by hand."""

import jax
import numpy as np
import pytest

from wm.config import FootageSpec, RewardConfig
from wm.errors import InputError
from wm.reward import reward

SPEC = FootageSpec(10.0, None, ("eye", "blocked_s", "rate"), ("speed", "gap"))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_frame_is_worth_its_weighted_tags_less_the_price_of_every_change(compiled):
    worth = reward(SPEC, RewardConfig({"rate": 0.5, "blocked_s": -2.0}, change=10.0))
    tags = np.array([[1.0, 0.25, 60.0], [0.0, 3.0, 40.0]], np.float32)
    action, before = np.array([[1.0, 0.5], [0.2, 0.5]]), np.array([[1.0, 0.5], [0.5, 0.6]])
    found = (jax.jit(worth) if compiled else worth)(tags, action, before)
    np.testing.assert_allclose(found, [29.5, 14.0 - 4.0], rtol=1e-6)


def test_a_tag_that_the_footage_has_not_got_is_told():
    with pytest.raises(InputError, match="a tag 'speed', and the footage has eye, blocked_s, rate"):
        reward(SPEC, RewardConfig({"speed": 1.0}))
