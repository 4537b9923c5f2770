"""Dreams to look at: what is measured of them, by hand, and the whole of it on small footage."""

import json
from dataclasses import replace
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import noise_bundle

from experiments import dream
from experiments.dream import Flags
from experiments.dreamer import Dream
from wm import bundle
from wm.config import FootageSpec, ModelConfig, TrainConfig, to_json
from wm.data.footage import FootageWriter
from wm.errors import InputError

SPEC = FootageSpec(10.0, (32, 32, 3), ("eye",), ("speed",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model that has learnt nothing, and footage of stripes that move."""
    path = tmp_path_factory.mktemp("dream")
    with FootageWriter(path / "footage", SPEC) as writer:
        for split in ("train", "holdout"):
            with writer.episode(split, "stripes") as episode:
                for t in range(120):
                    stripes = np.where((np.arange(32) + t) // 4 % 2, 200, 50).astype(np.uint8)
                    episode.append(np.tile(stripes[None, :, None], (32, 1, 3)), (t % 2,), (1.0,), t / 10)
    one = noise_bundle(ModelConfig.of(SPEC, "debug"), rate_hz=10.0, tags=SPEC.tags, actions=SPEC.actions)
    bundle.save(replace(one, recipe={"settings": to_json(TrainConfig())}), path / "bundle")
    return path


def flags(folder: Path, out: str, **others) -> Flags:
    given = {"seconds": 4.0, "time": 5.0, "moments": 2, "samples": 2} | others
    return Flags(bundle=folder / "bundle", footage=folder / "footage", out=folder / out, **given)


def test_liveliness_is_the_mean_change_of_a_second_in_time_in_space_and_of_the_tags():
    pictures = np.zeros((4, 2, 2, 3), np.float32)
    pictures[1:, 0, 0] = 0.4
    pictures[3, 0, 0] = 1.0
    lively = np.array([[True, False], [False, True]])
    told = dream.liveliness(
        Dream(pictures, np.array([[0.0], [2.0], [2.0], [8.0]], np.float32)), lively, np.array([2.0]), rate_hz=2.0
    )
    motion, sharpness, tags = told
    np.testing.assert_allclose(motion, [0.4 / 2 / 2, 0.6 / 2 / 2], rtol=1e-6)
    np.testing.assert_allclose(sharpness, [0.0, 0.0], atol=1e-7)
    np.testing.assert_allclose(tags, [0.5, 1.5])


def test_sharpness_looks_at_the_step_into_a_lively_pixel_from_above_and_from_the_left():
    pictures = np.zeros((1, 2, 2, 3), np.float32)
    pictures[0, 1, 1] = 0.3
    lively = np.array([[False, False], [False, True]])
    told = dream.liveliness(Dream(pictures, np.zeros((1, 0), np.float32)), lively, np.zeros(0), rate_hz=1.0)
    np.testing.assert_allclose(told[1], [0.6], rtol=1e-6)


def test_it_lasts_until_the_first_second_in_which_it_does_not_hold():
    assert [dream.lasts(np.array(holds)) for holds in ([True, True], [False, True], [True, False, True])] == [2, 0, 1]


def test_dreams_are_filmed_below_the_truth_and_beside_each_other_and_measured_alike_twice(folder):
    found = []
    for out in ("one", "two"):
        dream.run(flags(folder, out, hold=(0.5, 1.0, 2.0)))
        found.append(json.loads((folder / out / "metrics.json").read_bytes())["rows"])
    assert found[0] == found[1]
    assert [row["way"] for row in found[0]] == ["awake", "sampled", "most likely", "expected"]
    assert all(len(row["motion"]) == 4 for row in found[0])
    assert imageio.imread(folder / "one" / "dream.mp4").shape == (40, 2 * 32 * 4, 3 * 32 * 4, 3)
    assert imageio.imread(folder / "one" / "held.webp", index=0).shape == (32 * 2, 3 * 32 * 2, 3)
    assert (folder / "one" / "dream.png").exists()


def test_a_dream_may_be_under_any_actions_from_a_file(folder):
    path = folder / "actions.csv"
    path.write_text("seconds,speed\n" + "".join(f"{t / 10},{t % 3}\n" for t in range(40)))
    dream.run(flags(folder, "asked", actions=path))
    dream.run(flags(folder, "done"))
    asked, done = (imageio.imread(folder / out / "dream.mp4") for out in ("asked", "done"))
    differs = np.abs(asked.astype(int) - done).max(axis=(0, 2, 3))
    assert differs[: 28 * 4].max() < 10 < differs[36 * 4 :].max()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"time": 1.0}, "4 s ahead are known from 4 to 8 s"),
        ({"time": 9.0}, "4 s ahead are known from 4 to 8 s"),
        ({"episode": 1}, "has 1 episodes"),
        ({"moments": 1}, "--moments at least 2"),
    ],
)
def test_what_cannot_be_dreamt_is_told_in_a_sentence(folder, given, said):
    with pytest.raises(InputError, match=said):
        dream.run(flags(folder, "wrong", **given))
    assert not (folder / "wrong").exists()


def test_actions_that_are_too_few_are_told(folder):
    path = folder / "few.csv"
    path.write_text("seconds,speed\n0.0,1.0\n0.1,1.0\n")
    with pytest.raises(InputError, match="does not hold actions for 40 frames"):
        dream.run(flags(folder, "few", actions=path))
