"""Serves the page. It reads the loop's board and journal, and asks through a socket; nothing else connects the two.

/                 the page
/events           the loop's latest turn, as it comes (server-sent events)
/whatif           what would come at other speeds
/journal          the newest rows of the journal
/report           what the journal says of every run, for a shift of eight hours
/clips/NAME       a clip of the recorder
/ask              what an operator asks (POST), answered once it is durable
/healthz          200 while all is well, 503 and why where it is not
/metrics          figures for Prometheus
"""

import asyncio
import base64
import hmac
import io
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import uvicorn
from PIL import Image
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from runtime import journal, report
from runtime.board import WHAT_IF, Board, Picture
from runtime.journal import COLUMNS
from runtime.page.health import ailing, metrics

PAGE = Path(__file__).with_name("page.html")
LOOK_S = 0.05
ANSWER_S = 3.0
ROWS = 200
SHIFT_HOURS = 8.0
TOKEN = "FLINCH_TOKEN"
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; media-src 'self'; "
    "connect-src 'self'"
)
LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}


@dataclass(frozen=True)
class Flags:
    """Flags of the page's process; the runtime starts it."""

    board: int
    """File descriptor of the board."""
    requests: int
    """File descriptor of the socket to ask through."""
    journal: Path
    """The journal."""
    clips: Path
    """Folder of the clips."""
    host: str
    """Address to listen at."""
    port: int
    """Port to listen at."""


class Asker:
    """Sends what operators ask, and hands each of them the answer to it."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._waiting: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._next = 0

    def listen(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._next += 1
        number = str(self._next)
        self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._socket.send(json.dumps({**request, "id": number}).encode())
            return await asyncio.wait_for(self._waiting[number], ANSWER_S)
        except (TimeoutError, OSError):
            return {"done": False, "told": "not confirmed: the runtime or its journal does not answer"}
        finally:
            del self._waiting[number]

    def _hear(self) -> None:
        try:
            heard = self._socket.recv(1 << 16)
        except BlockingIOError:
            return
        if not heard:
            os._exit(0)  # the runtime is gone
        answer = json.loads(heard)
        if answer["id"] in self._waiting and not self._waiting[answer["id"]].done():
            self._waiting[answer["id"]].set_result(answer)


class Guard(BaseHTTPMiddleware):
    """Lets in who names this host and, beyond loopback, knows the token; changes need a header that no other site's
    page can send.
    """

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        token = os.environ.get(TOKEN, "")
        host = request.headers.get("host", "").rpartition(":")[0]
        if token:
            given = request.query_params.get("token") or request.cookies.get("token", "")
            if not hmac.compare_digest(given, token):
                return PlainTextResponse("Give the token: add ?token=... to the address.\n", 401)
        elif host not in LOOPBACK:
            return PlainTextResponse(f"This page is at localhost, not at {host}.\n", 421)
        if request.method == "POST" and request.headers.get("x-flinch") != "1":
            return PlainTextResponse("Ask from the page.\n", 403)
        response = await call_next(request)
        if token and "token" in request.query_params:
            response.set_cookie("token", token, httponly=True, samesite="strict")
        response.headers["content-security-policy"] = POLICY
        return response


def application(board: Board, asker: Asker, path: Path, clips: Path) -> Starlette:
    """The page over a board, a way to ask, a journal and a folder of clips."""

    async def page(_: Request) -> Response:
        return FileResponse(PAGE, headers={"cache-control": "no-store"})

    async def events(request: Request) -> Response:
        return StreamingResponse(turns(board, request), media_type="text/event-stream")

    async def branches(_: Request) -> Response:
        found = board.read()
        if found is None:
            return JSONResponse([])
        told, pictures = found[1:]
        drawn = {each.name: _url(each) for each in pictures if each.name.startswith(WHAT_IF)}
        return JSONResponse([{**each, "picture": drawn[f"{WHAT_IF}{i}"]} for i, each in enumerate(told[WHAT_IF])])

    async def rows(_: Request) -> Response:
        found = await asyncio.to_thread(journal.newest, path, ROWS)
        return JSONResponse([{"id": row.id, **{name: getattr(row.entry, name) for name in COLUMNS}} for row in found])

    async def told(_: Request) -> Response:
        rows, sound = await asyncio.to_thread(report.told, path, SHIFT_HOURS)
        return JSONResponse({"columns": report.COLUMNS, "rows": rows, "sound": sound})

    async def clip(request: Request) -> Response:
        found = {file.name: file for file in clips.glob("*.mp4")}.get(request.path_params["name"])
        return FileResponse(found) if found else PlainTextResponse("This clip is not kept any more.\n", 404)

    async def ask(request: Request) -> Response:
        try:
            asked = await request.json()
        except ValueError:
            asked = None
        if not isinstance(asked, dict):
            return JSONResponse({"done": False, "told": "that is not a request"}, 400)
        return JSONResponse(await asker.ask(asked))

    def facts() -> dict[str, Any] | None:
        found = board.read()
        return None if found is None else found[1]

    async def healthz(_: Request) -> Response:
        why = ailing(facts())
        return PlainTextResponse(f"{why or 'well'}\n", 503 if why else 200)

    async def figures(_: Request) -> Response:
        return Response(metrics(facts()), media_type=CONTENT_TYPE_LATEST)

    routes = [
        Route("/healthz", healthz),
        Route("/metrics", figures),
        Route("/", page),
        Route("/events", events),
        Route("/whatif", branches),
        Route("/journal", rows),
        Route("/report", told),
        Route("/clips/{name}", clip),
        Route("/ask", ask, methods=["POST"]),
    ]
    return Starlette(routes=routes, middleware=[Middleware(Guard)])


async def turns(board: Board, request: Request) -> AsyncIterator[str]:
    """Every turn of the loop that there is time for, as an event."""
    last = 0
    while not await request.is_disconnected():
        found = board.read()
        if found is not None and found[0] != last:
            last, told, pictures = found
            del told[WHAT_IF]
            drawn = {each.name: _url(each) for each in pictures if not each.name.startswith(WHAT_IF)}
            yield f"data: {json.dumps({**told, 'pictures': drawn})}\n\n"
        await asyncio.sleep(LOOK_S)


def _url(picture: Picture) -> str:
    stream = io.BytesIO()
    pixels = picture.pixels
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 and pixels.ndim == 3 else pixels).save(stream, "png")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def main(flags: Flags) -> None:
    """Serves until the runtime is gone."""
    board, asker = Board(flags.board), Asker(flags.requests)
    app = application(board, asker, flags.journal, flags.clips)

    async def serve() -> None:
        asker.listen()
        config = uvicorn.Config(app, flags.host, flags.port, log_level="warning", timeout_graceful_shutdown=1)
        await uvicorn.Server(config).serve()

    asyncio.run(serve())


if __name__ == "__main__":
    main(tyro.cli(Flags))
