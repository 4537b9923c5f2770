"""Our Modbus client and our simulated PLC against Modbus TCP implementations that nobody here wrote."""

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import count

import peers
import pytest

from runtime.line import server
from runtime.line.rack import REGISTERS
from runtime.plc import Fault, PlcClient, PlcLink
from runtime.registers import COMMAND_WORDS, Command, Mode, PackML, RegisterMap, Status, encode_command, read_map

MAP = read_map(REGISTERS)
AWAY = MAP.model_copy(update={"address": 4000})
SLOW = Command(heartbeat=0, mode=Mode.ACT, alarm=True, score=1.5, speed_request=0.15, valid_for_ms=500)
LAST_TAKEN = 65534
PLC = Status(17, PackML.EXECUTE, LAST_TAKEN, False, (1.0, 0.0, 2.5, 0.8, 31.4, 1.0))
MBPOLL = shutil.which("mbpoll")
NO_LIBMODBUS = "no libmodbus: install Debian's libmodbus5 to serve with it"


class Peer:
    """A server process."""

    def __init__(self, name: str, port: int, registers: RegisterMap, *, read_only: bool) -> None:
        words = [0] * COMMAND_WORDS + registers.encode_status(PLC)
        arguments = [name, port, registers.address, words, read_only]
        script = [sys.executable, peers.__file__, name, *map(json.dumps, arguments[1:])]
        self._process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdin is not None
        self._heard, self._asked = self._process.stdout, self._process.stdin
        self.port = int(self._heard.readline())
        self.address = f"{peers.HOST}:{self.port}"

    def holds(self) -> list[int]:
        """What its registers hold, as the server itself says."""
        self._asked.write("\n")
        self._asked.flush()
        return json.loads(self._heard.readline())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._heard.close()
        self._asked.close()


@contextmanager
def serving(name: str, registers: RegisterMap, *, port: int = 0, read_only: bool = False) -> Iterator[Peer]:
    peer = Peer(name, port, registers, read_only=read_only)
    try:
        yield peer
    finally:
        peer.kill()


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.skipif(name == "libmodbus" and not peers.LIBMODBUS, reason=NO_LIBMODBUS))
        for name in peers.SERVERS
    ]
)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def until(wanted: Callable[[Status | Fault], bool], look: Callable[[], Status | Fault]) -> Status | Fault:
    """Looks every 50 ms until it is as wanted; gives up after 20 s."""
    end = time.monotonic() + 20
    while not wanted(outcome := look()):
        assert time.monotonic() < end, f"still {outcome}"
        time.sleep(0.05)
    return outcome


def sound(outcome: Status | Fault) -> bool:
    return isinstance(outcome, Status)


def failed(outcome: Status | Fault) -> bool:
    return isinstance(outcome, Fault)


def refused(outcome: Status | Fault) -> bool:
    return isinstance(outcome, Fault) and "refused" in outcome.reason


def test_what_is_written_is_what_a_foreign_server_holds_and_what_it_says_is_what_is_read(name: str) -> None:
    with serving(name, AWAY) as peer, closing(PlcClient(peer.address, AWAY)) as client:
        status = until(sound, client.read)
        assert status[:4] == PLC[:4]
        assert status[4] == pytest.approx(PLC.tags)
        assert peer.holds() == [0] * COMMAND_WORDS + AWAY.encode_status(PLC)
        for heartbeat, sequence in ((1, 65535), (2, 0), (3, 1)):
            command = SLOW._replace(heartbeat=heartbeat, score=heartbeat / 4)
            assert until(sound, lambda command=command: client.exchange(command)) == status
            sent = encode_command(command._replace(sequence=sequence))
            assert peer.holds() == sent + AWAY.encode_status(PLC)


def test_a_foreign_server_that_dies_is_a_fault_and_is_found_again_when_it_is_back(name: str) -> None:
    heartbeats = count(1)

    def exchange() -> Status | Fault:
        return client.exchange(SLOW._replace(heartbeat=next(heartbeats)))

    with serving(name, MAP) as first, closing(PlcClient(first.address, MAP)) as client:
        until(sound, exchange)
        first.kill()
        assert until(failed, exchange) in {
            Fault(f"PLC {first.address}: {why}") for why in ("no connection", "no valid answer in time")
        }
        until(lambda outcome: outcome == Fault(f"PLC {first.address}: no connection"), exchange)
        with serving(name, MAP, port=first.port) as second:
            until(sound, exchange)
            assert second.holds()[0] == next(heartbeats) - 1


def test_the_link_of_the_runtime_finds_a_foreign_server_again_by_itself(name: str) -> None:
    with serving(name, MAP) as first:
        link = PlcLink(PlcClient(first.address, MAP))
        until(sound, link.latest)
        first.kill()
        until(failed, link.latest)
        with serving(name, MAP, port=first.port) as second:
            until(sound, link.latest)
            link.close(SLOW._replace(heartbeat=7, alarm=False, speed_request=1.0))
            assert second.holds()[:COMMAND_WORDS] == [7, 65535, Mode.ACT, 0, 1500, 1000, 500]


@pytest.mark.parametrize("read_only", [True, False])
def test_a_foreign_server_that_refuses_is_a_fault_with_its_reason_and_holds_what_it_held(
    name: str, read_only: bool
) -> None:
    """It has either no register where the map says, or only such as may be read."""
    with serving(name, MAP if read_only else AWAY, read_only=read_only) as peer:
        with closing(PlcClient(peer.address, MAP)) as client:
            if read_only:
                until(sound, client.read)
            fault = until(refused, lambda: client.exchange(SLOW))
            request = "write" if read_only else "read"
            assert fault == Fault(f"PLC {peer.address}: refused the {request} (illegal data address)")
        assert peer.holds() == [0] * COMMAND_WORDS + MAP.encode_status(PLC)


def mbpoll(address: str, start: int, *values: int, length: int = 1) -> subprocess.CompletedProcess[str]:
    """Debian's Modbus client, once: it reads registers from `start` on, or writes these values there."""
    assert MBPOLL
    host, _, port = address.rpartition(":")
    place = ["-r", str(start)] + ([] if values else ["-c", str(length)])
    command = [MBPOLL, "-0", "-1", "-o", "5", "-t", "4:hex", "-p", port, *place, host, *map(str, values)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def seen(address: str) -> list[int]:
    """Command block and status, as mbpoll sees them."""
    told = mbpoll(address, MAP.address, length=MAP.size).stdout
    found = [(int(place), int(word, 16)) for place, word in re.findall(r"^\[(\d+)\]:\s+0x([0-9A-F]+)$", told, re.M)]
    assert [place for place, _ in found] == list(range(MAP.address, MAP.address + MAP.size)), told
    return [word for _, word in found]


@pytest.mark.skipif(MBPOLL is None, reason="no mbpoll: install Debian's mbpoll to look at the simulated PLC with it")
def test_mbpoll_sees_in_the_simulated_plc_what_our_client_wrote_and_read() -> None:
    with server.running(lockstep=True) as plc, closing(PlcClient(plc.address, MAP)) as client:
        for heartbeat, score in ((1, 0.25), (65535, 65.535)):
            command = SLOW._replace(heartbeat=heartbeat, score=score)
            status = until(sound, lambda command=command: client.exchange(command))
            assert isinstance(status, Status)
            words = seen(plc.address)
            assert words[:COMMAND_WORDS] == encode_command(command._replace(sequence=words[1]))
            assert words[COMMAND_WORDS:] == MAP.encode_status(status)


@pytest.mark.skipif(MBPOLL is None, reason="no mbpoll: install Debian's mbpoll to write to the simulated PLC with it")
def test_mbpoll_may_write_the_whole_command_block_of_the_simulated_plc_and_nothing_else() -> None:
    with server.running(lockstep=True) as plc:
        block = encode_command(SLOW._replace(heartbeat=300, sequence=40000))
        assert mbpoll(plc.address, MAP.address, *block).returncode == 0
        held = seen(plc.address)
        assert held[:COMMAND_WORDS] == block
        for start, values in ((0, [1]), (1, block), (MAP.address + COMMAND_WORDS, [6]), (300, [1])):
            refused = mbpoll(plc.address, start, *values)
            assert refused.returncode != 0
            assert "Illegal data address" in refused.stderr + refused.stdout
        assert seen(plc.address) == held
