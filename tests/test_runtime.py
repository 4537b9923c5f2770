"""The runtime as a process, with a real if untrained model."""

import json
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import untrained
from runtimes import journal_of, settings_file, start, ticks_of, wait_for

from runtime import run
from runtime.__main__ import Flags, main
from runtime.camera import Frame
from runtime.known_good import Chosen
from runtime.line import server
from runtime.line.line import SPEC as LINE_SPEC
from runtime.line.rack import REGISTERS
from runtime.plc import Fault, PlcClient
from runtime.registers import Mode, Status, read_map
from runtime.run import Tags
from runtime.settings import read_settings
from wm import bundle
from wm.config import FootageSpec
from wm.errors import InputError

SPEC = FootageSpec(rate_hz=10.0, image=(16, 16, 3))
MAP = read_map(REGISTERS)
STRIPED = 99 * np.eye(16, dtype=np.uint8)[..., None].repeat(3, -1)


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience_s: float, turns: list[bool]
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
    monkeypatch.setattr(run, "load", lambda _: Chosen(untrained(SPEC, 1.0), Path("b")))
    monkeypatch.setattr(run, "open_cameras", lambda *_: Cameras())
    monkeypatch.setattr(run, "Watch", Watch)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    run.run(read_settings(settings_file(tmp_path, bundle="b", camera__source="belt.mp4")))
    assert told == turns
