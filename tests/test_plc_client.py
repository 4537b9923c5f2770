"""The Modbus client against real server processes that die, freeze, thaw and talk nonsense."""

import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from threading import Thread

import pytest
import trustme
from pymodbus.client import ModbusTcpClient

from runtime.line import server
from runtime.line.rack import REGISTERS
from runtime.plc import Fault, PlcClient, PlcLink, connect
from runtime.registers import WORD, Command, Mode, Status, encode_command, read_map
from runtime.settings import PlcSettings, TlsSettings
from wm.errors import InputError

MAP = read_map(REGISTERS)
SLOW = Command(heartbeat=0, mode=Mode.ACT, alarm=True, score=1.5, speed_request=0.15, valid_for_ms=500)
HEARTBEATS = count(1)
SETPOINT = MAP.tag_names.index("feeder_setpoint")


def drive(client: PlcClient, until: Callable[[Status | Fault], bool], command: Command = SLOW) -> Status | Fault:
    """Exchanges every 50 ms with an advancing heartbeat until the outcome is as wanted; gives up after 10 s."""
    for heartbeat in islice(HEARTBEATS, 200):
        outcome = client.exchange(command._replace(heartbeat=heartbeat))
        if until(outcome):
            return outcome
        time.sleep(0.05)
    raise AssertionError(f"still {outcome}")


def in_force(outcome: Status | Fault) -> bool:
    return isinstance(outcome, Status) and outcome.in_force


def failed(outcome: Status | Fault) -> bool:
    return isinstance(outcome, Fault)


def scanned(client: PlcClient) -> Status:
    """The status once the PLC has scanned all that was written before; gives up after 10 s."""
    beats: list[int] = []
    for _ in range(500):
        status = client.read()
        assert isinstance(status, Status)
        beats.append(status.heartbeat)
        if (beats[-1] - beats[0]) % WORD >= 2:
            return status
        time.sleep(0.02)
    raise AssertionError("the PLC does not scan")


@pytest.fixture
def client_of() -> Iterator[Callable[[str], PlcClient]]:
    clients: list[PlcClient] = []

    def make(address: str) -> PlcClient:
        clients.append(PlcClient(address, MAP))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def test_a_request_reaches_the_plc_and_comes_into_force(client_of: Callable[[str], PlcClient]) -> None:
    with server.running() as plc:
        status = drive(client_of(plc.address), in_force)
        assert isinstance(status, Status)
        assert status.tags[SETPOINT] == pytest.approx(0.15)


def test_a_second_flinch_goes_on_from_the_sequence_number_the_plc_has_taken(
    client_of: Callable[[str], PlcClient],
) -> None:
    with server.running() as plc:
        drive(client_of(plc.address), in_force)
        onlooker, second = client_of(plc.address), client_of(plc.address)
        before = scanned(onlooker)
        for heartbeat in islice(HEARTBEATS, 2):
            assert isinstance(second.exchange(SLOW._replace(heartbeat=heartbeat)), Status)
            scanned(onlooker)
        assert scanned(onlooker).sequence == before.sequence + 2


def test_a_frozen_plc_that_thaws_never_acts_on_a_stale_command(client_of: Callable[[str], PlcClient]) -> None:
    with server.running() as plc:
        client = client_of(plc.address)
        drive(client, in_force)
        os.kill(plc.pid, signal.SIGSTOP)
        fault = drive(client, failed)
        assert fault == Fault(f"PLC {plc.address}: no valid answer in time")
        for _ in range(6):
            time.sleep(0.1)
            client.exchange(SLOW._replace(heartbeat=5000))
        client.close()
        os.kill(plc.pid, signal.SIGCONT)
        onlooker = client_of(plc.address)
        for _ in range(30):
            status = onlooker.read()
            assert isinstance(status, Status)
            assert not status.in_force
            assert status.tags[SETPOINT] == 1.0
            time.sleep(0.02)
        assert in_force(drive(client_of(plc.address), in_force))


def test_even_many_stale_writes_that_queued_up_in_a_frozen_plc_are_not_acted_on(
    client_of: Callable[[str], PlcClient],
) -> None:
    with server.running() as plc:
        status = drive(client_of(plc.address), in_force)
        assert isinstance(status, Status)
        os.kill(plc.pid, signal.SIGSTOP)
        time.sleep(0.6)
        host, port = plc.address.split(":")
        peers = []
        for number in range(1, 6):
            peer = socket.create_connection((host, int(port)), timeout=5)
            block = encode_command(SLOW._replace(heartbeat=9000 + number, sequence=status.sequence + 10 + number))
            words = b"".join(word.to_bytes(2, "big") for word in block)
            peer.sendall(bytes([0, number, 0, 0, 0, 21, 1, 16, 0, 0, 0, 7, 14]) + words)
            peers.append(peer)
        os.kill(plc.pid, signal.SIGCONT)
        onlooker = client_of(plc.address)
        taken = False
        for _ in range(40):
            now = onlooker.read()
            assert isinstance(now, Status)
            assert not now.in_force
            taken = taken or now.sequence > status.sequence
            time.sleep(0.02)
        assert taken
        for peer in peers:
            peer.close()


def test_a_plc_that_is_killed_and_restarted_is_found_again(client_of: Callable[[str], PlcClient]) -> None:
    with server.running() as first:
        client = client_of(first.address)
        drive(client, in_force)
    assert isinstance(drive(client, failed), Fault)
    with server.running(port=int(first.address.split(":")[1])):
        assert in_force(drive(client, in_force))


def test_an_unreachable_plc_is_a_fault_and_not_an_exception(client_of: Callable[[str], PlcClient]) -> None:
    assert client_of("127.0.0.1:1").exchange(SLOW) == Fault("PLC 127.0.0.1:1: no connection")


def test_a_peer_that_talks_nonsense_is_a_fault(client_of: Callable[[str], PlcClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def babble() -> None:
            for reply in (b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(300), b"\xff" * 300):
                peer, _ = listener.accept()
                with peer:
                    peer.recv(100)
                    peer.sendall(reply)

        thread = Thread(target=babble)
        thread.start()
        client = client_of(f"127.0.0.1:{listener.getsockname()[1]}")
        for _ in range(60):
            assert isinstance(client.exchange(SLOW), Fault)
            if not thread.is_alive():
                break
            time.sleep(0.05)
        thread.join()


def test_another_writer_is_noticed_by_the_read_back(client_of: Callable[[str], PlcClient]) -> None:
    with server.running(lockstep=True) as plc:
        client = client_of(plc.address)
        host, port = plc.address.split(":")
        other = ModbusTcpClient(host, port=int(port), timeout=5)
        write = client._client.write_registers

        def write_and_be_overwritten(address: int, words: list[int], device_id: int) -> object:
            reply = write(address, words, device_id=device_id)
            other.write_registers(address, encode_command(SLOW._replace(speed_request=1.0)))
            return reply

        client._client.write_registers = write_and_be_overwritten  # type: ignore[method-assign]
        fault = client.exchange(SLOW)
        assert isinstance(fault, Fault)
        assert "another writer" in fault.reason
        other.close()


def test_a_link_sends_what_was_posted_last_and_says_goodbye() -> None:
    with server.running() as plc:
        link = PlcLink(PlcClient(plc.address, MAP))
        for heartbeat in range(1, 200):
            link.post(SLOW._replace(heartbeat=heartbeat))
            time.sleep(0.02)
            if in_force(link.latest()):
                break
        assert in_force(link.latest())
        link.close(SLOW._replace(heartbeat=heartbeat, alarm=False, speed_request=1.0))
        host, port = plc.address.split(":")
        with ModbusTcpClient(host, port=int(port), timeout=5) as onlooker:
            block = onlooker.read_holding_registers(0, count=7).registers
        assert (block[3], block[5]) == (0, 1000)


def test_a_link_to_nobody_keeps_trying_and_never_makes_the_loop_wait() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    link = PlcLink(PlcClient(f"127.0.0.1:{port}", MAP))
    for heartbeat in range(1000):
        link.post(SLOW._replace(heartbeat=heartbeat))
    assert isinstance(link.latest(), Fault)
    with server.running(port=port):
        for _ in range(200):
            if isinstance(link.latest(), Status):
                break
            time.sleep(0.05)
        assert isinstance(link.latest(), Status)
        link.close(SLOW)


def test_a_refreshed_status_is_of_now_and_not_of_the_last_poll() -> None:
    with server.running() as plc:
        link = PlcLink(PlcClient(plc.address, MAP))
        while not isinstance(link.latest(), Status):
            time.sleep(0.01)
        fresh = 0
        for _ in range(30):
            time.sleep(0.033)
            link.refreshed()
            called = time.monotonic()
            assert isinstance(link.refreshed(), Status)
            fresh += link._outcome[1] >= called
        assert fresh > 15
        link.close(SLOW)


def test_a_frozen_plc_costs_the_loop_a_fiftieth_of_a_second_until_it_is_a_fault_and_then_nothing() -> None:
    with server.running() as plc:
        link = PlcLink(PlcClient(plc.address, MAP))
        while not isinstance(link.latest(), Status):
            time.sleep(0.01)
        os.kill(plc.pid, signal.SIGSTOP)
        costs = []
        began = time.monotonic()
        while time.monotonic() - began < 1.0:
            called = time.monotonic()
            outcome = link.refreshed()
            costs.append((isinstance(outcome, Fault), time.monotonic() - called))
            time.sleep(0.05)
        os.kill(plc.pid, signal.SIGCONT)
        assert sorted(cost for _, cost in costs)[-2] < 0.05
        assert costs[-1][0]
        assert costs[-1][1] < 0.01
        link.close(SLOW)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certified(folder: Path, authority: trustme.CA, trusted: trustme.CA) -> TlsSettings:
    """Files of one whom the authority vouches for, and who trusts another."""
    issued = authority.issue_cert("flinch")
    issued.cert_chain_pems[0].write_to_path(str(folder / "certificate.pem"))
    issued.private_key_pem.write_to_path(str(folder / "key.pem"))
    trusted.cert_pem.write_to_path(str(folder / "authority.pem"))
    return TlsSettings(
        authority=folder / "authority.pem", certificate=folder / "certificate.pem", key=folder / "key.pem"
    )


@contextmanager
def guarded(address: str, authority: trustme.CA, name: str = "127.0.0.1") -> Iterator[str]:
    """A TLS end in front of a PLC that lets in only whom the authority vouches for, and says that this is its name."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.verify_mode = ssl.CERT_REQUIRED
    authority.configure_trust(context)
    authority.issue_cert(name).configure_cert(context)
    host, _, port = address.rpartition(":")

    def serve(listening: socket.socket) -> None:
        while True:
            try:
                peer, _ = listening.accept()
                with (
                    context.wrap_socket(peer, server_side=True) as inner,
                    socket.create_connection((host, port)) as plc,
                ):
                    while asked := inner.recv(4096):
                        plc.sendall(asked)
                        inner.sendall(plc.recv(4096))
            except ssl.SSLError:
                continue
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=serve, args=(listening,), daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_with_certificates_both_sides_prove_who_they_are(tmp_path: Path, authority: trustme.CA) -> None:
    stranger = trustme.CA()
    with server.running() as plc, guarded(plc.address, authority) as address:
        for place, (vouching, trusted, welcome) in enumerate(
            [(authority, authority, True), (stranger, authority, False), (authority, stranger, False)]
        ):
            folder = tmp_path / str(place)
            folder.mkdir()
            settings = PlcSettings(address=address, registers=REGISTERS, tls=certified(folder, vouching, trusted))
            client = connect(settings, MAP)
            outcomes = [client.read()]
            for _ in range(3 if welcome else 0):
                outcomes.append(client.exchange(SLOW._replace(heartbeat=next(HEARTBEATS))))
            assert [isinstance(outcome, Status) for outcome in outcomes] == [welcome] * len(outcomes)
            client.close()


def test_a_peer_that_is_vouched_for_under_another_name_is_not_the_plc(tmp_path: Path, authority: trustme.CA) -> None:
    with server.running() as plc, guarded(plc.address, authority, "other.example") as address:
        tls = certified(tmp_path, authority, authority)
        client = connect(PlcSettings(address=address, registers=REGISTERS, tls=tls), MAP)
        assert failed(client.read())
        client.close()


def test_certificates_that_are_not_there_are_refused(tmp_path: Path) -> None:
    nothing = TlsSettings(authority=tmp_path / "a", certificate=tmp_path / "b", key=tmp_path / "c")
    with pytest.raises(InputError, match="give PEM files of authority, certificate and key"):
        connect(PlcSettings(address="127.0.0.1:1", registers=REGISTERS, tls=nothing), MAP)
