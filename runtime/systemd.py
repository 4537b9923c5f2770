"""What a service tells systemd, see sd_notify(3): that it is ready, that it still turns, that it stops."""

import os
import socket


def notify(state: str) -> None:
    """Sends a state, "READY=1" say, to where systemd listens; nothing where no systemd started this process."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
        try:
            out.sendto(state.encode(), address.replace("@", "\0", 1) if address.startswith("@") else address)
        except OSError:
            return  # a full or vanished socket must not stop the watching; the watchdog will notice
