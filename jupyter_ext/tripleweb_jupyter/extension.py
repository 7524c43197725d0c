"""The Jupyter server extension: tripleweb's endpoints on a Jupyter server, and its address for that server's kernels.

Every kernel finds in its environment where the server is (`TRIPLEWEB_URL`) and a token (`TRIPLEWEB_TOKEN`). The token
is a grant: it opens tripleweb's endpoints and nothing else of Jupyter. A kernel that was started for a notebook has
one of its own, which ends with the kernel; all others share the one in the server's environment.

The server's folder belongs to one server at a time, which leaves word of its address there. A second one relays to it:
its kernels and pages talk to their own server, and go on to do so when that takes the folder over, as soon as the first
is gone. Invariant: at each moment it has either a hub, or an `upstream`, or neither and says why.
"""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path
from typing import Any

from jupyter_core.utils import ensure_async
from jupyter_server import CallContext
from jupyter_server.extension.application import ExtensionApp
from traitlets import Bool, Float, Integer, Unicode

from tripleweb import places
from tripleweb.access import Access, Grant, owner
from tripleweb.endpoints import ELSEWHERE, Site
from tripleweb.errors import StorageError, StoreLockedError
from tripleweb.hub import Hub
from tripleweb.inquiry import BUDGET_S, UNITS_A_SECOND
from tripleweb.relay import Upstream
from tripleweb.storage.sqlite import SqliteStores
from tripleweb.sync.server import Limits
from tripleweb.tenant import HubLimits
from tripleweb_jupyter.handlers import ROUTES, JupyterUnknown
from tripleweb_jupyter.relayed import routes

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
        help="Give kernels the address of this server and a token that opens tripleweb's endpoints only; leave word of "
        "both in the data folder, too, for this user's eyes, where other servers and processes of the user find it.",
    ).tag(config=True)
    public_url = Unicode(
        help="The address under which kernels reach this server, if they run elsewhere. Default: as on this machine."
    ).tag(config=True)
    linger_s = Float(60, help="Seconds that an app stays open after its last client has left.").tag(
        config=True
    )
    takeover_s = Float(
        1, min=0.05, help="Seconds between two looks whether the server that has the data folder is gone."
    ).tag(config=True)
    open_apps_max = Integer(
        256, help="Apps open at a time; beyond, the one unused for longest is closed."
    ).tag(config=True)
    backup_every = Float(
        24,
        min=0,
        help="Hours between two backups of an app that changes, in `backups` in the data folder; 0: none are made.",
    ).tag(config=True)
    backups_kept = Integer(3, min=1, help="How many of these are kept of each app.").tag(config=True)
    history_days = Float(90, min=0, help="Days of its history that the log of an app has.").tag(config=True)
    history_bytes = Integer(
        1 << 30, min=0, help="Bytes that it has at most; the newest 20,000 transactions stay in any case."
    ).tag(config=True)
    unseen_days = Float(
        30,
        min=0,
        help="Days after which the server lets go of what it keeps to answer a session that was not seen since: what "
        "became of its writes stays, and its own last one; who had won where they lost does not.",
    ).tag(config=True)
    query_budget = Float(
        BUDGET_S,
        min=0,
        help=f"Seconds of work that one query may cost the server; a second is {UNITS_A_SECOND:,} units of work.",
    ).tag(config=True)
    auto_create_apps = Bool(
        None,
        allow_none=True,
        help="Create an unknown app when it is first used. Default (None): yes, since this server is personal; "
        "where it is False, only the server's owner creates apps.",
    ).tag(config=True)

    site: Site
    upstream: Upstream | None = None
    _heir: asyncio.Task[None] | None = None
    _announced = False
    _exported: dict[str, str | None] | None = None  # what our variables were before
    _stopped = False

    # -- life --------------------------------------------------------------------------------------------------

    def initialize_settings(self) -> None:
        self._folder = Path(self.data_dir).expanduser() if self.data_dir else places.server_dir()
        hub, reason = None, ""
        try:
            hub = self._hub(SqliteStores(self._folder))
        except StoreLockedError as error:
            reason = f"another server has this data: {error}"
            self.upstream = Upstream(self._folder)
            self.log.warning("tripleweb relays to the server that has the data: %s", error)
        except StorageError as error:
            reason = f"the data cannot be opened: {error}"
            self.log.error("tripleweb does not sync here: %s", reason)
        access = Access(owner(), hub.apps if hub else {}, auto_create=self.auto_create_apps)
        self.site = Site(access, hub, reason, self.query_budget)
        if self.kernel_grants and (hub or self.upstream):
            self._watch_kernels()

    def _hub(self, stores: SqliteStores) -> Hub:
        limits = HubLimits(
            linger_s=self.linger_s,
            tenants_max=self.open_apps_max,
            backup_every_s=3_600 * self.backup_every,
            backups_kept=self.backups_kept,
            log_s=86_400 * self.history_days,
            log_bytes_max=self.history_bytes,
        )
        core_limits = Limits(
            query_units=int(self.query_budget * UNITS_A_SECOND), unseen_ms=int(86_400_000 * self.unseen_days)
        )
        return Hub(stores, limits=limits, core_limits=core_limits)

    def initialize_handlers(self) -> None:
        assert self.serverapp is not None
        if self.upstream is not None:
            self.serverapp.web_app.add_handlers(".*$", routes(self, self.serverapp.base_url))
        self.handlers.extend([(path, handler, {"extension": self}) for path, handler in ROUTES])
        self.handlers.append((ELSEWHERE, JupyterUnknown))

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        self.tell_kernels()
        if self.upstream is not None and self._heir is None:
            self._heir = asyncio.create_task(self._inherit(self.upstream))

    async def _inherit(self, upstream: Upstream) -> None:
        """Takes the data folder over when the server that has it is gone."""
        while True:
            await upstream.lost(self.takeover_s)
            if self._stopped:
                return
            try:
                stores = await asyncio.to_thread(SqliteStores, self._folder)
            except StoreLockedError:
                continue
            except StorageError as error:
                reason = f"the data cannot be opened: {error}"
                if reason != self.site.reason:
                    self.log.error("tripleweb does not sync here: %s", reason)
                self.site.reason = reason
                continue
            if self._stopped:
                stores.close()
                return
            hub = self._hub(stores)
            self.site.access.take_over(hub.apps)
            self.site = Site(self.site.access, hub, "", self.query_budget)
            self.upstream = None
            upstream.close()
            self.log.info("tripleweb has taken over the data in %s", self._folder)
            self._announce()
            return

    def _announce(self) -> None:
        """Leaves word in the data folder how this server is reached, once it is: for servers that relay to it, and for
        processes of this user that no server started."""
        if self.site.hub is None or self._exported is None or self._announced:
            return
        url, access = self.local_url(), self.site.access
        if url is None:
            return
        try:
            token = access.accept(places.lasting_token(self._folder), Grant(access.owner, relays=True))
            places.announce(self._folder, url, token)
            self._announced = True
        except OSError as error:
            self.log.warning("tripleweb: other servers will not find this one: %s", error)

    def tell_kernels(self) -> None:
        """Puts the server's address and the shared token into the environment; once the port is bound, not earlier."""
        if self._exported is not None or self._stopped or not self.kernel_grants:
            return
        if self.site.hub is None and self.upstream is None:
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
        self._announce()

    async def stop_extension(self) -> None:
        for name, before in (self._exported or {}).items():
            os.environ.pop(name, None)
            if before is not None:
                os.environ[name] = before
        self._exported, self._stopped = None, True
        if self._announced:
            places.withdraw(self._folder)
        if self.upstream is not None:
            self.upstream.miss()
            self.upstream.close()
        if self._heir is not None:
            await self._heir
        if self.site.hub is not None:
            try:
                await self.site.hub.close()
            except TimeoutError as error:
                self.log.error("tripleweb: %s", error)

    def current_activity(self) -> int | None:
        """Connections: while there are any, Jupyter does not think itself idle."""
        if self.upstream is not None:
            return len(self.upstream.sockets) or None
        hub = self.site.hub
        return None if hub is None else sum(len(actors) for actors in hub.connections.values()) or None

    # -- kernels -----------------------------------------------------------------------------------------------

    def kernel_url(self) -> str | None:
        """The address for kernels, with a slash at its end; None if the server listens on no TCP port."""
        return self.public_url.rstrip("/") + "/" if self.public_url else self.local_url()

    def local_url(self) -> str | None:
        """The address on this machine, likewise."""
        server = self.serverapp
        assert server is not None
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
        if gone and (host := self.upstream or self.site.hub) is not None:
            host.expel(lambda actor: actor.session in gone, "the kernel of this grant is gone")

    def grant(self, token: str) -> Grant | None:
        """What a token stands for, now."""
        self.sweep()
        return self.site.access.grant(token)
