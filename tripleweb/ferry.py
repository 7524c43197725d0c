"""`tripleweb export | import`: all triples of an app into a file, and back, from the command line.

They are `db.export` and `db.import_` of a store that is connected for the purpose: to a running server (`--url`, its
token in `--token` or TRIPLEWEB_TOKEN), to the one that has the folder (`--data`), or to one that is started for it on
loopback.
Invariants: an app that is not there is not made by asking for its data; when an import ends well, the server has
decided and kept all of it; no token is in an address or an output (and in a list of processes only where `--token`
brought it there: TRIPLEWEB_TOKEN does not).
"""

from __future__ import annotations

import argparse
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from tripleweb import care, discovery, places
from tripleweb.errors import StorageError, StoreLockedError
from tripleweb.exchange.files import ending
from tripleweb.link import API, SCHEMES
from tripleweb.storage.sqlite import SqliteStores

COMMANDS = ("export", "import")
TIMEOUT_S = 600.0
_ASK_S = 30.0


def add_commands(commands: Any) -> None:
    """The commands and what they take."""
    for name, told in (
        ("export", "write all triples of an app to a file: .jsonl .csv .edn .parquet"),
        ("import", "write the triples of a file into an app; doing it twice is doing it once"),
    ):
        command = commands.add_parser(name, help=told)
        command.add_argument("app", metavar="APP", type=care.app_id)
        command.add_argument("file", metavar="FILE", type=_file)
        command.add_argument("--data", type=Path, default=None, metavar="DIR", help="where the apps are kept")
        command.add_argument("--url", default="", help="a running server, instead")
        command.add_argument("--token", default="", help="its token; by default TRIPLEWEB_TOKEN")
        command.add_argument(
            "--timeout", type=float, default=TIMEOUT_S, metavar="S", help="seconds to wait for the server"
        )


def _file(text: str) -> Path:
    try:
        ending(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return Path(text)


def run(options: argparse.Namespace) -> int:
    """Does what was asked; returns the exit status. Raises `TriplewebError`, `OSError`, `ValueError`, `ImportError` and
    `TimeoutError`."""
    from tripleweb.opening import connect

    app, file, timeout = options.app, options.file, options.timeout
    with _server(options) as (url, token):
        _check_there(url, token, app, is_made=options.command == "import")
        if options.command == "export":
            with connect(app, url=url, token=token, path=":memory:") as db:
                count = db.export(file, timeout=timeout)
            print(f"{count:,} triples of {app} are in {file}")
        else:
            with connect(app, url=url, token=token, path=":memory:") as db:
                count = db.import_(file, timeout=timeout)
                db.flush(timeout, strict=True)
            print(f"{count:,} triples of {file} are in {app}")
    return 0


@contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """(address, token) of the server that has the app."""
    if options.url:
        if options.data:
            raise StorageError("either --data or --url: one folder, or one server")
        place = discovery.find(options.url, options.token or os.environ.get("TRIPLEWEB_TOKEN"))
        yield place.url, place.token
        return
    folder = options.data or places.server_dir()
    if not folder.is_dir() and options.command == "export":
        raise StorageError(f"{folder}: there is no such folder; --data says where the apps are kept")
    try:
        stores = SqliteStores(folder)
    except StoreLockedError as error:
        held = places.announced(folder)
        if held is None:
            raise StoreLockedError(f"{error}; a running server is asked by --url") from None
        yield held["url"], held["token"]
        return
    from tripleweb.access import owner
    from tripleweb.web import WebServer

    with WebServer(stores, owner=owner()) as server:
        yield server.url, server.token


def _check_there(url: str, token: str | None, app: str, is_made: bool) -> None:
    """Raises `StorageError` if the server does not let us see the app, or has none such and it is not `is_made` now."""
    refusal = ""
    for scheme in SCHEMES if token else SCHEMES[:1]:
        headers = {"Authorization": f"{scheme} {token}"} if token else {}
        request = urllib.request.Request(f"{url}{API}apps/{app}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_ASK_S):
                return
        except urllib.error.HTTPError as error:
            with error:
                refusal = f"the server at {url} has no app {app!r}"
                if error.code != 404:
                    refusal = f"the server at {url} answers {error.code} ({error.reason}) about {app!r}"
            if error.code == 404 and is_made:
                return
            if error.code not in (401, 403):
                break
            refusal += (
                ": this token lets nobody see it; --token or TRIPLEWEB_TOKEN gives another"
                if token
                else ": a token is wanted; give it as --token or in TRIPLEWEB_TOKEN"
            )
        except (urllib.error.URLError, HTTPException, OSError) as error:
            raise StorageError(f"cannot reach {url}: {getattr(error, 'reason', error)}") from None
    raise StorageError(refusal)
