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
INSTANT_S = 1e-5


class Log(NamedTuple):
    """What was read of a log.

    Attributes:
      times: `[T]` float64, seconds.
      values: `[T, n]` float32, the columns that were asked for, NaN where no finite number stands.
    """

    times: NDArray[np.float64]
    values: NDArray[np.float32]


def is_log(path: Path) -> bool:
    """Whether a file is a log by its name."""
    return path.suffix.lower() in SUFFIXES


def read(path: Path, columns: Sequence[str], *, rate_hz: float, time: str | None = None, delimiter: str = ",") -> Log:
    """Reads columns of numbers from a log whose time is the column `time`, or the first one: timestamps, or seconds.

    Raises:
      InputError: it cannot be read, has no rows, has not got such columns, its time is neither, or its rows do not
        follow each other about `rate_hz` times a second.
    """
    if len(delimiter) != 1 or not delimiter.isascii():
        raise InputError(f"--delimiter is a single character, not '{delimiter}'.")
    try:
        if path.suffix.lower() == ".parquet":
            table = pyarrow.parquet.read_table(path)
        else:
            table = pyarrow.csv.read_csv(path, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter))
        names = table.schema.names
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as a log ({error}); give a CSV or Parquet file.") from None
    if not table.num_rows or not table.num_columns:
        raise InputError(f"{path} has no rows; give a log with a line of names and at least one of values.")
    time = names[0] if time is None else time
    for name in (time, *columns):
        if names.count(name) != 1:
            raise InputError(
                f"{path} needs one column '{name}' and has {names.count(name)}; its columns are {', '.join(names)}."
            )
    seconds = _seconds(table[time])
    if seconds is None or not np.isfinite(seconds).all():
        raise InputError(f"column '{time}' of {path} is neither a timestamp nor seconds everywhere; name another one.")
    step = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 1.0 / rate_hz
    if not 0.5 < step * rate_hz < 2.0:
        raise InputError(
            f"{path} has a row every {step:g} s, which is not --rate-hz {rate_hz:g}; give the rate of its rows, and "
            "its time in seconds."
        )
    for name in columns:
        if not _is_number(table.schema.field(name).type):
            raise InputError(f"column '{name}' of {path} does not hold numbers; leave it out.")
    values = np.empty((len(seconds), len(columns)), np.float32)
    with np.errstate(over="ignore"):
        for place, name in enumerate(columns):
            values[:, place] = _numbers(table[name])
    return Log(seconds, np.where(np.isfinite(values), values, np.float32(np.nan)))


def runs(times: NDArray[np.float64], gap_s: float) -> list[slice]:
    """The unbroken runs of `[T]` times: cut where the clock goes back or leaps by more than `gap_s`."""
    steps = np.diff(times)
    cuts = [0, *(1 + np.flatnonzero((steps < 0) | (steps > gap_s))), len(times)]
    return [slice(int(first), int(last)) for first, last in pairwise(cuts)]


def rising(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Times of a run in which several rows may bear the same one: those follow each other by 10 microseconds."""
    apart = INSTANT_S * np.arange(len(times))
    return np.maximum.accumulate(times - apart) + apart


def _is_number(kind: pa.DataType) -> bool:
    numbers = pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean
    return any(is_kind(kind) for is_kind in numbers)


def _numbers(column: Any) -> NDArray[np.float64]:
    return pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def _seconds(column: Any) -> NDArray[np.float64] | None:
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _numbers(pc.cast(pc.cast(column, pa.timestamp("us"), safe=False), pa.int64())) / 1e6
    return _numbers(column) if _is_number(column.type) else None
