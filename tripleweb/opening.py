"""How one comes by a store: `open` for one without a server, `connect` for a replica that is synced with one.

Invariants: what is wrong with the arguments is said before anything is begun; a known server that is down is no error;
a session that could not begin leaves its replica closed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from typing import Any, Literal

from tripleweb import discovery, leftovers, notices, places
from tripleweb.database import Database
from tripleweb.discovery import Unreachable
from tripleweb.errors import NoServerError, StorageError
from tripleweb.ids import check_app
from tripleweb.schema import Schema, check_schema
from tripleweb.session import Session
from tripleweb.storage.replica import Durability, MemoryReplica, Replica, ReplicaFile
from tripleweb.storage.shelf import Identity, Shelf

log = logging.getLogger("tripleweb")

Path = str | os.PathLike[str]


def open(
    path: Path | None = None, *, schema: Schema | None = None, durability: Durability = "process"
) -> Database:
    """A store without a server: in memory, or in a durable file.

    `durability`: what a write that returned survives, the death of the process ("process") or of the machine
    ("full"). Raises `StoreLockedError` if a running session has the file, `StorageError` if it cannot be read.

    >>> db = open()
    >>> ada = db.insert("user", name="Ada", age=36)
    >>> db.get("user", ada)["name"]
    'Ada'
    """
    check_schema(schema)
    return Database(_begin(_replica(":memory:" if path is None else path, durability)), schema)


def connect(
    app: str,
    *,
    url: str | None = None,
    token: str | None = None,
    schema: Schema | None = None,
    replicate: Literal["queries", "all"] = "queries",
    path: Path | None = None,
    label: str | None = None,
    durability: Durability = "process",
) -> Database:
    """A local replica of an app, synced in the background with the server that `discovery` finds.

    A known server that is down is no error: the store opens with what it has and keeps trying. `path` None takes a
    replica file of this server, app and user that no running session holds, or a new one; ":memory:" keeps none.
    `replicate="queries"` loads what queries, live frames and `get` ask for, and keeps it fresh for five minutes after
    its last use; `"all"` keeps a full copy of the app. Raises `ValueError` for what is no App ID, `NoServerError`,
    `StoreLockedError` for an explicit path in use, `StorageError`.
    """
    check_app(app)
    check_schema(schema)
    if not isinstance(label, str | None):
        raise TypeError(f"label= is text, not {type(label).__name__}")
    if replicate not in ("queries", "all"):
        raise ValueError(f'replicate={replicate!r}: expected "queries" or "all"')
    place = discovery.find(url, token)
    shelf = Shelf(places.replicas_dir())
    identity: Identity | None = None
    try:
        info = discovery.ask(place)
        identity = info.server_id, info.user
    except Unreachable as error:
        if error.lacks_us(place) and path is None and shelf.identity(place.url) is None:
            raise NoServerError(
                f"{error}: it has no tripleweb. Install tripleweb where that server runs, and restart it; "
                "%tripleweb doctor says more."
            ) from None
        log.info("opening %s offline: %s", app, error)
    replica = (
        _replica(path, durability) if path is not None else shelf.adopt(place.url, app, identity, durability)
    )
    session = _begin(
        replica,
        app=app,
        url=place.url,
        partial=replicate == "queries",
        on_identity=_remembering(shelf, place.url),
    )
    notices.watch(session)
    session.connect(place.token, label=label, locate=discovery.follow(place))

    def unsent(besides: Collection[str]) -> ReplicaFile | None:
        return shelf.unsent(app, (session.core.server_id, session.core.user), besides)

    def begin(left: ReplicaFile) -> Session:
        helper = _begin(left, app=app, url=session.url, partial=True)  # it loads no more than it had
        helper.connect(place.token, label=label, locate=discovery.follow(place))
        return helper

    if path is None:
        leftovers.send(session, unsent, begin)
    return Database(session, schema)


def _begin(replica: Replica, **options: Any) -> Session:
    try:
        return Session(replica, **options)
    except BaseException:
        replica.close()
        raise


def _replica(path: Path, durability: Durability) -> Replica:
    return MemoryReplica(kept=False) if path == ":memory:" else ReplicaFile(path, durability)


def _remembering(shelf: Shelf, url: str) -> Callable[[str, str], None]:
    def remember(server: str, user: str) -> None:
        try:
            shelf.remember(url, (server, user))
        except StorageError as error:  # it only helps to find the replica while the server is down
            log.warning("%s", error)

    return remember
