"""The Modbus TCP client: one function-16 write and one function-3 read-back within a deadline, and never an exception.

A write that timed out may still be applied when a frozen PLC thaws. So after any fault the connection is dropped, and
nothing is written again before a read has been answered: at most one stale write is ever under way, and the PLC drops
it (see runtime/line/program.py). Sequence numbers go on from the last one that the PLC says it has taken.
"""

import logging
from socket import socket
from ssl import PROTOCOL_TLS_CLIENT, SSLContext, SSLSocket
from threading import Condition, Thread
from time import monotonic
from typing import Any, NamedTuple

from pymodbus.client import ModbusTcpClient, ModbusTlsClient
from pymodbus.exceptions import ConnectionException, ModbusException, ModbusIOException
from pymodbus.pdu import ModbusPDU

from runtime.registers import COMMAND_WORDS, WORD, Command, RegisterMap, Status, encode_command, follows
from runtime.settings import PlcSettings, TlsSettings
from wm.errors import InputError

DEADLINE_S = 0.2
BACKOFF_S = 0.1, 1.0  # shortest and longest pause before the next attempt
POLL_S = 0.05
STALE_S = 0.5
REFRESH_S = 0.02
REFUSALS = {  # exception codes of the Modbus specification
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure",
    5: "accepted, but not done yet",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "device behind the gateway does not answer",
}

logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # faults are returned, and logged by who acts on them


class Fault(NamedTuple):
    """Why there is no status: a phrase for the log."""

    reason: str


NOT_YET = Fault("PLC: not asked yet")


class PlcClient:
    """Synchronous client of one PLC. It connects by itself, and again after a fault; between attempts it says why not.

    Args:
      address: "host:port".
      unit: Modbus unit identifier.
      deadline_s: of an exchange; it is looked at before each of its requests, and each may wait for what is left.
      tls: with which certificates, None for a connection in the open.
    """

    def __init__(
        self,
        address: str,
        registers: RegisterMap,
        *,
        unit: int = 1,
        deadline_s: float = DEADLINE_S,
        tls: SSLContext | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._address, self._registers, self._unit = address, registers, unit
        if tls is None:
            self._client = ModbusTcpClient(host, port=int(port), timeout=deadline_s, retries=0)
        else:
            self._client = ModbusTlsClient(host, port=int(port), timeout=deadline_s, retries=0, sslctx=tls)
        self._deadline_s = deadline_s
        self._sequence: int | None = None  # of the last write
        self._answered = False  # a read, on this connection
        self._fault = Fault("")
        self._backoff_s, self._retry_at = BACKOFF_S[0], 0.0

    def read(self) -> Status | Fault:
        """Reads the status and writes nothing."""
        return self._guarded(None)

    def exchange(self, command: Command) -> Status | Fault:
        """Writes `command` under the next sequence number, reads back, and returns the status if they agree."""
        return self._guarded(command)

    def close(self) -> None:
        self._client.close()
        self._answered = False

    def _guarded(self, command: Command | None) -> Status | Fault:
        if monotonic() < self._retry_at:
            return self._fault
        try:
            status = self._transact(command, monotonic() + self._deadline_s)
        except Exception as error:  # whatever a broken peer makes of the library, the loop goes on
            self.close()
            self._fault = Fault(f"PLC {self._address}: {_reason(error)}")
            self._retry_at = monotonic() + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, BACKOFF_S[1])
            return self._fault
        self._backoff_s = BACKOFF_S[0]
        return status

    def _transact(self, command: Command | None, deadline: float) -> Status:
        if not self._answered or command is None:
            _, status = self._read_area(deadline)
            if self._sequence is None or follows(status.sequence, self._sequence):
                self._sequence = status.sequence
            self._answered = True
        if command is not None:
            self._sequence = ((self._sequence or 0) + 1) % WORD
            words = encode_command(command._replace(sequence=self._sequence))
            self._limit(deadline)
            _checked("write", self._client.write_registers(self._registers.address, words, device_id=self._unit))
            echo, status = self._read_area(deadline)
            if echo != words:
                raise ModbusException("read-back differs from what was written; is there another writer?")
        return status

    def _read_area(self, deadline: float) -> tuple[list[int], Status]:
        """Command block and status, in one request."""
        self._limit(deadline)
        address, size = self._registers.address, self._registers.size
        reply = self._client.read_holding_registers(address, count=size, device_id=self._unit)
        words = _checked("read", reply).registers
        return list(words[:COMMAND_WORDS]), self._registers.decode_status(words[COMMAND_WORDS:])

    def _limit(self, deadline: float) -> None:
        remaining = deadline - monotonic()
        if remaining <= 0:
            raise TimeoutError
        self._client.comm_params.timeout_connect = remaining


class Certificates(SSLContext):
    """What to prove, and that the other end is this host and vouched for; pymodbus leaves the host out."""

    host: str

    def wrap_socket(self, sock: socket, *arguments: Any, **named: Any) -> SSLSocket:
        return super().wrap_socket(sock, *arguments, **named | {"server_hostname": self.host})


def certificates(tls: TlsSettings, host: str) -> Certificates:
    """Raises InputError where a file is missing or is none of these."""
    context = Certificates(PROTOCOL_TLS_CLIENT)
    context.host = host
    try:
        context.load_verify_locations(tls.authority)
        context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        raise InputError(
            f"the certificates {tls.authority}, {tls.certificate} and {tls.key} cannot be used "
            f"({error.strerror or error}); give PEM files of authority, certificate and key."
        ) from error
    return context


def connect(plc: PlcSettings, registers: RegisterMap) -> PlcClient:
    """The client that the settings ask for; InputError where its certificates cannot be used."""
    tls = None if plc.tls is None else certificates(plc.tls, plc.address.rpartition(":")[0])
    return PlcClient(plc.address, registers, unit=plc.unit, tls=tls)


def _checked(request: str, reply: ModbusPDU) -> ModbusPDU:
    if reply.isError():
        code = reply.exception_code
        raise ModbusException(f"refused the {request} ({REFUSALS.get(code, f'exception code {code}')})")
    return reply


def _reason(error: Exception) -> str:
    match error:
        case ConnectionException():
            return "no connection"
        case ModbusIOException() | TimeoutError():
            return "no valid answer in time"
        case ModbusException():
            return error.string
        case _:
            return repr(error)


class PlcLink:
    """A thread that talks to the PLC, so that the loop hardly waits: it posts commands (the latest wins) and looks at
    what came back last. Without a command it polls the status, every 50 ms, or at once when the loop asks.
    """

    def __init__(self, client: PlcClient) -> None:
        self._client = client
        self._bell = Condition()
        self._mail: tuple[Command, float, float] | None = None
        self._asked = self._stopping = False
        self._outcome: tuple[Status | Fault, float] = NOT_YET, monotonic()
        self.latency_s: float | None = None  # from the camera's frame until the PLC had its command, of the last one
        self._thread = Thread(target=self._run, name="plc", daemon=True)
        self._thread.start()

    def post(self, command: Command, since: float | None = None) -> None:
        """Hands over a command for a frame that came at `since`, by the monotonic clock; it replaces one that has not
        been sent yet.
        """
        now = monotonic()
        with self._bell:
            self._mail = command, now, now if since is None else since
            self._bell.notify_all()

    def refreshed(self) -> Status | Fault:
        """The status as of now, so that tags are as old as the frame that they go with. Waits for it `REFRESH_S` at
        most, and not at all while the PLC is at fault; then the last one has to do.
        """
        called = monotonic()
        if isinstance(self.latest(), Status):
            with self._bell:
                self._asked = True
                self._bell.notify_all()
                self._bell.wait_for(lambda: self._outcome[1] > called and not self._asked, timeout=REFRESH_S)
        return self.latest()

    def latest(self) -> Status | Fault:
        """The outcome of the last exchange, if it is not older than `STALE_S`."""
        outcome, at = self._outcome
        return outcome if monotonic() - at <= STALE_S else Fault("PLC: no exchange in time")

    def close(self, last: Command) -> None:
        """Sends `last`, then hangs up."""
        self.post(last)
        with self._bell:
            self._stopping = True
        self._thread.join(timeout=STALE_S)
        self._client.close()

    def _run(self) -> None:
        stopping = False
        while not stopping:
            with self._bell:
                self._bell.wait_for(lambda: self._mail or self._asked or self._stopping, timeout=POLL_S)
                mail, self._mail, stopping = self._mail, None, self._stopping
                self._asked = False
            fresh = mail is not None and monotonic() - mail[1] <= STALE_S
            outcome = self._client.exchange(mail[0]) if mail is not None and fresh else self._client.read()
            with self._bell:
                self._outcome = outcome, monotonic()
                if mail is not None and isinstance(outcome, Status):
                    self.latency_s = self._outcome[1] - mail[2]
                self._bell.notify_all()
