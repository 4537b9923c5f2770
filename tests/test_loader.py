from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import box_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from wm.config import FootageSpec
from wm.data.footage import RECORD_FRAMES, Footage, FootageWriter
from wm.data.loader import WindowSource, windows
from wm.errors import InputError
from wm.types import Batch


def _same(one: Batch, other: Batch) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_batches_have_the_shapes_of_the_contract(box_footage: Footage) -> None:
    batch = next(windows(box_footage, "train", length=12, batch=5, seed=0))
    assert batch.observation.image.shape == (5, 12, 16, 16, 3) and batch.observation.image.dtype == np.uint8
    assert batch.observation.sensors.shape == (5, 12, 2) and batch.observation.sensors.dtype == np.float32
    assert batch.action.shape == (5, 12, 1) and batch.action.dtype == np.float32


@settings(max_examples=20)
@given(length=st.integers(1, 100))
def test_the_windows_are_every_stretch_inside_an_episode_once(box_footage: Footage, length: int) -> None:
    source = WindowSource(box_footage, "train", length)
    seen = []
    for index in range(len(source)):
        window = source[index]
        t, number = window.sensors[0]
        np.testing.assert_array_equal(window.sensors[:, 0], np.arange(t, t + length))
        assert set(window.sensors[:, 1]) == {number}
        seen.append((number, t))
    assert seen == [(n, t) for n, frames in enumerate((100, 33, 12)) for t in range(frames - length + 1)]


def test_frames_sensors_and_actions_of_a_window_belong_together(box_footage: Footage) -> None:
    batch = next(windows(box_footage, "train", length=12, batch=8, seed=3))
    t, number = batch.observation.sensors[..., 0], batch.observation.sensors[..., 1]
    np.testing.assert_array_equal(batch.observation.image[:, :, 0, 0, 0], t)
    np.testing.assert_array_equal(batch.observation.image[:, :, 0, 1, 0], number)
    np.testing.assert_array_equal(batch.observation.image[2, 7], box_frame(int(t[2, 7]), int(number[2, 7])))
    np.testing.assert_allclose(batch.action[..., 0], t / 1000)


def test_an_epoch_visits_every_window_once_and_the_next_one_in_another_order(box_footage: Footage) -> None:
    iterator = windows(box_footage, "holdout", length=31, batch=5, seed=0)
    epochs = [[float(t) for _ in range(2) for t in next(iterator).observation.sensors[:, 0, 0]] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 2
    assert epochs[0] != epochs[1]


def test_one_seed_gives_one_sequence_of_batches(box_footage: Footage) -> None:
    one, same, other = (windows(box_footage, "train", length=12, batch=4, seed=seed) for seed in (7, 7, 8))
    batches = [next(one) for _ in range(20)]
    assert all(_same(batch, next(same)) for batch in batches)
    assert not all(_same(batch, next(other)) for batch in batches)


@settings(max_examples=25)
@given(done=st.integers(0, 60), data=st.data())
def test_a_resumed_loader_equals_the_uninterrupted_one(box_footage: Footage, done: int, data: st.DataObject) -> None:
    arguments = {"length": data.draw(st.integers(1, 33)), "batch": data.draw(st.integers(1, 8)), "seed": 1}
    uninterrupted = windows(box_footage, "train", **arguments)
    for _ in range(done):
        next(uninterrupted)
    state = uninterrupted.get_state()
    resumed = windows(box_footage, "train", **arguments)
    resumed.set_state(state)
    assert all(_same(next(uninterrupted), next(resumed)) for _ in range(5))


def test_a_window_reads_only_the_records_it_touches(box_footage: Footage, monkeypatch: pytest.MonkeyPatch) -> None:
    footage = Footage.open(box_footage.path)
    records = footage._sources["train"]
    read: list[int] = []

    class Spy:
        def __getitem__(self, index: int) -> object:
            read.append(index)
            return records[index]

    monkeypatch.setitem(footage._sources, "train", Spy())
    source = WindowSource(footage, "train", RECORD_FRAMES)
    touched = []
    for index in (0, 1, 32, 50):
        read.clear()
        source[index]
        touched.append(list(read))
    assert touched == [[0], [0, 1], [1], [1, 2]]


def test_footage_without_camera_gives_batches_without_image(tmp_path: Path) -> None:
    spec = FootageSpec(1.0, None, tags=("pressure",))
    with FootageWriter(tmp_path / "tags", spec) as writer, writer.episode("train", "log") as episode:
        for t in range(40):
            episode.append(None, [t], (), t)
    batch = next(windows(Footage.open(tmp_path / "tags"), "train", length=8, batch=2, seed=0))
    assert batch.observation.image is None and batch.action.shape == (2, 8, 0)


def test_a_batch_may_be_larger_than_all_windows_together(box_footage: Footage) -> None:
    batch = next(windows(box_footage, "holdout", length=40, batch=3, seed=0))
    np.testing.assert_array_equal(batch.observation.sensors[:, 0, 0], [0, 0, 0])


def test_footage_too_short_for_a_window_is_refused_with_both_numbers(box_footage: Footage) -> None:
    with pytest.raises(InputError, match=r"longest train episode has 100 frames \(145 in all\) and a window needs 101"):
        windows(box_footage, "train", length=101, batch=2, seed=0)
