"""Video files and image folders in, footage out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Literal

from experiments.cli import check_holdout, main, progress
from experiments.runfolder import provenance
from wm.config import FootageSpec
from wm.data import video
from wm.data.footage import FootageWriter, training_lengths
from wm.errors import InputError


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.ingest."""

    inputs: tuple[Path, ...]
    """Video files and image folders of one camera, in the order of time; each begins a new episode."""
    out: Path
    """The folder of footage to make."""
    size: tuple[int, int]
    """Height and width in pixels that the model will see."""
    rate_hz: float = 10.0
    """Frames a second that the model will see; an image folder is taken to have this rate."""
    crop: tuple[int, int, int, int] | None = None
    """Left, top, width and height, in pixels of the source, to cut out before scaling; without it the whole picture."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""
    holdout: float = 0.2
    """The last share of all time that is held out from training, for calibration."""


def ingest(flags: Flags) -> None:
    """Turns video files and image folders into footage."""
    check_holdout(flags.holdout)
    if flags.rate_hz <= 0 or min(flags.size) < 1:
        raise InputError("--rate-hz and --size must be greater than 0")
    spec = FootageSpec(rate_hz=flags.rate_hz, image=(*flags.size, flags.channels), crop=flags.crop)
    counts = [video.count(path, spec) for path in flags.inputs]
    metadata = {**provenance(flags), "sources": [str(path) for path in flags.inputs]}
    with FootageWriter(flags.out, spec, metadata) as writer, progress() as bar:
        task = bar.add_task("ingest", total=sum(counts), unit="frames")
        for path, training in zip(flags.inputs, training_lengths(counts, flags.holdout), strict=True):
            frames = video.frames(path, spec)
            for split, part in (("train", islice(frames, training)), ("holdout", frames)):
                write_runs(writer, split, str(path), part, lambda: bar.advance(task))


def write_runs(
    writer: FootageWriter, split: str, source: str, frames: Iterable[video.VideoFrame], done: Callable[[], None]
) -> None:
    """Writes every unbroken run of frames as an episode of its own."""
    for _, run in groupby(frames, key=lambda frame: frame.run):
        with writer.episode(split, source) as episode:
            for frame in run:
                episode.append(frame.image, (), (), frame.time)
                done()


if __name__ == "__main__":
    main(ingest)
