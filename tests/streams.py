"""An RTSP server that nobody here wrote, as a process of its own, and a film whose frames tell their numbers.

python tests/streams.py FOLDER PORT

It says on which port it listens, and serves every film of the folder.
"""

import asyncio
import logging
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from aio_rtsp_toolkit import server
from numpy.typing import NDArray

HOST = "127.0.0.1"
FILM = "belt.mp4"
RATE = 20
SOUND_HZ = 16000
NUMBERS = 256
SIDE = 64
COLOURS = np.array([[(200, 40, 40), (40, 200, 40)], [(40, 40, 200), (200, 200, 40)]], np.uint8)


class Stream(NamedTuple):
    """A server process."""

    port: int
    process: subprocess.Popen[str]

    @property
    def address(self) -> str:
        """Where the film comes from, over and over again."""
        return f"rtsp://{HOST}:{self.port}/{FILM}/play_count_0"


def drawn(number: int) -> NDArray[np.uint8]:
    """Four colours, two above two, and below them the number as eight stripes of black and white."""
    bits = np.array([number >> place & 1 for place in range(8)], np.uint8)
    stripes = 235 * bits.repeat(SIDE // 8)[None, :, None].repeat(SIDE // 2, 0).repeat(3, 2)
    return np.concatenate([COLOURS.repeat(SIDE // 4, 0).repeat(SIDE // 2, 1), stripes])


def read(picture: NDArray[np.uint8]) -> tuple[NDArray[np.float64], int]:
    """The four colours and the number in a picture of any size, from the middle of each field."""
    side = len(picture)
    fields = side // 8 * np.array([1, 3]), side // 4 * np.array([1, 3])
    bits = picture[side * 3 // 4, side // 16 + side // 8 * np.arange(8)].mean(-1) > 128
    return picture[np.ix_(*fields)].astype(float), int(bits @ (1 << np.arange(8)))


def film(
    folder: Path, pictures: Iterable[NDArray[np.uint8]] | None = None, *, rate: int = RATE, sound: bool = False
) -> Path:
    """Writes a film as cameras send it, H.264 with a key frame every half second: of pictures, or of the numbers."""
    path = folder / FILM
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "12", "g": str(max(1, rate // 2))}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        silence = container.add_stream("aac", rate=SOUND_HZ) if sound else None
        for picture in pictures or map(drawn, range(NUMBERS)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
        if silence is not None:
            for start in range(0, SOUND_HZ * NUMBERS // rate, 1024):
                heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                heard.sample_rate, heard.pts = SOUND_HZ, start
                container.mux(silence.encode(heard))
            container.mux(silence.encode())
    return path


@contextmanager
def serving(folder: Path, port: int = 0) -> Iterator[Stream]:
    command = [sys.executable, __file__, str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Stream(int(process.stdout.readline()), process)
        finally:
            process.kill()


async def serve(folder: str, port: int) -> None:
    server.logger = logging.getLogger("rtsp")
    rtsp = await server.RtspServer(folder, HOST, port).start()
    print(rtsp._server.sockets[0].getsockname()[1], flush=True)
    await rtsp.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
