"""The server's shell round `TenantCore`: which apps are open, and who comes in.

`Hub.join` opens an app when its first client comes; the app closes itself when nobody has been there for a while (see
`tenant`). A `Line` is one connection. `Hub.using` keeps an app open for whoever reads it without a connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from tripleweb.errors import ProtocolError, StorageError
from tripleweb.ids import RandomBytes, check_app, check_id
from tripleweb.line import Line, Outlet, spread
from tripleweb.metrics import Counts
from tripleweb.storage import App, TenantStorage, TenantStores, backups
from tripleweb.storage.sqlite import SqliteStores, SqliteTenant
from tripleweb.storage.writer import Writer
from tripleweb.sync.server import Actor, Limits
from tripleweb.tenant import HubLimits, Tenant

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Hub:
    """The open apps of one server. It is made and used on one event loop.

    `apps` is the registry of `stores`; nobody else writes it. `stores` is closed by `close`.
    """

    def __init__(
        self,
        stores: TenantStores,
        *,
        limits: HubLimits | None = None,
        core_limits: Limits | None = None,
        random_bytes: RandomBytes = os.urandom,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.stores = stores
        self.server_id = stores.server_id
        self.limits = limits or HubLimits()
        self.core_limits = core_limits
        self.random_bytes = random_bytes
        self.now_ms = now_ms
        self.apps: dict[str, App] = stores.apps()
        self._tenants: dict[str, Tenant] = {}
        self._writer: Writer | None = None
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="tripleweb-hub")
        self.counts = Counts()
        self._lines_made = 0
        self._tended: dict[str, asyncio.Task[None]] = {}  # the backups that are being made
        self._shut: set[str] = set()  # apps that are not to be opened
        self._closing = False
        self.is_closed = False
        self._has_ended = False

    async def join(self, app: str, actor: Actor, outlet: Outlet) -> Line:
        """Connects `actor` to an app, which is opened if need be.

        Raises `ValueError` for what is no App ID, `ProtocolError` ("overload", "closing") if there is no room,
        `StorageError` if its data cannot be read, `TimeoutError`.
        """
        check_app(app)
        try:
            check_id(actor.user, "name of a user")
        except ValueError as error:
            raise ProtocolError("forbidden", str(error)) from None
        if self.lines >= self.limits.lines_max:
            raise ProtocolError(
                "overload", f"{self.limits.lines_max:,} connections are open here; try again later"
            )
        async with self.using(app) as tenant:
            self._lines_made += 1
            return tenant.join(self._lines_made, actor, outlet)

    @asynccontextmanager
    async def using(self, app: str) -> AsyncIterator[Tenant]:
        """An app, opened if need be, that is not closed as idle meanwhile. Raises what `join` does."""
        check_app(app)
        async with asyncio.timeout(self.limits.open_s):
            while True:
                tenant = self._tenant(app)
                if tenant.ending:
                    await asyncio.wait([tenant.task])
                    continue
                tenant.expected += 1
                try:
                    await asyncio.shield(tenant.ready)
                except BaseException:
                    tenant.release()
                    raise
                if not tenant.ending:
                    break
                tenant.release()
        try:
            yield tenant
        finally:
            tenant.release()

    def _tenant(self, app: str) -> Tenant:
        if self._closing:
            raise ProtocolError("closing", "the server is stopping")
        if app in self._shut:
            raise ProtocolError(
                "closing", f"app {app} is closed for the moment: its files are being worked on"
            )
        if app not in self._tenants:
            self._make_room()
            self._tenants[app] = Tenant(self, app)
        return self._tenants[app]

    def _make_room(self) -> None:
        if len(self._tenants) < self.limits.tenants_max:
            return
        idle = [tenant for tenant in self._tenants.values() if tenant.is_idle]
        if idle:
            min(idle, key=lambda tenant: tenant.used_at).end()
        elif not any(tenant.ending for tenant in self._tenants.values()):
            raise ProtocolError(
                "overload", f"{self.limits.tenants_max} apps are in use here; try again later"
            )

    @property
    def connections(self) -> Mapping[str, list[Actor]]:
        """Who is connected, by app; apps that are open without anybody included."""
        return {
            app: [line.actor for line in tenant.lines.values()]
            for app, tenant in sorted(self._tenants.items())
        }

    @property
    def lines(self) -> int:
        """How many connections there are."""
        return sum(len(tenant.lines) for tenant in self._tenants.values())

    @property
    def tenants(self) -> Mapping[str, Tenant]:
        """The open apps."""
        return self._tenants

    def set_roles(self, app: str, role: Callable[[str], str | None]) -> None:
        """Has the connections of an app go on with the roles that `role` gives their users; None ends one."""
        tenant = self._tenants.get(app)
        for line in list(tenant.lines.values()) if tenant is not None else []:
            given = role(line.actor.user)
            if given is None:
                line.fault("forbidden", f"{line.actor.user} is not a member of app {app} any more")
            elif tenant is not None:
                line.actor = replace(line.actor, role="reader" if line.reader_only else given)
                tenant.post(tenant.set_role, line)

    async def drop(self, app: str) -> None:
        """Deletes an app and all its data; who is connected is told so. Raises `StorageError`."""
        async with self.closed(app, "forbidden", f"app {app} was deleted"):
            await self.in_thread(self.stores.delete, app)
            self.apps.pop(app, None)

    @asynccontextmanager
    async def closed(self, app: str, code: str, message: str) -> AsyncIterator[None]:
        """An app is closed, and not opened meanwhile; who is connected is told so."""
        self._shut.add(app)
        try:
            if (tenant := self._tenants.get(app)) is not None:
                for line in tenant.lines.values():
                    line.fault(code, message, wait=spread(len(tenant.lines)) if code == "closing" else 0)
                tenant.end()
                await asyncio.wait([tenant.task])
            yield
        finally:
            self._shut.discard(app)

    def expel(self, whom: Callable[[Actor], bool], message: str) -> int:
        """Ends the connections of those for whom `whom` is true, as when their grant was revoked; how many."""
        lines = [
            line for tenant in self._tenants.values() for line in tenant.lines.values() if whom(line.actor)
        ]
        for line in lines:
            line.fault("forbidden", message)
        return len(lines)

    async def close(self, timeout_s: float = 10) -> None:
        """Everything taken in is made durable and acknowledged, then all is closed, the stores included; once.

        Raises `TimeoutError` if that took too long; the stores are closed then, too.
        """
        if self._closing:
            return
        self._closing = True
        tasks = [tenant.task for tenant in self._tenants.values()]
        for tenant in self._tenants.values():
            tenant.end()
        tasks += self._tended.values()
        late = (await asyncio.wait(tasks, timeout=timeout_s))[1] if tasks else set()
        for tenant in self._tenants.values():
            for task in (tenant.task, *(line.task for line in tenant.lines.values())):
                task.cancel()
        stopped = self._writer is None or await self.in_thread(self._writer.stop, timeout_s)
        self.is_closed = True
        await self.in_thread(self.stores.close)
        self._has_ended = True
        self._pool.shutdown(wait=stopped and not late, cancel_futures=True)
        if late or not stopped:
            raise TimeoutError(
                f"closing took longer than {timeout_s} seconds; the log has all that was acknowledged"
            )

    # -- for its tenants ---------------------------------------------------------------------------------------

    @property
    def writer(self) -> Writer:
        """The threads that commit; made where the loop runs."""
        if self._writer is None:
            self._writer = Writer(asyncio.get_running_loop().call_soon_threadsafe)
        return self._writer

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns, done beside the loop."""
        try:
            future = self._pool.submit(work, *arguments)
        except RuntimeError:
            if self._has_ended:
                raise
            return work(*arguments)  # the process is ending, and no pool takes any more work
        return await asyncio.wrap_future(future)

    async def retire(self, storage: TenantStorage) -> None:
        """Closes a storage after what was submitted to it."""
        closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(error: Exception | None) -> None:
            if error is not None:
                _log.error("closing the data of app %s: %s", storage.app, error)
            if not closed.done():
                closed.set_result(None)

        self.writer.retire(storage, done)
        await closed

    def forget(self, tenant: Tenant) -> None:
        """The tenant is closed."""
        if self._tenants.get(tenant.app) is tenant:
            del self._tenants[tenant.app]

    def tend(self, tenant: Tenant) -> None:
        """Some time has passed: what is due for an app's files is done, beside the loop."""
        if isinstance(self.stores, SqliteStores) and tenant.app not in self._tended:
            self._tended[tenant.app] = asyncio.create_task(self._tend(tenant, self.stores))

    async def _tend(self, tenant: Tenant, stores: SqliteStores) -> None:
        try:
            if self.limits.backup_every_s:
                await self._back_up(tenant, stores)
            await self._cut(tenant)
        except (StorageError, ProtocolError, TimeoutError) as error:
            _log.error("the files of app %s: %s", tenant.app, error)
        finally:
            self._tended.pop(tenant.app, None)

    async def _cut(self, tenant: Tenant) -> None:
        """Lets go of what the log has beyond its bounds."""
        limits, now = self.limits, asyncio.get_running_loop().time()
        if tenant.ending or now < tenant.cut_due:
            return
        tenant.cut_due = now + limits.log_every_s
        async with self.using(tenant.app) as held:
            storage = held.storage
            if isinstance(storage, SqliteTenant):
                floor = await self.in_thread(self.floor_of, storage)
                if floor > storage.floor:
                    self.writer.trim(storage, floor)

    def floor_of(self, storage: SqliteTenant) -> int:
        """The floor that the log of an app should have; it reads."""
        limits = self.limits
        bounds = int(limits.log_s * 1_000), limits.log_bytes_max, limits.log_min
        return backups.floor_of(storage, self.now_ms(), *bounds)

    async def _back_up(self, tenant: Tenant, stores: SqliteStores) -> None:
        app = tenant.app
        made = await self.in_thread(backups.kept, stores, app)
        latest = backups.kept_at(made[0]) if made else self.apps[app].created
        is_due = self.now_ms() - latest >= self.limits.backup_every_s * 1_000
        if not is_due or tenant.ending or (made and tenant.backup == tenant.position):
            return
        async with self.using(app) as held:
            storage, entry, many = held.storage, self.apps[app], self.limits.backups_kept
            if isinstance(storage, SqliteTenant):
                note = await self.in_thread(backups.keep, stores, storage, entry, self.now_ms(), many)
                held.backed_up(note.position)
