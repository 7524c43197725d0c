"""Queries that pages may look at by a name. Pure; the rest of the protocol is in `messages`.

A notebook must not say what it asks, or whom: it keeps a name, which means something only to the server that made it
up, and to members of the app. A server that has the feature `publish` answers a client that publishes a query

    > {"t":"publish","id":"v1","query":"[:find ?n :where [_ :user/name ?n]]"}
    < {"t":"published","id":"v1","view":"V1StGXR8Z5jdHi6BmyT0p"}

or says `failed`. The name is durable when it is told, and the same for the same user and query. A subscription of kind
`rows` that has a `view` may say such a name in place of its query; unknown ones fail (`unknown`). Whoever has published
a query on this connection is told when a page begins to look at it, or does already:

    < {"t":"watched","view":"V1StGXR8Z5jdHi6BmyT0p"}

Invariants: a name is never given twice, and means one query for ever, until nobody has used it for `unused_ms`, or it
is the one of too many that was not used for longest. Using it is noted to the day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from tripleweb.datalog import query as queries
from tripleweb.datalog.inputs import prepare

PUBLISH = "publish"  # the feature
DAY_MS = 24 * 3_600_000


class Publish(msgspec.Struct, tag_field="t", tag="publish", omit_defaults=True):
    id: str
    query: str
    inputs: list[Any] = []
    rules: str | None = None
    n: int = 0


class Published(msgspec.Struct, tag_field="t", tag="published"):
    id: str
    view: str


class Watched(msgspec.Struct, tag_field="t", tag="watched"):
    view: str


class PublishLimits(Protocol):
    """How many queries of an app have names, how large one may be, and after how long without use it has none."""

    @property
    def published_max(self) -> int: ...
    @property
    def published_bytes_max(self) -> int: ...
    @property
    def unused_ms(self) -> int: ...


class Publication(msgspec.Struct, frozen=True, array_like=True):
    """A query that has a name; `used` in milliseconds of the server's clock."""

    query: str
    inputs: list[Any]  # as they travel
    rules: str | None
    user: str
    used: int

    @property
    def key(self) -> bytes:
        """Equal for what has one name."""
        return msgspec.json.encode((self.user, self.query, self.inputs, self.rules))


_decoder = msgspec.json.Decoder(Publication)


class Publications:
    """The names of one app, and who is to hear that one is looked at. `changed` is what has to become durable: the body
    of a name, None for one that means nothing any more."""

    def __init__(
        self, bodies: Mapping[str, bytes], limits: PublishLimits, new_name: Callable[[], str]
    ) -> None:
        known = [(name, _decoder.decode(body)) for name, body in bodies.items()]
        # what was used longest ago first, to the day
        self.by_name = dict(sorted(known, key=lambda item: (item[1].used, item[0])))
        self.changed: dict[str, bytes | None] = {}
        self._limits = limits
        self._new_name = new_name
        self._names = {one.key: name for name, one in self.by_name.items()}
        self._publishers: dict[str, dict[Any, None]] = {}
        self._windows: dict[str, int] = {}

    def publish(self, asked: Publish, user: str, now_ms: int, inputs: Sequence[Any]) -> str:
        """The name of a query; `inputs` are those that it says, as values. Raises `QueryError`, `ValueError` or
        `TypeError` for what cannot be asked."""
        made = Publication(asked.query, asked.inputs, asked.rules, user, now_ms)
        if len(made.key) > self._limits.published_bytes_max:
            size = f"{self._limits.published_bytes_max >> 10} KiB"
            raise ValueError(f"a query with its inputs has at most {size} to be looked at by name")
        if (known := self._names.get(made.key)) is not None:
            self.find(known, now_ms)
            return known
        prepare(queries.parse(asked.query), inputs, asked.rules)
        while len(self.by_name) >= self._limits.published_max:
            self._drop(next(iter(self.by_name)))
        name = self._new_name()
        self._put(name, made)
        self._names[made.key] = name
        return name

    def find(self, name: str, now_ms: int) -> Publication | None:
        """What a name means; it has been used now."""
        found = self.by_name.get(name)
        if found is not None and now_ms - found.used >= DAY_MS:
            found = msgspec.structs.replace(found, used=now_ms)
            del self.by_name[name]
            self._put(name, found)
        return found

    def _put(self, name: str, one: Publication) -> None:
        self.by_name[name] = one
        self.changed[name] = msgspec.json.encode(one)

    def tick(self, now_ms: int) -> None:
        """Lets go of names that nobody has used for long."""
        while self.by_name:
            name, oldest = next(iter(self.by_name.items()))
            if now_ms - oldest.used < self._limits.unused_ms or self._windows.get(name):
                return
            self._drop(name)

    def _drop(self, name: str) -> None:
        self.changed[name] = None
        del self._names[self.by_name.pop(name).key]

    # -- who looks, and who hears of it ------------------------------------------------------------------------

    def hear(self, publisher: Any, name: str) -> bool:
        """A connection wants to hear that a page looks; True if one does now."""
        self._publishers.setdefault(name, {})[publisher] = None
        return name in self._windows

    def leave(self, publisher: Any) -> None:
        """A connection is gone."""
        for name in [name for name, hearing in self._publishers.items() if publisher in hearing]:
            del self._publishers[name][publisher]
            if not self._publishers[name]:
                del self._publishers[name]

    def look(self, name: str) -> list[Any]:
        """A window was opened; returns whom to tell."""
        self._windows[name] = self._windows.get(name, 0) + 1
        return list(self._publishers.get(name, ())) if self._windows[name] == 1 else []

    def look_away(self, name: str) -> None:
        """A window has ended."""
        self._windows[name] -= 1
        if not self._windows[name]:
            del self._windows[name]
