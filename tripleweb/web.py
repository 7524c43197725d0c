"""What a server answers over HTTP, on plain Tornado: the sync socket and `info`, under `/api/tripleweb/v1/`.

The handlers are mixins over the seam `caller()`: who speaks, as the server knows it, or None. The Jupyter extension
puts them on Jupyter's handlers and asks Jupyter; `handlers()` puts them on plain ones and asks an `Authenticate`
function. Nobody is upgraded or answered before that. Errors are JSON, `{"error", "message"}`: 403 `forbidden` (not
known here, or not allowed), 404 `unknown` (also what is no App ID), 503 `unavailable`.

    GET  info              {"version", "protocol", "server_id", "user"}
    GET  apps/{app}/sync   the WebSocket; sync/messages.py is its protocol. `?label=` is shown beside the user's name.

A kernel brings its grant in the header `Authorization: tripleweb TOKEN`; a token in an address is not looked at.
`WebServer` runs all this on a thread of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from tornado import web
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from tripleweb.access import Access, Grant, os_user
from tripleweb.errors import ProtocolError, StorageError
from tripleweb.hub import Hub, HubLimits
from tripleweb.line import CLOSE_CODES, CLOSED_BY_FAILURE, Line
from tripleweb.ids import check_app
from tripleweb.storage import TenantStores
from tripleweb.sync import messages
from tripleweb.sync.messages import FRAME_BYTES_MAX, PROTOCOL, Fault
from tripleweb.sync.server import Actor, Limits

PREFIX = "/api/tripleweb/v1"
INFO = PREFIX + "/info"
SYNC = PREFIX + r"/apps/([^/]+)/sync"
PING_S = 20
LABEL_MAX = 80

# Who sends a request; the role is left open. None: nobody who is known here.
Authenticate = Callable[[HTTPServerRequest], Actor | None]

_ERRORS = {400: "malformed", 403: "forbidden", 404: "unknown", 405: "malformed", 503: "unavailable"}
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Site:
    """What the handlers of one server share. Without a hub it answers 503, with `reason`."""

    access: Access
    hub: Hub | None
    reason: str = ""


def grant_token(request: HTTPServerRequest) -> str | None:
    """The token of `Authorization: tripleweb TOKEN`; None if the request brings none of that scheme."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "tripleweb" else None


def grant_actor(grant: Grant) -> Actor:
    """The actor that a grant stands for, the role left open."""
    return Actor(grant.user, grant.label, grant.session, "")


def by_grant(access: Access) -> Authenticate:
    """Knows those who bring a grant of `access`."""

    def authenticate(request: HTTPServerRequest) -> Actor | None:
        token = grant_token(request)
        grant = None if token is None else access.grant(token)
        return None if grant is None else grant_actor(grant)

    return authenticate


class Endpoint(web.RequestHandler):
    """What all of them have in common; a mixin, too."""

    site: Site

    def caller(self) -> Actor | None:
        """Who speaks."""
        return None

    def open_hub(self) -> Hub:
        """The hub. Raises `HTTPError`: 403 for strangers, 503 where there is none."""
        if self.caller() is None:
            raise web.HTTPError(403, "this request does not say who it comes from")
        if self.site.hub is None:
            raise web.HTTPError(503, self.site.reason)
        return self.site.hub

    def admit(self, app: str) -> Actor:
        """The caller with the role he has in `app`. Raises `HTTPError`: as `open_hub`, and 404."""
        self.open_hub()
        caller = self.caller()
        assert caller is not None
        try:
            check_app(app)
        except ValueError as error:
            raise web.HTTPError(404, str(error)) from None
        role = self.site.access.role(caller.user, app)
        if role is None:
            raise web.HTTPError(403, f"{caller.user} is not a member of app {app}")
        label = "".join(c for c in self.get_query_argument("label", "") if c.isprintable())[:LABEL_MAX]
        return replace(caller, role=role, label=label or caller.label)

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        try:
            return super().decode_argument(value, name)
        except web.HTTPError:
            if name is not None:
                raise
            raise web.HTTPError(404, "a path is percent-encoded UTF-8") from None

    def write_error(self, status_code: int, **more: Any) -> None:
        error = more.get("exc_info", (None, None))[1]
        said = isinstance(error, web.HTTPError) and error.log_message
        message = str(said or HTTPStatus(status_code).phrase)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": _ERRORS.get(status_code, "failed"), "message": message}))


class Info(Endpoint):
    """What one is talking to."""

    def get(self) -> Any:
        hub, caller = self.open_hub(), self.caller()
        assert caller is not None
        self.finish(
            {
                "version": version("tripleweb"),
                "protocol": PROTOCOL,
                "server_id": hub.server_id,
                "user": caller.user,
            }
        )


class Sync(Endpoint, WebSocketHandler):
    """One connection to an app. What happens on it is the hub's business."""

    actor: Actor
    line: Line | None = None

    async def get(self, app: str) -> None:
        self.actor = self.admit(app)
        await super().get(app)

    async def open(self, app: str) -> None:
        self.set_nodelay(True)
        try:
            self.line = await self.open_hub().join(app, self.actor, _Socket(self))
        except (ProtocolError, StorageError, TimeoutError) as error:
            code = error.code if isinstance(error, ProtocolError) else "closing"
            _log.warning("app %s could not be opened: %s", app, error or "it takes too long")
            self.write_message(messages.encode(Fault(code, str(error) or "opening the app takes too long")))
            self.close(CLOSE_CODES[code] if isinstance(error, ProtocolError) else CLOSED_BY_FAILURE, code)

    async def on_message(self, data: str | bytes) -> None:
        if self.line is not None:
            await self.line.receive(data)

    def on_close(self) -> None:
        if self.line is not None:
            self.line.leave()

    def on_pong(self, data: bytes) -> None:
        """Tornado counts pongs by itself."""

    @property
    def max_message_size(self) -> int:
        return FRAME_BYTES_MAX

    @property
    def ping_interval(self) -> float:
        return PING_S

    @property
    def ping_timeout(self) -> float:
        return PING_S


class _Socket:
    """The `Outlet` of a handler."""

    def __init__(self, handler: WebSocketHandler) -> None:
        self._handler = handler

    async def write(self, data: bytes) -> None:
        try:
            await self._handler.write_message(data)
        except (WebSocketClosedError, StreamClosedError) as error:
            raise ConnectionError("the socket is closed") from error

    def close(self, code: int, reason: str) -> None:
        self._handler.close(code, reason)


# -- without Jupyter ---------------------------------------------------------------------------------------------------


class _Plain(Endpoint):
    """Asks an `Authenticate` function before anything else."""

    _caller: Actor | None = None

    def initialize(self, site: Site, authenticate: Authenticate) -> None:
        self.site = site
        self._authenticate = authenticate

    def prepare(self) -> None:
        self._caller = self._authenticate(self.request)
        if self._caller is None:
            raise web.HTTPError(403, "bring a token of this server: Authorization: tripleweb TOKEN")

    def caller(self) -> Actor | None:
        return self._caller


class PlainInfo(_Plain, Info):
    """`info` without Jupyter."""


class PlainSync(_Plain, Sync):
    """The sync socket without Jupyter."""


class _Unknown(Endpoint):
    def prepare(self) -> None:
        raise web.HTTPError(404, "there is nothing at this address")


def handlers(
    site: Site, authenticate: Authenticate
) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """The routes of a server that is not Jupyter's."""
    shared = {"site": site, "authenticate": authenticate}
    return [(INFO, PlainInfo, shared), (SYNC, PlainSync, shared)]


class WebServer:
    """A personal server on a thread of its own, at `url`, open to whoever brings `token`.

    `start` returns when it can be reached and raises what hindered it (`OSError` for a port in use); `stop` makes
    everything durable, and closes `stores` too. `owner` is who the token stands for.

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
        limits: HubLimits | None = None,
        core_limits: Limits | None = None,
    ) -> None:
        self.hub = Hub(stores, limits=limits, core_limits=core_limits)
        self.access = Access(owner or os_user(), self.hub.apps)
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
            handlers(Site(self.access, self.hub), by_grant(self.access)),
            default_handler_class=_Unknown,
            log_function=_log_request,
        )
        server = HTTPServer(application)
        try:
            host, port = self._address
            sockets = bind_sockets(port, host)
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
