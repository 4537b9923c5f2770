"""The benchmark's arithmetic, and how it speaks with the processes that it times."""

import os
import sys
from pathlib import Path

import pytest
from conftest import noise_bundle

from experiments import benchmark, benchmark_data, timed
from wm import bundle
from wm.config import ModelConfig
from wm.errors import InputError

ECHO = """
import json, sys
print(json.dumps({"name": "echo", "parameters": 7}), flush=True)
for line in sys.stdin:
    job, count = line.split()
    print(json.dumps([float(len(job))] * int(count)), flush=True)
"""


def test_a_side_does_a_job_so_many_times_on_the_cores_it_was_given() -> None:
    core = min(os.sched_getaffinity(0))
    with benchmark._side([sys.executable, "-c", ECHO], [core], {}) as side:
        assert (side.name, side.parameters) == ("echo", 7)
        assert side.do("tick", 3) == [4.0, 4.0, 4.0]
        assert side.memory() > 1
        status = Path(f"/proc/{side._process.pid}/status").read_text()
        assert f"Cpus_allowed_list:\t{core}\n" in status


def test_every_job_is_timed_in_every_turn(tmp_path, monkeypatch) -> None:
    echo = [sys.executable, "-c", ECHO]
    monkeypatch.setattr(benchmark, "_flinch", lambda flags, here: benchmark._side(echo, here, {}))
    flags = benchmark.Flags(tmp_path, peer=tmp_path / "none", rounds=2)
    timed = benchmark._time(flags, 1)["flinch"]
    assert {job: told["count"] for job, told in timed["ms"].items()} == {
        job: 2 * count for job, count in {**benchmark.SHARED, **benchmark.ALONE}.items()
    }


def test_a_side_that_dies_is_one_sentence() -> None:
    with (
        pytest.raises(InputError, match="ended before it answered"),
        benchmark._side(["false"], [min(os.sched_getaffinity(0))], {}),
    ):
        pass


@pytest.fixture
def small(tmp_path):
    config = ModelConfig((16, 16, 3), 1, 1, embed=8, deter=8, groups=2, classes=4, hidden=8, wide=8)
    made = noise_bundle(config, rate_hz=10.0, tags=("eye",), actions=("speed",))
    bundle.save(made, tmp_path / "small")
    return made


def test_what_is_timed_is_the_work_that_its_name_says(small) -> None:
    work = timed.jobs(small, batch=2, length=16, horizon=5, candidates=8, planned=3)
    assert set(work) == {*benchmark.SHARED, *benchmark.ALONE}
    state, terms = work["train_step"]()
    assert int(state.step) == 1 and terms["open_loop_image"] > 0
    latent, posterior = work["filter"]()
    assert latent.deter.shape == (1, 4, 8) and posterior.shape == (1, 4, 2, 4)
    divergence, error = work["score"]()
    assert divergence.shape == (1, 4) and error > 0
    assert work["imagine"]().shape == (1, 5, 16, 16, 3)
    assert work["look_ahead"]().shape == (5, 16, 16, 3)
    for name in ("plan", "plan_tags"):
        last, decision = work[name]()
        assert last.mean.shape == (3, 1) and decision.candidates.shape == (8, 3, 1)
    assert work["tick_1"]().errors.shape == (5, 13)
    assert work["tick_4"]().errors.shape == (4, 5, 13)


def test_a_bundle_with_other_pictures_than_the_peer_is_refused(small, tmp_path) -> None:
    flags = benchmark.Flags(tmp_path / "run", tmp_path / "small", peer=Path(sys.executable))
    with pytest.raises(InputError, match=r"pictures of \(16, 16, 3\), the peer those of \(64, 64, 3\)"):
        benchmark.run(flags)
    assert not (tmp_path / "run").exists()


def test_batches_are_read_from_footage_that_is_made_for_it(tmp_path) -> None:
    footage = benchmark_data._make(tmp_path / "footage", 300)
    assert footage.lengths("train") == [300]
    rate, memory = benchmark_data._read(footage, 20)
    assert rate > 0 and len(memory) == benchmark_data.REPORTS


def test_ratios_are_of_medians_and_the_deadline_of_the_ninety_ninth_percentile() -> None:
    def timed(**median: float) -> dict[str, dict[str, float]]:
        return {job: {"median": value, "p99": 2 * value} for job, value in median.items()}

    ours = timed(train_step=3, filter=1, score=1, imagine=2, plan=9, plan_tags=3, tick_1=5, tick_8=15)
    theirs = timed(train_step=12, filter=4, score=10, imagine=20, plan=6)
    alone = timed(plan=12)
    told = benchmark._summary(
        {"flinch": {"ms": ours, "parameters": 9}, "peer": {"ms": theirs}, "peer_tags": {"ms": alone}}
    )
    assert told == {
        "parameters": 9,
        "watch_p99_ms": 10,
        "eight_camera_ratio": 3.0,
        "train_ratio": 0.25,
        "filter_ratio": 0.25,
        "score_ratio": 0.1,
        "imagine_ratio": 0.1,
        "plan_ratio": 1.5,
        "plan_tags_ratio": 0.25,
    }
    assert "train_ratio" not in benchmark._summary({"flinch": {"ms": ours, "parameters": 9}})


def test_statistics_are_the_median_the_tail_and_the_worst() -> None:
    told = benchmark._statistics([float(x) for x in range(1, 102)])
    assert told == {"median": 51.0, "p99": 100.0, "worst": 101.0, "count": 101}
