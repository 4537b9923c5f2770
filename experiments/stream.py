"""The film of a line as an RTSP camera (RFC 2326, with H.264 by RFC 6184 in the same connection), and as YUV4MPEG2."""

import re
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Self

import av
import numpy as np
from numpy.typing import NDArray

RATE_HZ = 10
CLOCK_HZ = 90_000
SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=line
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:video
"""
ANSWERS = {
    "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY\n",
    "DESCRIBE": f"Content-Type: application/sdp\nContent-Length: {len(SDP) + SDP.count(chr(10))}\n",
    "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\nSession: 1\n",
    "PLAY": "Session: 1\n",
}
START_CODE = re.compile(b"\x00{2,3}\x01")

Picture = NDArray[np.uint8]


def film(path: Path) -> list[Picture]:
    """The pictures of a video, `[H, W, 3]`."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def y4m_head(picture: Picture) -> bytes:
    """What a YUV4MPEG2 stream of such pictures begins with."""
    height, width, _ = picture.shape
    return f"YUV4MPEG2 W{width} H{height} F{RATE_HZ}:1 Ip A1:1 C420jpeg\n".encode()


def y4m(picture: Picture) -> bytes:
    """A picture in a YUV4MPEG2 stream; its sides are even."""
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
    return b"FRAME\n" + frame.to_ndarray().tobytes()


class RtspCamera:
    """Serves a film over and over at its rate; a with-block.

    Attributes:
      pictures: the film, `[H, W, 3]` each.
      lens: what becomes of a picture on its way; None: it does not come.
    """

    def __init__(self, pictures: list[Picture]) -> None:
        self.lens: Callable[[Picture], Picture | None] = lambda picture: picture
        self.pictures, self._port = pictures, 0
        self._peers: set[socket.socket] = set()
        self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.shut()

    @property
    def address(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/line"

    def open(self) -> None:
        """Listens."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._shut = Event()
        Thread(target=self._accept, args=(self._listener, self._shut), name="rtsp", daemon=True).start()

    def shut(self) -> None:
        """Hangs up, and listens no longer."""
        self._shut.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Ends every connection."""
        for peer in list(self._peers):
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket, shut: Event) -> None:
        while not shut.is_set():
            with suppress(OSError):
                peer, _ = listener.accept()
                Thread(target=self._serve, args=(peer,), name="viewer", daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        self._peers.add(peer)
        with suppress(OSError), peer, peer.makefile("rb") as heard:
            while head := list(iter(lambda: heard.readline().decode().strip(), "")):
                method = head[0].split(" ")[0]
                peer.sendall(answer(method, dict(line.split(": ", 1) for line in head[1:])["CSeq"]))
                if method == "PLAY":
                    self._play(peer)
        self._peers.discard(peer)

    def _play(self, peer: socket.socket) -> None:
        encoder, number, began = None, 0, time.monotonic()
        packets = 0
        while True:
            time.sleep(max(0.0, began + number / RATE_HZ - time.monotonic()))
            picture = self.lens(self.pictures[round(time.monotonic() * RATE_HZ) % len(self.pictures)])
            number += 1
            if picture is None:
                continue
            encoder = encoder or _encoder(picture)
            for packet in encoder.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                units = [unit for unit in START_CODE.split(bytes(packet)) if unit]
                for unit in units:
                    peer.sendall(rtp(unit, packets, number * CLOCK_HZ // RATE_HZ, last=unit is units[-1]))
                    packets += 1


def answer(method: str, number: str) -> bytes:
    """What an RTSP server says to a request of this sequence number."""
    text = f"RTSP/1.0 200 OK\nCSeq: {number}\n{ANSWERS.get(method, '')}\n{SDP if method == 'DESCRIBE' else ''}"
    return text.replace("\n", "\r\n").encode()


def rtp(unit: bytes, number: int, timestamp: int, *, last: bool) -> bytes:
    """A NAL unit as one RTP packet, interleaved in the connection; the last one of its picture is marked."""
    head = struct.pack(">BBHII", 0x80, 96 | last << 7, number % (1 << 16), timestamp % (1 << 32), 1)
    return struct.pack(">BBH", ord("$"), 0, len(head) + len(unit)) + head + unit


def _encoder(picture: Picture) -> av.VideoCodecContext:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = picture.shape[:2]
    encoder.pix_fmt, encoder.framerate = "yuv420p", RATE_HZ
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "10"}  # a still picture stays as it is
    return encoder
