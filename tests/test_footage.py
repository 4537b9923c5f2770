import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from conftest import BOX_SPEC, box_frame, write_box_footage
from hypothesis import given
from hypothesis import strategies as st

from wm.config import FootageSpec
from wm.data import footage as footage_module
from wm.data.footage import Footage, FootageWriter, training_lengths
from wm.errors import InputError


def test_episodes_come_back_as_they_were_written(box_footage: Footage) -> None:
    episodes = list(box_footage.episodes("train"))
    assert [len(episode.times) for episode in episodes] == [100, 33, 12]
    assert [episode.source for episode in episodes] == ["box 0", "box 1", "box 2"]
    for number, episode in enumerate(episodes):
        length = len(episode.times)
        np.testing.assert_array_equal(episode.frames, np.stack([box_frame(t, number) for t in range(length)]))
        np.testing.assert_array_equal(episode.sensors, [(t, number) for t in range(length)])
        np.testing.assert_array_equal(episode.actions, np.arange(length, dtype=np.float32)[:, None] / np.float32(1000))
        np.testing.assert_array_equal(episode.times, np.arange(length) / 10)
        assert (episode.sensors.dtype, episode.actions.dtype, episode.times.dtype) == (
            np.float32,
            np.float32,
            np.float64,
        )


def test_footage_tells_its_spec_metadata_frames_and_hours(box_footage: Footage) -> None:
    assert box_footage.spec == BOX_SPEC
    assert box_footage.metadata == {"seed": 0}
    assert (box_footage.frames("train"), box_footage.frames("holdout")) == (145, 40)
    assert box_footage.hours("train") == pytest.approx(14.5 / 3600)


def test_a_tfds_builder_reads_the_folder(box_footage: Footage) -> None:
    source = tfds.builder_from_directory(box_footage.path).as_data_source(split="train")
    assert len(source) == 4 + 2 + 1
    assert source[5]["frames"].shape == (1, 16, 16, 3)
    assert (source[5]["episode"], source[5]["start"]) == (1, 32)
    np.testing.assert_array_equal(source[5]["sensors"], [[32, 1]])


@given(data=st.data())
def test_any_stretch_of_an_episode_can_be_read(box_footage: Footage, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, 2))
    whole = box_footage.lengths("train")[number]
    start = data.draw(st.integers(0, whole - 1))
    length = data.draw(st.integers(1, whole - start))
    episode = box_footage.read("train", number, start, length)
    np.testing.assert_array_equal(episode.sensors[:, 0], np.arange(start, start + length))
    assert set(episode.sensors[:, 1]) == {number}
    assert episode.frames is not None and episode.frames.shape == (length, 16, 16, 3)


def test_a_stretch_beyond_the_episode_is_refused(box_footage: Footage) -> None:
    with pytest.raises(IndexError, match=r"frames 10\.\.13 of an episode of 12"):
        box_footage.read("train", 2, 10, 3)


def test_footage_spreads_over_shards_and_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage_module, "SHARD_BYTES", 60_000)
    footage = write_box_footage(tmp_path / "footage", train=(200, 100))
    assert len(list(footage.path.glob("footage-train.array_record-*"))) > 2
    np.testing.assert_array_equal(footage.read("train", 1, 20, 70).sensors[:, 0], np.arange(20, 90))


def test_footage_without_camera_tags_or_actions(tmp_path: Path) -> None:
    tags_spec = FootageSpec(1.0, None, tags=("pressure",))
    with FootageWriter(tmp_path / "tags", tags_spec) as writer, writer.episode("train", "log") as episode:
        for t in range(40):
            episode.append(None, [t], (), t)
    only_tags = next(Footage.open(tmp_path / "tags").episodes("train"))
    assert only_tags.frames is None and only_tags.sensors.shape == (40, 1) and only_tags.actions.shape == (40, 0)

    video_spec = FootageSpec(1.0, (2, 2, 1))
    with FootageWriter(tmp_path / "video", video_spec) as writer, writer.episode("holdout", "clip") as episode:
        episode.append(np.ones((2, 2, 1), np.uint8), (), (), 0.0)
    only_video = next(Footage.open(tmp_path / "video").episodes("holdout"))
    assert only_video.frames is not None and only_video.sensors.shape == (1, 0)


def test_sensors_that_the_spec_does_not_have_are_refused(tmp_path: Path) -> None:
    spec = FootageSpec(1.0, (2, 2, 1))
    with (
        pytest.raises(ValueError, match="sensors have shape"),
        FootageWriter(tmp_path / "video", spec) as writer,
        writer.episode("train", "clip") as episode,
    ):
        episode.append(np.ones((2, 2, 1), np.uint8), (1.0,), (), 0.0)


def test_the_fingerprint_tells_content_and_not_the_place(tmp_path: Path) -> None:
    same = [write_box_footage(tmp_path / name, train=(40,)).fingerprint for name in ("a", "b")]
    longer = write_box_footage(tmp_path / "c", train=(41,)).fingerprint
    held_out = write_box_footage(tmp_path / "d", train=(), holdout=(40,)).fingerprint
    assert same[0] == same[1] and len({same[0], longer, held_out}) == 3 and len(longer) == 64


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError),
        FootageWriter(tmp_path / "footage", BOX_SPEC) as writer,
        writer.episode("train", "box") as episode,
    ):
        for t in range(50):
            episode.append(box_frame(t), (t, 0), (0,), t)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_writer_without_a_frame_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match="no frame was written"),
        FootageWriter(tmp_path / "footage", BOX_SPEC) as writer,
        writer.episode("train", "box"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def _write_for_ever(path: Path, started: object) -> None:
    with FootageWriter(path, BOX_SPEC) as writer, writer.episode("train", "box") as episode:
        for t in range(10**9):
            episode.append(box_frame(t), (t, 0), (0,), t)
            if t == 200:
                started.set()  # type: ignore[attr-defined]


def test_a_killed_writer_leaves_no_footage_and_the_next_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "footage"
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    process = context.Process(target=_write_for_ever, args=(path, started))
    process.start()
    assert started.wait(60)
    with pytest.raises(InputError, match="is being written by another process"), FootageWriter(path, BOX_SPEC):
        pass
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not path.exists()
    with pytest.raises(InputError, match="no footage at"):
        Footage.open(path)
    assert write_box_footage(path, train=(40,)).frames("train") == 40
    assert [entry.name for entry in tmp_path.iterdir()] == ["footage"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"no footage can be written at .*file/footage \(Not a directory\)"):
        write_box_footage(tmp_path / "file" / "footage", train=(1,))


def test_a_second_writer_to_the_same_path_is_refused(tmp_path: Path) -> None:
    footage = write_box_footage(tmp_path / "footage", train=(40,))
    with pytest.raises(InputError, match="exists already"):
        write_box_footage(footage.path, train=(1,))
    assert Footage.open(footage.path).frames("train") == 40
    assert [entry.name for entry in tmp_path.iterdir()] == ["footage"]


@pytest.mark.parametrize(
    ("frame", "sensors", "time", "message"),
    [
        (np.zeros((8, 8, 3), np.uint8), (0, 0), 1.0, "frames have shape"),
        (np.zeros((16, 16, 3), np.float32), (0, 0), 1.0, "uint8"),
        (box_frame(0), (0,), 1.0, "sensors have shape"),
        (None, (0, 0), 1.0, "frames have shape"),
        (box_frame(0), (0, 0), 0.0, "does not come after"),
    ],
)
def test_an_instant_that_does_not_fit_the_spec_is_refused(
    tmp_path: Path, frame: np.ndarray | None, sensors: tuple[int, ...], time: float, message: str
) -> None:
    with (
        pytest.raises(ValueError, match=message),
        FootageWriter(tmp_path / "footage", BOX_SPEC) as writer,
        writer.episode("train", "box") as episode,
    ):
        episode.append(box_frame(0), (0, 0), (0,), 0.0)
        episode.append(frame, sensors, (0,), time)


def test_a_missing_or_foreign_folder_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no footage at .*nowhere"):
        Footage.open(tmp_path / "nowhere")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "footage.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match=r"foreign is not a folder of footage"):
        Footage.open(tmp_path / "foreign")
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file is not a folder of footage"):
        Footage.open(tmp_path / "file")


@pytest.mark.parametrize("damage", [lambda shard: os.truncate(shard, 1000), lambda shard: shard.unlink()])
def test_truncated_footage_is_refused_by_the_name_of_the_shard(tmp_path: Path, damage: object) -> None:
    path = write_box_footage(tmp_path / "footage", train=(40,)).path
    damage(path / "footage-train.array_record-00000")  # type: ignore[operator]
    with pytest.raises(InputError, match=r"is damaged: footage-train\.array_record-00000 has \d+ bytes of \d+"):
        Footage.open(path)


def test_a_flipped_byte_in_a_record_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = write_box_footage(tmp_path / "footage", train=(40,)).path
    shard = path / "footage-train.array_record-00000"
    content = bytearray(shard.read_bytes())
    first_record = content.index(b"frames") if b"frames" in content else 300
    content[first_record + 50] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(InputError, match="is damaged: a record of split train cannot be read"):
        list(Footage.open(path).episodes("train"))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=8), st.floats(0, 1))
def test_the_last_share_of_all_time_is_held_out(lengths: list[int], holdout: float) -> None:
    training = training_lengths(lengths, holdout)
    assert sum(training) == round(sum(lengths) * (1 - holdout))
    assert all(0 <= kept <= length for kept, length in zip(training, lengths, strict=True))
    cut = [kept < length for kept, length in zip(training, lengths, strict=True) if length]
    assert cut == sorted(cut), "an episode after the cut was kept for training"


def test_the_moments_are_those_of_the_known_values_of_each_split(tmp_path: Path) -> None:
    spec = FootageSpec(1.0, None, tags=("a", "b"), actions=("speed",))
    rows = [(1.0, np.nan), (3.0, np.nan), (5.0, 4.0)]
    with FootageWriter(tmp_path / "tags", spec) as writer:
        for split in ("train", "holdout"):
            with writer.episode(split, split) as episode:
                for t, row in enumerate(rows[: 3 if split == "train" else 1]):
                    episode.append(None, row, (0.5,), t)
    moments = Footage.open(tmp_path / "tags").moments
    np.testing.assert_allclose(moments["train"]["sensors"].mean, [3.0, 4.0])
    np.testing.assert_allclose(moments["train"]["sensors"].std, [np.sqrt(8 / 3), 0.0])
    np.testing.assert_allclose(moments["train"]["actions"].mean, [0.5])
    np.testing.assert_allclose(moments["holdout"]["sensors"].mean, [1.0, 0.0])


def test_a_sample_is_spread_over_the_split_and_the_same_at_every_call(box_footage: Footage) -> None:
    frames = box_footage.sample("train", 100)
    assert frames.shape == (4 + 2 + 1, 16, 16, 3)
    assert set(frames[:, 0, 1, 0]) == {0, 1, 2}
    np.testing.assert_array_equal(frames, box_footage.sample("train", 100))
