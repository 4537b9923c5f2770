"""The loop, and the runtime as a process, with a real if untrained model."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from runtime import journal, run
from runtime.__main__ import Flags, main
from runtime.alarm import AlarmSettings
from runtime.camera import Frame
from runtime.eyes import missed
from runtime.journal import Entry
from runtime.known_good import Chosen
from runtime.line import server
from runtime.line.rack import REGISTERS
from runtime.loop import Loop, Tick
from runtime.plc import Fault, PlcClient
from runtime.registers import Mode, Status, read_map
from runtime.run import Tags
from runtime.settings import read_settings
from wm import bundle, model, surprise
from wm.bundle import Bundle
from wm.config import FootageSpec, ModelConfig, MonitorConfig
from wm.errors import InputError
from wm.types import Normaliser

SPEC = FootageSpec(rate_hz=10.0, image=(16, 16, 3))
LINE_SPEC = FootageSpec(
    rate_hz=10.0,
    image=(64, 64, 3),
    tags=("infeed_eye", "gate_eye", "blocked_s", "feeder_speed", "cartons_per_minute"),
    actions=("feeder_setpoint",),
)
ALARM = AlarmSettings(on_frames=3, off_frames=10, hold_frames=20, longest_frames=300, slow_to=0.15)
MAP = read_map(REGISTERS)
STRIPED = 99 * np.eye(16, dtype=np.uint8)[..., None].repeat(3, -1)


def untrained(spec: FootageSpec, threshold: float) -> Bundle:
    """Every frame surprises it a little: with a tiny threshold always too much, with a large one never."""
    config, monitor = ModelConfig.of(spec, "debug"), MonitorConfig(horizons_s=(0.0, 0.5), shown_s=0.5)
    sizes = (len(spec.tags), len(spec.tags), len(spec.actions), len(spec.actions))
    normaliser = Normaliser(*(jnp.ones(size) for size in sizes))
    variables = jax.jit(model.init, static_argnums=0)(config, normaliser, jax.random.key(0))
    calibration = surprise.uncalibrated(config, monitor, spec.rate_hz).replace(
        threshold=jnp.asarray(threshold, jnp.float32)
    )
    return Bundle(spec, config, variables, calibration, monitor)


def watch(loop: Loop, frames: int) -> list[Tick]:
    pictures = np.random.default_rng(0).integers(0, 255, (frames, 16, 16, 3), dtype=np.uint8)
    return [loop.tick([Frame(picture, t / 10, 0)], None, None) for t, picture in enumerate(pictures)]


@pytest.fixture(scope="module")
def anxious() -> Bundle:
    return untrained(SPEC, 1e-6)


@pytest.fixture(scope="module")
def calm(anxious: Bundle) -> Bundle:
    assert anxious.calibration is not None
    return replace(anxious, calibration=anxious.calibration.replace(threshold=jnp.asarray(1e6, jnp.float32)))


def test_the_heartbeat_advances_with_every_fresh_frame_and_stands_still_without(calm: Bundle) -> None:
    loop = Loop(calm, ALARM, Mode.ACT)
    assert [tick.command.heartbeat for tick in watch(loop, 3)] == [1, 2, 3]
    fault = loop.tick([None], None, None)
    assert (fault.command.heartbeat, fault.fault) == (3, "no fresh frame from the camera")
    assert watch(loop, 1)[0].command.heartbeat == 4


def test_a_surprise_that_lasts_slows_the_feeder_until_the_camera_fails(anxious: Bundle) -> None:
    loop = Loop(anxious, ALARM, Mode.ACT)
    ticks = watch(loop, 24)
    on = next(i for i, tick in enumerate(ticks) if tick.alarm.on)
    assert [tick.command.speed_request for tick in ticks] == [1.0] * on + [0.15] * (24 - on)
    assert min(tick.score for tick in ticks[on - 2 : on + 1]) >= 1.0
    withdrawn = loop.tick([None], None, None).command
    assert (withdrawn.alarm, withdrawn.speed_request) == (False, 1.0)


def test_normal_running_asks_for_nothing(calm: Bundle) -> None:
    assert all(
        tick.command.speed_request == 1.0 and not tick.alarm.on for tick in watch(Loop(calm, ALARM, Mode.ACT), 9)
    )


def test_the_same_frames_give_the_same_ticks(calm: Bundle) -> None:
    first, second = (watch(Loop(calm, ALARM, Mode.ACT), 8) for _ in range(2))
    assert [(tick.score, tick.command) for tick in first] == [(tick.score, tick.command) for tick in second]


def test_a_score_that_is_not_a_number_is_a_fault_of_the_model(calm: Bundle) -> None:
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), calm.variables)
    (tick,) = watch(Loop(replace(calm, variables=broken), ALARM, Mode.ACT), 1)
    assert tick.fault == "the model's score is not a number"
    assert tick.command.heartbeat == 0


def test_a_camera_that_sees_nothing_is_its_own_fault_and_no_jam(anxious: Bundle) -> None:
    loop = Loop(anxious, ALARM, Mode.ACT)
    assert watch(loop, 24)[-1].alarm.on
    blank = loop.tick([Frame(np.zeros((16, 16, 3), np.uint8), 2.4, 0)], None, None)
    assert (blank.fault, blank.alarm.on) == ("the camera's picture is blank", False)
    assert (blank.command.heartbeat, blank.command.speed_request) == (24, 1.0)
    same = watch(loop, 1)[0]
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    told = [loop.tick([Frame(picture, t / 10, 0)], None, None) for t in range(20)]
    assert same.fault is None
    assert [tick.fault for tick in told] == [None] * 19 + ["the camera's picture is frozen"]


def test_frames_that_were_missed_are_coasted_over_and_after_too_many_the_monitor_starts_anew(calm: Bundle) -> None:
    for time_s, known in ((2.2, True), (3.1, False)):
        loop = Loop(calm, ALARM, Mode.ACT)
        watch(loop, 20)
        told = loop.tick([Frame(STRIPED, time_s, 0)], None, None)
        assert (told.score > 0.0) == known
        assert told.glances[0].anew != known


def test_a_frame_that_was_seen_already_tells_nothing_new(calm: Bundle) -> None:
    loop, other = Loop(calm, ALARM, Mode.ACT), Loop(calm, ALARM, Mode.ACT)
    watch(loop, 20), watch(other, 20)
    frame, following = Frame(STRIPED, 2.0, 0), Frame(STRIPED[::-1], 2.1, 0)
    first, again = (loop.tick([frame], None, None) for _ in range(2))
    other.tick([frame], None, None)
    assert (first.score, first.command.heartbeat + 1) == (again.score, again.command.heartbeat)
    assert loop.tick([following], None, None).score == other.tick([following], None, None).score > 0.0


def test_several_cameras_are_scored_as_each_would_be_alone_and_the_loudest_counts(calm: Bundle) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (30, 2, 16, 16, 3), dtype=np.uint8)
    pictures[:, 1] = pictures[:, 1] // 4 + 90
    frames = [[Frame(picture, t / 10, 0) for picture in each] for t, each in enumerate(pictures)]
    both = Loop(calm, ALARM, Mode.ACT, ["belt", "infeed"])
    alone = [Loop(calm, ALARM, Mode.ACT) for _ in range(2)]
    for each in frames:
        together = both.tick(each, None, None)
        scores = [loop.tick([frame], None, None).score for loop, frame in zip(alone, each, strict=True)]
        np.testing.assert_allclose([float(one.surprise.score) for one in together.glances], scores, rtol=1e-4)
        assert together.score == pytest.approx(max(scores), rel=1e-4)
    assert scores[0] != scores[1]
    assert together.loudest == int(np.argmax(scores))
    assert [picture.shape for picture in both.look_ahead(None)] == [(2, 16, 16, 3)] * 2


def test_a_loud_frame_that_is_seen_again_is_no_longer_loud_than_once_and_two_cameras_do_not_add_up(
    anxious: Bundle,
) -> None:
    one = np.random.default_rng(2).integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    quiet = replace(anxious.calibration, threshold=jnp.asarray(1e6, jnp.float32))
    loop = Loop(replace(anxious, calibration=quiet), ALARM, Mode.ACT, ["belt", "infeed"])
    for t in range(20):
        loop.tick([Frame(one[t], t / 10, 0)] * 2, None, None)
    loop._eyes._bundle = anxious
    late = Frame(one[20], 2.0, 0)
    on = [loop.tick([Frame(one[20 + t], 2.0 + t / 10, 0), late], None, None).alarm.on for t in range(2)]
    assert on == [False, False]
    loop._eyes._bundle = replace(anxious, calibration=quiet)
    assert not loop.tick([Frame(one[22], 2.2, 0), late], None, None).alarm.on
    loop._eyes._bundle = anxious
    told = [loop.tick([Frame(one[23 + t], 2.3 + t / 10, 0), late], None, None) for t in range(3)]
    assert [tick.alarm.on for tick in told] == [False, False, True]
    assert {tick.camera for tick in told} <= {"belt", "infeed"}


def test_one_camera_at_fault_withdraws_the_request_and_the_others_go_on(calm: Bundle) -> None:
    pictures = np.random.default_rng(1).integers(0, 255, (30, 2, 16, 16, 3), dtype=np.uint8)
    frames = [[Frame(picture, t / 10, 0) for picture in each] for t, each in enumerate(pictures)]
    both, alone = Loop(calm, ALARM, Mode.ACT, ["belt", "infeed"]), Loop(calm, ALARM, Mode.ACT)
    for each in frames[:20]:
        both.tick(each, None, None), alone.tick(each[:1], None, None)
    blind = both.tick([frames[20][0], None], None, None)
    alone.tick(frames[20][:1], None, None)
    assert blind.fault == "infeed: no fresh frame from the camera"
    assert (blind.command.heartbeat, blind.glances[0].fault) == (20, None)
    seen = both.tick(frames[21], None, None)
    assert seen.fault is None and [each.anew for each in seen.glances] == [False, True]
    expected = alone.tick(frames[21][:1], None, None).score
    assert float(seen.glances[0].surprise.score) == pytest.approx(expected, rel=1e-4)
    assert float(seen.glances[1].surprise.score) == 0.0


def test_a_new_run_of_a_camera_forgets_the_alarm(anxious: Bundle) -> None:
    loop = Loop(anxious, ALARM, Mode.ACT)
    assert watch(loop, 24)[-1].alarm.on
    assert not loop.tick([Frame(STRIPED, 2.4, 1)], None, None).alarm.on


def test_after_the_warm_up_no_frame_waits_for_a_compilation(calm: Bundle) -> None:
    def compiled() -> list[int]:
        return [step._cache_size() for step in (bundle._watch_all, bundle._coast, bundle._look_ahead)]

    loop = Loop(calm, ALARM, Mode.ACT)
    loop.warm_up(shown=True)
    before = compiled()
    watch(loop, 3)
    loop.tick([Frame(STRIPED, 0.4, 0)], None, None)
    assert loop.look_ahead(None)[0] is not None
    assert compiled() == before


@pytest.mark.parametrize(("elapsed_s", "frames"), [(0.05, 0), (0.1, 0), (0.16, 0), (0.2, 1), (0.25, 1), (0.3, 2)])
def test_jitter_is_no_missed_frame(elapsed_s: float, frames: int) -> None:
    assert missed(elapsed_s, 10.0) == frames


def test_a_hiccup_of_the_link_leaves_the_last_tags_standing_for_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("runtime.run.monotonic", lambda: now[0])
    tags, status, fault = Tags([1], [0]), Status(1, 6, 1, False, (0.5, 7.0)), Fault("PLC: no exchange in time")
    assert tags.take(fault) == (None, None)
    assert tags.take(status) == (7.0, 0.5)
    now[0] += 0.9
    assert tags.take(fault) == (7.0, 0.5) and tags.known
    now[0] += 0.2
    assert tags.take(fault) == (None, None) and not tags.known


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip of three seconds and a bundle that always alarms."""
    folder = tmp_path_factory.mktemp("shop")
    with av.open(str(folder / "belt.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for number in range(30):
            pixels = np.roll(np.eye(32, dtype=np.uint8) * 255, number, axis=1)[..., None].repeat(3, axis=-1)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    bundle.save(untrained(LINE_SPEC, 1e-6), folder / "anxious")
    return folder


def settings_file(tmp_path: Path, **values: Any) -> Path:
    """Settings of a runtime that writes to tmp_path/run; values are TOML literals, `section__key` for a section's."""
    sections: dict[str, list[str]] = {"": [f'out = "{tmp_path / "run"}"']}
    for key, value in values.items():
        section, _, name = key.rpartition("__")
        sections.setdefault(section, []).append(
            f"{name} = {json.dumps(str(value) if isinstance(value, Path) else value)}"
        )
    heads = {"": [], "camera": ["[[cameras]]"]}
    lines = ["\n".join(heads.get(section, [f"[{section}]"]) + keys) for section, keys in sections.items()]
    file = tmp_path / "settings.toml"
    file.write_text("\n".join(lines))
    return file


def start(settings: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runtime", "--settings", str(settings)]
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(settings.parent.parent),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | cache)


def ticks_of(tmp_path: Path) -> list[dict[str, Any]]:
    file = tmp_path / "run" / "ticks.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def journal_of(tmp_path: Path) -> list[Entry]:
    rows = list(journal.read(tmp_path / "run" / "journal.db"))
    assert journal.broken(rows) is None
    return [row.entry for row in rows]


def wait_for(wanted: Callable[[], bool]) -> None:
    for _ in range(600):
        if wanted():
            return
        time.sleep(0.1)
    raise AssertionError("it never came")


def test_an_unreachable_plc_does_not_stop_the_watching(shop: Path, tmp_path: Path) -> None:
    settings = settings_file(
        tmp_path,
        bundle=shop / "anxious",
        camera__source=shop / "belt.mp4",
        camera__replay=True,
        plc__address="127.0.0.1:1",
        plc__registers=REGISTERS,
        recorder__after_s=1.0,
    )
    process = start(settings)
    assert process.wait(120) == 0
    ticks = ticks_of(tmp_path)
    assert [tick["time"] for tick in ticks] == pytest.approx([i / 10 for i in range(30)])
    assert all(tick["score"] is not None and tick["speed_request"] == 1.0 for tick in ticks)
    assert ticks[-1]["alarm"] and ticks[-1]["slow"]
    assert ticks[-1]["plc"] == "PLC 127.0.0.1:1: no connection"
    told = journal_of(tmp_path)
    assert [(entry.kind, entry.after) for entry in (told[0], told[-1])] == [("start", "shadow"), ("stop", "")]
    lives = [(entry.before, entry.after) for entry in told if entry.name == "jam ahead"]
    assert lives == [("normal", "unacknowledged")]
    (clip,) = [entry for entry in told if entry.kind == "clip"]
    assert (tmp_path / "run" / "clips" / clip.name).stat().st_size > 1000
    would = [entry for entry in told if entry.kind == "would"]
    assert [(entry.before, entry.after) for entry in would] == [("no", "yes")]
    assert would[0].why.startswith("score ") and would[0].why.endswith(" s")
    assert not [entry for entry in told if entry.kind == "plc"]


def test_a_recorded_shift_of_two_cameras_replayed_again_gives_the_same_scores_and_alarms(
    shop: Path, tmp_path: Path
) -> None:
    told = []
    for shift in ("first", "second"):
        (tmp_path / shift).mkdir()
        settings = settings_file(
            tmp_path / shift,
            bundle=shop / "anxious",
            camera__name="belt",
            camera__source=shop / "belt.mp4",
            camera__replay=True,
            recorder__after_s=1.0,
        )
        other = f'[[cameras]]\nname = "infeed"\nsource = "{shop / "belt.mp4"}"\nreplay = true\nmasks = [[0, 0, 9, 9]]\n'
        settings.write_text(settings.read_text() + "\n" + other)
        assert start(settings).wait(120) == 0
        ticks, entries = ticks_of(tmp_path / shift), journal_of(tmp_path / shift)
        alarms = [(entry.name, entry.before, entry.after, entry.time) for entry in entries if entry.kind == "alarm"]
        told.append(([(tick["time"], tick["score"], tick["alarm"]) for tick in ticks], alarms))
        (clip,) = [entry.name for entry in entries if entry.kind == "clip"]
        assert clip.endswith("-belt.mp4")
    assert told[0] == told[1]
    assert len(told[0][0]) == 30 and told[0][1][0][:3] == ("jam ahead", "normal", "unacknowledged")


def test_told_to_stop_the_runtime_withdraws_its_request_and_killed_it_is_forgotten(shop: Path, tmp_path: Path) -> None:
    with server.running() as plc:
        settings = settings_file(
            tmp_path,
            bundle=shop / "anxious",
            mode="act",
            camera__source=shop / "belt.mp4",
            camera__loop=True,
            plc__address=plc.address,
            plc__registers=REGISTERS,
        )
        onlooker = PlcClient(plc.address, MAP)

        def in_force() -> bool:
            status = onlooker.read()
            return isinstance(status, Status) and status.in_force

        process = start(settings)
        wait_for(in_force)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert onlooker._read_area(time.monotonic() + 5)[0][2:6] == [Mode.ACT, 0, 0, 1000]
        asked = [entry for entry in journal_of(tmp_path) if entry.name == "speed request"]
        assert [(entry.kind, entry.before, entry.after) for entry in asked[:1]] == [("plc", "1", "0.1")]
        assert "request in force" in [entry.name for entry in journal_of(tmp_path)]

        process = start(settings)
        wait_for(in_force)
        process.kill()
        process.wait()
        wait_for(lambda: not in_force())
        onlooker.close()


def test_the_runtime_watches_the_embedded_line_and_its_plc_obeys(shop: Path, tmp_path: Path) -> None:
    with server.running() as somewhere:
        free = somewhere.address
    settings = settings_file(
        tmp_path,
        bundle=shop / "anxious",
        mode="act",
        camera__source="line",
        plc__address=free,
        plc__registers=REGISTERS,
    )
    process = start(settings)
    wait_for(lambda: any(tick["in_force"] for tick in ticks_of(tmp_path)))
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 0
    assert isinstance(PlcClient(free, MAP).read(), Fault)


def test_what_cannot_be_used_is_one_sentence_and_exit_code_two_and_leaves_nothing(shop: Path, tmp_path: Path) -> None:
    process = start(settings_file(tmp_path, bundle=shop / "nowhere", camera__source=shop / "belt.mp4"))
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 2
    assert stderr.startswith("error: ") and "nowhere is not a bundle" in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_model_that_knows_no_action_must_not_act(shop: Path, tmp_path: Path) -> None:
    bundle.save(untrained(replace(LINE_SPEC, actions=()), 1e-6), tmp_path / "blind")
    settings = settings_file(tmp_path, bundle=tmp_path / "blind", mode="act", camera__source=shop / "belt.mp4")
    with pytest.raises(InputError, match="knows no action"):
        main(Flags(settings=settings))
    assert not (tmp_path / "run").exists()


def test_a_missing_video_leaves_nothing(shop: Path, tmp_path: Path) -> None:
    settings = settings_file(tmp_path, bundle=shop / "anxious", camera__source=shop / "missing.mp4")
    with pytest.raises(InputError, match=r"missing\.mp4"):
        main(Flags(settings=settings))
    assert not (tmp_path / "run").exists()


def test_a_register_map_without_the_models_tags_is_refused(shop: Path, tmp_path: Path) -> None:
    registers = tmp_path / "registers.toml"
    registers.write_text("address = 0\ntags = []")
    settings = settings_file(
        tmp_path,
        bundle=shop / "anxious",
        camera__source=shop / "belt.mp4",
        plc__address="127.0.0.1:1",
        plc__registers=registers,
    )
    with pytest.raises(InputError, match="has no tag 'infeed_eye'"):
        main(Flags(settings=settings))


@pytest.mark.parametrize(
    "flags",
    [
        Flags(),
        Flags(demo=True, settings=Path("x")),
        Flags(settings=Path("x"), out=Path("o")),
        Flags(demo=True, seeds="1"),
        Flags(demo=True, seeds="1,x", out=Path("o")),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(flags: Flags) -> None:
    with pytest.raises(InputError):
        main(flags)


def test_an_unknown_flag_is_refused() -> None:
    result = subprocess.run([sys.executable, "-m", "runtime", "--sedings=x"], capture_output=True, check=False)
    assert result.returncode == 2


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_check_tells_what_it_finds_and_writes_nothing(shop: Path, tmp_path: Path, capsys) -> None:
    with server.running() as plc:
        onlooker = PlcClient(plc.address, MAP)
        untouched = onlooker._read_area(time.monotonic() + 5)[0]
        settings = settings_file(
            tmp_path,
            bundle=shop / "anxious",
            camera__source=shop / "belt.mp4",
            plc__address=plc.address,
            plc__registers=REGISTERS,
        )
        before = contents(tmp_path)
        assert main(Flags(what="check", settings=settings)) == 0
        assert onlooker._read_area(time.monotonic() + 5)[0] == untouched
        onlooker.close()
    assert contents(tmp_path) == before
    told = " ".join(capsys.readouterr().out.split())
    assert "knows no view" in told
    assert f"{plc.address} answers, state execute" in told
    assert "FAULT" not in told


def test_a_check_tells_every_fault_and_not_just_the_first(shop: Path, tmp_path: Path, capsys) -> None:
    settings = settings_file(
        tmp_path,
        bundle=shop / "anxious",
        camera__source=tmp_path / "nothing.mp4",
        plc__address="127.0.0.1:1",
        plc__registers=REGISTERS,
        mqtt__address="127.0.0.1:1",
        mqtt__topic="plant/line1",
    )
    assert main(Flags(what="check", settings=settings)) == 1
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("FAULT") == 3
    assert "MQTT 127.0.0.1:1: Connection refused; check address" in told
    assert "nothing.mp4" in told
    assert "no connection; check address" in told


def test_systemd_is_told_that_it_is_ready_that_it_turns_and_that_it_stops_and_logs_are_json(
    shop: Path, tmp_path: Path, monkeypatch
) -> None:
    settings = settings_file(
        tmp_path, bundle=shop / "anxious", logs="json", camera__source=shop / "belt.mp4", camera__replay=True
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        process = start(settings)
        told = [manager.recv(100)]
        while told[-1] != b"STOPPING=1":
            told.append(manager.recv(100))
        assert process.wait(60) == 0
    assert told == [b"READY=1\nWATCHDOG=1"] * 30 + [b"STOPPING=1"]
    assert process.stderr is not None
    logged = [json.loads(line) for line in process.stderr.read().splitlines() if line.startswith("{")]
    assert logged[0]["level"] == "INFO"
    assert logged[0]["message"].startswith("alarm at ")
    assert logged[0]["at"]


@pytest.mark.parametrize(("patience_s", "turns"), [(60.0, [True, False, True]), (0.0, [False, True, False, True])])
def test_a_camera_that_still_connects_is_no_alarm_and_later_a_missing_frame_is(
    calm: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float, turns: list[bool]
) -> None:
    told: list[bool] = []
    frames = [None, Frame(STRIPED, 0.0, 0), None, Frame(STRIPED, 0.2, 0)]

    class Cameras:
        dropped = 0

        @property
        def ended(self) -> bool:
            return not frames

        def next(self) -> list[Frame | None]:
            return [frames.pop(0)]

        def close(self) -> None:
            assert self.ended

    class Watch:
        def __init__(self, *_: object) -> None: ...

        def turn(self, frames: list[Frame | None], _: int) -> None:
            told.append(frames[0] is not None)

        def close(self, why: str) -> None:
            assert why == "the camera ended"

    monkeypatch.setattr(run, "FIRST_FRAME_S", patience_s)
    monkeypatch.setattr(run, "load", lambda _: Chosen(calm, Path("b")))
    monkeypatch.setattr(run, "open_cameras", lambda *_: Cameras())
    monkeypatch.setattr(run, "Watch", Watch)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    run.run(read_settings(settings_file(tmp_path, bundle="b", camera__source="belt.mp4")))
    assert told == turns
