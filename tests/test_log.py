"""Tag logs become footage: what is read, where it is cut, and what is refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experiments.ingest import Flags, ingest
from wm.config import FootageSpec
from wm.data import log
from wm.data.footage import Footage
from wm.errors import InputError


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_csv_is_read_with_its_time_in_seconds_and_its_gaps_as_nan(tmp_path):
    text = "when;speed;name;eye\n2026-01-01 00:00:00.25;1.5;a;true\n2026-01-01 00:00:02.25;;b;false\n"
    read = log.read(written(tmp_path / "log.csv", text), ("speed", "eye"), rate_hz=0.5, delimiter=";")
    np.testing.assert_array_equal(np.diff(read.times), [2.0])
    np.testing.assert_array_equal(read.values, [[1.5, 1.0], [np.nan, 0.0]])


def test_a_number_that_is_not_finite_is_not_known(tmp_path):
    text = "t,a,b,serial\n0,inf,1e300,9223372036854775807\n1,1,2,9223372036854775806\n"
    read = log.read(written(tmp_path / "LOG.CSV", text), ("b", "a"), rate_hz=1.0)
    np.testing.assert_array_equal(read.values, [[np.nan, np.nan], [2.0, 1.0]])


def test_a_parquet_file_is_read_alike_also_with_nanoseconds(tmp_path):
    times = pa.array([1_700_000_000_000_000_001, 1_700_000_001_000_000_001], pa.timestamp("ns"))
    pyarrow.parquet.write_table(pa.table({"x": [1, 2], "t": times}), tmp_path / "log.parquet")
    read = log.read(tmp_path / "log.parquet", ("x",), rate_hz=1.0, time="t")
    np.testing.assert_allclose(read.times, [1.7e9, 1.7e9 + 1])
    np.testing.assert_array_equal(read.values, [[1.0], [2.0]])


def test_a_run_ends_where_the_clock_goes_back_or_leaps():
    assert log.runs(np.array([0.0, 1.0, 1.0, 9.0, 10.0, 3.0]), gap_s=5.0) == [slice(0, 3), slice(3, 5), slice(5, 6)]


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 3)))
def test_runs_are_all_rows_once_and_their_times_rise(steps):
    times = 1.7e9 + np.cumsum(steps) % 7.0
    cut = log.runs(times, gap_s=2.0)
    assert [row for run in cut for row in range(run.start, run.stop)] == list(range(len(times)))
    for run in cut:
        rising = log.rising(times[run])
        assert (np.diff(rising) > 0).all()
        np.testing.assert_allclose(rising, times[run], atol=1e-3)


def test_logs_become_episodes_of_tags_and_actions(tmp_path):
    rows = "".join(f"{t if t < 60 else t + 30},{t},{2 * t},{t % 2}\n" for t in range(100))
    source = written(tmp_path / "log.csv", "t,a,b,label\n" + rows)
    ingest(Flags(inputs=(source,), out=tmp_path / "footage", rate_hz=1.0, tags=("b",), actions=("a",), holdout=0.2))
    footage = Footage.open(tmp_path / "footage")
    assert footage.spec == FootageSpec(1.0, None, ("b",), ("a",))
    assert (footage.lengths("train"), footage.lengths("holdout")) == ([60, 20], [20])
    (held_out,) = footage.episodes("holdout")
    np.testing.assert_array_equal(held_out.sensors[:, 0], 2.0 * np.arange(80, 100))
    np.testing.assert_array_equal(held_out.actions[:, 0], np.arange(80, 100))


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("", {}, "cannot be read as a log"),
        ("n\xf6t,a\n0,1\n", {}, "cannot be read as a log"),
        ("t,a\n", {}, "has no rows"),
        ("t,a\nyesterday,1\n", {}, "neither a timestamp nor seconds"),
        ("t,a\ninf,1\n", {}, "neither a timestamp nor seconds"),
        ("t,a\n0,1\n", {"time": "when"}, "needs one column 'when' and has 0"),
        ("t,a\n0,1\n", {"tags": ("b",)}, "needs one column 'b' and has 0; its columns are t, a"),
        ("t,a,a\n0,1,2\n", {}, "needs one column 'a' and has 2"),
        ("t,a\n0,on\n", {}, "does not hold numbers"),
        ("t,a\n0,1\n10,1\n20,1\n", {}, "has a row every 10 s, which is not --rate-hz 1"),
        ("t,a\n0,1\n", {"delimiter": ";;"}, "is a single character"),
        ("t,a\n0,1\n", {"tags": ()}, "--tags"),
        ("t,a\n0,1\n", {"size": (8, 8)}, "--size"),
    ],
)
def test_a_log_that_cannot_be_used_is_refused_and_nothing_is_written(tmp_path, text, flags, said):
    (tmp_path / "log.csv").write_bytes(text.encode("latin-1"))
    given_flags = {"rate_hz": 1.0, "tags": ("a",), **flags}
    with pytest.raises(InputError, match=said):
        ingest(Flags(inputs=(tmp_path / "log.csv",), out=tmp_path / "footage", **given_flags))
    assert not (tmp_path / "footage").exists()


def test_pictures_and_logs_are_not_mixed(tmp_path):
    source = written(tmp_path / "log.csv", "t,a\n0,1\n")
    with pytest.raises(InputError, match="either pictures or logs"):
        ingest(Flags(inputs=(source, tmp_path / "clip.mp4"), out=tmp_path / "footage", tags=("a",)))
