"""What a run's ticks say of its latency."""

import json

import pytest

from experiments import benchmark_runtime, stand
from wm.errors import InputError


def row(latency_ms, dropped=0, fault=None):
    return {"latency_ms": latency_ms, "dropped": dropped, "fault": fault, "plc": None}


def test_latency_is_told_of_those_frames_whose_command_reached_the_plc():
    rows = [row(None), *[row(float(number)) for number in range(1, 102)], row(None, dropped=2, fault="blank")]
    found = benchmark_runtime.latency(rows)
    assert (found["camera_to_register_median_ms"], found["camera_to_register_p99_ms"]) == (51.0, 100.0)
    assert (found["camera_to_register_worst_ms"], found["frames"]) == (101.0, 103)
    assert (found["frames_dropped"], found["turns_at_fault"]) == (2, 1)
    with pytest.raises(InputError, match="has had no command"):
        benchmark_runtime.latency([row(None)])


def test_a_tick_that_is_being_written_is_not_read(tmp_path):
    assert stand.ticks(tmp_path) == []
    (tmp_path / "ticks.jsonl").write_text(json.dumps(row(1.0)) + "\n" + '{"latency_')
    assert stand.ticks(tmp_path) == [row(1.0)]
