"""The stores that tests of the public surface use: their schema, how a test waits for them, which are the latest.
Their fixtures are in conftest.py."""

from __future__ import annotations

import time
from collections.abc import Callable

import tripleweb
from tripleweb import t
from tripleweb.database import Database

SCHEMA = tripleweb.schema(
    user={
        "name": t.string(),
        "age": t.number(optional=True),
        "active": t.boolean(default=True),
        "joined": t.date(optional=True),
        "manager": t.ref("user", optional=True),
    },
    post={"title": t.string(), "author": t.ref("user"), "tags": t.ref_many("tag"), "likes": t.counter()},
    tag={"label": t.string()},
)
NAMES = "[:find ?name :where [_ :user/name ?name]]"
Connect = Callable[..., Database]


def online(*dbs: Database) -> None:
    """Everything that the server had is here."""
    for db in dbs:
        assert db._session.wait_for(lambda db=db: db._session.core.caught_up, 10), db.status


def level(*dbs: Database) -> None:
    """Everything is decided, and everybody has it."""
    online(*dbs)
    for db in dbs:
        db.flush(10)
    for db in dbs:
        for _ in range(2):  # the second answer comes after what was on its way when the first one came
            assert db._loading.describe(10) is not None


def later(db: Database) -> None:
    """What this store writes from now on is later than what others have written so far, whatever their clocks are."""
    core = db._session.core
    core.clock.last = max(core.clock.last, (int(time.time() * 1000) + core.offset_ms) << 16) + (2_000 << 16)
