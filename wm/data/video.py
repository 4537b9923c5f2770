"""Pictures from video files and image folders, cut and scaled to what a model sees; the runtime uses `prepare` too."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm.config import FootageSpec
from wm.errors import InputError

IMAGE_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
SAME_TIME_S = 1e-3
HOLD_S = 2.0
TRUNCATED_S = 1.0

Item = TypeVar("Item")


class VideoFrame(NamedTuple):
    """A picture ready for the model.

    Attributes:
      image: [H, W, C] uint8.
      time: seconds after the first picture, a multiple of 1 / rate_hz.
      run: number of the unbroken run it belongs to; it grows at every gap in the timestamps.
    """

    image: NDArray[np.uint8]
    time: float
    run: int


class Sample(NamedTuple):
    """One tick of a resampled stream: its number, and the number of its unbroken run."""

    tick: int
    run: int


def prepare(rgb: NDArray[np.uint8], spec: FootageSpec) -> NDArray[np.uint8]:
    """Cuts out `spec.crop`, scales by area to `spec.image`, and makes grey (BT.601) where that has one channel.

    Args:
      rgb: [H, W, 3] uint8, the whole picture of the source.

    Returns:
      [H, W, C] uint8 of the shape `spec.image`.

    Raises:
      InputError: the crop does not lie inside the picture.
    """
    assert spec.image is not None, "footage without a camera"
    height, width, channels = spec.image
    if spec.crop is not None:
        left, top, crop_width, crop_height = spec.crop
        right, bottom = left + crop_width, top + crop_height
        if not (0 <= left < right <= rgb.shape[1] and 0 <= top < bottom <= rgb.shape[0]):
            raise InputError(
                f"the crop (left {left}, top {top}, width {crop_width}, height {crop_height}) does not lie inside "
                f"the picture of {rgb.shape[1]}x{rgb.shape[0]} pixels"
            )
        rgb = rgb[top:bottom, left:right]
    scaled = _scale_rows(_scale_rows(rgb, height).swapaxes(0, 1), width).swapaxes(0, 1)
    if channels == 1:
        scaled = (scaled * LUMA).sum(axis=-1, keepdims=True)
    return np.rint(scaled).clip(0, 255).astype(np.uint8)


def _scale_rows(pixels: NDArray[Any], target: int) -> NDArray[np.float32]:
    """Scales axis 0 by area. No BLAS: its threads cost more than this work on a busy machine, and round differently."""
    first, weights = _coverage(len(pixels), target)
    scaled = np.zeros((target, *pixels.shape[1:]), np.float32)
    for tap, weight in enumerate(weights):
        scaled += weight[:, None, None] * pixels[np.minimum(first + tap, len(pixels) - 1)]
    return scaled


@lru_cache(maxsize=16)
def _coverage(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Of each target pixel: the first source pixel in it [target]; the shares of that and the next [taps, target]."""
    edges = np.arange(target + 1) * (source / target)
    first = np.floor(edges[:-1]).astype(np.intp)
    taps = np.arange((np.ceil(edges[1:]).astype(np.intp) - first).max())[:, None]
    overlap = np.minimum(edges[1:], first + taps + 1) - np.maximum(edges[:-1], first + taps)
    return first, (overlap.clip(0) * (target / source)).astype(np.float32)


def resample(stream: Iterable[tuple[float, Item]], rate_hz: float) -> Iterator[tuple[Sample, Item]]:
    """Samples a stream of (time in seconds, item) at ticks 1 / rate_hz apart, from its first item to its last.

    Each tick takes the nearest earlier item (one at most 1 ms later counts as on time). An item is held for 2 s, or
    one tick where that is longer; ticks without an item are left out, and a new run begins after them.
    """
    hold = max(HOLD_S, 1 / rate_hz) + SAME_TIME_S
    tick, run, broken = 0, 0, False
    start: float | None = None
    held: tuple[float, Item] | None = None
    for time, item in stream:
        start = time if start is None else start
        while held is not None and tick / rate_hz < time - start - SAME_TIME_S:
            if tick / rate_hz - held[0] <= hold:
                run, broken = run + broken, False
                yield Sample(tick, run), held[1]
            else:
                broken = True
            tick += 1
        held = time - start, item
    if held is not None and tick / rate_hz <= held[0] + SAME_TIME_S:
        yield Sample(tick, run + broken), held[1]


def frames(path: Path, spec: FootageSpec) -> Iterator[VideoFrame]:
    """The pictures of a video file (whatever FFmpeg reads) or an image folder, at `spec.rate_hz`, ready for the model.

    A video is resampled by its timestamps (see `resample`). A folder's images are taken in natural order of their names
    (2 before 10), `spec.rate_hz` of them a second. A codec without checksums, as H.264, shows damage only where the
    decoder can no longer make sense of it.

    Raises:
      InputError: naming the file: missing, empty, broken, ends a second or more before its declared end, or the crop
        lies outside its picture.
    """
    path = Path(path)
    pictures = _folder(path, spec.rate_hz) if path.is_dir() else _video(path)
    for sample, picture in resample(pictures, spec.rate_hz):
        try:
            image = prepare(_rgb(picture), spec)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        except OSError as error:
            raise InputError(f"{picture} cannot be read as an image ({error}): remove or replace it") from None
        yield VideoFrame(image, sample.tick / spec.rate_hz, sample.run)


def count(path: Path, spec: FootageSpec) -> int:
    """How many pictures `frames` will give, from the timestamps alone: nothing is decoded.

    Raises:
      InputError: as `frames`, where it shows without decoding.
    """
    path = Path(path)
    times = [time for time, _ in _folder(path, spec.rate_hz)] if path.is_dir() else _packet_times(path)
    return sum(1 for _ in resample(((time, None) for time in times), spec.rate_hz))


def _rgb(picture: Any) -> NDArray[np.uint8]:
    if isinstance(picture, Path):
        with Image.open(picture) as image:
            return np.asarray(image.convert("RGB"))
    rgb: NDArray[np.uint8] = picture.to_ndarray(format="rgb24")
    return rgb


def _folder(path: Path, rate_hz: float) -> Iterator[tuple[float, Path]]:
    images = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise InputError(f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    images.sort(key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)])
    for number, file in enumerate(images):
        yield number / rate_hz, file


def _open(path: Path) -> Any:
    try:
        container = av.open(str(path))
    except FileNotFoundError:
        raise InputError(f"there is no file or folder {path}") from None
    except (OSError, av.FFmpegError) as error:
        raise InputError(f"{path} cannot be read as a video ({_reason(error)})") from None
    if not container.streams.video:
        container.close()
        raise InputError(f"{path} holds no video stream")
    return container


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error)


def _video(path: Path) -> Iterator[tuple[float, Any]]:
    """(time, decoded frame) of a video file, checked to be whole."""
    with _open(path) as container:
        stream = container.streams.video[0]
        stream.thread_type = "SLICE"  # frame threads wait for ever for a frame that "explode" gave up
        stream.codec_context.options = {"err_detect": "explode"}  # rather than pictures that the decoder made up
        period = 1 / float(stream.average_rate or 25)
        first, last = 0.0, -np.inf
        try:
            for number, frame in enumerate(container.decode(stream)):
                time = number * period if frame.time is None else frame.time
                if time < last:
                    raise InputError(f"{path} is broken: its timestamps jump back from {last:.2f} s to {time:.2f} s")
                first = time if number == 0 else first
                last = time
                yield time, frame
        except av.FFmpegError as error:
            raise InputError(f"{path} is broken after {max(last, 0):.1f} s ({_reason(error)}): copy it again") from None
        found, declared = last - first + period, _declared_seconds(container, stream, period)
    if found < 0:
        raise InputError(f"{path} holds no picture")
    if found < declared - TRUNCATED_S:
        raise InputError(f"{path} is truncated: it ends after {found:.1f} s of {declared:.1f} s; copy it again")


def _declared_seconds(container: Any, stream: Any, period: float) -> float:
    """How long the header says the video is; 0 where it does not say."""
    seconds = [stream.frames * period]
    if stream.duration is not None:
        seconds.append(float(stream.duration * stream.time_base))
    elif container.duration is not None and len(container.streams) == 1:
        seconds.append(container.duration / av.time_base)
    return max(seconds)


def _packet_times(path: Path) -> list[float]:
    with _open(path) as container:
        stream = container.streams.video[0]
        period = 1 / float(stream.average_rate or 25)
        try:
            packets = [packet for packet in container.demux(stream) if packet.size]
        except av.FFmpegError as error:
            raise InputError(f"{path} is broken ({_reason(error)}): copy it again") from None
        return sorted(
            number * period if packet.pts is None else float(packet.pts * packet.time_base)
            for number, packet in enumerate(packets)
        )
