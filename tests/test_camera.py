"""Cameras on real files and sockets."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Event, Thread

import av
import numpy as np
import pytest
from PIL import Image

from experiments.stream import RtspCamera
from runtime import camera as camera_module
from runtime.camera import Camera, Cameras, Frame, Live, Replay, open_camera
from runtime.settings import CameraSettings, Settings
from wm.config import FootageSpec
from wm.data import video
from wm.errors import InputError

SPEC = FootageSpec(rate_hz=10.0, image=(16, 16, 3))


def write_video(path: Path, frames: int, rate: int = 20) -> Path:
    """A grey that brightens from frame to frame, 32x32."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 4 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "belt.mp4", 20)


def camera_of(source: Path | str, *, replay: bool = False, loop: bool = False) -> Camera:
    camera = CameraSettings(source=str(source), replay=replay, loop=loop)
    return open_camera(Settings(bundle=Path("b"), out=Path("o"), cameras=(camera,)), camera, SPEC)


def everything(camera: Camera) -> list[Frame]:
    frames = []
    while not camera.ended:
        frame = camera.next()
        if frame is not None:
            frames.append(frame)
    camera.close()
    return frames


def test_replay_gives_every_frame_exactly_as_ingest_sees_it(clip: Path) -> None:
    seen = everything(camera_of(clip, replay=True))
    wanted = list(video.frames(clip, SPEC))
    assert [frame.time for frame in seen] == [picture.time for picture in wanted]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(seen, wanted, strict=True))


def test_a_file_at_its_own_pace_takes_its_time_and_ends(clip: Path) -> None:
    start = time.monotonic()
    frames = everything(camera_of(clip))
    assert time.monotonic() - start >= 0.9 * frames[-1].time
    assert [frame.time for frame in frames] == sorted({frame.time for frame in frames})


def test_a_file_that_loops_goes_on_in_a_new_run_with_time_that_never_goes_back(clip: Path) -> None:
    camera = camera_of(clip, replay=True, loop=True)
    frames = [camera.next() for _ in range(25)]
    times = [frame.time for frame in frames if frame is not None]
    assert times == pytest.approx([i / 10 for i in range(25)])
    assert [frame.run for frame in frames if frame is not None] == [0] * 10 + [1] * 10 + [2] * 5


def test_a_folder_of_pictures_is_a_camera(tmp_path: Path) -> None:
    for number in range(3):
        Image.fromarray(np.full((20, 20, 3), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    assert [int(frame.image.mean()) for frame in everything(camera_of(tmp_path, replay=True))] == [0, 40, 80]


@pytest.mark.parametrize("replay", [False, True])
def test_a_missing_broken_or_empty_source_is_refused_at_once(tmp_path: Path, replay: bool) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video" * 100)
    (tmp_path / "empty").mkdir()
    for source in (tmp_path / "missing.mp4", broken, tmp_path / "empty"):
        with pytest.raises(InputError, match=source.name):
            camera_of(source, replay=replay)


def test_a_file_that_proves_broken_on_the_way_raises_where_frames_are_taken() -> None:
    def frames() -> Iterator[Frame]:
        yield Frame(np.zeros((16, 16, 3), np.uint8), 0.0, 0)
        raise InputError("belt.mp4 is broken after 0.1 s")

    camera = Live(frames, age_s=0.25, endless=False)
    with pytest.raises(InputError, match="broken after"):
        everything(camera)


def test_the_latest_frame_wins_and_the_others_are_counted() -> None:
    go_on, done = Event(), Event()

    def frames() -> Iterator[Frame]:
        for number in range(50):
            yield Frame(np.full((1, 1, 1), number, np.uint8), number / 10, 0)
            go_on.wait()
        done.set()

    camera = Live(frames, age_s=5.0, endless=False)
    first = camera.next()
    go_on.set()
    done.wait()
    last = camera.next()
    assert first is not None
    assert last is not None
    assert (first.image.item(), last.image.item(), camera.dropped) == (0, 49, 48)
    assert camera.next() is None
    assert camera.ended


def test_a_frame_that_is_too_old_is_not_given() -> None:
    def frames() -> Iterator[Frame]:
        for number in range(2):
            yield Frame(np.zeros((1, 1, 1), np.uint8), number / 10, 0)

    camera = Live(frames, age_s=0.1, endless=False)
    assert camera.next() is not None
    time.sleep(0.3)
    assert camera.next() is None


def test_a_network_stream_that_stalls_is_a_fault_and_one_that_returns_is_found_again(tmp_path: Path) -> None:
    data = write_video(tmp_path / "belt.ts", 60).read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stalled, go_on = Event(), Event()

        def serve() -> None:
            for _ in range(2):
                peer, _ = listener.accept()
                with peer:
                    peer.sendall(data)
                    stalled.set()
                    go_on.wait()

        thread = Thread(target=serve, daemon=True)
        thread.start()
        camera = camera_of(f"tcp://127.0.0.1:{listener.getsockname()[1]}")
        frame = next(frame for frame in iter(camera.next, 0) if isinstance(frame, Frame))
        assert frame.image.shape == (16, 16, 3)
        stalled.wait()
        assert any(camera.next() is None for _ in range(50))
        assert not camera.ended
        go_on.set()
        again = next(frame for frame in iter(camera.next, 0) if isinstance(frame, Frame) and frame.run > 0)
        assert again.image.shape == (16, 16, 3)
        camera.close()


def test_a_stream_is_seen_from_its_first_key_frame_on_and_not_from_its_second() -> None:
    with RtspCamera([np.full((32, 32, 3), 2 * number, np.uint8) for number in range(100)]) as served:
        camera = camera_of(served.address)
        began = time.monotonic()
        while camera.next() is None and time.monotonic() - began < 20.0:
            pass
        assert time.monotonic() - began < 10.0  # the second comes after 25 s
        camera.close()


def test_a_stream_that_comes_back_too_small_for_the_crop_is_waited_for_until_it_is_right_again() -> None:
    spec = replace(SPEC, crop=(0, 0, 48, 48))
    with RtspCamera([np.full((64, 64, 3), 2 * number, np.uint8) for number in range(100)]) as served:
        pictures = Live(lambda: camera_module._stream(served.address, spec, None), age_s=0.25, endless=True)

        def seen(seconds: float) -> bool:
            until = time.monotonic() + seconds
            return any(pictures.next() is not None for _ in iter(lambda: time.monotonic() < until, False))

        assert seen(10.0)
        served.lens = lambda picture: picture[:32, :32]
        served.hang_up()
        seen(1.0)
        assert not seen(1.0)
        served.lens = lambda picture: picture
        served.hang_up()
        assert seen(10.0)
        pictures.close()


def test_a_camera_that_cannot_be_reached_is_waited_for() -> None:
    camera = camera_of("rtsp://127.0.0.1:1/belt")
    assert camera.next() is None
    assert not camera.ended
    camera.close()


def test_the_embedded_line_is_a_camera_at_real_time_pace() -> None:
    line = CameraSettings(source="line", seed=3)
    camera = open_camera(
        Settings(bundle=Path("b"), out=Path("o"), cameras=(line,)),
        line,
        FootageSpec(rate_hz=10.0, image=(64, 64, 3)),
    )
    frames: list[Frame] = []
    start = time.monotonic()
    while len(frames) < 5:
        frame = camera.next()
        if frame is not None:
            frames.append(frame)
    assert time.monotonic() - start >= frames[-1].time - frames[0].time - 0.1
    assert frames[0].image.shape == (64, 64, 3)
    camera.close()


def test_a_bundle_of_other_pictures_cannot_watch_the_embedded_line() -> None:
    with pytest.raises(InputError, match="not trained on the embedded line"):
        everything(camera_of("line"))


def test_a_device_that_is_not_there_is_waited_for() -> None:
    camera = camera_of("/dev/video99")
    assert camera.next() is None
    assert not camera.ended
    camera.close()


def test_a_device_is_read_at_the_rate_of_the_model() -> None:
    pictures = camera_module._stream("testsrc=rate=30:size=64x48", SPEC, "lavfi")
    began = time.monotonic()
    frames = list(islice(pictures, 6))
    assert all(frame.image.shape == (16, 16, 3) for frame in frames)
    assert np.ptp(frames[0].image) > 100
    assert frames[-1].time - frames[0].time >= 0.45
    assert time.monotonic() - began < 5.0


def test_the_first_camera_sets_the_pace_and_of_others_the_latest_frame_stands_while_it_is_fresh():
    def stream(*pauses_s: float) -> Iterator[Frame]:
        for number, pause_s in enumerate(pauses_s):
            time.sleep(pause_s)
            yield Frame(np.full((1, 1, 3), number, np.uint8), float(number), 0)

    first = Live(lambda: stream(*[0.1] * 10), age_s=0.3, endless=False)
    other = Live(lambda: stream(0.05, 0.25, 0.1, 5.0), age_s=0.3, endless=False)
    cameras = Cameras([first, other], age_s=0.3)
    told = [cameras.next() for _ in range(10)]
    cameras.close()
    assert [frame.time for frame, _ in told if frame] == list(map(float, range(10)))
    assert told[0][1] is None or told[1][1] is not None
    seen = [frame.time for _, frame in told if frame]
    assert sorted(seen) == seen and {0.0, 1.0, 2.0} == set(seen) and len(seen) > 3
    assert told[-1][1] is None


def test_several_recordings_are_replayed_in_step_and_end_with_the_first_that_ends():
    def frames(count: int) -> Iterator[Frame]:
        return (Frame(np.zeros((1, 1, 3), np.uint8), time / 10, 0) for time in range(count))

    cameras, told = Cameras([Replay(frames(5)), Replay(frames(3))], age_s=0.3), []
    while not cameras.ended:
        told.append(cameras.next())
    assert [[frame and frame.time for frame in turn] for turn in told[:3]] == [[0.0, 0.0], [0.1, 0.1], [0.2, 0.2]]
    assert len(told) == 4 and told[3][0] is not None
