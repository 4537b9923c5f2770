import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.ingest import Flags, ingest
from wm.config import FootageSpec
from wm.data import video
from wm.data.footage import Footage
from wm.errors import InputError


def image_folder(path: Path, count: int, size: tuple[int, int] = (24, 16)) -> Path:
    path.mkdir()
    for number in range(count):
        Image.new("RGB", size, (number, 50, 100)).save(path / f"{number}.png")
    return path


def test_inputs_become_episodes_and_the_last_share_is_held_out(tmp_path: Path) -> None:
    inputs = (image_folder(tmp_path / "a", 40), image_folder(tmp_path / "b", 60))
    ingest(Flags(inputs=inputs, out=tmp_path / "footage", size=(8, 12), holdout=0.3))
    footage = Footage.open(tmp_path / "footage")
    assert footage.spec == FootageSpec(10.0, (8, 12, 3))
    assert (footage.lengths("train"), footage.lengths("holdout")) == ([40, 30], [30])
    (held_out,) = footage.episodes("holdout")
    assert held_out.source == str(inputs[1]) and held_out.frames is not None
    np.testing.assert_array_equal(held_out.frames[:, 0, 0, 0], np.arange(30, 60))
    assert footage.metadata["sources"] == [str(path) for path in inputs]


def test_what_is_ingested_is_what_the_runtime_would_see(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    picture = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(picture).save(folder / "0.png")
    flags = Flags(inputs=(folder,), out=tmp_path / "footage", size=(7, 9), crop=(3, 2, 31, 25), channels=1, holdout=0)
    ingest(flags)
    footage = Footage.open(flags.out)
    (episode,) = footage.episodes("train")
    assert episode.frames is not None
    np.testing.assert_array_equal(episode.frames[0], video.prepare(picture, footage.spec))


def test_footage_is_cut_at_a_gap_in_the_timestamps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [
        video.VideoFrame(np.full((8, 8, 3), tick, np.uint8), tick / 10, run=tick >= 20)
        for tick in (*range(5), *range(20, 30))
    ]
    monkeypatch.setattr(video, "frames", lambda path, spec: iter(pictures))
    monkeypatch.setattr(video, "count", lambda path, spec: len(pictures))
    ingest(Flags(inputs=(tmp_path / "clip.mp4",), out=tmp_path / "footage", size=(8, 8), holdout=0.2))
    footage = Footage.open(tmp_path / "footage")
    assert (footage.lengths("train"), footage.lengths("holdout")) == ([5, 7], [3])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"holdout": 1.0}, "--holdout is a share"),
        ({"rate_hz": 0.0}, "--rate-hz must be greater than 0"),
        ({"size": (0, 8)}, "--size HEIGHT WIDTH, both greater than 0"),
        ({"size": None}, "pictures need --size"),
        ({"tags": ("speed",)}, "pictures have none"),
        ({"crop": (0, 0, 100, 10)}, "does not lie inside the picture of 24x16 pixels"),
    ],
)
def test_unusable_flags_are_refused_and_nothing_is_written(
    tmp_path: Path, changed: dict[str, object], message: str
) -> None:
    given = {"inputs": (image_folder(tmp_path / "a", 3),), "out": tmp_path / "footage", "size": (8, 8)}
    with pytest.raises(InputError, match=message):
        ingest(Flags(**{**given, **changed}))  # type: ignore[arg-type]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_broken_input_among_good_ones_leaves_nothing(tmp_path: Path) -> None:
    good = image_folder(tmp_path / "a", 40)
    bad = image_folder(tmp_path / "b", 40)
    (bad / "39.png").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"39\.png cannot be read as an image"):
        ingest(Flags(inputs=(good, bad), out=tmp_path / "footage", size=(8, 8)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "b"]


def test_the_command_line_ingests_and_refuses_in_one_line(tmp_path: Path) -> None:
    image_folder(tmp_path / "a", 40)
    command = [sys.executable, "-m", "experiments.ingest", "--out", str(tmp_path / "footage"), "--size", "8", "8"]
    done = subprocess.run([*command, "--inputs", str(tmp_path / "a")], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "frames/s" in done.stderr
    assert Footage.open(tmp_path / "footage").metadata["command"][:3] == ["python", "-m", "experiments.ingest"]
    again = subprocess.run([*command, "--inputs", str(tmp_path / "a")], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == f"error: {tmp_path}/footage exists already: choose a new folder, or remove it first\n"


def test_ped2_training_clips_become_footage(data_dir: Path, tmp_path: Path) -> None:
    clips = tuple(sorted((data_dir / "ucsd_ped2" / "training").glob("*.mp4")))[:2]
    ingest(Flags(inputs=clips, out=tmp_path / "footage", size=(64, 96), channels=1, holdout=0.25))
    footage = Footage.open(tmp_path / "footage")
    assert (footage.lengths("train"), footage.lengths("holdout")) == ([120, 82], [68])
