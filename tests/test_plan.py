"""What would happen: what is told of a moment and of every candidate, on small footage."""

import json
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import noise_bundle

from experiments import plan
from experiments.plan import Flags
from wm import bundle
from wm.config import FootageSpec, ModelConfig, PlanConfig
from wm.data.footage import FootageWriter
from wm.errors import InputError

SPEC = FootageSpec(10.0, (32, 32, 3), ("eye", "rate"), ("speed",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world model that has learnt nothing, and grey footage."""
    path = tmp_path_factory.mktemp("plan")
    with FootageWriter(path / "footage", SPEC) as writer, writer.episode("holdout", "grey") as episode:
        for t in range(60):
            episode.append(np.full((32, 32, 3), 9, np.uint8), (0.0, 1.0), (0.5,), t / 10)
    one = noise_bundle(ModelConfig.of(SPEC, "debug"), rate_hz=10.0, tags=SPEC.tags, actions=SPEC.actions)
    bundle.save(one, path / "bundle")
    return path


def flags(folder: Path, out: str, **others) -> Flags:
    given = {"time": 5.0, "seconds": 1.0, "candidates": (1.0, 0.2), "reward": {"rate": 2.0}, "change": 0.5} | others
    return Flags(bundle=folder / "bundle", footage=folder / "footage", out=folder / out, **given)


def test_every_candidate_is_followed_on_the_ramp_and_told_with_its_tags_and_what_it_is_worth(folder):
    plan.run(flags(folder, "one"))
    rows = {row["candidate"]: row for row in json.loads((folder / "one" / "metrics.json").read_bytes())["rows"]}
    assert list(rows) == ["1", "0.2", "planned"]
    np.testing.assert_allclose(rows["1"]["actions"], [0.7, 0.9] + [1.0] * 8, rtol=1e-6)
    np.testing.assert_allclose(rows["0.2"]["actions"], [0.3] + [0.2] * 9, rtol=1e-6)
    row = rows["0.2"]
    changes = np.array([0.2, 0.1] + [0.0] * 8)
    np.testing.assert_allclose(row["rewards"], 2.0 * np.array(row["tags"]["rate"]) - 0.5 * changes, atol=1e-5)
    assert row["return"] == pytest.approx(np.sum(row["rewards"] * PlanConfig().discount ** np.arange(10)), rel=1e-5)
    assert imageio.imread(folder / "one" / "plan.mp4").shape == (10, 32 * 4, 3 * 32 * 4, 3)
    assert (folder / "one" / "plan.png").exists() and (folder / "one" / "strip.png").exists()


def test_what_is_planned_is_expected_to_be_worth_no_less_than_staying_as_it_is(folder):
    plan.run(flags(folder, "held", candidates=(0.5, 0.1, 1.0)))
    *held, planned = json.loads((folder / "held" / "metrics.json").read_bytes())["rows"]
    assert planned["return"] >= max(row["return"] for row in held) - 1e-5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"time": 1.0}, "are known from 4 to 6 s on"),
        ({"low": 1.0}, "--low is below --high"),
        ({"candidates": ()}, "--candidates needs a value"),
        ({"reward": {"speed": 1.0}}, "of a tag 'speed'"),
        ({"seconds": 0.9}, "must be 1 or more"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_sentence(folder, given, said):
    with pytest.raises(InputError, match=said):
        plan.run(flags(folder, "wrong", **given))
    assert not (folder / "wrong").exists()
