"""Video files, image folders or tag logs in, footage out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Literal

from experiments.cli import check_holdout, main, progress
from experiments.runfolder import provenance
from wm.config import FootageSpec
from wm.data import log, video
from wm.data.footage import FootageWriter, training_lengths
from wm.errors import InputError

GAP_PERIODS = 20  # without a row of a log, after which a new episode begins


@dataclass(frozen=True)
class Flags:
    """Flags of experiments.ingest."""

    inputs: tuple[Path, ...]
    """Video files and image folders of one camera, or tag logs (.csv, .parquet) of one plant, in the order of time;
    each begins a new episode."""
    out: Path
    """The folder of footage to make."""
    size: tuple[int, int] | None = None
    """Height and width in pixels that the model will see; for pictures."""
    rate_hz: float = 10.0
    """Frames a second that the model will see; an image folder and the rows of a log are taken to have this rate."""
    tags: tuple[str, ...] = ()
    """Columns of a log that are the plant's sensors."""
    actions: tuple[str, ...] = ()
    """Columns of a log that are what was done to the plant."""
    time: str | None = None
    """Column of a log with its time, timestamps or seconds; without it the first."""
    delimiter: str = ","
    """What stands between the columns of a CSV log."""
    crop: tuple[int, int, int, int] | None = None
    """Left, top, width and height, in pixels of the source, to cut out before scaling; without it the whole picture."""
    channels: Literal[1, 3] = 3
    """3 for colour, 1 for grey."""
    holdout: float = 0.2
    """The last share of all time that is held out from training, for calibration."""


def ingest(flags: Flags) -> None:
    """Turns video files, image folders or tag logs into footage."""
    check_holdout(flags.holdout)
    if flags.rate_hz <= 0:
        raise InputError("--rate-hz must be greater than 0")
    logs = [log.is_log(path) for path in flags.inputs]
    if any(logs) and not all(logs):
        raise InputError("--inputs are either pictures or logs; ingest them apart.")
    if any(logs):
        _ingest_logs(flags)
    else:
        _ingest_pictures(flags)


def _ingest_pictures(flags: Flags) -> None:
    if flags.size is None or min(flags.size) < 1:
        raise InputError("pictures need --size HEIGHT WIDTH, both greater than 0.")
    if flags.tags or flags.actions:
        raise InputError("--tags and --actions are columns of logs; pictures have none.")
    spec = FootageSpec(rate_hz=flags.rate_hz, image=(*flags.size, flags.channels), crop=flags.crop)
    counts = [video.count(path, spec) for path in flags.inputs]
    metadata = {**provenance(flags), "sources": [str(path) for path in flags.inputs]}
    with FootageWriter(flags.out, spec, metadata) as writer, progress() as bar:
        task = bar.add_task("ingest", total=sum(counts), unit="frames")
        for path, training in zip(flags.inputs, training_lengths(counts, flags.holdout), strict=True):
            frames = video.frames(path, spec)
            for split, part in (("train", islice(frames, training)), ("holdout", frames)):
                write_runs(writer, split, str(path), part, lambda: bar.advance(task))


def _ingest_logs(flags: Flags) -> None:
    if not flags.tags:
        raise InputError("a log needs --tags, the columns that are the plant's sensors.")
    if flags.size or flags.crop:
        raise InputError("--size and --crop are for pictures; a log has none.")
    spec = FootageSpec(flags.rate_hz, None, flags.tags, flags.actions)
    columns = (*flags.tags, *flags.actions)
    options = {"rate_hz": flags.rate_hz, "time": flags.time, "delimiter": flags.delimiter}
    logs = [log.read(path, columns, **options) for path in flags.inputs]
    counts = [len(each.times) for each in logs]
    metadata = {**provenance(flags), "sources": [str(path) for path in flags.inputs]}
    with FootageWriter(flags.out, spec, metadata) as writer:
        for path, each, training in zip(flags.inputs, logs, training_lengths(counts, flags.holdout), strict=True):
            for split, rows in (("train", slice(training)), ("holdout", slice(training, None))):
                write_log(writer, split, str(path), log.Log(each.times[rows], each.values[rows]))


def write_log(writer: FootageWriter, split: str, source: str, rows: log.Log) -> None:
    """Writes every unbroken run of rows as an episode of its own; columns are the spec's tags, then its actions."""
    tags = len(writer.spec.tags)
    for run in log.runs(rows.times, GAP_PERIODS / writer.spec.rate_hz):
        with writer.episode(split, source) as episode:
            for values, time in zip(rows.values[run], log.rising(rows.times[run]), strict=True):
                episode.append(None, values[:tags], values[tags:], float(time))


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
