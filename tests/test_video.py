from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from wm.config import FootageSpec
from wm.data.video import HOLD_S, SAME_TIME_S, count, frames, prepare, resample
from wm.errors import InputError

SPEC = FootageSpec(rate_hz=10.0, image=(16, 24, 3))


def write_video(path: Path, levels: Sequence[int], times: Sequence[float] | None = None, rate: int = 10) -> Path:
    """A 48x32 video whose frame i is grey of `levels[i]`, shown at `times[i]` seconds."""
    with av.open(str(path), "w") as container:
        codec = {".gif": "gif", ".avi": "mpeg4"}.get(path.suffix, "libx264")
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb8" if codec == "gif" else "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, rate)
        for number, level in enumerate(levels):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
            frame.time_base = stream.time_base
            frame.pts = round(number / rate / stream.time_base if times is None else times[number] / stream.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def noisy_mkv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "noise.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=10, options={"threads": "1"}
        )  # or its bytes differ from time to time
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for _ in range(100):
            noise = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode())
    return path


increasing_times = st.lists(st.floats(0.001, 3.0), min_size=1, max_size=40).map(lambda steps: np.cumsum(steps).tolist())


@given(times=increasing_times, rate=st.sampled_from([1.0, 5.0, 10.0, 29.97]))
def test_every_tick_takes_the_nearest_earlier_item(times: list[float], rate: float) -> None:
    offsets = np.array(times) - times[0]
    samples = list(resample(zip(times, range(len(times)), strict=True), rate))
    ticks = np.arange(int((offsets[-1] + SAME_TIME_S) * rate) + 1)
    assume(np.abs(offsets[:, None] - ticks / rate - SAME_TIME_S).min() > 1e-9)
    held = np.searchsorted(offsets, ticks / rate + SAME_TIME_S) - 1
    kept = ticks / rate - offsets[held] <= max(HOLD_S, 1 / rate) + SAME_TIME_S
    assert [(sample.tick, item) for sample, item in samples] == list(
        zip(ticks[kept].tolist(), held[kept].tolist(), strict=True)
    )


@given(times=increasing_times)
def test_a_new_run_begins_exactly_where_ticks_were_left_out(times: list[float]) -> None:
    samples = [sample for sample, _ in resample(((time, None) for time in times), 10.0)]
    for earlier, later in pairwise(samples):
        assert later.run - earlier.run == (later.tick != earlier.tick + 1)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.avi", "clip.mkv", "clip.gif"])
def test_a_video_comes_at_the_rate_and_size_of_the_spec(tmp_path: Path, name: str) -> None:
    levels = [0, 0, 85, 85, 170, 170, 255, 255] * 2
    path = write_video(tmp_path / name, levels, rate=20)
    pictures = list(frames(path, SPEC))
    assert [picture.image.shape for picture in pictures] == [(16, 24, 3)] * 8
    assert [picture.time for picture in pictures] == pytest.approx(np.arange(8) / 10)
    np.testing.assert_allclose([picture.image.mean() for picture in pictures], levels[::2], atol=25)
    assert count(path, SPEC) == 8


def test_a_slow_video_repeats_its_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slow.mkv", [0, 100, 200], rate=5)
    np.testing.assert_allclose([picture.image.mean() for picture in frames(path, SPEC)], [0, 0, 100, 100, 200], atol=4)


def test_a_gap_in_the_timestamps_begins_a_new_run(tmp_path: Path) -> None:
    path = write_video(tmp_path / "gap.mkv", [50] * 10, [*np.arange(5) / 10, *(60 + np.arange(5) / 10)], rate=1000)
    pictures = list(frames(path, SPEC))
    assert {picture.run for picture in pictures} == {0, 1}
    assert [picture.time for picture in pictures if picture.run == 1] == pytest.approx(60 + np.arange(5) / 10)
    assert count(path, SPEC) == len(pictures)


def test_an_image_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        Image.new("RGB", (48, 32), (number,) * 3).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("not an image")
    pictures = list(frames(tmp_path, SPEC))
    assert [picture.image[0, 0, 0] for picture in pictures] == [1, 2, 10]
    assert [picture.time for picture in pictures] == pytest.approx([0, 0.1, 0.2])
    assert count(tmp_path, SPEC) == 3


@given(data=st.data())
def test_area_scaling_keeps_the_mean_brightness(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(4, 60), st.integers(4, 60)))
    target = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    rgb = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    scaled = prepare(rgb, FootageSpec(1.0, (*target, 3)))
    np.testing.assert_allclose(scaled.mean((0, 1)), rgb.mean((0, 1)), atol=0.51)


def test_whole_blocks_are_averaged_and_the_same_size_changes_nothing() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    blocks = rgb.reshape(8, 4, 12, 4, 3).mean((1, 3))
    np.testing.assert_allclose(prepare(rgb, FootageSpec(1.0, (8, 12, 3))), blocks, atol=0.51)
    np.testing.assert_array_equal(prepare(rgb, FootageSpec(1.0, (32, 48, 3))), rgb)


def test_the_crop_is_cut_before_scaling() -> None:
    rgb = np.zeros((32, 48, 3), np.uint8)
    rgb[10:20, 30:40] = 200
    cropped = prepare(rgb, FootageSpec(1.0, (5, 5, 3), crop=(30, 10, 10, 10)))
    np.testing.assert_array_equal(cropped, np.full((5, 5, 3), 200))


def test_grey_pictures_are_luma_in_one_channel() -> None:
    rgb: NDArray[np.uint8] = np.zeros((4, 4, 3), np.uint8)
    rgb[:] = (255, 0, 0)
    np.testing.assert_array_equal(prepare(rgb, FootageSpec(1.0, (2, 2, 1))), np.full((2, 2, 1), 76))


@pytest.mark.parametrize("crop", [(40, 0, 10, 10), (0, 30, 10, 10), (-1, 0, 10, 10), (0, 0, 0, 10)])
def test_a_crop_outside_the_picture_is_refused_by_the_name_of_the_file(
    tmp_path: Path, crop: tuple[int, int, int, int]
) -> None:
    path = write_video(tmp_path / "clip.mkv", [0, 0])
    with pytest.raises(InputError, match=r"clip\.mkv: the crop .* does not lie inside the picture of 48x32 pixels"):
        list(frames(path, FootageSpec(10.0, (8, 8, 3), crop=crop)))


def test_missing_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.avi").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name, message in (
        ("missing.mp4", "there is no file or folder .*missing.mp4"),
        ("text.mp4", "text.mp4 cannot be read as a video"),
        ("empty.avi", "empty.avi cannot be read as a video"),
        ("folder", "folder holds no images"),
    ):
        for read in (count, lambda path, spec: list(frames(path, spec))):
            with pytest.raises(InputError, match=message):
                read(tmp_path / name, SPEC)


def test_a_broken_image_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(InputError, match=r"bad\.png cannot be read as an image"):
        list(frames(tmp_path, SPEC))


def test_a_truncated_video_is_refused_by_name(noisy_mkv: Path, tmp_path: Path) -> None:
    assert len(list(frames(noisy_mkv, SPEC))) == 100
    content = noisy_mkv.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cut\.mkv is truncated: it ends after [45]\.\d s of 10\.0 s"):
        list(frames(cut, SPEC))


def test_a_video_damaged_in_the_middle_is_refused_and_not_made_up(noisy_mkv: Path, tmp_path: Path) -> None:
    with av.open(str(noisy_mkv)) as container:
        packet = bytes(list(container.demux(video=0))[45])
    content = bytearray(noisy_mkv.read_bytes())
    start = content.index(packet)
    content[start : start + 20] = bytes(255 - byte for byte in packet[:20])
    damaged = tmp_path / "damaged.mkv"
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.mkv is broken after [45]\.\d s"):
        list(frames(damaged, SPEC))


def test_a_sound_track_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "sound.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    with pytest.raises(InputError, match=r"sound\.mkv holds no video stream"):
        list(frames(path, SPEC))


def test_the_conveyor_clip_is_read_at_ten_a_second(data_dir: Path) -> None:
    path = data_dir / "clips" / "threezinedine_conveyor_belt.mp4"
    spec = FootageSpec(10.0, (64, 64, 3), crop=(0, 144, 368, 368))
    pictures = list(frames(path, spec))
    assert len(pictures) == count(path, spec) == 129
    assert pictures[-1].time == pytest.approx(12.8)
