"""What answers on a Jupyter server whose data another server of the same person holds; see `tripleweb.relay`.

The same addresses as in `handlers`, and the same questions asked of Jupyter before anything is passed on: who speaks,
and whether he may read or write here. `Relaying` is the rule that sends requests here as long as that is so.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher

from tripleweb.assets import STATIC
from tripleweb.endpoints import DASHBOARD, Refusal
from tripleweb.relay import Relayed, RelayedSync, writes
from tripleweb.sync.server import Actor
from tripleweb.web import SYNC
from tripleweb_jupyter.handlers import ROUTES, Jupyter

if TYPE_CHECKING:
    from tripleweb_jupyter.extension import TripleWeb


class Relaying(Matcher):
    """Matches the paths of `pattern` below the base URL, while the extension relays."""

    def __init__(self, extension: TripleWeb, base_url: str, pattern: str) -> None:
        self._extension = extension
        self._pattern = re.compile(re.escape(base_url.rstrip("/")) + pattern)

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        if self._extension.upstream is None or (found := self._pattern.fullmatch(request.path)) is None:
            return None
        return {"path_args": [piece.encode() for piece in found.groups()]}


class _Relay(Jupyter):
    def initialize(self, extension: TripleWeb) -> None:
        super().initialize(extension)
        self.upstream = extension.upstream
        assert extension.serverapp is not None
        self.base_url = extension.serverapp.base_url

    async def permissions(self) -> None:
        """Asks the authorizer, once it is known who speaks. Raises 403."""
        if self._caller is None:
            return
        may_read, may_write = await asyncio.gather(self.may("read"), self.may("write"))
        if not may_read:
            raise Refusal(403, f"{self.current_user.username} may not read tripleweb's data here")
        if not may_write:
            caller = self._caller
            self._caller = Actor(caller.user, caller.label, caller.session, "reader")
        self.reader_only = not may_write


class JupyterRelay(_Relay, Relayed, JupyterHandler):  # type: ignore[misc]
    """Everything but the socket."""

    def get_login_url(self) -> str:
        """Only people are sent there, and only from the page for people."""
        if not self.request.path.endswith(DASHBOARD):
            raise Refusal(403, "this request does not say who it comes from")
        return str(super().get_login_url())

    async def begin(self) -> None:
        if self._caller is None:
            return  # the decorator says so
        if not self.request.path.endswith(DASHBOARD) and not self.check_origin():
            raise Refusal(404, "there is nothing here for a page of another server")
        await self.permissions()
        if self.reader_only and writes(self.request.method, self.request.path):
            self.refuse(Refusal(403, f"{self.current_user.username} may not write tripleweb's data here"))
        await Relayed.begin(self)

    options = APIHandler.options

    @web.authenticated
    @authorized(action="read")
    async def get(self, *_: str) -> None:
        await self.relay()

    @web.authenticated
    @authorized(action="read")  # asked for more in `begin`
    async def post(self, *_: str) -> None:
        await self.relay()

    @web.authenticated
    @authorized(action="read")
    async def patch(self, *_: str) -> None:
        await self.relay()

    @web.authenticated
    @authorized(action="read")
    async def delete(self, *_: str) -> None:
        await self.relay()


class JupyterRelayedSync(_Relay, RelayedSync, WebSocketMixin, JupyterHandler):  # type: ignore[misc]
    """The sync socket."""

    check_origin = WebSocketMixin.check_origin

    @ws_authenticated
    async def get(self, app: str) -> None:
        await self.permissions()
        await RelayedSync.get(self, app)


def routes(
    extension: TripleWeb, base_url: str
) -> list[tuple[Matcher, type[web.RequestHandler], dict[str, Any]]]:
    """The routes of a server that relays; they go before its own."""
    shared = {"extension": extension}
    return [
        (Relaying(extension, base_url, path), JupyterRelayedSync if path == SYNC else JupyterRelay, shared)
        for path, _ in ROUTES
        if path != STATIC
    ]
