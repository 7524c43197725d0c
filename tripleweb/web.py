"""The sync socket, and a server without Jupyter: all of tripleweb's endpoints on plain Tornado.

    /api/tripleweb/v1/apps/{app}/sync   the WebSocket; sync/messages.py is its protocol
    /api/tripleweb/v1/…                 the rest: see endpoints.py and docs/http.md
    /tripleweb                          the dashboard

Nobody is upgraded or answered before it is known who speaks. A kernel brings its grant in the header
`Authorization: tripleweb TOKEN`; a token in an address is not looked at. A browser is asked for a password, which is
the token, for the dashboard only: what a browser sends by itself must not change anything. `?label=` of the socket is
shown beside the user's name. `WebServer` runs all this on a thread of its own.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import struct
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.websocket import (
    WebSocketClosedError,
    WebSocketHandler,
    WebSocketProtocol,
    WebSocketProtocol13,
)

from tripleweb import assets, custody, endpoints, places
from tripleweb.access import Access, Grant, os_user
from tripleweb.endpoints import Endpoint, Refusal, Site, grant_actor
from tripleweb.errors import ProtocolError, StorageError
from tripleweb.hub import Hub
from tripleweb.inquiry import BUDGET_S, UNITS_A_SECOND
from tripleweb.line import CLOSE_CODES, CLOSED_BY_FAILURE, Line, spread
from tripleweb.storage import TenantStores
from tripleweb.sync import messages
from tripleweb.sync.messages import FRAME_BYTES_MAX, Fault
from tripleweb.sync.server import Actor, Limits
from tripleweb.tenant import HubLimits

SYNC = endpoints.APP + "/sync"
PING_S = 20
_AHEAD = 64 << 10  # bytes

# Who sends a request; the role is left open. None: nobody who is known here.
Authenticate = Callable[[HTTPServerRequest], Actor | None]

_log = logging.getLogger(__name__)


def grant_token(request: HTTPServerRequest) -> str | None:
    """The token of `Authorization: tripleweb TOKEN`; None if the request brings none of that scheme."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "tripleweb" else None


def password(request: HTTPServerRequest) -> str | None:
    """The password of `Authorization: Basic …`; None if the request brings none."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None


def by_grant(access: Access, token: Callable[[HTTPServerRequest], str | None] = grant_token) -> Authenticate:
    """Knows those who bring a grant of `access`, where `token` finds it."""

    def authenticate(request: HTTPServerRequest) -> Actor | None:
        brought = token(request)
        grant = None if brought is None else access.grant(brought)
        return None if grant is None else grant_actor(grant, request)

    return authenticate


class Sync(Endpoint, WebSocketHandler):
    """One connection to an app. What happens on it is the hub's business."""

    actor: Actor
    line: Line | None = None

    async def get(self, app: str) -> None:
        self.actor = self.admit(app, create=True)
        self.check_handshake()
        await super().get(app)

    def check_handshake(self) -> None:
        """Raises 400 for a request that opens no WebSocket, 403 for a page of another server's."""
        headers = self.request.headers
        connection = [word.strip().lower() for word in headers.get("Connection", "").split(",")]
        is_handshake = (
            headers.get("Upgrade", "").lower() == "websocket"
            and "upgrade" in connection
            and bool(headers.get("Sec-WebSocket-Key"))
            and headers.get("Sec-WebSocket-Version") in ("7", "8", "13")
        )
        if not is_handshake:
            raise Refusal(400, "this is the address of a WebSocket, and the request opens none")
        origin, site = headers.get("Origin"), headers.get("Sec-Fetch-Site")
        if origin is None:
            is_ours = site is None
        else:
            is_ours = urlsplit(origin).netloc.lower() == headers.get("Host") or self.check_origin(origin)
        if not is_ours and site not in ("same-origin", "none"):
            raise Refusal(403, "a page of another server may not connect here")

    async def open(self, app: str) -> None:
        self.set_nodelay(True)
        try:
            self.line = await self.join(app, self.actor, _Socket(self))
        except (ProtocolError, StorageError, TimeoutError) as error:
            code = error.code if isinstance(error, ProtocolError) else "closing"
            _log.warning("app %s could not be opened: %s", app, error or "it takes too long")
            said = str(error) or "opening the app takes too long"
            others = 0 if self.site.hub is None else self.site.hub.lines
            self.write_message(messages.encode(Fault(code, said, spread(others))))
            self.close(CLOSE_CODES[code] if isinstance(error, ProtocolError) else CLOSED_BY_FAILURE, code)

    def on_message(self, data: str | bytes) -> Awaitable[None] | None:
        return None if self.line is None else self.line.take_in(data)

    def on_close(self) -> None:
        if self.line is not None:
            self.line.leave()

    def on_pong(self, data: bytes) -> None:
        """Tornado counts pongs by itself."""

    def get_websocket_protocol(self) -> WebSocketProtocol | None:
        plain = super().get_websocket_protocol()
        if not isinstance(plain, WebSocketProtocol13):
            return plain
        return _ReadingAhead(self, plain.mask_outgoing, plain.params)

    @property
    def max_message_size(self) -> int:
        return FRAME_BYTES_MAX

    @property
    def ping_interval(self) -> float:
        return PING_S

    @property
    def ping_timeout(self) -> float:
        return PING_S


class _ReadingAhead(WebSocketProtocol13):
    """Tornado asks its stream three times a frame, which costs more than a small frame is worth; here the stream is
    asked when what it gave is used up. Where Tornado does not call this by its name, it is as if it were not there."""

    _ahead = b""
    _at = 0

    async def _read_bytes(self, n: int) -> bytes:
        begin, end = self._at, self._at + n
        if end > len(self._ahead):
            had = self._ahead[begin:]
            while len(had) < n:
                rest = n - len(had)
                many = rest >= _AHEAD
                had += await self.stream.read_bytes(rest if many else _AHEAD, partial=not many)
            self._ahead, begin, end = had, 0, n
        self._wire_bytes_in += n
        data, self._at = self._ahead[begin:end], end
        if end == len(self._ahead):
            self._ahead, self._at = b"", 0
        return data


class _Socket:
    """The `Outlet` of a handler."""

    _framed = (b"", b"")  # the last message and its frame: most go to many sockets, one after the other

    def __init__(self, handler: WebSocketHandler) -> None:
        self._handler = handler

    def write(self, data: bytes) -> Awaitable[Any] | None:
        """`write_message` would make a task for each message, which is most of what a small one costs; so the frame
        goes to the stream itself where nothing is compressed."""
        connection = self._handler.ws_connection
        stream = getattr(connection, "stream", None)
        if connection is None or connection.is_closing() or stream is None:
            raise ConnectionError("the socket is closed")
        try:
            if getattr(connection, "_compressor", None) is not None:
                return _passed_on(self._handler.write_message(data))
            framed = _Socket._framed  # another server's thread may set it meanwhile
            if framed[0] is not data:
                framed = _Socket._framed = data, _head(len(data)) + data
            sent = stream.write(framed[1])
        except (WebSocketClosedError, StreamClosedError) as error:
            raise ConnectionError("the socket is closed") from error
        if sent.done() and sent.exception() is None:
            return None
        return _passed_on(sent)

    def close(self, code: int, reason: str) -> None:
        self._handler.close(code, reason)


async def _passed_on(sent: Awaitable[None]) -> None:
    try:
        await sent
    except (WebSocketClosedError, StreamClosedError) as error:
        raise ConnectionError("the socket is closed") from error


def _head(size: int) -> bytes:
    """What precedes a text message of a server (RFC 6455, 5.2): whole, not masked.

    >>> _head(5).hex(), _head(300).hex(), _head(70_000).hex()
    ('8105', '817e012c', '817f0000000000011170')
    """
    if size < 126:
        return bytes((0x81, size))
    return struct.pack("!BBH", 0x81, 126, size) if size < 65_536 else struct.pack("!BBQ", 0x81, 127, size)


# -- without Jupyter ---------------------------------------------------------------------------------------------------


class _Plain(Endpoint):
    """Asks an `Authenticate` function before anything else."""

    _caller: Actor | None = None

    def initialize(self, site: Site, authenticate: Authenticate) -> None:
        self.site = site
        self._authenticate = authenticate

    async def prepare(self) -> None:
        self._caller = self._authenticate(self.request)
        if self._caller is None:
            self.send_away()
        self.reader_only = self._caller is not None and self._caller.role == "reader"
        await self.begin()

    def send_away(self) -> None:
        """Nobody is known to be speaking."""
        raise Refusal(403, "bring a token of this server: Authorization: tripleweb TOKEN")

    def caller(self) -> Actor | None:
        return self._caller


class PlainInfo(_Plain, endpoints.Info):
    """`info` without Jupyter."""


class PlainApps(_Plain, endpoints.Apps):
    """`apps` without Jupyter."""


class PlainAppEntry(_Plain, endpoints.AppEntry):
    """`apps/{app}` without Jupyter."""


class PlainSync(_Plain, Sync):
    """The sync socket without Jupyter."""


class PlainChanges(_Plain, endpoints.Changes):
    """Bulk push without Jupyter."""


class PlainQuery(_Plain, endpoints.Query):
    """`query` without Jupyter."""


class PlainSnapshot(_Plain, endpoints.SnapshotLines):
    """`snapshot` without Jupyter."""


class PlainBackup(_Plain, custody.Backup):
    """`backup` without Jupyter."""


class PlainRestore(_Plain, custody.Restore):
    """`restore` without Jupyter."""


class PlainCheck(_Plain, custody.Check):
    """`check` without Jupyter."""


class PlainCompact(_Plain, custody.Compact):
    """`compact` without Jupyter."""


class PlainMetrics(_Plain, endpoints.Metrics):
    """`metrics` without Jupyter."""


class PlainAsset(_Plain, assets.Asset):
    """The browser's client."""

    def send_away(self) -> None:
        """It is for everybody."""


class PlainDashboard(_Plain, endpoints.Dashboard):
    """The page, also for a browser, which asks for the token as for a password."""

    def send_away(self) -> None:
        self._caller = by_grant(self.site.access, password)(self.request)
        if self._caller is None:
            raise Refusal(401, "the password is the token of this server")

    def write_error(self, status_code: int, **more: Any) -> None:
        if status_code == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="tripleweb: the password is the token"')
        super().write_error(status_code, **more)


def handlers(
    site: Site, authenticate: Authenticate
) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """The routes of a server that is not Jupyter's."""
    shared = {"site": site, "authenticate": authenticate}
    return [
        (endpoints.INFO, PlainInfo, shared),
        (endpoints.APPS, PlainApps, shared),
        (endpoints.APP, PlainAppEntry, shared),
        (SYNC, PlainSync, shared),
        (endpoints.CHANGES, PlainChanges, shared),
        (endpoints.QUERY, PlainQuery, shared),
        (endpoints.SNAPSHOT, PlainSnapshot, shared),
        (custody.BACKUP, PlainBackup, shared),
        (custody.RESTORE, PlainRestore, shared),
        (custody.CHECK, PlainCheck, shared),
        (custody.COMPACT, PlainCompact, shared),
        (endpoints.METRICS, PlainMetrics, shared),
        (endpoints.DASHBOARD, PlainDashboard, shared),
        (assets.STATIC, PlainAsset, shared),
    ]


class WebServer:
    """A server on a thread of its own, at `url`, open to whoever brings `token`.

    `start` returns when it can be reached and raises what hindered it (`OSError` for a port in use); `stop` makes
    everything durable, and closes `stores` too. `owner` is who the token stands for, and who
    administers it. Not `personal`: only members of an app come in. `query_budget` is in seconds of work.

    >>> from tripleweb.storage.memory import MemoryStores
    >>> with WebServer(MemoryStores(), owner="ada") as server:
    ...     server.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(
        self,
        stores: TenantStores,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        owner: str | None = None,
        token: str | None = None,
        personal: bool = True,
        auto_create_apps: bool | None = None,
        query_budget: float = BUDGET_S,
        limits: HubLimits | None = None,
        core_limits: Limits | None = None,
    ) -> None:
        core_limits = core_limits or Limits(query_units=int(query_budget * UNITS_A_SECOND))
        self.hub = Hub(stores, limits=limits, core_limits=core_limits)
        owner = owner or os_user()
        self.access = Access(
            owner, self.hub.apps, personal=personal, administrators=[owner], auto_create=auto_create_apps
        )
        self.site = Site(self.access, self.hub, query_budget=query_budget)
        grant = Grant(self.access.owner)
        self.token = self.access.accept(token, grant) if token else self.access.mint(grant.user, shared=True)
        self.url = ""
        self._address = (host, port)
        self._begun = threading.Event()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="tripleweb-server", daemon=True)

    def start(self, timeout: float = 10) -> WebServer:
        """Returns itself when the server can be reached."""
        self._thread.start()
        if not self._begun.wait(timeout):
            raise TimeoutError(f"the server did not start within {timeout} seconds")
        if self._failure is not None:
            raise self._failure
        return self

    def announce(self, folder: Path) -> None:
        """Leaves word in a data folder how this server is reached. Raises `OSError`."""
        grant = Grant(self.access.owner, relays=True)
        places.announce(folder, self.url, self.access.accept(places.lasting_token(folder), grant))

    def stop(self, timeout: float = 15) -> None:
        """Ends it; raises what went wrong in doing so, `TimeoutError` if it takes longer."""
        if self._loop is not None and self._ended is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the server did not end within {timeout} seconds")
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> WebServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to whoever called start or stop
            self._failure = error
        finally:
            self._begun.set()

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application(
            handlers(self.site, by_grant(self.access)),
            default_handler_class=endpoints.Unknown,
            log_function=_log_request,
        )
        server = HTTPServer(application)
        try:
            host, port = self._address
            try:
                sockets = bind_sockets(port, host)
            except OSError as error:
                raise OSError(
                    error.errno, f"port {port} of {host} cannot be had: {error.strerror}"
                ) from error
            server.add_sockets(sockets)
            self.url = f"http://{host}:{sockets[0].getsockname()[1]}/"
            self._begun.set()
            await self._ended.wait()
        finally:
            server.stop()
            await self.hub.close()
            await server.close_all_connections()


def _log_request(handler: web.RequestHandler) -> None:
    """Tornado's own would print warnings where nobody configured logging, as in a kernel."""
    _log.debug("%s %s %s", handler.get_status(), handler.request.method, handler.request.path)
