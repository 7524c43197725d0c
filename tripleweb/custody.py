"""An app's data as a file, of a server that is running: backed up, put back, checked, compacted, by its admins.

    apps/{app}/backup    GET: a verified backup, made while writes go on. PUT {"position"}: it is in a safe place
    apps/{app}/restore   POST: replaces the app by the backup in the body, under a new epoch
    apps/{app}/check     GET {"problems"}
    apps/{app}/compact   POST {"before", "after"}, in bytes

All of it happens in threads, and bodies travel in pieces: the loop never waits for a disk. Invariants: what is sent was
read whole before its first byte leaves, what comes in before it replaces anything; only admins of the app get here.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec
from tornado import web
from tornado.iostream import StreamClosedError

from tripleweb.endpoints import APP, Endpoint, Refusal, Upload, refusing
from tripleweb.errors import StorageError
from tripleweb.hub import Hub
from tripleweb.ids import nano_id
from tripleweb.storage import TenantStorage, backups
from tripleweb.storage.file import delete_database
from tripleweb.storage.sqlite import SqliteStores, SqliteTenant
from tripleweb.sync.messages import Cursor

BACKUP = APP + "/backup"
RESTORE = APP + "/restore"
CHECK = APP + "/check"
COMPACT = APP + "/compact"
POSITION = "Tripleweb-Position"  # of a backup: its epoch and seq
BYTES_MAX = 1 << 40
PIECE = 256 << 10


class Custody:
    """The files of a hub's apps. Raises `StorageError`, also where a server keeps none."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @asynccontextmanager
    async def backup(self, app: str) -> AsyncIterator[tuple[Path, backups.Note]]:
        """A backup, which is there until the block ends."""
        hub, path = self._hub, self.place()
        async with hub.using(app) as tenant:
            made = backups.make, _files_of(tenant.storage), hub.apps[app], path, hub.now_ms()
            note = await hub.in_thread(*made)
        try:
            yield path, note
        finally:
            await hub.in_thread(delete_database, path)

    async def kept(self, app: str, position: Cursor) -> None:
        """A backup that was made here is in a safe place: clients need not keep what it holds."""
        async with self._hub.using(app) as tenant:
            await self._hub.in_thread(_files_of(tenant.storage).backed_up, position)
            tenant.backed_up(position)

    async def restore(self, app: str, source: Path, force: bool) -> backups.PutBack:
        """Replaces an app's data by a backup; who is connected comes back, and loads it again."""
        hub, stores = self._hub, self._stores()
        async with hub.closed(app, "closing", f"app {app} is put back to a backup"):
            done = await hub.in_thread(lambda: backups.put_back(stores, app, source, force=force))
            hub.apps.update(await hub.in_thread(stores.apps))
        return done

    async def check(self, app: str) -> list[str]:
        """What is wrong with an app's data."""
        async with self._hub.using(app) as tenant:
            storage = _files_of(tenant.storage)
            return await self._hub.in_thread(lambda: list(backups.problems(storage)))

    async def compact(self, app: str) -> tuple[int, int]:
        """Cuts off what the log has beyond its bounds and makes an app's file small; the app is closed for a moment.
        (Bytes before, bytes after)."""
        hub, stores = self._hub, self._stores()

        def work() -> tuple[int, int]:
            tenant = stores.open(app)
            try:
                return backups.compact(tenant, hub.floor_of(tenant))
            finally:
                tenant.close()

        async with hub.closed(app, "closing", f"app {app} is being compacted"):
            return await hub.in_thread(work)

    def place(self) -> Path:
        """A name for a file that comes or goes."""
        folder = self._stores().folder / "backups"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder}: {error}") from error
        return folder / f".{nano_id(os.urandom, 12)}.part"

    def _stores(self) -> SqliteStores:
        stores = self._hub.stores
        if not isinstance(stores, SqliteStores):
            raise StorageError("this server keeps its apps in memory: there are no files")
        return stores


def _files_of(storage: TenantStorage) -> SqliteTenant:
    if not isinstance(storage, SqliteTenant):
        raise StorageError("this server keeps its apps in memory: there are no files")
    return storage


def _opened(path: Path, mode: Literal["rb", "xb"]) -> BinaryIO:
    return open(path, mode)


class _Kept(msgspec.Struct, forbid_unknown_fields=True):
    position: str


class Backup(Upload):
    """A backup goes out; word comes that it is safe."""

    async def get(self, app: str) -> None:
        self.administer(app)
        hub = self.open_hub()
        with refusing():
            async with Custody(hub).backup(app) as (path, note):
                self.set_header("Content-Type", "application/octet-stream")
                self.set_header(POSITION, ":".join(map(str, note.position)))
                with await hub.in_thread(_opened, path, "rb") as file:
                    self.set_header("Content-Length", str(os.fstat(file.fileno()).st_size))
                    await self._send(hub, file)
        self.finish()

    async def _send(self, hub: Hub, file: BinaryIO) -> None:
        try:
            while piece := await hub.in_thread(file.read, PIECE):
                self.write(piece)
                await self.flush()
        except StreamClosedError:
            return  # nobody is left to be told

    async def put(self, app: str) -> None:
        self.administer(app)
        epoch, _, seq = self.read(_Kept).position.rpartition(":")
        if not (epoch and seq.isdecimal()):
            raise Refusal(400, "a position is an epoch and a number, with a colon between them")
        with refusing():
            await Custody(self.open_hub()).kept(app, (epoch, int(seq)))
        self.set_status(204)
        self.finish()


class Restore(Upload):
    """A backup comes in, and replaces an app."""

    bytes_max = BYTES_MAX
    _path: Path | None = None
    _file: BinaryIO | None = None

    async def begin(self) -> None:
        await super().begin()
        if self.request.method != "POST":
            return
        try:
            actor = self.admit(self.path_args[0], create=True)
            if actor.role != "admin":
                raise Refusal(403, f"{actor.user} is no admin of app {self.path_args[0]}")
            with refusing():
                self._path = Custody(self.open_hub()).place()
        except web.HTTPError as error:
            self.refuse(error)
            return
        connection = self.request.connection
        connection.set_max_body_size(BYTES_MAX)  # type: ignore[union-attr]

    async def take(self, chunk: bytes) -> None:
        assert self._path is not None
        hub = self.open_hub()
        if self._file is None:
            self._file = await hub.in_thread(_opened, self._path, "xb")
        assert self._file is not None
        await hub.in_thread(self._file.write, chunk)

    async def post(self, app: str) -> None:
        self.check_body()
        if self._file is None or self._path is None:
            raise Refusal(400, "the body is a backup, and it is empty")
        hub, force = self.open_hub(), self.get_query_argument("force", "") == "1"
        await hub.in_thread(self._file.close)
        with refusing():
            try:
                done = await Custody(hub).restore(app, self._path, force)
            except backups.UnfitError as error:  # who sent it knows nothing of our file
                raise Refusal(400, str(error).replace(str(self._path), "the body")) from error
        aside = done.aside.name if done.aside is not None else None
        self.reply({"epoch": done.epoch, "seq": done.note.seq, "aside": aside})

    def on_finish(self) -> None:
        super().on_finish()
        self._drop()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._drop()

    def _drop(self) -> None:
        if self._file is not None and self._path is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


class Check(Endpoint):
    """Whether an app's data is whole."""

    async def get(self, app: str) -> None:
        self.administer(app)
        with refusing():
            found = await Custody(self.open_hub()).check(app)
        self.reply({"problems": found})


class Compact(Upload):
    """An app's file, made small."""

    async def post(self, app: str) -> None:
        self.administer(app)
        with refusing():
            before, after = await Custody(self.open_hub()).compact(app)
        self.reply({"before": before, "after": after})
