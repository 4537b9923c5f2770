"""Tag logs of a plant, CSV or Parquet: one row an instant, one column the time, the others tags and actions."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from wm.errors import InputError

SUFFIXES = {".csv", ".parquet"}
INSTANT_S = 1e-6


class Log(NamedTuple):
    """A log as it was read.

    Attributes:
      times: `[T]` float64, seconds.
      names: of the columns of numbers. values: `[T, n]` float32, NaN where nothing stands.
    """

    times: NDArray[np.float64]
    names: tuple[str, ...]
    values: NDArray[np.float32]

    def columns(self, wanted: Sequence[str]) -> NDArray[np.float32]:
        """`[T, n]`, those of the log's columns. Raises InputError for one that it has not got."""
        missing = [name for name in wanted if name not in self.names]
        if missing:
            raise InputError(
                f"the log has no column of numbers '{missing[0]}'; it has {', '.join(self.names) or 'none at all'}."
            )
        return self.values[:, [self.names.index(name) for name in wanted]]


def read(path: Path, *, time: str | None = None, delimiter: str = ",") -> Log:
    """Reads a log; its time is the column `time`, or the first one: timestamps, or seconds.

    Raises:
      InputError: it cannot be read, has no rows, or its time is neither.
    """
    try:
        if path.suffix == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            table = pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a log ({error}); give a CSV or Parquet file.") from None
    if not table.num_rows or not table.num_columns:
        raise InputError(f"{path} has no rows; give a log with a line of names and at least one of values.")
    time = table.schema.names[0] if time is None else time
    if time not in table.schema.names:
        raise InputError(f"{path} has no column '{time}'; name its time among {', '.join(table.schema.names)}.")
    seconds = _seconds(table[time])
    if seconds is None or np.isnan(seconds).any():
        raise InputError(f"column '{time}' of {path} is neither a timestamp nor seconds everywhere; name another one.")
    kept = [name for name in table.schema.names if name != time and _is_number(table.schema.field(name).type)]
    values = np.stack([_numbers(table[name]) for name in kept], axis=1) if kept else np.empty((len(seconds), 0))
    return Log(seconds, tuple(kept), values.astype(np.float32))


def runs(times: NDArray[np.float64], gap_s: float) -> list[slice]:
    """The unbroken runs of `[T]` times: cut where the clock goes back or leaps by more than `gap_s`."""
    steps = np.diff(times)
    cuts = [0, *(1 + np.flatnonzero((steps < 0) | (steps > gap_s))), len(times)]
    return [slice(int(first), int(last)) for first, last in pairwise(cuts)]


def rising(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times of a run in which several rows may bear the same one: those follow each other by a microsecond."""
    apart = INSTANT_S * np.arange(len(times))
    return np.maximum.accumulate(times - apart) + apart


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _numbers(column: Any) -> NDArray[np.float64]:
    return pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)


def _seconds(column: Any) -> NDArray[np.float64] | None:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        moments = pc.cast(column, pa.timestamp("us"))
        return _numbers(pc.cast(moments, pa.int64())) / 1e6
    return _numbers(column) if _is_number(column.type) else None
