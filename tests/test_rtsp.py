"""The camera on an RTSP server that nobody here wrote: what comes, how old it is, and what becomes of a server that
freezes, dies or has no film.
"""

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import streams
from streams import COLOURS, NUMBERS, RATE

from runtime import camera as camera_module
from runtime.camera import FRAME_AGE_S, Camera, Frame, open_camera
from runtime.settings import CameraSettings, Settings
from wm.config import FootageSpec

SPEC = FootageSpec(rate_hz=10.0, image=(16, 16, 3))
LATE_S = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return streams.film(tmp_path_factory.mktemp("films")).parent


@contextmanager
def watching(source: str) -> Iterator[Camera]:
    settings = CameraSettings(source=source)
    camera = open_camera(Settings(bundle=Path("b"), out=Path("o"), cameras=(settings,)), settings, SPEC)
    try:
        yield camera
    finally:
        camera.close()


def until(camera: Camera, wanted: Callable[[Frame | None], bool]) -> Frame | None:
    """Takes frames until one, or the lack of one, is as wanted; gives up after 30 s."""
    end = time.monotonic() + 30
    while not wanted(frame := camera.next()):
        assert time.monotonic() < end, "it never came"
        assert not camera.ended
    return frame


def some(camera: Camera, count: int) -> list[Frame]:
    """So many frames."""
    return [frame for frame in (until(camera, bool) for _ in range(count)) if frame is not None]


def sent_for(frame: Frame) -> float:
    """How long after the film's begin the frame was sent, modulo the film's length."""
    return streams.read(frame.image)[1] / RATE


def behind(frames: list[Frame]) -> list[float]:
    """How much later each came than it should have, had all been under way as long as the first."""
    length = NUMBERS / RATE
    late = [frame.arrived - frames[0].arrived - sent_for(frame) + sent_for(frames[0]) for frame in frames]
    return [(seconds + length / 2) % length - length / 2 for seconds in late]


def test_frames_of_a_foreign_rtsp_server_are_what_was_sent_and_come_at_the_rate_of_the_model(folder: Path) -> None:
    with streams.serving(folder) as stream, watching(stream.address) as camera:
        frames = some(camera, 20)
    for frame in frames:
        assert np.abs(streams.read(frame.image)[0] - COLOURS).max() < 30
    assert len({streams.read(frame.image)[1] for frame in frames}) == 20
    assert frames[-1].arrived - frames[0].arrived > 19 / SPEC.rate_hz / 2
    assert {frame.run for frame in frames} == {0}
    assert np.ptp(behind(frames)) < LATE_S


def test_who_looks_seldom_sees_what_is_now_and_not_what_has_queued_up(folder: Path) -> None:
    with streams.serving(folder) as stream, watching(stream.address) as camera:
        frames = some(camera, 5)
        for _ in range(2):
            time.sleep(1.0)
            (frame,) = some(camera, 1)
            assert time.monotonic() - frame.arrived < FRAME_AGE_S + LATE_S
            frames.append(frame)
        assert camera.dropped >= 6
    assert np.ptp(behind(frames)) < LATE_S


def test_the_sound_of_a_camera_with_a_microphone_does_not_hold_its_pictures_up(tmp_path: Path) -> None:
    streams.film(tmp_path, sound=True)
    with streams.serving(tmp_path) as stream, watching(stream.address) as camera:
        frames = some(camera, 25)
    assert np.ptp(behind(frames)) < LATE_S


def test_a_slow_camera_is_seen_after_few_of_its_frames(tmp_path: Path) -> None:
    streams.film(tmp_path, rate=5)
    with streams.serving(tmp_path) as stream, watching(stream.address) as camera:
        (frame,) = some(camera, 1)
    assert streams.read(frame.image)[1] <= 18


def test_a_foreign_rtsp_server_that_freezes_leaves_no_frame_and_thawed_it_shows_what_is_now(folder: Path) -> None:
    """What it makes up for in a burst is old, and is not shown; where the stream was opened anew, there is none."""
    with streams.serving(folder) as stream, watching(stream.address) as camera:
        frames = some(camera, 5)
        os.kill(stream.process.pid, signal.SIGSTOP)
        frozen = time.monotonic()
        until(camera, lambda frame: frame is None)
        assert time.monotonic() - frozen < 2 * FRAME_AGE_S + LATE_S
        time.sleep(1.0)
        os.kill(stream.process.pid, signal.SIGCONT)
        frames += [frame for frame in some(camera, 15) if frame.run == 0]
    assert np.ptp(behind(frames)) < LATE_S


def test_a_foreign_rtsp_server_that_is_killed_is_found_again_and_the_password_is_told_to_nobody(
    folder: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with streams.serving(folder) as stream, watching(stream.address.replace("//", "//flinch:s3cret@")) as camera:
        some(camera, 5)
        stream.process.kill()
        stream.process.wait()
        until(camera, lambda frame: frame is None)
        assert all(camera.next() is None for _ in range(4))
        with streams.serving(folder, stream.port):
            back = some(camera, 5)
    assert min(frame.run for frame in back) > 0
    assert np.abs(streams.read(back[-1].image)[0] - COLOURS).max() < 30
    assert any(record.getMessage().startswith("camera: ") for record in caplog.records)
    assert "s3cret" not in caplog.text + "".join(capfd.readouterr())


def test_a_film_that_a_foreign_rtsp_server_does_not_have_is_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with streams.serving(tmp_path) as stream, watching(stream.address) as camera:
        end = time.monotonic() + 30
        while not caplog.records:
            assert camera.next() is None
            assert not camera.ended
            assert time.monotonic() < end
        assert [record.getMessage() for record in caplog.records] == ["camera: Server returned 404 Not Found"]
        streams.film(tmp_path)
        assert some(camera, 1)[0].run > 0


@pytest.mark.parametrize(
    ("came", "own", "let_through"),
    [
        ([0, 0.1, 0.2, 0.3], [5.0, 5.1, 5.2, 5.3], [0, 1, 2, 3]),
        ([0, 0.1, 1.1, 1.1, 1.1, 1.2], [5.0, 5.1, 5.2, 5.3, 5.9, 6.2], [0, 1, 4, 5]),
        ([0, 0.1, 1.1, 1.2], [5.0, 5.1, 6.1, 6.2], [0, 1, 2, 3]),
        ([0, 0.1, 0.2, 0.3], [5.0, 5.1, 1.0, 1.1], [0, 1, 2, 3]),
        ([0, 0.4, 0.8, 1.2, 1.3], [5.0, 5.4, 5.8, 6.2, 6.3], [0, 1, 2, 3, 4]),
        ([0, 0.4, 0.6, 0.8, 1.0, 1.2, 1.45, 1.6], [5.0, 5.1, 5.1, 5.1, 5.1, 5.1, 5.1, 5.1], [0, 6, 7]),
        ([0, 0.1, 1.1, 1.1, 1.2], [5.0, 5.1, None, 5.2, 6.2], [0, 1, 4]),
        ([0, 0.1, 1.1, 1.1, 1.2], [None] * 5, [0, 1, 2, 3, 4]),
    ],
    ids=[
        "no gap",
        "held up",
        "a pause of the camera, by its own time",
        "its time jumps",
        "seldom and on time",
        "its time stands still",
        "one has no time",
        "none has a time",
    ],
)
def test_what_was_held_up_on_the_way_is_left_out(
    monkeypatch: pytest.MonkeyPatch, came: list[float], own: list[float | None], let_through: list[int]
) -> None:
    clock = iter(came)
    monkeypatch.setattr(camera_module, "monotonic", lambda: next(clock))
    pictures = [SimpleNamespace(number=number, time=time) for number, time in enumerate(own)]
    assert [picture.number for picture in camera_module.punctual(iter(pictures), 0.25)] == let_through
