"""A whole runtime, as it is installed, on an RTSP camera, a PLC and the page, from its start to its end.

python tests/whole.py FOLDER [COMMAND ...]

The runtime is started by the command, where one is given. It writes what the runtime may know, a JSON object, to the
file known.json in the folder: the ports of camera, PLC and page, and what the page said.
"""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import av
import streams

HOUSE = Path(__file__).parents[1]
FILM = HOUSE / "docs" / "line.mp4"
SETTINGS = """
bundle = "runtime/line/bundle"
out = "{out}"
mode = "act"
[[cameras]]
source = "{camera}"
[plc]
address = "{plc}"
registers = "runtime/line/registers.toml"
[recorder]
[page]
port = {page}
"""


def ticks(folder: Path) -> list[dict[str, Any]]:
    """What the runtime has written of its turns, but for a line that it is at."""
    file = folder / "run" / "ticks.jsonl"
    whole, _, _ = file.read_text().rpartition("\n") if file.exists() else ("", "", "")
    return [json.loads(line) for line in whole.splitlines()]


def main(folder: Path, command: list[str]) -> None:
    from runtime.line import server  # noqa: PLC0415 - the house is not on the path before

    with socket.create_server((streams.HOST, 0)) as free:
        page = free.getsockname()[1]

    def until(wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Waits for a turn that is as wanted, and was not there before."""
        seen, end = len(ticks(folder)), time.monotonic() + 120
        while not any(wanted(tick) for tick in ticks(folder)[seen:]):
            assert process.poll() is None, "the runtime has ended"
            assert time.monotonic() < end, f"it never came; {ticks(folder)[-1:]}"
            time.sleep(0.1)

    def well(tick: dict[str, Any]) -> bool:
        return tick["fault"] is None and tick["plc"] is None and tick["latency_ms"] is not None

    with av.open(str(FILM)) as film:
        pictures = [picture.to_ndarray(format="rgb24") for picture in film.decode(video=0)]
    streams.film(folder, pictures, rate=10)
    with server.running() as plc, streams.serving(folder) as camera:
        settings = folder / "settings.toml"
        values = {"out": folder / "run", "camera": camera.address, "plc": plc.address, "page": page}
        settings.write_text(SETTINGS.format(**values))
        start = [*command, sys.executable, "-m", "runtime", "--settings", str(settings)]
        process = subprocess.Popen(start, cwd=HOUSE)
        try:
            until(well)
            said = {}
            for name in ("", "metrics", "journal"):
                with urlopen(f"http://{streams.HOST}:{page}/{name}", timeout=30) as answer:
                    said[name] = answer.status
            camera.process.kill()
            camera.process.wait()
            until(lambda tick: tick["fault"] == "no fresh frame from the camera")
            with streams.serving(folder, camera.port):
                until(well)
            process.send_signal(signal.SIGTERM)
            ended = process.wait(60)
        finally:
            process.kill()
    known = {
        "camera": camera.port,
        "plc": int(plc.address.rpartition(":")[2]),
        "page": page,
        "said": said,
        "ended": ended,
        "pid": process.pid,
    }
    (folder / "known.json").write_text(json.dumps(known))


if __name__ == "__main__":
    sys.path.insert(0, str(HOUSE))
    main(Path(sys.argv[1]), sys.argv[2:])
