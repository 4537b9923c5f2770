"""Which patches of a picture are followed."""

from pathlib import Path

import numpy as np
import pytest
from conftest import write_box_footage

from wm.config import FootageSpec
from wm.data.activity import followed
from wm.data.footage import Footage, FootageWriter
from wm.errors import InputError


def test_the_patches_that_the_box_passes_are_followed_and_no_others(tmp_path: Path) -> None:
    """The box moves through rows 6 to 9; a pixel in the corner that changes alone is not enough."""
    assert followed(write_box_footage(tmp_path / "box", train=[33] * 40), 4) == tuple(range(4, 12))


def test_noise_and_a_drifting_light_are_nothing_that_happens(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    spec = FootageSpec(10.0, (16, 16, 3))
    with FootageWriter(tmp_path / "still", spec) as writer, writer.episode("train", "still") as episode:
        for t in range(640):
            light = 120 + 10 * np.sin(t / 100)
            frame = generator.normal(light, 5.0, (16, 16, 3)).round().astype(np.uint8)
            if 300 <= t < 400:
                frame[8:, :8] = 255
            episode.append(frame, (), (), t / 10)
    assert followed(Footage.open(tmp_path / "still"), 8) == (2,)


def test_footage_in_which_nothing_moves_is_refused(tmp_path: Path) -> None:
    with (
        FootageWriter(tmp_path / "dead", FootageSpec(1.0, (8, 8, 3))) as writer,
        writer.episode("train", "dead") as episode,
    ):
        for t in range(3):
            episode.append(np.full((8, 8, 3), 90 + t, np.uint8), (), (), float(t))
    with pytest.raises(InputError, match="nothing moves in the training footage"):
        followed(Footage.open(tmp_path / "dead"), 4)


def test_footage_without_a_camera_has_no_patches(tmp_path: Path) -> None:
    with (
        FootageWriter(tmp_path / "tags", FootageSpec(1.0, None, ("a",))) as writer,
        writer.episode("train", "x") as log,
    ):
        log.append(None, (1.0,), (), 0.0)
    assert followed(Footage.open(tmp_path / "tags"), 8) is None
