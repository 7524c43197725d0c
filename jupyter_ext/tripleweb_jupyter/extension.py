"""The Jupyter server extension: tripleweb's endpoints on a Jupyter server, and its address for that server's kernels.

Every kernel finds in its environment where the server is (`TRIPLEWEB_URL`) and a token (`TRIPLEWEB_TOKEN`). The token
is a grant: it opens tripleweb's endpoints and nothing else of Jupyter. A kernel that was started for a notebook has
one of its own, which ends with the kernel; all others share the one in the server's environment.

Who somebody is: a kernel, and whoever brings only the server's token, is the server's owner (on a JupyterHub the
Hub's user, elsewhere the user of the operating system); a browser is whom its login or cookie names; on a JupyterHub
everybody is whom the Hub names. Jupyter itself makes up a name for each request that brings a token without a
cookie; such names are never used. Jupyter's authorizer is asked for `read` and `write` on the resource `tripleweb`:
who may only read there is a reader here.

The server's directory belongs to one server at a time. A second one runs on without sync: it answers 503 and says why.
"""

from __future__ import annotations

import asyncio
import functools
import os
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server import CallContext
from jupyter_server.auth import IdentityProvider, User
from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.auth.identity import LegacyIdentityProvider
from jupyter_server.auth.login import LegacyLoginHandler
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.extension.application import ExtensionApp
from tornado import web
from traitlets import Bool, Float, Integer, Unicode

from tripleweb.access import Access, Grant, os_user
from tripleweb.errors import StorageError, StoreLockedError
from tripleweb.hub import Hub, HubLimits
from tripleweb.places import server_dir
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.sync.server import Actor
from tripleweb.web import INFO, SYNC, Endpoint, Info, Site, Sync, grant_actor, grant_token

ANYWHERE = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}


class TripleWeb(ExtensionApp):
    """The extension; its settings are `c.TripleWeb.…`."""

    name = "tripleweb_jupyter"
    load_other_extensions = True

    data_dir = Unicode(
        help="The folder of this server's apps. Default: `server` in $TRIPLEWEB_DATA or in the user's data folder."
    ).tag(config=True)
    kernel_grants = Bool(
        True,
        help="Give kernels the address of this server and a token that opens tripleweb's endpoints only.",
    ).tag(config=True)
    public_url = Unicode(
        help="The address under which kernels reach this server, if they run elsewhere. Default: as on this machine."
    ).tag(config=True)
    linger_s = Float(60, help="Seconds that an app stays open after its last client has left.").tag(
        config=True
    )
    open_apps_max = Integer(
        256, help="Apps open at a time; beyond, the one unused for longest is closed."
    ).tag(config=True)

    site: Site
    _exported: dict[str, str | None] | None = None  # what our variables were before
    _stopped = False

    # -- life --------------------------------------------------------------------------------------------------

    def initialize_settings(self) -> None:
        hub, reason = None, ""
        folder = Path(self.data_dir).expanduser() if self.data_dir else server_dir()
        try:
            limits = HubLimits(linger_s=self.linger_s, tenants_max=self.open_apps_max)
            hub = Hub(SqliteStores(folder), limits=limits)
        except StoreLockedError as error:
            reason = f"another server has this data: {error}"
            self.log.error(
                "tripleweb does not sync here: %s. Set c.TripleWeb.data_dir for another folder.", reason
            )
        except StorageError as error:
            reason = f"the data cannot be opened: {error}"
            self.log.error("tripleweb does not sync here: %s", reason)
        self.site = Site(Access(owner(), hub.apps if hub else {}), hub, reason)
        if self.kernel_grants and hub is not None:
            self._watch_kernels()

    def initialize_handlers(self) -> None:
        shared = {"extension": self}
        self.handlers.extend([(INFO, JupyterInfo, shared), (SYNC, JupyterSync, shared)])

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        self.tell_kernels()

    def tell_kernels(self) -> None:
        """Puts the server's address and the shared token into the environment; once the port is bound, not earlier."""
        if self._exported is not None or self._stopped or not self.kernel_grants or self.site.hub is None:
            return
        url = self.kernel_url()
        if url is None:
            self.log.warning(
                "tripleweb: kernels cannot be told an address of this server; set c.TripleWeb.public_url"
            )
            return
        token = self.site.access.mint(self.site.access.owner, shared=True)
        told = {"TRIPLEWEB_URL": url, "TRIPLEWEB_TOKEN": token}
        self._exported = {name: os.environ.get(name) for name in told}
        os.environ.update(told)

    async def stop_extension(self) -> None:
        for name, before in (self._exported or {}).items():
            os.environ.pop(name, None)
            if before is not None:
                os.environ[name] = before
        self._exported, self._stopped = None, True
        if self.site.hub is not None:
            try:
                await self.site.hub.close()
            except TimeoutError as error:
                self.log.error("tripleweb: %s", error)

    def current_activity(self) -> int | None:
        """Connections: while there are any, Jupyter does not think itself idle."""
        hub = self.site.hub
        return None if hub is None else sum(len(actors) for actors in hub.connections.values()) or None

    # -- kernels -----------------------------------------------------------------------------------------------

    def kernel_url(self) -> str | None:
        """The address for kernels, with a slash at its end; None if the server listens on no TCP port."""
        server = self.serverapp
        assert server is not None
        if self.public_url:
            return self.public_url.rstrip("/") + "/"
        if server.sock:
            return None
        host = ANYWHERE.get(server.ip) or (f"[{server.ip}]" if ":" in server.ip else server.ip)
        return (
            f"{'https' if server.certfile else 'http'}://{host}:{server.port}{server.base_url.rstrip('/')}/"
        )

    def _watch_kernels(self) -> None:
        """Gives each kernel of a notebook a grant of its own: minted with its environment, bound when it has an id."""
        assert self.serverapp is not None
        sessions: Any = self.serverapp.session_manager
        kernels: Any = self.serverapp.kernel_manager
        access = self.site.access
        get_kernel_env, start_kernel = sessions.get_kernel_env, kernels.start_kernel

        def tell_if_bound() -> None:
            """The port is bound where a request has come in, perhaps before Jupyter has told us to start."""
            if CallContext.get(CallContext.JUPYTER_HANDLER) is not None:
                self.tell_kernels()

        @functools.wraps(get_kernel_env)
        def env_with_grant(path: str | None, name: Any = None) -> dict[str, str]:
            tell_if_bound()
            env: dict[str, str] = get_kernel_env(path, name)
            if self._exported is None:  # there is nobody to connect to, yet or any more
                return env
            self.sweep()
            return {**env, "TRIPLEWEB_TOKEN": access.mint(access.owner, notebook=str(path or name or ""))}

        @functools.wraps(start_kernel)
        async def start_and_bind(*args: Any, **kwargs: Any) -> str:
            tell_if_bound()
            token = (kwargs.get("env") or {}).get("TRIPLEWEB_TOKEN", "")
            try:
                kernel: str = await ensure_async(start_kernel(*args, **kwargs))
            except BaseException:
                self._revoke(token)
                raise
            access.bind(token, kernel)
            return kernel

        sessions.get_kernel_env = env_with_grant
        kernels.start_kernel = start_and_bind
        if hasattr(
            kernels, "update_env"
        ):  # a session was renamed: from its next start on, its kernel has this one
            update_env = kernels.update_env

            @functools.wraps(update_env)
            def update_and_bind(*, kernel_id: str, env: dict[str, str]) -> None:
                update_env(kernel_id=kernel_id, env=env)
                access.bind(env.get("TRIPLEWEB_TOKEN", ""), kernel_id)

            kernels.update_env = update_and_bind

    def _revoke(self, token: str) -> None:
        grant = self.site.access.grant(token)
        if grant is not None and grant.session:  # the shared one of the environment stays
            self.site.access.revoke(token)

    def sweep(self) -> None:
        """Revokes the grants of kernels that are gone, and ends what is still connected with them."""
        assert self.serverapp is not None
        kernels = self.serverapp.kernel_manager
        gone = {grant.session for grant in self.site.access.sweep(lambda kernel: kernel in kernels)}
        if gone and self.site.hub is not None:
            self.site.hub.expel(lambda actor: actor.session in gone, "the kernel of this grant is gone")

    def grant(self, token: str) -> Grant | None:
        """What a token stands for, now."""
        self.sweep()
        return self.site.access.grant(token)


def owner() -> str:
    """Whose server this is."""
    return os.environ.get("JUPYTERHUB_USER") or os_user()


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


class _Jupyter(Endpoint):
    """Lets in who brings a grant, and whom Jupyter lets in."""

    auth_resource = "tripleweb"
    _caller: Actor | None = None
    _by_grant = False
    _may_write = True

    def initialize(self, extension: TripleWeb) -> None:
        self.extension = extension
        self.site = extension.site

    async def prepare(self) -> None:
        token = grant_token(self.request)
        if token is None:
            await super().prepare()  # type: ignore[misc]
            user = self.current_user
            if user is not None:
                label = user.display_name if user.display_name != user.username else ""
                name = await user_name(self, self.site.access.owner)  # type: ignore[arg-type]
                self._caller = Actor(name, label if name == user.username else "", "", "")
            return
        grant = self.extension.grant(token)
        if grant is None:
            raise web.HTTPError(403, "this token opens nothing here")
        self._by_grant = True
        self._caller = grant_actor(grant)
        self.current_user = self._jupyter_current_user = User(grant.user)

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

    def admit(self, app: str) -> Actor:
        actor = super().admit(app)
        return actor if self._may_write else replace(actor, role="reader")


class JupyterInfo(_Jupyter, Info, APIHandler):  # type: ignore[misc]
    """`info` on a Jupyter server."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        Info.get(self)


class JupyterSync(_Jupyter, Sync, WebSocketMixin, JupyterHandler):  # type: ignore[misc]
    """The sync socket on a Jupyter server. Without `ws_authenticated`, Jupyter would let anybody open it."""

    check_origin = WebSocketMixin.check_origin

    @ws_authenticated
    async def get(self, app: str) -> None:
        may_read, self._may_write = await asyncio.gather(self.may("read"), self.may("write"))
        if not may_read:
            raise web.HTTPError(403, f"{self.current_user.username} may not read tripleweb's data here")
        await Sync.get(self, app)
