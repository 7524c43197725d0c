"""What a replica that loads what is asked has asked for, and for how long.

An `Asked` is one query with its inputs (or one kind of entities) that the server is asked to keep loaded here: as long
as a live frame follows it, and for some minutes after it was last used; time without a connection does not count, and
of very many those that were not used for longest end before. Its id says what it asks for, so a replica that is opened
again finds what it had asked for before. Call everything with the session's lock held. Invariants: what is asked for by
one id is one `Asked`; an answer is complete where its `Asked` was loaded, as of then if offline; what the server
refused is known by its reason, and asked for again at the next use.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from hashlib import blake2b
from itertools import count
from typing import Any

import msgspec

from tripleweb.datalog.inputs import items_of, prepare
from tripleweb.datalog.portable import portable
from tripleweb.datalog.query import Query
from tripleweb.sync import messages
from tripleweb.sync.client import APP, ClientCore
from tripleweb.sync.messages import ClientFrame, Describe, Described, Failed, ServerFrame, Subscription
from tripleweb.sync.past import Did, Was
from tripleweb.sync.published import PUBLISH, Publish, Published, Watched
from tripleweb.terms import normalise, to_wire

TTL_S = 300.0
ASKED_MAX = 900  # at a time, but for what live frames hold; a server takes 1,000 of a connection
KEYS_MAX = 10_000
PUBLISHED_MAX = 1_000
CHECK_BYTES_MAX = 1 << 20
_KEY_ITEMS_MAX = 1_000  # to compare more would take longer than to share saves
_TICK_MAX_S = 60.0  # a longer one is a machine that slept


class Asked:
    """One thing that the server is asked for."""

    __slots__ = ("_core", "failure", "holds", "id", "idle_s", "subscription")

    def __init__(self, core: ClientCore, subscription: Subscription) -> None:
        self._core = core
        self.subscription = subscription
        self.id = subscription.id
        self.holds = 0  # live frames
        self.idle_s = 0.0  # since it was last used
        self.failure: Failed | None = None

    @property
    def is_settled(self) -> bool:
        """True if nothing more comes of waiting for it on this connection."""
        return self.failure is not None or self._core.is_live(self.id)

    @property
    def is_complete(self) -> bool:
        """True if all of it has been here at some time, and is here now, or was when the connection was lost."""
        return self.failure is None and (self.id in self._core.cursors or APP in self._core.cursors)


class Publication:
    """A query that pages may look at by a name, as long as this connection lasts. `watched`: one does, or did."""

    __slots__ = ("asked", "failed", "name", "watched")

    def __init__(self, asked: Publish) -> None:
        self.asked = asked
        self.name = ""
        self.failed = False
        self.watched = False

    @property
    def is_settled(self) -> bool:
        """True if nothing more comes of waiting for its name."""
        return bool(self.name) or self.failed


class Subscriptions:
    """All that is asked for by one replica."""

    def __init__(self, core: ClientCore, ttl_s: float = TTL_S) -> None:
        self._core = core
        self._ttl_s = ttl_s
        self._asked: dict[str, Asked] = {}  # what was used last at the end
        self._numbers = count(1)
        self._descriptions: dict[str, Described | None] = {}  # that somebody waits for
        self._inquiries: dict[str, list[Was | Did | Failed]] = {}  # into the past, likewise: what came so far
        self._published: dict[bytes, Publication] = {}  # on this connection
        self._connection = ""  # which one that was
        self._heard: Callable[[], None] = lambda: None
        # how it was asked for last, so that it is found without reading it
        self._keys: dict[Hashable, Asked] = {}

    def restore(self, wires: Iterable[Any]) -> None:
        """Goes on with what was asked for before, as the replica's file has it."""
        for wire in wires:
            self._use(Asked(self._core, msgspec.convert(wire, Subscription)))

    def ask(self, query: Query, inputs: Sequence[Any], rules: str | None) -> Asked:
        """Asks for what a query with its inputs needs. Raises `QueryError` for what cannot be run."""
        text = query.text
        key = key_of((text, rules, inputs))
        found = None if key is None else self._keys.get(key)
        if found is None:
            prepare(query, inputs, rules)
            asked, left = portable(text, inputs, rules)
            wire = [_to_wire(value) for value in left]
            kept = None if asked is None else rules
            found = self._find(Subscription("", query=asked, inputs=wire, rules=kept))
            if key is not None:
                if len(self._keys) >= KEYS_MAX:
                    self._keys.clear()
                self._keys[key] = found
        return self._use(found)

    def ask_predicates(self, predicates: Sequence[str]) -> Asked:
        """Asks for all that has one of these predicates; `"user/"`: for all of a kind."""
        return self._use(self._find(Subscription("", predicates=list(predicates))))

    def _find(self, subscription: Subscription) -> Asked:
        if messages.is_whole(subscription):
            subscription.id = APP
        else:
            said = messages.encode(msgspec.structs.replace(subscription, cursor=None, have=0))
            subscription.id = "q" + blake2b(said, digest_size=9).hexdigest()
        return self._asked.get(subscription.id) or Asked(self._core, subscription)

    def _use(self, asked: Asked) -> Asked:
        asked = self._asked.get(asked.id, asked)
        if asked.id not in self._asked or asked.failure is not None:
            self._open(asked)
        else:
            self._asked[asked.id] = self._asked.pop(asked.id)
        asked.idle_s = 0.0
        return asked

    def _open(self, asked: Asked) -> None:
        if asked.id not in self._asked and len(self._asked) >= ASKED_MAX:
            idle = next((one for one in self._asked.values() if not one.holds), None)
            if idle is not None:
                self._end(idle)
        asked.failure = None
        self._core.subscribe(asked.subscription)  # first: if this is interrupted, the next use asks again
        self._asked[asked.id] = asked

    def _end(self, asked: Asked) -> None:
        del self._asked[asked.id]
        self._core.unsubscribe(asked.id)

    def hold(self, asked: Asked) -> None:
        """Something follows what was just asked for, or waits for it: it is kept until that is told to `release` it."""
        asked.holds += 1

    def release(self, asked: Asked) -> None:
        """The opposite of `hold`."""
        asked.holds -= 1
        asked.idle_s = 0.0

    def heard(self, frame: ServerFrame) -> None:
        """Takes what the server says beside the data: that it does not load something, or what there is."""
        if isinstance(frame, Failed) and (asked := self._asked.get(frame.id)) is not None:
            asked.failure = frame
            self._core.unsubscribe(frame.id)
        elif isinstance(frame, Described) and frame.id in self._descriptions:
            self._descriptions[frame.id] = frame
        elif isinstance(frame, Was | Did | Failed) and frame.id in self._inquiries:
            self._inquiries[frame.id].append(frame)
        elif isinstance(frame, Published | Watched | Failed):
            self._hear(frame)

    def publish(
        self, query: Query, inputs: Sequence[Any], rules: str | None, heard: Callable[[], None]
    ) -> Publication | None:
        """Has a query be looked at by name; `heard` is called when something becomes known of one. None where it has
        something that does not travel, or there is no server that would do it now."""
        core = self._core
        if core.state != "online" or PUBLISH not in core.features or query.uses_callables(inputs):
            return None
        try:
            asked = Publish("", query.text, [_to_wire(value) for value in inputs], rules)
        except (ValueError, TypeError):
            return None
        if self._connection != core.session:
            self._connection = core.session
            self._published.clear()
        self._heard = heard
        key = messages.encode(asked)
        known = self._published.get(key)
        if known is None:
            if len(self._published) >= PUBLISHED_MAX:
                del self._published[next(iter(self._published))]
            asked.id = f"v{next(self._numbers)}"
            known = self._published[key] = Publication(asked)
            core.ask(asked)
        return known

    def _hear(self, frame: Published | Watched | Failed) -> None:
        for known in self._published.values():
            if isinstance(frame, Watched):
                known.watched = known.watched or known.name == frame.view
            elif known.asked.id == frame.id:
                known.failed = isinstance(frame, Failed)
                known.name = "" if isinstance(frame, Failed) else frame.view
        self._heard()

    def describe(self) -> str | None:
        """Asks what there is: a name for `described`, None where there is nobody to be asked. To be ended by
        `forget`."""
        name = f"d{next(self._numbers)}"
        if not self._core.ask(Describe(name)):
            return None
        self._descriptions[name] = None
        return name

    def described(self, name: str) -> dict[str, int] | None:
        """The server's predicates, and how many triples each has; None as long as it has not said so."""
        said = self._descriptions.get(name)
        return None if said is None else said.predicates

    def look_back(self, make: Callable[[str], ClientFrame]) -> tuple[str, list[Was | Did | Failed]] | None:
        """Sends what `make` makes of a name, and gives that name and the list to which the answer's frames are added as
        they come; None where there is nobody to be asked. To be ended by `forget`."""
        name = f"p{next(self._numbers)}"
        if not self._core.ask(make(name)):
            return None
        self._inquiries[name] = []
        return name, self._inquiries[name]

    def forget(self, name: str) -> None:
        """Nobody waits for a description, or an answer about the past, any more."""
        self._descriptions.pop(name, None)
        told = self._inquiries.pop(name, None)
        if told is not None and not is_whole(told):  # the server would go on working for nobody
            self._core.ask(messages.Unsubscribe(name))

    def tick(self, passed_s: float) -> bool:
        """Some time has passed while connected; True if something is asked for no more."""
        ended = False
        for asked in list(self._asked.values()):
            if not asked.holds:
                asked.idle_s += min(passed_s, _TICK_MAX_S)
                if asked.idle_s > self._ttl_s:
                    self._end(asked)
                    ended = True
        return ended


def is_whole(told: Sequence[Was | Did | Failed]) -> bool:
    """True if an answer about the past has come to its end."""
    return bool(told) and (isinstance(told[-1], Failed) or not told[-1].more)


def check_of(query: Query, inputs: Sequence[Any], rules: str | None) -> messages.Check:
    """A query that decides on a transaction, as it travels. Raises `QueryError` for what cannot be run, `ValueError`
    for what cannot travel, and `TypeError` as `normalise` does."""
    prepare(query, inputs, rules)
    if query.uses_callables(inputs):
        raise ValueError(
            "a check is asked at the server, where no Python function goes: use what the language has"
        )
    check = messages.Check(query.text, [_to_wire(value) for value in inputs], rules)
    if len(messages.encode(check)) > CHECK_BYTES_MAX:
        raise ValueError(f"a check with its inputs has at most {CHECK_BYTES_MAX >> 20} MB")
    return check


def _to_wire(value: Any) -> Any:
    """An input as it travels; what is missing is left out of collections."""
    items = items_of(value)
    if items is None:
        return to_wire(normalise(value))
    found = [item for item in items if item is not None]
    if found and all(isinstance(item, list | tuple) for item in found):
        return {"rows": [[to_wire(normalise(cell)) for cell in row] for row in found]}
    return {"many": [to_wire(normalise(item)) for item in found]}


def key_of(value: Any) -> Hashable | None:
    """A key that is equal for equal inputs only (True is not 1, 1 is not 1.0); None where equality is not known."""
    if isinstance(value, list | tuple):
        if len(value) > _KEY_ITEMS_MAX:
            return None
        parts = tuple(key_of(part) for part in value)
        return None if None in parts else ("list", *parts)
    if isinstance(value, Mapping):
        return key_of([list(pair) for pair in value.items()]) if value else ("empty",)
    if isinstance(value, Set):  # which has True and 1 as one member
        return None
    try:
        hash(value)
    except TypeError:
        return None
    return type(value), value
