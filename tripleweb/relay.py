"""A server that has no data of its own and passes everything on to the one that holds the folder.

Two servers of one person share a data folder, which belongs to one of them at a time. The other asks for itself who
is speaking, and tells the holder, with the token that the holder left in the folder for exactly that. So kernels and
pages talk to their own server only, and stay where they are when it takes the folder over.

`Upstream` is the way to the holder; the mixins `Relayed` and `RelayedSync` stand where the endpoints would. Invariants:
nothing is passed on before it is known who speaks; the caller's own credentials stay here; what was cut off on the
way never looks complete; nothing is kept in memory on the way but a few pieces.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from tornado import web
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import SimpleAsyncHTTPClient
from tornado.websocket import (
    WebSocketClientConnection,
    WebSocketClosedError,
    WebSocketError,
    WebSocketHandler,
    websocket_connect,
)

from tripleweb import places
from tripleweb.endpoints import DRAINED_BYTES_MAX, PREFIX, Endpoint, Refusal, speaking
from tripleweb.line import CLOSED_BY_RULE
from tripleweb.sync import messages
from tripleweb.sync.messages import FRAME_BYTES_MAX, Fault
from tripleweb.sync.server import Actor
from tripleweb.web import Sync

CONNECT_S = 10
PIECES = 8  # of a body, on their way
_METHODS = ("GET", "POST", "PATCH", "DELETE")
_SENT_ON = ("Accept", "Content-Type", "Content-Length")
_BROUGHT_BACK = (
    "Cache-Control",
    "Content-Security-Policy",
    "Content-Type",
    "Referrer-Policy",
    "X-Content-Type-Options",
)
_GONE = (OSError, StreamClosedError, WebSocketError, TimeoutError)


class Upstream:
    """The server that holds `folder`, for another one. It is used on that one's loop, until `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sockets: set[RelayedSync] = set()
        self._client: SimpleAsyncHTTPClient | None = None
        self._lost = asyncio.Event()

    async def lost(self, patience_s: float) -> None:
        """Returns when the holder may be gone: a connection to it was lost, or that time has gone by."""
        try:
            async with asyncio.timeout(patience_s):
                await self._lost.wait()
        except TimeoutError:
            pass  # a look now and then does no harm
        self._lost.clear()

    def miss(self) -> None:
        """The holder may be gone."""
        self._lost.set()

    def request(self, path: str, query: str, actor: Actor, **more: Any) -> HTTPRequest:
        """A request to the holder, in `actor`'s name. Raises 503 if nobody left word how to reach it."""
        held = places.announced(self.folder)
        if held is None:
            self.miss()
            raise Refusal(503, f"the server that has {self.folder} left no address to reach it; try again")
        left = urlencode([(name, text) for name, text in parse_qsl(query, True) if name != "token"])
        headers = HTTPHeaders({"Authorization": f"tripleweb {held['token']}", **speaking(actor)})
        headers.update(more.pop("headers", {}))
        address = held["url"].rstrip("/") + path + (f"?{left}" if left else "")
        return HTTPRequest(
            address,
            headers=headers,
            connect_timeout=CONNECT_S,
            request_timeout=more.pop("request_timeout", 0),
            follow_redirects=False,
            allow_nonstandard_methods=True,
            **more,
        )

    async def fetch(self, request: HTTPRequest) -> None:
        """Runs a request to its end; what comes back goes to its callbacks. Raises 503 if nobody answers."""
        if self._client is None:
            self._client = SimpleAsyncHTTPClient(
                force_instance=True, max_clients=1_000, max_body_size=1 << 50
            )
        try:
            await self._client.fetch(request, raise_error=False)
        except (*_GONE, HTTPClientError) as error:
            self.miss()
            raise Refusal(503, f"the server that has the data does not answer: {error}") from error

    async def open(self, request: HTTPRequest) -> WebSocketClientConnection:
        """A socket to the holder. Raises what it answers, and 503 if it does not."""
        request.url = "ws" + request.url.removeprefix("http")
        try:
            return await websocket_connect(request, max_message_size=64 * FRAME_BYTES_MAX)
        except HTTPClientError as error:
            if error.code == 599:
                self.miss()
            status = error.code if 400 <= error.code < 500 else 503
            raise Refusal(status, f"the server that has the data answers: {error.message}") from None
        except _GONE as error:
            self.miss()
            raise Refusal(503, f"the server that has the data does not answer: {error}") from None

    def expel(self, whom: Callable[[Actor], bool], message: str) -> None:
        """Ends the relayed sockets of those for whom `whom` is true."""
        for socket in [socket for socket in self.sockets if whom(socket.actor)]:
            socket.write_message(messages.encode(Fault("forbidden", message)))
            socket.close(CLOSED_BY_RULE, "forbidden")

    def close(self) -> None:
        """Ends what is relayed; who was connected comes again."""
        for socket in list(self.sockets):
            socket.close(1001, "closing")
        if self._client is not None:
            self._client.close()


@web.stream_request_body
class Relayed(Endpoint):
    """Any endpoint but the socket, at the holder. Whoever hosts it sets `upstream` and calls `begin`."""

    upstream: Upstream
    base_url = "/"
    is_half_read = True  # until `begin` is done
    _refused: web.HTTPError | None = None
    _passing: asyncio.Task[None] | None = None
    _answering = False

    def speaker(self) -> Actor:
        caller = self.caller()
        if caller is None:
            raise Refusal(403, "this request does not say who it comes from")
        return caller

    def refuse(self, refusal: web.HTTPError) -> None:
        """Has `refusal` be the answer, after the body."""
        self._refused = self._refused or refusal

    async def begin(self) -> None:
        speaker = self.speaker()
        connection: Any = self.request.connection
        connection.set_max_body_size(DRAINED_BYTES_MAX)
        self._body: asyncio.Queue[bytes | None] = asyncio.Queue(PIECES)
        if self._refused is None and self.request.method in _METHODS:
            self._passing = asyncio.create_task(self._pass_on(speaker))
        self.is_half_read = False

    async def _pass_on(self, speaker: Actor) -> None:
        incoming = self.request
        headers = {name: incoming.headers[name] for name in _SENT_ON if name in incoming.headers}
        has_body = "Content-Length" in headers or "Transfer-Encoding" in incoming.headers
        request = self.upstream.request(
            path_below(self.base_url, incoming.path),
            incoming.query,
            speaker,
            method=incoming.method,
            headers=headers,
            body_producer=self._send_body if has_body else None,
            header_callback=self._take_header,
            streaming_callback=self._take_piece,
        )
        await self.upstream.fetch(request)

    async def data_received(self, chunk: bytes) -> None:
        await self._feed(chunk)

    async def _feed(self, piece: bytes | None) -> None:
        """Waits until there is room for it, or nobody is left who reads."""
        if self._passing is None:
            return
        put = asyncio.ensure_future(self._body.put(piece))
        await asyncio.wait([put, self._passing], return_when=asyncio.FIRST_COMPLETED)
        put.cancel()

    async def _send_body(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        while (piece := await self._body.get()) is not None:
            await write(piece)

    def _take_header(self, line: str) -> None:
        line = line.strip()
        if line.startswith("HTTP/"):
            status = int(line.split(" ")[1])
            if status >= 200:
                self.set_status(status)
        elif ":" in line:
            name, _, text = line.partition(":")
            if name.title() in _BROUGHT_BACK:
                self.set_header(name.title(), text.strip())

    def _take_piece(self, piece: bytes) -> Awaitable[None]:
        self._answering = True
        self.write(piece)
        return self.flush()

    async def relay(self) -> None:
        """The rest of the answer, once the request is here."""
        await self._feed(None)
        if self._refused is not None:
            raise self._refused
        assert self._passing is not None
        try:
            await self._passing
        except web.HTTPError:
            if not self._answering:
                raise
            self.detach().close()
            return
        self.finish()

    def on_finish(self) -> None:
        """Nothing is passed on for an answer that was given already, as one that the decorators refuse."""
        super().on_finish()
        self._give_up()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._give_up()

    def _give_up(self) -> None:
        if self._passing is not None:
            self._passing.cancel()


class RelayedSync(Sync):
    """The sync socket, at the holder."""

    upstream: Upstream
    base_url = "/"
    _socket: WebSocketClientConnection | None = None

    async def get(self, app: str) -> None:
        caller = self.caller()
        if caller is None:
            raise Refusal(403, "this request does not say who it comes from")
        self.actor = caller
        self.check_handshake()  # before the holder hears of it, and makes an app
        path = path_below(self.base_url, self.request.path)
        request = self.upstream.request(path, self.request.query, caller, request_timeout=CONNECT_S)
        self._socket = await self.upstream.open(request)
        try:
            await WebSocketHandler.get(self, app)
        finally:
            self._socket.close()

    async def open(self, app: str) -> None:
        self.set_nodelay(True)
        self.upstream.sockets.add(self)
        self._returning = asyncio.create_task(self._bring_back())

    async def on_message(self, data: str | bytes) -> None:
        assert self._socket is not None
        try:
            await self._socket.write_message(data, binary=isinstance(data, bytes))
        except (WebSocketClosedError, StreamClosedError):
            self.upstream.miss()

    async def _bring_back(self) -> None:
        assert self._socket is not None
        try:
            while (message := await self._socket.read_message()) is not None:
                await self.write_message(message)
        except (WebSocketClosedError, StreamClosedError):
            return  # the caller has gone
        if self._socket.close_code in (None, 1001, 1006):
            self.upstream.miss()
        self.close(self._socket.close_code or 1001, self._socket.close_reason or "closing")

    def on_close(self) -> None:
        self.upstream.sockets.discard(self)
        if self._socket is not None:
            self._socket.close()


def path_below(base_url: str, path: str) -> str:
    """A path without what this server's begin with.

    >>> path_below("/user/ada/", "/user/ada/api/tripleweb/v1/info")
    '/api/tripleweb/v1/info'
    """
    return path.removeprefix(base_url.rstrip("/"))


def writes(method: str | None, path: str) -> bool:
    """True if a request may change something: a query is a POST that reads.

    >>> writes("POST", "/api/tripleweb/v1/apps/a/query"), writes("GET", "/tripleweb"), writes("DELETE", "/x")
    (False, False, True)
    """
    return method not in ("GET", "HEAD") and not (PREFIX in path and path.endswith("/query"))
