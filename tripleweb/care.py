"""`tripleweb apps | backup | restore | check | compact`: the data of apps, cared for from the command line.

They work on a server's folder, whose lock they hold meanwhile, or on a running server, over HTTP: `--url`, with a token
of one of the app's admins in `--token` or TRIPLEWEB_TOKEN. Where the folder belongs to a running server that has left
word of itself there, that server is asked. Invariant: a file gets the name that was asked for only when it has been
read whole.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import Request, urlopen

from tripleweb import places
from tripleweb.errors import StorageError, StoreLockedError
from tripleweb.ids import check_app
from tripleweb.storage import App, backups
from tripleweb.storage.file import delete_database
from tripleweb.storage.sqlite import SqliteStores

API = "api/tripleweb/v1/"
TIMEOUT_S = 3_600


def add_commands(commands: Any) -> None:
    """The commands and what they take."""
    for name, told in (
        ("apps", "list the apps: ID, role on a running server, name"),
        ("backup", "write an app's data to a file, also while it is in use"),
        ("restore", "replace an app's data by a backup; what was there is moved aside"),
        ("check", "see whether an app's data is whole; without APP, that of every app"),
        ("compact", "make an app's file as small as what is in it"),
    ):
        command = commands.add_parser(name, help=told)
        if name != "apps":
            command.add_argument("app", nargs="?" if name == "check" else None, metavar="APP", type=app_id)
        if name in ("backup", "restore"):
            command.add_argument("file", type=Path, metavar="FILE")
        if name == "restore":
            command.add_argument("--force", action="store_true", help="also a backup of another app")
        command.add_argument("--data", type=Path, default=None, metavar="DIR", help="where the apps are kept")
        command.add_argument("--url", default="", help="a running server, instead")
        command.add_argument("--token", default="", help="its token; by default TRIPLEWEB_TOKEN")


def app_id(text: str) -> str:
    """An App ID of the command line."""
    try:
        return check_app(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(options: argparse.Namespace) -> int:
    """Does what was asked; returns the exit status. Raises `StorageError`, `OSError`."""
    if options.url:
        if options.data:
            raise StorageError("either --data or --url: one folder, or one server")
        return _do(_Server(options.url, options.token or os.environ.get("TRIPLEWEB_TOKEN", "")), options)
    folder = options.data or places.server_dir()
    if not folder.is_dir() and options.command != "restore":
        raise StorageError(f"{folder}: there is no such folder; --data says where the apps are kept")
    try:
        stores = SqliteStores(folder)
    except StoreLockedError as error:
        held = places.announced(folder)
        if held is None:
            raise StoreLockedError(f"{error}; a running server is asked by --url and --token") from None
        return _do(_Server(held["url"], held["token"]), options)
    try:
        return _do(_Folder(stores), options)
    finally:
        stores.close()


def _do(place: _Folder | _Server, options: argparse.Namespace) -> int:
    if options.command == "apps":
        listed = place.listed()
        widths = [max(len(cells[n]) for cells in listed) for n in (0, 1)] if listed else [0, 0]
        for name, role, title in listed:
            print("  ".join(cell for cell in (name.ljust(widths[0]), role.ljust(widths[1]), title) if cell))
        return 0
    app = options.app
    if options.command == "backup":
        note = place.backup(app, options.file)
        size = options.file.stat().st_size
        print(f"{app} up to transaction {note.seq:,} is in {options.file}: {size:,} bytes, read whole")
    elif options.command == "restore":
        seq, epoch, aside = place.restore(app, options.file, options.force)
        print(f"{app} is as it was after transaction {seq:,}; its epoch is {epoch} from now on")
        if aside:
            print(f"what was there is in {aside}")
    elif options.command == "compact":
        before, after = place.compact(app)
        print(f"{app}: {before:,} bytes before, {after:,} now")
    else:
        return _check(place, [app] if app else place.apps())
    return 0


def _check(place: _Folder | _Server, apps: list[str]) -> int:
    failed = 0
    for app in apps:
        problems = place.check(app)
        failed += bool(problems)
        print(f"{app}: {'whole' if not problems else 'damaged'}")
        for problem in problems:
            print(f"  {problem}")
    if failed:
        print("`tripleweb restore APP FILE` puts a backup in the place of what is damaged")
    return 1 if failed else 0


class _Folder:
    """A server's folder, which is ours meanwhile."""

    def __init__(self, stores: SqliteStores) -> None:
        self._stores = stores

    def apps(self) -> list[str]:
        return self._stores.tenants()

    def listed(self) -> list[tuple[str, str, str]]:
        """(ID, role, name) of every app, also of one that has a file and no entry; a folder gives nobody a role."""
        entries = self._stores.apps()
        known = {*entries, *self.apps()}
        return [(app, "", entries[app].name if app in entries else app) for app in sorted(known)]

    def backup(self, app: str, target: Path) -> backups.Note:
        self._known(app)
        entry = self._stores.apps().get(app) or App(app, app, _now_ms())
        tenant = self._stores.open(app)
        try:
            note = backups.make(tenant, entry, target, _now_ms())
            tenant.backed_up(note.position)
            return note
        finally:
            tenant.close()

    def restore(self, app: str, source: Path, force: bool) -> tuple[int, str, str]:
        done = backups.put_back(self._stores, app, source, force=force)
        return done.note.seq, done.epoch, str(done.aside or "")

    def check(self, app: str) -> list[str]:
        self._known(app)
        return backups.check(self._stores, app)

    def compact(self, app: str) -> tuple[int, int]:
        self._known(app)
        tenant = self._stores.open(app)
        try:
            return backups.compact(tenant, backups.floor_of(tenant, _now_ms()))
        finally:
            tenant.close()

    def _known(self, app: str) -> None:
        if app not in self._stores.tenants() and app not in self._stores.apps():
            raise StorageError(f"there is no app {app} in {self._stores.folder}")


class _Server:
    """A running server."""

    def __init__(self, url: str, token: str) -> None:
        if urlsplit(url).scheme not in ("http", "https"):
            raise StorageError(f"{url!r} is no address of a server, which begins with http:// or https://")
        self._url = url if url.endswith("/") else url + "/"
        self._token = token

    def apps(self) -> list[str]:
        return [name for name, _, _ in self.listed()]

    def listed(self) -> list[tuple[str, str, str]]:
        """(ID, role, name) of the apps that the token may see."""
        return [(entry["id"], entry["role"], entry["name"]) for entry in self._json("GET", "apps")]

    def backup(self, app: str, target: Path) -> backups.Note:
        fresh = target.with_name(f".{target.name}.{os.getpid()}.part")
        try:
            with self._ask("GET", self._of(app, "backup")) as answer, open(fresh, "wb") as file:
                length = int(answer.headers["Content-Length"])
                shutil.copyfileobj(answer, file)
                file.flush()
                os.fsync(file.fileno())
            if fresh.stat().st_size != length:
                raise StorageError(
                    f"the backup broke off after {fresh.stat().st_size:,} of {length:,} bytes: try again"
                )
            note = backups.verify(fresh)
            os.replace(fresh, target)
        finally:
            delete_database(fresh)
        self._json(
            "PUT", self._of(app, "backup"), json.dumps({"position": f"{note.epoch}:{note.seq}"}).encode()
        )
        return note

    def restore(self, app: str, source: Path, force: bool) -> tuple[int, str, str]:
        with open(source, "rb") as file:
            headers = {
                "Content-Length": str(source.stat().st_size),
                "Content-Type": "application/octet-stream",
            }
            said = self._json("POST", self._of(app, "restore") + ("?force=1" if force else ""), file, headers)
        return said["seq"], said["epoch"], said["aside"] or ""

    def check(self, app: str) -> list[str]:
        return list(self._json("GET", self._of(app, "check"))["problems"])

    def compact(self, app: str) -> tuple[int, int]:
        said = self._json("POST", self._of(app, "compact"), b"")
        return said["before"], said["after"]

    def _of(self, app: str, what: str) -> str:
        return f"apps/{quote(app, safe='')}/{what}"

    def _json(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        with self._ask(method, path, body, headers) as answer:
            said = answer.read()
        return json.loads(said) if said else None

    def _ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        """A grant of ours, or a token of Jupyter's: which it is the server tells."""
        url = f"{self._url}{API}{path}"
        for scheme in ("tripleweb", "token"):
            if hasattr(body, "seek"):
                body.seek(0)
            request = Request(
                url, body, {**(headers or {}), "Authorization": f"{scheme} {self._token}"}, method=method
            )
            try:
                return urlopen(request, timeout=TIMEOUT_S)
            except HTTPError as error:
                if error.code not in (401, 403) or scheme == "token":
                    raise StorageError(f"{self._url} answers {error.code}: {_said(error)}") from error
            except (URLError, HTTPException, OSError) as error:
                raise StorageError(f"{self._url} cannot be reached: {error}") from error
        raise AssertionError("either scheme has answered")


def _said(error: HTTPError) -> str:
    try:
        return str(json.loads(error.read())["message"])
    except (ValueError, KeyError, TypeError, OSError):
        return str(error.reason)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
