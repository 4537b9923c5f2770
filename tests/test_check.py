"""What is looked at before a runtime starts, and that nothing is written."""

import time
from pathlib import Path

from runtimes import settings_file

from runtime.__main__ import Flags, main
from runtime.line import server
from runtime.line.rack import REGISTERS
from runtime.plc import PlcClient
from runtime.registers import read_map

MAP = read_map(REGISTERS)


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
