"""Cameras: a video file or a folder of pictures, an RTSP stream, a USB device, or the embedded line. The latest frame
wins.
"""

import logging
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from math import inf
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Condition, Event, Thread
from time import monotonic, sleep
from typing import NamedTuple, Protocol

import av
import numpy as np
from numpy.typing import NDArray

from runtime.line import server
from runtime.settings import CameraSettings, Settings
from wm.config import FootageSpec
from wm.data import video
from wm.errors import InputError

log = logging.getLogger("flinch")

FRAME_AGE_S = 0.25
CAPTURE = "v4l2"  # what FFmpeg calls devices of Video4Linux
STREAM = {
    "rtsp_transport": "tcp",
    "allowed_media_types": "video",  # nobody listens, and pictures would wait for sound
    "analyzeduration": "500000",  # it looks for half a second, and keeps what it read: the first key frame is in it
    "fpsprobesize": "0",  # or it counts 20 frames for their rate
}
RECONNECT_S = 0.2, 2.0  # shortest and longest pause
HELD_UP_S = 1.0  # after a gap, how long pictures that are behind are left out
OPEN_S, READ_S = 5.0, 1.0  # PyAV fires at two to three times these


class Frame(NamedTuple):
    """A picture ready for the model.

    Attributes:
      image: [H, W, C] uint8.
      time: seconds by the source's clock.
      run: number of the unbroken run it belongs to; after a gap a new one begins.
      arrived: when it came, by the monotonic clock.
    """

    image: NDArray[np.uint8]
    time: float
    run: int
    arrived: float = 0.0


class BrokenOffError(Exception):
    """A stream broke off. The message says why, and not where: an address may hold a password."""


class Camera(Protocol):
    """A source of frames. `ended` is True once nothing more will come, `dropped` counts frames nobody looked at."""

    dropped: int

    @property
    def ended(self) -> bool: ...

    def next(self, *, wait: bool = True) -> Frame | None:
        """The next frame, or None where there is no fresh one in time, or now, where it shall not `wait`; InputError
        where the source proves broken.
        """

    def close(self) -> None: ...


class Replay:
    """Every frame, as fast as it is asked for."""

    def __init__(self, frames: Iterator[Frame]) -> None:
        self.dropped, self.ended = 0, False
        self._frames = frames

    def next(self, *, wait: bool = True) -> Frame | None:
        frame = next(self._frames, None)
        self.ended = frame is None
        return frame and frame._replace(arrived=monotonic())

    def close(self) -> None:
        self.ended = True


class Live:
    """A thread reads, from the first `next` on; `next` gives the latest frame, once, if it is fresh.

    Args:
      connect: opens the stream; it is called again, after a pause, when a stream that is `endless` breaks off.
      age_s: how old a frame may be, and how long `next` waits for one.
    """

    def __init__(self, connect: Callable[[], Iterator[Frame]], *, age_s: float, endless: bool) -> None:
        self.dropped = 0
        self._connect, self._age_s, self._endless = connect, age_s, endless
        self._bell = Condition()
        self._slot: tuple[Frame, float] | None = None
        self._finished = False
        self._error: InputError | None = None
        self._stop = Event()
        self._thread = Thread(target=self._read, name="camera", daemon=True)

    @property
    def ended(self) -> bool:
        return self._finished and self._slot is None and self._error is None

    def next(self, *, wait: bool = True) -> Frame | None:
        if self._thread.ident is None:
            self._thread.start()
        with self._bell:
            self._bell.wait_for(lambda: self._slot or self._finished, timeout=self._age_s if wait else 0.0)
            slot, self._slot = self._slot, None
        if slot is None and self._error is not None:
            raise self._error
        if slot is None or monotonic() - slot[1] > self._age_s:
            return None
        return slot[0]

    def close(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=READ_S)

    def _read(self) -> None:
        try:
            self._read_on()
        except InputError as error:
            self._error = error
        except Exception as error:  # whatever a broken source makes of a library, the runtime must hear of it
            self._error = InputError(f"the camera cannot be read ({error!r}); check the source and start again.")
        finally:
            with self._bell:
                self._finished = True
                self._bell.notify()

    def _read_on(self) -> None:
        pause, run, told = RECONNECT_S[0], 0, ""
        while not self._stop.is_set():
            try:
                for frame in self._connect():
                    self._put(frame._replace(run=frame.run + run))
                    pause, told = RECONNECT_S[0], ""
                    if self._stop.is_set():
                        return
            except BrokenOffError as error:
                if str(error) != told:
                    log.warning("camera: %s", error)
                told = str(error)
            if not self._endless:
                return
            run += 1
            self._stop.wait(pause)
            pause = min(2 * pause, RECONNECT_S[1])

    def _put(self, frame: Frame) -> None:
        with self._bell:
            self.dropped += self._slot is not None
            now = monotonic()
            self._slot = frame._replace(arrived=frame.arrived or now), now
            self._bell.notify()


class Cameras:
    """The cameras of a runtime. The first sets the pace; of the others the latest frame counts while it is fresh."""

    def __init__(self, cameras: Sequence[Camera], age_s: float) -> None:
        self._cameras, self._age_s = cameras, age_s
        self._latest: list[Frame | None] = [None] * len(cameras)

    @property
    def ended(self) -> bool:
        """Whether one of them has."""
        return any(camera.ended for camera in self._cameras)

    @property
    def dropped(self) -> int:
        return sum(camera.dropped for camera in self._cameras)

    def next(self) -> list[Frame | None]:
        """The latest frame of each, once more where it is still fresh, or None where there is none."""
        frames = [camera.next(wait=number == 0) for number, camera in enumerate(self._cameras)]
        for number, frame in enumerate(frames):
            before = self._latest[number]
            kept = number > 0 and before is not None and monotonic() - before.arrived <= self._age_s
            self._latest[number] = frame or (before if kept else None)
        return self._latest.copy()

    def close(self) -> None:
        for camera in self._cameras:
            camera.close()


def open_cameras(settings: Settings, spec: FootageSpec) -> Cameras:
    """All cameras that the settings name, see `open_camera`."""
    return Cameras([open_camera(settings, camera, spec) for camera in settings.cameras], frame_age_s(spec))


def frame_age_s(spec: FootageSpec) -> float:
    """How old a frame may be."""
    return max(FRAME_AGE_S, 2.5 / spec.rate_hz)


def open_camera(settings: Settings, camera: CameraSettings, spec: FootageSpec) -> Camera:
    """One camera of the settings, with pictures as the model's `spec` wants them.

    Raises:
      InputError: the file or folder is missing or broken.
    """
    age_s = frame_age_s(spec)
    if camera.source == "line":
        port = int(settings.plc.address.rpartition(":")[2]) if settings.plc else 0
        return Live(lambda: _line(camera.seed, camera.tail_rate, port, spec), age_s=age_s, endless=False)
    if camera.live:
        kind = CAPTURE if camera.device else None
        return Live(lambda: _stream(camera.source, spec, kind), age_s=age_s, endless=True)
    frames = _file(Path(camera.source), spec, loop=camera.loop)
    frames = chain([next(frames)], frames)
    return Replay(frames) if camera.replay else Live(lambda: _paced(frames), age_s=age_s, endless=False)


def _file(path: Path, spec: FootageSpec, *, loop: bool) -> Iterator[Frame]:
    time, run, again = 0.0, 0, True
    while again:
        start, first_run = time, run
        for picture in video.frames(path, spec):
            time, run = start + picture.time, first_run + picture.run
            yield Frame(picture.image, time, run)
        time, run, again = time + 1 / spec.rate_hz, run + 1, loop


def _paced(frames: Iterator[Frame]) -> Iterator[Frame]:
    start = monotonic()
    for frame in frames:
        sleep(max(0.0, start + frame.time - monotonic()))
        yield frame


def _stream(url: str, spec: FootageSpec, kind: str | None) -> Iterator[Frame]:
    """Frames of a network stream, or of a device of this `kind`, at the model's rate, by the time of their arrival;
    BrokenOffError where it fails.
    """
    options = {"fflags": "nobuffer"} if kind else STREAM
    try:
        with av.open(url, format=kind, timeout=(OPEN_S, READ_S), options=options) as container:
            due = monotonic()
            for picture in punctual(container.decode(video=0), frame_age_s(spec)):
                if (now := monotonic()) < due:
                    continue
                due = max(due + 1 / spec.rate_hz, now - 1 / spec.rate_hz)
                rgb = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
                yield Frame(video.prepare(rgb, spec), now, 0, now)
    except (av.FFmpegError, OSError) as error:
        raise BrokenOffError(error.strerror or type(error).__name__) from error
    except InputError as error:
        raise BrokenOffError(str(error)) from error
    except IndexError as error:
        raise BrokenOffError("the stream has no video") from error
    raise BrokenOffError("the stream has ended")


def punctual(pictures: Iterator[av.VideoFrame], age_s: float) -> Iterator[av.VideoFrame]:
    """Leaves out pictures that are old when they come: after a gap, what was held up on the way comes all at once. By
    their own time they must have caught up to `age_s`; a time that does not within a second is not believed.
    """
    shown, stamp = 0.0, None  # when the last one that was let through came, and its own time
    came, gap = inf, -inf
    for picture in pictures:
        last, came, time = came, monotonic(), picture.time
        if came - last > age_s:
            gap = came
        if stamp is not None and came - gap < HELD_UP_S and (time is None or came - shown - (time - stamp) > age_s):
            continue
        shown, stamp, gap = came, time, -inf
        yield picture


def _line(seed: int, tail_rate: float, port: int, spec: FootageSpec) -> Iterator[Frame]:
    """The embedded line in a process of its own, at real-time pace, with its PLC in another; InputError where it
    cannot start or stops."""
    context = multiprocessing.get_context("spawn")
    pipe, remote = context.Pipe(duplex=False)
    context.Process(target=_film, args=(remote, seed, tail_rate, port, spec), name="line", daemon=True).start()
    remote.close()
    with pipe:
        while True:
            try:
                item = pipe.recv()
            except EOFError as error:
                raise InputError("the embedded line has stopped; start the runtime again.") from error
            if isinstance(item, InputError):
                raise item
            image, time = item
            yield Frame(image, time, 0)


def _film(pipe: Connection, seed: int, tail_rate: float, port: int, spec: FootageSpec) -> None:
    """Runs in the child: the line, one scan every 20 ms, until nobody watches."""
    from runtime.line.line import SCANS_PER_FRAME, SPEC, Line  # noqa: PLC0415 - the parent does without the physics

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that the PLC goes too
    if (spec.image, spec.rate_hz) != (SPEC.image, SPEC.rate_hz):
        pipe.send(InputError("the bundle was not trained on the embedded line's pictures; choose another source."))
        return
    try:
        with server.running(port=port) as plc, Line(seed, tail_rate=tail_rate, plc=plc.address) as line:
            start = monotonic()
            while True:
                for _ in range(SCANS_PER_FRAME):
                    line.scan()
                    sleep(max(0.0, start + line.time - monotonic()))
                frame = line.frame()
                pipe.send((frame.image, frame.time))
    except InputError as error:
        pipe.send(error)
    except (BrokenPipeError, ConnectionError):
        return
