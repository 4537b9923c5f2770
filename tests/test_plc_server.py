"""The simulated PLC as a process, spoken to by plain Modbus."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pymodbus.client import ModbusTcpClient

from runtime.line import server
from runtime.line.line import Line
from runtime.line.program import PlcState
from runtime.line.rack import DRIVE_ADDRESS, IO_ADDRESS, REGISTERS
from runtime.plc import PlcClient
from runtime.registers import Command, Mode, PackML, Status, read_map
from wm.errors import InputError

MAP = read_map(REGISTERS)
SLOW = Command(heartbeat=0, mode=Mode.ACT, alarm=True, score=1.5, speed_request=0.15, valid_for_ms=500)


@pytest.fixture(scope="module")
def lockstep() -> Iterator[ModbusTcpClient]:
    with server.running(lockstep=True) as plc:
        host, port = plc.address.split(":")
        client = ModbusTcpClient(host, port=int(port), timeout=5, retries=0)
        yield client
        client.close()


def state_of(client: ModbusTcpClient) -> Status:
    return MAP.decode_status(client.read_holding_registers(0, count=MAP.size).registers[7:])


def test_in_lockstep_time_stands_still_between_the_plants_writes(lockstep: ModbusTcpClient) -> None:
    before = state_of(lockstep)
    time.sleep(0.1)
    assert state_of(lockstep) == before
    for scan in range(1, 11):
        lockstep.write_registers(IO_ADDRESS, [0, scan * 20, 1, 0, 0, 1000])
    after = state_of(lockstep)
    assert after.heartbeat == before.heartbeat + 10
    assert dict(zip(MAP.tag_names, after.tags, strict=True))["infeed_eye"] == 1


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (0, [1] * 6),
        (1, [1] * 6),
        (0, [1] * 8),
        (7, [0] * 4),
        (DRIVE_ADDRESS, [10000]),
        (IO_ADDRESS, [1]),
        (0, [1, 1, 9, 0, 0, 1000, 500]),
        (0, [1, 1, 3, 0, 0, 1001, 500]),
        (500, [1]),
    ],
)
def test_anything_but_a_whole_block_of_sense_is_refused(
    lockstep: ModbusTcpClient, address: int, words: list[int]
) -> None:
    assert lockstep.write_registers(address, words).isError()


def test_single_registers_cannot_be_written(lockstep: ModbusTcpClient) -> None:
    assert lockstep.write_register(5, 150).isError()


def test_a_plc_behind_modbus_runs_the_line_bit_for_bit_as_one_in_process() -> None:
    start = Line(3)
    for _ in range(5):
        start.step()
    snapshot = start.snapshot()
    with server.running(lockstep=True, state=snapshot.plc) as plc, Line(3, plc=plc.address) as remote, Line(3) as local:
        client = PlcClient(plc.address, MAP, deadline_s=5.0)
        remote.restore(snapshot)
        local.restore(snapshot)
        for heartbeat in range(1, 13):
            command = SLOW._replace(heartbeat=heartbeat)
            client.exchange(command)
            local.exchange(command)
            here, there = local.step(), remote.step()
            assert np.array_equal(here.image, there.image)
            assert (here.status, here.time) == (there.status, there.time)
            assert np.array_equal(here.sensors, there.sensors)
        assert here.status.in_force
        assert here.action == pytest.approx(0.15)
        client.close()


def test_a_line_goes_on_from_its_snapshot_bit_for_bit() -> None:
    line = Line(4, operator_speed=0.6)
    for _ in range(3):
        line.step()
    snapshot = line.snapshot()
    first = [line.step() for _ in range(5)]
    line.operator_speed = 1.0
    line.step()
    line.restore(snapshot)
    second = [line.step() for _ in range(5)]
    assert all(np.array_equal(a.image, b.image) and a.status == b.status for a, b in zip(first, second, strict=True))
    assert first[-1].image.shape == (64, 64, 3)
    assert first[-1].sensors.dtype == first[-1].action.dtype == np.float32


def test_the_operators_speed_is_the_setpoint() -> None:
    line = Line(4)
    line.operator_speed = 0.6
    assert [line.step().action.tolist() for _ in range(2)] == [[pytest.approx(0.6)]] * 2


def test_a_server_starts_from_a_saved_state() -> None:
    held = PlcState(time=100.0, state=PackML.HELD, sequence=77)
    with server.running(lockstep=True, state=held) as plc:
        client = PlcClient(plc.address, MAP, deadline_s=5.0)
        status = client.read()
        client.close()
    assert isinstance(status, Status)
    assert (status.state, status.sequence) == (PackML.HELD, 77)


def test_garbage_on_the_port_disturbs_nobody_else(lockstep: ModbusTcpClient) -> None:
    generator = np.random.default_rng(0)
    for size in (1, 7, 50, 3000):
        with socket.create_connection((lockstep.comm_params.host, lockstep.comm_params.port), timeout=5) as peer:
            peer.sendall(generator.bytes(size))
            assert state_of(lockstep).state == PackML.EXECUTE
    assert state_of(lockstep).state == PackML.EXECUTE


@pytest.mark.parametrize(
    ("content", "complaint"), [("{", "is not a PLC state"), (json.dumps({"state": 6}), "is not a PLC state")]
)
def test_a_bad_state_file_is_one_sentence_and_exit_code_two(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "state.json"
    file.write_text(content)
    command = [sys.executable, "-m", "runtime.line.server", "--port=0", f"--state={file}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_sentence() -> None:
    with server.running() as plc:
        port = int(plc.address.split(":")[1])
        with pytest.raises(InputError, match="cannot listen there"), server.running(port=port):
            pass


def test_a_line_without_a_plc_says_so() -> None:
    with pytest.raises(InputError, match="no PLC answers there"):
        Line(1, plc="127.0.0.1:1")


def test_a_line_whose_plc_dies_says_so() -> None:
    with server.running(lockstep=True) as plc:
        line = Line(1, plc=plc.address)
        line.scan()
    with line, pytest.raises(ConnectionError, match="the line's PLC does not answer"):
        line.scan()


@pytest.mark.parametrize("lockstep", [False, True])
def test_a_server_whose_caller_is_killed_ends_too(lockstep: bool) -> None:
    code = f"""import sys, time
from runtime.line import server
with server.running(lockstep={lockstep}) as plc:
    print(plc.address, flush=True)
    time.sleep(60)"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout is not None
        host, port = caller.stdout.readline().strip().split(":")
        socket.create_connection((host, int(port))).close()
        caller.kill()
    for _ in range(100):
        try:
            socket.create_connection((host, int(port))).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.1)
    raise AssertionError("it still listens")
