"""Nothing leaves the building: a whole runtime is watched for every address that it and its children contact, listen at
or look up, by Python's own audit and by the kernel, and works where there is no network at all.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import streams

HERE = Path(__file__).parent
LOOPBACK = streams.HOST
STRANGER = "192.0.2.1"  # an address that RFC 5737 keeps for documentation
STRACE = ["strace", "-D", "-f", "--seccomp-bpf", "-e", "trace=connect,bind,sendto,sendmsg,sendmmsg", "-o"]
ALONE = ["unshare", "--map-root-user", "--net", sys.executable, "-c"]
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys
with socket.socket() as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh22x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
os.execvp(sys.argv[1], sys.argv[1:])
"""


def works(*command: str) -> bool:
    return (
        shutil.which(command[0]) is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


TRACES = works(*STRACE, os.devnull, "true")
HAS_NAMESPACES = works(*ALONE, LOOPBACK_UP, "true")


class Seen(NamedTuple):
    """What was done to which address and port: an internet address, or a name or number that was looked up."""

    what: str
    host: str
    port: int | None = None


def audited(file: Path) -> set[Seen]:
    """What Python's audit wrote. Addresses of other families, which are no pair, stay in the machine."""
    found = set()
    for line in file.read_text().splitlines():
        what, address = json.loads(line)
        if isinstance(address, list):
            found.add(Seen(what, str(address[0]), address[1]))
        elif what not in {"connect", "bind", "sendto", "sendmsg"}:
            found.add(Seen(what, str(address)))
    return found


def traced(file: Path) -> set[Seen]:
    """What strace wrote, of the families of the internet."""
    v4 = r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([^"]+)"\)'
    v6 = r'sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"'
    found = set()
    for line in file.read_text().splitlines():
        call = re.match(r"\d+ +(\w+)\(", line)
        for port, host in re.findall(v4, line) + re.findall(v6, line) if call else []:
            found.add(Seen(call[1], host, int(port)))
    return found


def auditing(folder: Path) -> list[str]:
    """The command that has Python's audit written to the folder."""
    return ["env", f"PYTHONPATH={HERE / 'audit'}", f"FLINCH_AUDIT={folder / 'audit'}"]


def tracing(folder: Path) -> list[str]:
    return [*STRACE, str(folder / "trace")]


def ended(trace: Path, pid: int) -> bool:
    """Whether all of a process is in its trace; waits for it."""
    end = time.monotonic() + 30
    while not re.search(rf"^{pid} +\+\+\+ exited", trace.read_text() if trace.exists() else "", re.M):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def whole(folder: Path, around: list[str], command: list[str]) -> dict[str, Any]:
    """Runs the whole of tests/whole.py, with the runtime under this command; what it may know."""
    script = [*around, sys.executable, str(HERE / "whole.py"), str(folder), *command]
    told = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert told.returncode == 0, told.stderr
    known = json.loads((folder / "known.json").read_text())
    assert known["ended"] == 0
    assert known["said"] == {"": 200, "metrics": 200, "journal": 200}
    return known


def wanted_of_python(known: dict[str, Any]) -> set[Seen]:
    """The camera is read by FFmpeg, of which Python hears nothing."""
    return {
        Seen("connect", LOOPBACK, known["plc"]),
        Seen("bind", LOOPBACK, known["page"]),
        Seen("getaddrinfo", LOOPBACK),
    }


def test_a_whole_runtime_contacts_its_camera_and_its_plc_and_nobody_else_and_looks_no_name_up(tmp_path: Path) -> None:
    command = auditing(tmp_path) + (tracing(tmp_path) if TRACES else [])
    known = whole(tmp_path, [], command)
    assert audited(tmp_path / "audit") == wanted_of_python(known)
    if TRACES:
        assert ended(tmp_path / "trace", known["pid"])
        assert traced(tmp_path / "trace") == {
            Seen("connect", LOOPBACK, known["camera"]),
            Seen("connect", LOOPBACK, known["plc"]),
            Seen("bind", LOOPBACK, known["page"]),
        }


@pytest.mark.skipif(not HAS_NAMESPACES, reason="unshare is missing or may not make a network namespace here")
def test_a_whole_runtime_works_where_there_is_no_network_but_its_own_loopback(tmp_path: Path) -> None:
    alone = [*ALONE, LOOPBACK_UP]
    reach = [sys.executable, "-c", f"import socket; socket.create_connection(('{STRANGER}', 9), 10)"]
    told = subprocess.run([*alone, *reach], capture_output=True, text=True, check=False)
    assert "Network is unreachable" in told.stderr
    known = whole(tmp_path, alone, auditing(tmp_path))
    assert audited(tmp_path / "audit") == wanted_of_python(known)


CHILD = f"""
import socket
with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
    tcp.setblocking(False)
    tcp.connect_ex(("{STRANGER}", 9))
    udp.sendto(b"", ("{LOOPBACK}", 9))
try:
    socket.getaddrinfo("flinch.invalid", 443, flags=socket.AI_NUMERICHOST)
except socket.gaierror:
    pass
"""
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}], check=True)"


def test_the_audit_tells_of_a_stranger_that_a_child_contacts_and_of_a_name_that_it_looks_up(tmp_path: Path) -> None:
    subprocess.run([*auditing(tmp_path), sys.executable, "-c", PARENT], check=True)
    assert audited(tmp_path / "audit") == {
        Seen("connect", STRANGER, 9),
        Seen("sendto", LOOPBACK, 9),
        Seen("getaddrinfo", "flinch.invalid"),
    }


NATIVE = f"""
import av
try:
    av.open("tcp://{STRANGER}:9", timeout=0.2)
except (av.FFmpegError, OSError):
    pass
"""


@pytest.mark.skipif(not TRACES, reason="no strace that may trace: the runtime is watched by Python's audit alone")
@pytest.mark.parametrize(
    ("program", "seen"),
    [
        (PARENT, {Seen("connect", STRANGER, 9), Seen("sendto", LOOPBACK, 9)}),
        (NATIVE, {Seen("connect", STRANGER, 9)}),
    ],
    ids=["child", "FFmpeg"],
)
def test_the_trace_tells_of_a_stranger_that_a_child_or_a_library_contacts(
    tmp_path: Path, program: str, seen: set[Seen]
) -> None:
    with subprocess.Popen([*tracing(tmp_path), sys.executable, "-c", program]) as process:
        assert process.wait(60) == 0
    assert ended(tmp_path / "trace", process.pid)
    assert traced(tmp_path / "trace") == seen
