"""The fault matrix: its arithmetic, and two faults that befall a real runtime beside a real PLC."""

import json
import socket
import struct
import time

import av
import numpy as np
import pytest

from experiments import faults, runfolder, stand, stream, tap
from experiments.tap import HEADER, Plc, Tap, View
from runtime import journal
from runtime.journal import Entry, Row
from runtime.line.rack import REGISTERS
from runtime.plc import Fault, PlcClient
from runtime.registers import Command, Mode, Status, encode_command, read_map
from runtime.settings import Settings
from runtime.validate import read_toml
from wm.errors import InputError

COMMAND = Command(heartbeat=1, mode=Mode.ACT, alarm=True, score=2.0, speed_request=0.1, valid_for_ms=500)


def views(*told):
    return [View(*each) for each in told]


def test_a_command_ages_from_when_it_was_written_for_as_long_as_the_plc_obeys_it():
    seen = views((1.0, 1, 10, 7, True), (1.4, 1, 11, 7, True), (1.9, 1, 12, 7, False), (2.0, 2, 13, 8, True))
    assert tap.oldest(seen, {7: 0.9, 8: 1.95}) == pytest.approx(0.5)
    assert tap.oldest(seen, {}) == 0.0


def test_what_a_plc_says_before_its_first_scan_after_a_freeze_is_not_held_against_it():
    frozen = views((1.0, 1, 10, 7, True), (9.0, 1, 10, 7, True), (9.1, 1, 11, 7, False))
    assert tap.oldest(frozen, {7: 0.95}) == 0.0
    obeyed = views((1.0, 1, 10, 7, True), (9.0, 1, 11, 7, True))
    assert tap.oldest(obeyed, {7: 0.95}) == pytest.approx(8.05)


def test_the_heartbeat_stands_still_from_its_last_change_on():
    assert tap.still(views((0.0, 1, 0, 0, False), (0.1, 2, 0, 0, False), (0.4, 2, 0, 0, False))) == pytest.approx(0.3)
    assert tap.still([]) == 0.0


def test_an_alarm_stands_by_its_last_change():
    lives = [
        Row(number, Entry("alarm", "PLC", "", life, ""), "", "")
        for number, life in enumerate(("unacknowledged", "normal"))
    ]
    assert [faults.active(lives[:count]) for count in range(3)] == [False, True, False]


def test_a_command_is_stale_once_it_is_obeyed_for_longer_than_it_is_valid():
    assert [faults.row("", age, None, None, None)["stale_command"] for age in (None, 0.5, 0.8)] == [None, False, True]


def test_lines_that_a_full_disk_has_torn_are_counted(tmp_path):
    (tmp_path / "ticks.jsonl").write_text('{"a": 1}\n{"a": \n{"a"{"a": 2}\n{"a": 3}\n{"a"')
    assert faults.torn(tmp_path) == 2


def test_settings_are_written_as_they_are_read(tmp_path):
    told = {
        "bundle": tmp_path,
        "out": tmp_path / "out",
        "mode": "act",
        "cameras": [{"source": "film.mp4", "loop": True}],
        "plc": {"address": "127.0.0.1:5020", "registers": REGISTERS},
        "recorder": {},
    }
    (tmp_path / "settings.toml").write_text(stand.toml(told))
    assert read_toml(Settings, tmp_path / "settings.toml") == Settings.model_validate(told)


def test_waiting_ends_when_it_is_met_or_when_it_takes_too_long():
    assert stand.waited(lambda: True, 1.0) < 0.5
    assert stand.waited(lambda: False, 0.05) is None


def test_a_picture_keeps_its_bytes_in_a_stream_that_ffmpeg_reads(tmp_path):
    picture = np.full((48, 64, 3), 90, np.uint8)
    (tmp_path / "film.y4m").write_bytes(stream.y4m_head(picture) + 3 * stream.y4m(picture))
    found = stream.film(tmp_path / "film.y4m")
    assert len(found) == 3
    assert all(np.abs(each.astype(int) - picture).max() <= 2 for each in found)


def test_a_unit_of_the_stream_is_one_packet_and_the_last_of_its_picture_is_marked():
    first, last = (stream.rtp(b"unit", 65537, 9000, last=marked) for marked in (False, True))
    assert struct.unpack(">BBH", first[:4]) == (ord("$"), 0, 16)
    assert struct.unpack(">BBHI", first[4:12]) == (0x80, 96, 1, 9000)
    assert (last[5], last[16:]) == (96 | 0x80, b"unit")


def test_a_viewer_of_the_stream_sees_what_is_before_the_lens():
    with stream.RtspCamera([np.full((32, 32, 3), 200, np.uint8)]) as camera:
        camera.lens = lambda picture: picture // 2
        with av.open(camera.address, options={"rtsp_transport": "tcp", "analyzeduration": "500000"}) as container:
            seen = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert seen.mean() == pytest.approx(100, abs=2)


def test_the_tap_notes_commands_and_spoils_what_it_is_told_to():
    with Plc() as plc, Tap(plc.port) as between:
        client = PlcClient(between.address, read_map(REGISTERS))
        before = time.monotonic()
        assert isinstance(client.exchange(COMMAND), Status)
        assert before < between.written[1] < time.monotonic()
        for spoilt in ({"busy": True}, {"unit": 7}, {"delay_s": 0.5}):
            client.close()
            faults.spoil(**spoilt)(faults.Stand(None, plc, between, None, None))
            time.sleep(0.3)
            assert isinstance(client.read(), Fault), spoilt
            faults.spoil(busy=False, unit=None, delay_s=0.0)(faults.Stand(None, plc, between, None, None))
            assert stand.waited(lambda: isinstance(client.read(), Status), 5.0) is not None
        between.shut()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", between.port))
        client.close()


def test_the_tap_reads_the_sequence_number_where_the_runtime_writes_it():
    words = encode_command(COMMAND._replace(sequence=4711))
    body = struct.pack(">BHHB7H", tap.WRITE, 0, 7, 14, *words)
    assert tap.sequence(body) == 4711
    assert HEADER.size == 7


def test_what_has_been_measured_is_kept_and_goes_into_the_report(tmp_path):
    (tmp_path / "run").mkdir()
    flags = faults.Flags(tmp_path / "run", only=("page killed",), report=tmp_path)
    kept = faults.row("page killed", 0.1, "page: it ended", 0.1, 1.5)
    runfolder.start(flags.out, flags)
    (tmp_path / "run" / "page_killed").mkdir()
    runfolder.write_json(tmp_path / "run" / "page_killed" / "row.json", kept)
    faults.run(flags)
    told = json.loads((tmp_path / "runtime.json").read_bytes())
    assert (told["faults"], list(told["provenance"])) == ([kept], ["faults"])
    with pytest.raises(InputError, match="--only knows PLC killed"):
        faults.run(faults.Flags(tmp_path / "other", only=("rain",)))


def test_faults_befall_a_runtime_it_alarms_recovers_and_no_command_is_obeyed_for_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "HOLD_S", 0.5)
    wanted = {"PLC answers with exceptions": "PLC: ", "page killed": "page: "}
    with faults.standing(tmp_path, faults.Flags(tmp_path)) as found:
        rows = [faults.befallen(found, fault) for fault in faults.FAULTS if fault.name in wanted]
    assert [row["injected"] for row in rows] == list(wanted)
    for row in rows:
        assert row["alarm"].startswith(wanted[row["injected"]])
        assert row["alarmed_s"] < 10.0 and row["recovered_s"] < 20.0
        assert row["stale_command"] is False and row["oldest_command_s"] > 0.0
    assert journal.broken(journal.read(tmp_path / "watch" / "journal.db")) is None
