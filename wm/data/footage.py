"""Footage on disk: episodes of (frame, sensors, action, time), a TFDS dataset of 32-frame array_record records.

A folder of footage holds
  footage.json                          spec, metadata, index of episodes, sizes of the shards, fingerprint
  footage-SPLIT.array_record-NNNNN      the records; one holds up to 32 consecutive frames of one episode
  dataset_info.json, features.json      what `tfds.builder_from_directory` reads
It appears whole or not at all. Needs no TensorFlow.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from tensorflow_datasets.core.dataset_info import DatasetIdentity

from wm.config import FootageSpec
from wm.errors import InputError
from wm.files import sync

SPLITS = ("train", "holdout")
RECORD_FRAMES = 32
SHARD_BYTES = 1 << 28
WRITER_OPTIONS = (
    "group_size:1,uncompressed"  # camera noise hardly shrinks (16 %), and unpacking doubles the cost of reading
)
INDEX_FILE = "footage.json"


class Episode(NamedTuple):
    """Consecutive frames without a gap.

    Attributes:
      frames: `[T, H, W, C]` uint8, or None for footage without a camera.
      sensors: `[T, S]` float32, engineering units.
      actions: `[T, A]` float32; `actions[t]` was in force from frame t-1 to frame t.
      times: `[T]` float64, seconds, increasing.
      source: what was filmed: a file, or the seed of a simulated line.
    """

    frames: NDArray[np.uint8] | None
    sensors: NDArray[np.float32]
    actions: NDArray[np.float32]
    times: NDArray[np.float64]
    source: str


class EpisodeEntry(BaseModel):
    """Where an episode lies: `length` frames of a split, after those of the split's earlier episodes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    split: str
    source: str
    length: int


class Moments(BaseModel):
    """Mean and standard deviation of every column, of the values that are known; 0 where none is."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    mean: list[float]
    std: list[float]


class FootageIndex(BaseModel):
    """Content of `footage.json`. `moments` are by split, then "sensors" or "actions"."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    format: Literal["flinch-footage-2"] = "flinch-footage-2"
    spec: FootageSpec
    metadata: dict[str, Any]
    fingerprint: str
    files: dict[str, int]
    episodes: list[EpisodeEntry]
    moments: dict[str, dict[str, Moments]]


def _arrays(spec: FootageSpec) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape of one frame and dtype of each array that this footage records; empty ones are left out."""
    arrays: dict[str, tuple[tuple[int, ...], type]] = {"times": ((), np.float64)}
    if spec.image is not None:
        arrays["frames"] = (spec.image, np.uint8)
    if spec.tags:
        arrays["sensors"] = ((len(spec.tags),), np.float32)
    if spec.actions:
        arrays["actions"] = ((len(spec.actions),), np.float32)
    return arrays


def _features(spec: FootageSpec) -> tfds.features.FeaturesDict:
    tensors = {
        name: tfds.features.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")
        for name, (shape, dtype) in _arrays(spec).items()
    }
    return tfds.features.FeaturesDict({**tensors, "episode": np.int64, "start": np.int64})


class _Shards:
    """Array_record files of one split, written one after the other."""

    def __init__(self, folder: Path, split: str) -> None:
        self.template = tfds.core.ShardedFileTemplate(
            data_dir=folder,
            dataset_name="footage",
            split=split,
            filetype_suffix="array_record",
            template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
        )
        self.lengths: list[int] = []
        self.total_bytes = 0
        self._shard_bytes = 0
        self._writer: ArrayRecordWriter | None = None

    def write(self, record: bytes) -> None:
        if self._writer is None:
            path = self.template.sharded_filepath(shard_index=len(self.lengths), num_shards=None)
            self._writer = ArrayRecordWriter(str(path), WRITER_OPTIONS)
            self.lengths.append(0)
        self._writer.write(record)
        self.lengths[-1] += 1
        self.total_bytes += len(record)
        self._shard_bytes += len(record)
        if self._shard_bytes >= SHARD_BYTES:
            self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._shard_bytes = None, 0

    def info(self) -> tfds.core.SplitInfo:
        return tfds.core.SplitInfo(
            name=self.template.split,
            shard_lengths=self.lengths,
            num_bytes=self.total_bytes,
            filename_template=self.template,
        )


class _Sums:
    """Running count, sum and sum of squares of columns `[T, n]`."""

    def __init__(self, columns: int) -> None:
        self._count, self._sum, self._squares = np.zeros((3, columns))

    def add(self, rows: NDArray[np.float32]) -> None:
        known = ~np.isnan(rows)
        values = np.where(known, rows, 0.0).astype(np.float64)
        self._count += known.sum(axis=0)
        self._sum += values.sum(axis=0)
        self._squares += np.square(values).sum(axis=0)

    def moments(self) -> Moments:
        count = np.maximum(self._count, 1)
        mean = self._sum / count
        std = np.sqrt(np.maximum(self._squares / count - mean**2, 0.0))
        return Moments(mean=mean.tolist(), std=std.tolist())


class EpisodeWriter:
    """Appends the frames of one episode; made by `FootageWriter.episode`."""

    def __init__(self, footage: "FootageWriter", split: str, number: int) -> None:
        self._footage, self._split, self._number = footage, split, number
        self._arrays = _arrays(footage.spec)
        self._pending: dict[str, list[Any]] = {name: [] for name in self._arrays}
        self._last_time = -np.inf
        self.length = 0

    def append(self, frame: NDArray[np.uint8] | None, sensors: ArrayLike, action: ArrayLike, time: float) -> None:
        """Adds one instant: `frame` [H, W, C] uint8 or None, `sensors` [S], `action` [A], `time` in seconds.

        Raises:
          ValueError: a shape that is not the spec's, a frame that is not uint8, or a time that does not increase.
        """
        if time <= self._last_time:
            raise ValueError(f"time {time} s does not come after {self._last_time} s")
        if frame is not None and frame.dtype != np.uint8:
            raise ValueError(f"a frame is uint8, got {frame.dtype}")
        given: dict[str, Any] = {
            "times": time,
            "frames": () if frame is None else frame,
            "sensors": sensors,
            "actions": action,
        }
        instant: dict[str, NDArray[Any]] = {}
        for name, value in given.items():
            shape, dtype = self._arrays.get(name, ((0,), np.float32))
            instant[name] = np.array(value, dtype)
            if instant[name].shape != shape:
                raise ValueError(f"{name} have shape {instant[name].shape}, the spec says {shape}")
        for name, values in self._pending.items():
            values.append(instant[name])
        self._last_time = time
        self.length += 1
        if self.length % RECORD_FRAMES == 0:
            self.flush()

    def flush(self) -> None:
        """Hands the pending frames to disk as one record."""
        count = len(self._pending["times"])
        if count:
            arrays = {name: np.stack(values) for name, values in self._pending.items()}
            self._footage._write(self._split, self._number, self.length - count, arrays)
            self._pending = {name: [] for name in self._arrays}


class FootageWriter:
    """Writes footage as a stream: at most one record of frames is held in memory.

    A context manager. The folder appears at `path` when the block ends well; when it is left by an exception, or the
    process dies, nothing is there. An episode that is left by an exception which the caller handles ends there.

    Args:
      path: the folder to make; its parents are made as needed.
      spec: what every frame holds.
      metadata: JSON-able facts to keep beside it: the command, the sources, the seeds.

    Raises:
      InputError: something is at `path` already, another process is writing it, or no frame was written.
    """

    def __init__(self, path: Path, spec: FootageSpec, metadata: Mapping[str, Any] | None = None) -> None:
        self.path, self.spec, self.metadata = Path(path), spec, dict(metadata or {})
        self._folder = self.path.absolute().with_name(f".{self.path.absolute().name}.partial")
        self._features = _features(spec)
        self._shards = {split: _Shards(self._folder, split) for split in SPLITS}
        self._episodes: list[EpisodeEntry] = []
        self._sums = {
            split: {"sensors": _Sums(len(spec.tags)), "actions": _Sums(len(spec.actions))} for split in SPLITS
        }
        self._hash = hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode())

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"no footage can be written at {self.path} ({error.strerror}): choose another folder"
            ) from None
        self._lock = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise InputError(
                f"{self.path} is being written by another process: wait for it, or choose a new folder"
            ) from None
        if self.path.exists():
            self._discard()
            raise InputError(f"{self.path} exists already: choose a new folder, or remove it first")
        for left_by_a_crash in self._folder.iterdir():
            left_by_a_crash.unlink()
        return self

    @contextmanager
    def episode(self, split: str, source: str) -> Iterator[EpisodeWriter]:
        """Opens the next episode of `split` ("train" or "holdout"), one at a time; an empty one is dropped."""
        if split not in SPLITS:
            raise ValueError(f"no split {split!r}: {SPLITS}")
        writer = EpisodeWriter(self, split, number=len(self._episodes))
        try:
            yield writer
        finally:
            writer.flush()
            if writer.length:
                self._episodes.append(EpisodeEntry(split=split, source=source, length=writer.length))

    def _write(self, split: str, episode: int, start: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._hash.update(f"{split} {episode} {start}".encode())
        for name in sorted(arrays):
            self._hash.update(arrays[name].tobytes())
            if name in self._sums[split]:
                self._sums[split][name].add(arrays[name])
        record = self._features.serialize_example({**arrays, "episode": episode, "start": start})
        self._shards[split].write(record)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for shards in self._shards.values():
            shards.close()
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        if not self._episodes:
            raise InputError(f"no frame was written, so there is no footage at {self.path}")
        identity = DatasetIdentity("footage", tfds.core.Version("1.0.0"), str(self._folder), module_name=__name__)
        info = tfds.core.DatasetInfo(builder=identity, features=self._features, disable_shuffling=True)
        info.set_file_format("array_record")
        info.set_splits(tfds.core.SplitDict([shards.info() for shards in self._shards.values() if shards.lengths]))
        info.write_to_directory(self._folder)
        index = FootageIndex(
            spec=self.spec,
            metadata=self.metadata,
            fingerprint=self._hash.hexdigest(),
            files={file.name: file.stat().st_size for file in sorted(self._folder.iterdir())},
            episodes=self._episodes,
            moments={split: {name: x.moments() for name, x in sums.items()} for split, sums in self._sums.items()},
        )
        (self._folder / INDEX_FILE).write_text(index.model_dump_json(indent=1))
        for file in (*self._folder.iterdir(), self._folder):
            sync(file)
        try:
            self._folder.rename(self.path)
        except OSError:
            raise InputError(f"{self.path} appeared while it was being written: choose a new folder") from None
        sync(self.path.parent)

    def _discard(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        os.close(self._lock)


class Footage:
    """A folder of footage, read lazily: only the index is in memory.

    Attributes:
      path: the folder.
      spec: what every frame holds.
      metadata: what the writer noted.
      fingerprint: SHA-256, hex, of the spec and of everything in the records, in the order written.
      moments: mean and standard deviation of the "sensors" and "actions" of each split.
    """

    def __init__(self, path: Path, index: FootageIndex) -> None:
        self.path = path
        self.spec = index.spec
        self.metadata = index.metadata
        self.fingerprint = index.fingerprint
        self.moments = index.moments
        self._episodes = {split: [entry for entry in index.episodes if entry.split == split] for split in SPLITS}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Opens the folder, checking that every shard has the size that was written.

        Raises:
          InputError: nothing is there, it is not footage, or part of it is missing.
        """
        path = Path(path)
        if not path.exists():
            raise InputError(f"no footage at {path}: make it with experiments.ingest or experiments.record")
        try:
            index = FootageIndex.model_validate_json((path / INDEX_FILE).read_bytes())
        except (OSError, ValidationError):
            raise InputError(
                f"{path} is not a folder of footage: its {INDEX_FILE} cannot be read; make it again"
            ) from None
        for name, size in index.files.items():
            file = path / name
            found = file.stat().st_size if file.is_file() else 0
            if found != size:
                raise InputError(
                    f"{path} is damaged: {name} has {found} bytes of {size}; copy or make the footage again"
                )
        return cls(path, index)

    def frames(self, split: str) -> int:
        """Frames in a split; 0 for a split that was not recorded."""
        return sum(self.lengths(split))

    def hours(self, split: str) -> float:
        """Hours in a split."""
        return self.frames(split) / self.spec.rate_hz / 3600

    def lengths(self, split: str) -> list[int]:
        """Frames of each episode of a split."""
        return [entry.length for entry in self._episodes[split]]

    def episodes(self, split: str) -> Iterator[Episode]:
        """The episodes of a split, in the order written, each read whole as it is asked for."""
        for number, length in enumerate(self.lengths(split)):
            yield self.read(split, number, 0, length)

    def sample(self, split: str, count: int) -> NDArray[np.uint8]:
        """Frames `[n, H, W, C]` from all over a split, one each of up to `count` records, the same at every call."""
        records = [
            (number, start, min(RECORD_FRAMES, length - start))
            for number, length in enumerate(self.lengths(split))
            for start in range(0, length, RECORD_FRAMES)
        ]
        generator = np.random.default_rng(0)
        frames = []
        for place in np.unique(np.linspace(0, len(records) - 1, count).round().astype(int)):
            number, start, length = records[place]
            frames.append(self.read(split, number, start + int(generator.integers(length)), 1).frames)
        return np.concatenate([frame for frame in frames if frame is not None])

    def read(self, split: str, number: int, start: int, length: int) -> Episode:
        """Frames `start` to `start + length` of one episode, reading only the records that they lie in.

        Args:
          number: place of the episode within its split.

        Raises:
          IndexError: the episode has no such frames.
          InputError: a record is damaged.
        """
        entry = self._episodes[split][number]
        if not 0 <= start < start + length <= entry.length:
            raise IndexError(f"frames {start}..{start + length} of an episode of {entry.length}")
        first, last = start // RECORD_FRAMES, (start + length - 1) // RECORD_FRAMES
        offset = self._first_records[split][number]
        try:
            records = [self._sources[split][offset + record] for record in range(first, last + 1)]
        except Exception as error:
            raise InputError(
                f"{self.path} is damaged: a record of split {split} cannot be read ({error}); make it again"
            ) from error
        skip = start - first * RECORD_FRAMES

        def cut(name: str) -> NDArray[Any]:
            whole = [record[name] for record in records]
            return np.concatenate(whole)[skip : skip + length]

        recorded = _arrays(self.spec)
        nothing = np.zeros((length, 0), np.float32)
        return Episode(
            frames=cut("frames") if "frames" in recorded else None,
            sensors=cut("sensors") if "sensors" in recorded else nothing,
            actions=cut("actions") if "actions" in recorded else nothing,
            times=cut("times"),
            source=entry.source,
        )

    @cached_property
    def _first_records(self) -> dict[str, list[int]]:
        return {
            split: list(accumulate((-(-length // RECORD_FRAMES) for length in self.lengths(split)), initial=0))
            for split in SPLITS
        }

    @cached_property
    def _sources(self) -> dict[str, Any]:
        builder = tfds.builder_from_directory(self.path)
        return {split: builder.as_data_source(split=split) for split in SPLITS if self.lengths(split)}


def training_lengths(lengths: Sequence[int], holdout: float) -> list[int]:
    """How many leading frames of each episode are for training, when the last share `holdout` of all time is held out.

    Every episode before the cut is for training, every one after it is held out; the one it falls into is cut there.
    """
    left = round(sum(lengths) * (1 - holdout))
    starts = accumulate(lengths, initial=0)
    return [min(max(left - start, 0), length) for start, length in zip(starts, lengths, strict=False)]
