"""tripleweb's endpoints on Jupyter's handlers: who somebody is, and what Jupyter lets him do.

Who somebody is: a kernel, and whoever brings only the server's token, is the server's owner (on a JupyterHub the
Hub's user, elsewhere the user of the operating system); a browser is whom its login or cookie names; on a JupyterHub
everybody is whom the Hub names. Jupyter itself makes up a name for each request that brings a token without a
cookie; such names are never used. Jupyter's authorizer is asked for `read` and `write` on the resource `tripleweb`:
who may only read there is a reader here.

Nothing here depends on `allow_unauthenticated_access`: every method is decorated, and bodies and sockets are refused
before they are read.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_server.auth import IdentityProvider, User
from jupyter_server.auth.decorator import allow_unauthenticated, authorized, ws_authenticated
from jupyter_server.auth.identity import LegacyIdentityProvider
from jupyter_server.auth.login import LegacyLoginHandler
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web

from tripleweb import assets, custody, endpoints
from tripleweb.endpoints import Endpoint, Refusal, grant_actor
from tripleweb.sync.server import Actor
from tripleweb.web import SYNC, Sync, grant_token

if TYPE_CHECKING:
    from tripleweb_jupyter.extension import TripleWeb


async def user_name(handler: JupyterHandler, owner: str) -> str:
    """The name of who sends a request that Jupyter has authenticated; see the head of this module."""
    provider = handler.identity_provider
    invents = type(provider).get_user is IdentityProvider.get_user
    if isinstance(provider, LegacyIdentityProvider):
        login: Any = provider.login_handler_class
        invents = getattr(login.get_user, "__func__", None) is LegacyLoginHandler.get_user.__func__  # type: ignore[attr-defined]
    if "JUPYTERHUB_USER" not in os.environ and invents:
        cookie_user = provider.get_user_cookie(handler)
        if (await cookie_user if isinstance(cookie_user, Awaitable) else cookie_user) is None:
            return owner
    return str(handler.current_user.username)


class Jupyter(Endpoint):
    """Lets in who brings a grant, and whom Jupyter lets in."""

    auth_resource = "tripleweb"
    _caller: Actor | None = None
    _by_grant = False

    def initialize(self, extension: TripleWeb) -> None:
        self.extension = extension
        self.site = extension.site

    async def prepare(self) -> None:
        token = grant_token(self.request)
        if token is None:
            await super().prepare()
            if self._finished:  # sent to the login
                return
            user = self.current_user
            if user is not None:
                label = user.display_name if user.display_name != user.username else ""
                name = await user_name(self, self.site.access.owner)  # type: ignore[arg-type]
                self._caller = Actor(name, label if name == user.username else "", "", "")
            await self.begin()
            return
        grant = self.extension.grant(token)
        if grant is None:
            raise Refusal(403, "this token opens nothing here")
        self._by_grant = True
        self._caller = grant_actor(grant, self.request)
        self.reader_only = self._caller.role == "reader"
        self.current_user = self._jupyter_current_user = User(self._caller.user)
        await self.begin()

    def caller(self) -> Actor | None:
        return self._caller

    def skip_check_origin(self) -> bool:
        """A grant travels in a header, which no page can make a browser send to somebody else's server."""
        return self._by_grant or super().skip_check_origin()  # type: ignore[misc]

    async def may(self, action: str) -> bool:
        authorizer = self.authorizer  # type: ignore[attr-defined]
        return bool(
            await ensure_async(authorizer.is_authorized(self, self.current_user, action, self.auth_resource))
        )


class JupyterInfo(Jupyter, endpoints.Info, APIHandler):  # type: ignore[misc]
    """`info` on a Jupyter server."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        endpoints.Info.get(self)


class JupyterApps(Jupyter, endpoints.Apps, APIHandler):  # type: ignore[misc]
    """`apps` on a Jupyter server."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        await endpoints.Apps.get(self)

    @web.authenticated
    @authorized
    async def post(self) -> None:
        await endpoints.Apps.post(self)


class JupyterAppEntry(Jupyter, endpoints.AppEntry, APIHandler):  # type: ignore[misc]
    """`apps/{app}` on a Jupyter server."""

    @web.authenticated
    @authorized
    async def get(self, app: str) -> None:
        await endpoints.AppEntry.get(self, app)

    @web.authenticated
    @authorized
    async def patch(self, app: str) -> None:
        await endpoints.AppEntry.patch(self, app)

    @web.authenticated
    @authorized
    async def delete(self, app: str) -> None:
        await endpoints.AppEntry.delete(self, app)


class JupyterChanges(Jupyter, endpoints.Changes, APIHandler):  # type: ignore[misc]
    """Bulk push on a Jupyter server. What arrives is taken in at once, so the authorizer is asked before."""

    async def begin(self) -> None:
        await super().begin()
        if not await self.may("write"):
            self.refuse(Refusal(403, f"{self.current_user.username} may not write tripleweb's data here"))

    @web.authenticated
    @authorized
    async def post(self, app: str) -> None:
        await endpoints.Changes.post(self, app)


class JupyterQuery(Jupyter, endpoints.Query, APIHandler):  # type: ignore[misc]
    """`query` on a Jupyter server: a POST that reads."""

    @web.authenticated
    @authorized(action="read")
    async def post(self, app: str) -> None:
        await endpoints.Query.post(self, app)


class JupyterSnapshot(Jupyter, endpoints.SnapshotLines, APIHandler):  # type: ignore[misc]
    """`snapshot` on a Jupyter server."""

    @web.authenticated
    @authorized
    async def get(self, app: str) -> None:
        await endpoints.SnapshotLines.get(self, app)


class JupyterBackup(Jupyter, custody.Backup, APIHandler):  # type: ignore[misc]
    """`backup` on a Jupyter server."""

    def finish(self, *given: Any, **more: Any) -> Any:
        """Keeps the type that was set, which Jupyter would take for JSON."""
        return super().finish(*given, set_content_type=self._headers["Content-Type"], **more)

    @web.authenticated
    @authorized
    async def get(self, app: str) -> None:
        await custody.Backup.get(self, app)

    @web.authenticated
    @authorized
    async def put(self, app: str) -> None:
        await custody.Backup.put(self, app)


class JupyterRestore(Jupyter, custody.Restore, APIHandler):  # type: ignore[misc]
    """`restore` on a Jupyter server. The authorizer is asked before anything is taken in."""

    async def begin(self) -> None:
        await super().begin()
        if not await self.may("write"):
            self.refuse(Refusal(403, f"{self.current_user.username} may not write tripleweb's data here"))

    @web.authenticated
    @authorized
    async def post(self, app: str) -> None:
        await custody.Restore.post(self, app)


class JupyterCheck(Jupyter, custody.Check, APIHandler):  # type: ignore[misc]
    """`check` on a Jupyter server."""

    @web.authenticated
    @authorized
    async def get(self, app: str) -> None:
        await custody.Check.get(self, app)


class JupyterCompact(Jupyter, custody.Compact, APIHandler):  # type: ignore[misc]
    """`compact` on a Jupyter server."""

    @web.authenticated
    @authorized
    async def post(self, app: str) -> None:
        await custody.Compact.post(self, app)


class JupyterMetrics(Jupyter, endpoints.Metrics, APIHandler):  # type: ignore[misc]
    """`metrics` on a Jupyter server."""

    def finish(self, *given: Any, **more: Any) -> Any:
        """Keeps the type that was set, which Jupyter would take for JSON."""
        return super().finish(*given, set_content_type=self._headers["Content-Type"], **more)

    @web.authenticated
    @authorized
    async def get(self) -> None:
        await endpoints.Metrics.get(self)


class JupyterAsset(Jupyter, assets.Asset, APIHandler):  # type: ignore[misc]
    """The browser's client on a Jupyter server, the same whoever holds the data."""

    def finish(self, *given: Any, **more: Any) -> Any:
        """Keeps the type that was set, which Jupyter would take for JSON."""
        return super().finish(*given, set_content_type=self._headers["Content-Type"], **more)

    @allow_unauthenticated
    async def get(self, name: str) -> None:
        await assets.Asset.get(self, name)


class JupyterDashboard(Jupyter, endpoints.Dashboard, JupyterHandler):  # type: ignore[misc]
    """The page on a Jupyter server; who is not logged in is sent to the login."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        await endpoints.Dashboard.get(self)


class JupyterSync(Jupyter, Sync, WebSocketMixin, JupyterHandler):  # type: ignore[misc]
    """The sync socket on a Jupyter server. Without `ws_authenticated`, Jupyter would let anybody open it."""

    check_origin = WebSocketMixin.check_origin

    @ws_authenticated
    async def get(self, app: str) -> None:
        may_read, may_write = await asyncio.gather(self.may("read"), self.may("write"))
        if not may_read:
            raise Refusal(403, f"{self.current_user.username} may not read tripleweb's data here")
        self.reader_only = self.reader_only or not may_write
        await Sync.get(self, app)


class JupyterUnknown(endpoints.Unknown, APIHandler):  # type: ignore[misc]
    """Other addresses below those of tripleweb, for which Jupyter would answer with a page."""


ROUTES: list[tuple[str, type[web.RequestHandler]]] = [
    (endpoints.INFO, JupyterInfo),
    (endpoints.APPS, JupyterApps),
    (endpoints.APP, JupyterAppEntry),
    (SYNC, JupyterSync),
    (endpoints.CHANGES, JupyterChanges),
    (endpoints.QUERY, JupyterQuery),
    (endpoints.SNAPSHOT, JupyterSnapshot),
    (custody.BACKUP, JupyterBackup),
    (custody.RESTORE, JupyterRestore),
    (custody.CHECK, JupyterCheck),
    (custody.COMPACT, JupyterCompact),
    (endpoints.METRICS, JupyterMetrics),
    (endpoints.DASHBOARD, JupyterDashboard),
    (assets.STATIC, JupyterAsset),
]
