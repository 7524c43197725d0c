"""The protocol: what client and server of one app say to each other, and how it looks on the wire.

This docstring is the specification; its examples are run by the tests.

**Transport.** One WebSocket a session at `apps/{app}/sync`; a frame is one text message of JSON, an object whose `t`
names it. HTTP bulk endpoints carry the same frames. Unknown fields are ignored, unknown frames are an error. Frames
have at most 16 MiB; what is larger travels in several (`more`, `part`).

**Values** are written with their kind: `["s", "text"]`, `["n", 1]` (an integer without, a float with a fraction or
exponent), `["i", "1152921504606846976"]` (an integer beyond 2**53), `["b", true]`,
`["d", "2013-01-01T00:00:00.000000Z"]`, `["r", "id"]`, `["", null]` (no value). A *stamp* is 16 hexadecimal digits of
time, `-`, replica id (`clock.py`). A *change* is `[subject, predicate, slot, kind, value]` (`change.py` says what
slots mean), a *register* is the same with its stamp at the end.

**Speaking.** The client speaks first:

    > {"t":"hello","protocol":[2,2],"replica":"0123456789ab","incarnation":"x7","next":8,"confirmed":5,
    >  "now":1700000000000,"features":["lineage"],"ticket":"",
    >  "subscriptions":[{"id":"app","kind":"triples","cursor":["e1",41]}]}
    < {"t":"welcome","protocol":2,"server":"s1","epoch":"e1","seq":44,"last":7,"user":"ada","session":"k3",
    <  "role":"writer","now":1700000000002,"tolerance":60000,"features":["lineage"]}

`next` is the number that the replica's next transaction will have, `confirmed` the number up to which it has stored
the receipts, `last` the highest number that the server has decided. A replica whose `next` is not above `last`, which
has confirmed less than it once had, or whose id belongs to another user, is a copy of another or has lost its tail: the
welcome says `"rekey":true`, and the replica takes a new id, numbers and stamps what is pending anew and says hello
again; the ids of the transactions stay, by which the server knows what has reached it already (as long as its tail
reaches back). It does the same when a receipt carries another id than its own transaction, and when it is told that it
was replaced. A client that keeps nothing says a `next` of 2**53. Whatever arrives between a hello and its welcome
(`nth` says which hello it answers) answers an earlier hello, and is ignored.

**Writing.** Transactions are pushed in the order of their numbers, which have no holes; the id is random, and
any text that may be an id (`ids.py`).

    > {"t":"push","transactions":[{"number":8,"id":"V1StGXR8","stamp":"018bcfe568000000-0123456789ab",
    >  "changes":[["ada","user/age","","n",37],["p1","post/likes","c:","n",1]]}]}

A transaction with `"more":true` goes on in the next push with the same number (and its `check` stands in its first
piece). What was pushed keeps its stamp until it is decided; a client whose stamp was set back pushes nothing new until
then. Slot `c:` is an increment, which the server adds to the replica's share. Every transaction ends in a receipt,
decided once and kept by the server until the client confirms it:

    > {"t":"confirm","number":8}

Of a replica that the server has not heard of for long (30 days) it keeps the last number and only the gist of its
receipts: what became of which transaction, its stamp and the changes that lost. What is told of it then says `reload`
in the place of registers, does not say who had won, and is `at` the moment when it is told. What such a replica holds
is forgotten much sooner, so it loads what it reads; and what waits in its outbox is taken like anybody's.

**Guarded** is a transaction with a `check`, a query with its inputs and rules as a subscription has them. It is taken
only if the query has an answer at the server on the state that all transactions accepted before it have made, without
what it writes itself. What it writes then stands: it gets a later stamp than all that it meets, if it has none. What
the replica pushes behind it is decided after it.

    > {"t":"push","transactions":[{"number":9,"id":"mD3k","stamp":"018bcfe568010000-0123456789ab",
    >  "changes":[["12A","seat/holder","","s","Ada"]],
    >  "check":{"query":"[:find ?s . :in $ ?s :where (not [?s :seat/holder])]","inputs":[["s","12A"]]}}]}

Else its receipt says `rejected`, for the reason `guard`, and has a `message` (also where the query cannot be asked, or
needs more than its budget). A server that does not say the feature `guard` would take it as it is: no check is pushed
to it.

**Reading.** Subscriptions of kind `triples` fill a replica, those of kind `rows` a display. A poke moves all triples
subscriptions of the connection from one consistent state to the next, receipts included; the client applies it in one
local commit. Nothing in it is not yet durable at the server.

    < {"t":"poke","epoch":"e1","since":41,"seq":44,"cursors":{"app":41},
    <  "transactions":[[44,"bob","018bcfe568000000-zz3456789abc",[["ada","user/name","","s","Ada"]]]],
    <  "at":1700000000001,
    <  "receipts":[{"number":7,"id":"8Jp2","outcome":"applied","stamp":"018bcfe567000000-0123456789ab","seq":43}]}

A transaction is its seq, who wrote it, its stamp and its changes; without names in it, it costs a reader half as much.
`at` is when the server accepted the latest of them, or sent a load. A cursor is (epoch, seq); the server numbers what
it accepts, in commit order. `cursors` names the subscriptions that come to life with this poke and the seq from which
they were caught up; null: from nothing. Before such a poke come the registers, in any number of parts:

    < {"t":"part","registers":[["ada","user/name","","s","Ada","018bcfe568000000-zz3456789abc"]]}

What a transaction too large for a frame has set also comes in parts before its poke, which has it without changes. A
poke whose `since` lies beyond where the client stands (or the base of a subscription beyond its cursor) is refused by
closing the connection and saying hello again; what overlaps is merged. A receipt comes with the poke that reaches the
point where it was decided.

**Only what is asked.** Where both ends have the feature `lineage`, a triples subscription may have a query, and brings
what the query's answer depends on: places, a place being a subject with a predicate and all registers there.

    > {"t":"subscribe","subscription":{"id":"q1","kind":"triples",
    >  "query":"[:find ?n :in $ ?u :where [?u :user/name ?n]]","inputs":[["s","ada"]]}}
    < {"t":"part","registers":[["ada","user/name","","s","Ada","018bcfe568000000-zz3456789abc"]],
    <  "id":"q1","start":0,"upto":1,"of":1}
    < {"t":"poke","epoch":"e1","since":44,"seq":44,"cursors":{"q1":null},"transactions":[],"receipts":[]}

Parts with an `id` are kept aside until the poke that brings this subscription to life; others go on meanwhile. They
have the places from `start` to `upto` of those that are to be sent, `of` by what is known now. Where a connection ends
in the middle, the next hello says how many the client has (`have` of the subscription), and the load goes on there.
Where both ends have the feature `window`, the client says how many such parts have come since its hello, and only a few
are on their way to it at any time, lest everything else wait behind them:

    > {"t":"took","parts":3}

From when it lives on the connection is told each change of a place that one of
its subscriptions needs or needed, a transaction without the changes of other places; a place that comes to be needed
comes whole, in parts before the poke of the transaction that made it so. Instead of a query a subscription may have
`predicates`, and brings all that has one of them (`"user/"`: one of a kind). What a replica pushes counts as asked for,
until some minutes after it was decided. What is needed no more is told when it is no longer followed, and the client
drops it last; that deletes nothing. Where it is much, some of it comes in parts (`forget`) before the poke:

    < {"t":"poke","epoch":"e1","since":44,"seq":44,"cursors":{},"transactions":[],"receipts":[],
    <  "forget":[["ada","user/name"]]}

A poke with `"reset":true` replaces what the client holds: what did not come in the parts before it is gone. A part with
`"anew":true` makes void the parts before it. A reset is the first poke after a hello, unless the server still knows
what the replica holds: it keeps that for some minutes under the `ticket` that came with the last reset, which the hello
says, beside where the replica stands (`at`). Without `lineage` every triples subscription is one of the whole app, and
a null in `cursors` is a reset.

What there was, and what was done to an entity, is asked as `past` says; what there is, by predicate and number, by

    > {"t":"describe","id":"d1"}
    < {"t":"described","id":"d1","seq":44,"predicates":{"user/name":12}}

**Displays** are subscriptions of kind `rows`, which the server answers for a page: see `views`. Such a query may also
be asked for by a name, as `published` says.

    < {"t":"failed","id":"top","code":"query","message":"..."}
    > {"t":"unsubscribe","id":"top"}

**Nothing is missing.** A stream loses nothing; should a proxy or a fault of ours lose, repeat or overtake a frame, then
that is noticed, and answered by closing and saying hello again. What a client sends after its hello (pings aside)
counts itself in `n`, from 1. So does what a server makes for one connection alone, parts and pokes in one count (a poke
that others are sent, too, has none: its `since` says what is missing), and of a display each frame of rows. Parts that
belong to a transaction tell its `seq`, and count themselves within it; a poke says how many of those `parts` it has,
which are of transactions from `since` to `seq`. The first poke after a welcome brings to life what hello has listed of
the whole app; receipts come in the order of their numbers, and one whose `seq` lies behind where the client stands has
come too late for its `current`: the client loads again. Parts with an `id` and pokes that have an `n` say how many
frames of the client were `heard` before: what is said of a subscription that has ended, or has ended and come again
since, does not bring it to life. An end that does not count (`n` and `parts` left out) is believed.

**Receipts.** `outcome` is `applied` or `rejected` (then `reason` is one of `permission limits invalid guard`).
`lost` lists changes that lost on arrival: `[index, reason, by]`, the reason being `newer`, `reset` or `deleted`. Where
there are very many, the rest is in `runs` of neighbours with one fate: `[first index, count, reason, by]`.
`seq` is the point of the server's order where it was decided. `stamp` is the stamp that the server gave it: another
than was pushed if that lay in the future (or behind the replica's own last). Whenever anything but "all applied as
pushed" happened, `current` has the server's registers for what the transaction touched and `absent` the keys it has
none for; the client takes them over and puts what is still pending on top. Where that would be too much stands
`"reload":true` instead: the client forgets its cursors and says hello again. `stood` lists the values,
`[subject, predicate, kind, value]`, that stood where the transaction wrote, at places that the replica did not hold, so
that it can take the transaction back; `"unseen":true`: they are too many to be told.

**Restores.** The epoch changes when a server's data is replaced by a backup; a cursor of another epoch means nothing.
What was accepted beyond the `last` of a welcome was forgotten with it, and is pushed again with the number, id and
stamp that it had. So a client keeps it until the server says what a verified backup holds, in a welcome or a pong. Of
identities that it had before, `former` of hello asks, and the welcome has the last numbers of those the server knows.
Its `origin` is the epoch in which the app began: where the client knows another, that app was deleted, and what was
accepted in it is not pushed into the one that has its name now. Hello says in `mark` when the transaction at its `at`
was accepted (a poke of the whole app says it where it is not its own `at`): if another stands there now, the server has
lost its tail, and cursors mean nothing either.

    < {"t":"pong","now":1700000003000,"echo":1700000002990,"backup":["e2",47]}

**Clock and life.** `{"t":"ping","now":…}` is answered by `{"t":"pong","now":SERVER,"echo":…}`. An error of protocol is
answered by `{"t":"fault","code":…,"message":…}` and the end of the connection; codes: `malformed`, `protocol` (no
common version), `size`, `order`, `forbidden`, `overload`, `replaced` (the replica connected again), `closing`. A fault
may have `"wait"`, milliseconds: come back no sooner, so that not everybody comes back at once.

**The first format** of a change, one object a triple, is understood on the bulk endpoint and by imports; the tombstone
is a triple `_deleted`:

    {"subject":"ada","predicate":"user/age","object":37,"object_type":"number","hlc":"018bcfe568000000-0123456789ab"}
    {"subject":"ada","predicate":"_deleted","object":true,"object_type":"boolean","hlc":"018bcfe568000000-0123456789ab"}
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change, Key
from tripleweb.clock import parse_stamp, stamp_text
from tripleweb.errors import ProtocolError
from tripleweb.ids import BYTES_MAX, check_id, check_predicate
from tripleweb.sync.past import PAST, Deeds, Did, Past, Was
from tripleweb.sync.published import PUBLISH, Publish, Published, Watched
from tripleweb.sync.views import VIEWS, Scroll, Shown, View
from tripleweb.terms import TEXT_BYTES_MAX, Value, from_wire, kind, slot, to_wire

PROTOCOL = 2
LINEAGE = "lineage"  # the feature of loading what queries need
WINDOW = "window"  # that of saying what has come of a load
GUARD = "guard"  # that of transactions with a check
FEATURES = [LINEAGE, WINDOW, GUARD, PAST, VIEWS, PUBLISH]
FRAME_BYTES_MAX = 16 << 20
TRANSACTION_CHANGES_MAX = 5_000_000
TRANSACTION_BYTES_MAX = 224 << 20  # of its changes; what carries them may take another frame
DEPTH_MAX = 64
_CHANGE_BYTES_MAX = 6 * (TEXT_BYTES_MAX + 3 * BYTES_MAX) + 200  # JSON escapes a byte as six at most

Cursor = tuple[str, int]
WireChange = tuple[str, str, str, str, str | int | float | bool | None]
WireRegister = tuple[str, str, str, str, str | int | float | bool | None, str]


class Subscription(msgspec.Struct, omit_defaults=True):
    """What a client wants to hear. Without `query` and `predicates`: the whole app (`triples` only)."""

    id: str
    kind: str = "triples"
    query: str | None = None
    inputs: list[Any] = []
    rules: str | None = None
    cursor: Cursor | None = None
    predicates: list[str] = []
    have: int = 0
    view: View | None = None
    published: str = ""


def is_whole(subscription: Subscription) -> bool:
    """True if a triples subscription is one of the whole app."""
    return subscription.query is None and not subscription.predicates


def said(subscription: Subscription) -> bytes:
    """What is asked for, wherever it stands."""
    return encode(msgspec.structs.replace(subscription, cursor=None, have=0))


class Check(msgspec.Struct, omit_defaults=True):
    """The query that must have an answer, or the transaction that it comes with is rejected."""

    query: str
    inputs: list[Any] = []
    rules: str | None = None


class PushedTransaction(msgspec.Struct, omit_defaults=True, gc=False):
    number: int
    id: str
    stamp: str
    changes: list[WireChange]
    more: bool = False
    check: Check | None = None

    def keys(self, replica: str) -> list[Key]:
        """The registers that it is to set, as a transaction of `replica`."""
        share = COUNTER + replica
        return [(s, p, share if place == COUNTER else place) for s, p, place, _, _ in self.changes]


class Receipt(msgspec.Struct, omit_defaults=True, gc=False):
    """What became of one transaction; see the head of this module."""

    number: int
    id: str
    outcome: str
    stamp: str
    seq: int = 0
    at: int = 0
    reason: str = ""
    lost: list[tuple[int, str, str]] = []
    current: list[WireRegister] = []
    absent: list[Key] = []
    reload: bool = False
    runs: list[tuple[int, int, str, str]] = []
    stood: list[tuple[str, str, str, Any]] = []
    unseen: bool = False
    message: str = ""

    def lose(self, index: int, reason: str, by: str, singly: int) -> None:
        """Notes that a change lost; the indexes come in order. At most `singly` of them stand in `lost`."""
        if len(self.lost) < singly:
            self.lost.append((index, reason, by))
            return
        first, count, *fate = self.runs[-1] if self.runs else (0, 0)
        if first + count == index and fate == [reason, by]:
            self.runs[-1] = (first, count + 1, reason, by)
        else:
            self.runs.append((index, 1, reason, by))

    @property
    def triples_stood(self) -> list[tuple[str, str, Value]]:
        """What `stood` says. Raises `ValueError`."""
        found = [(s, p, from_wire(kind, value)) for s, p, kind, value in self.stood]
        if any(value is None for _, _, value in found):
            raise ValueError("no value stood there")
        return found  # type: ignore[return-value]

    @property
    def registers_held(self) -> dict[Key, Change | None] | None:
        """What `current` and `absent` say, by key; None where they say nothing. Raises `ValueError`."""
        if self.reload or not (self.current or self.absent):
            return None
        held: dict[Key, Change | None] = dict.fromkeys(self.absent)
        return held | {one.key: one for one in map(register_from_wire, self.current)}

    @property
    def losses(self) -> dict[int, tuple[str, str]]:
        """index -> (reason, by) of every change that lost."""
        singly = {index: (reason, by) for index, reason, by in self.lost}
        return singly | {
            index: (reason, by)
            for first, count, reason, by in self.runs
            for index in range(first, first + count)
        }


class Committed(msgspec.Struct, array_like=True, gc=False):
    """One accepted transaction as the log keeps it and pokes carry it: the changes that took effect."""

    seq: int
    by: str
    stamp: str
    changes: list[WireChange]


class Hello(msgspec.Struct, tag_field="t", tag="hello", omit_defaults=True):
    protocol: tuple[int, int]
    replica: str
    incarnation: str
    next: int
    confirmed: int
    now: int
    features: list[str] = []
    subscriptions: list[Subscription] = []
    ticket: str = ""
    at: Cursor | None = None
    mark: int = 0
    former: list[str] = []
    nth: int = 0


class Push(msgspec.Struct, tag_field="t", tag="push", omit_defaults=True, gc=False):
    transactions: list[PushedTransaction]
    n: int = 0


class Confirm(msgspec.Struct, tag_field="t", tag="confirm", omit_defaults=True):
    number: int
    n: int = 0


class Took(msgspec.Struct, tag_field="t", tag="took", omit_defaults=True):
    parts: int
    n: int = 0


class Subscribe(msgspec.Struct, tag_field="t", tag="subscribe", omit_defaults=True):
    subscription: Subscription
    n: int = 0


class Unsubscribe(msgspec.Struct, tag_field="t", tag="unsubscribe", omit_defaults=True):
    id: str
    n: int = 0


class Describe(msgspec.Struct, tag_field="t", tag="describe", omit_defaults=True):
    id: str
    n: int = 0


class Ping(msgspec.Struct, tag_field="t", tag="ping"):
    now: int


class Welcome(msgspec.Struct, tag_field="t", tag="welcome", omit_defaults=True):
    protocol: int
    server: str
    epoch: str
    seq: int
    last: int
    user: str
    session: str
    role: str
    now: int
    tolerance: int
    features: list[str] = []
    rekey: bool = False
    former: dict[str, int] = {}
    nth: int = 0
    backup: Cursor | None = None
    origin: str = ""


class Part(msgspec.Struct, tag_field="t", tag="part", omit_defaults=True):
    registers: list[WireRegister]
    id: str = ""
    start: int = 0
    upto: int = 0
    of: int = 0
    forget: list[tuple[str, str]] = []
    anew: bool = False
    seq: int = 0
    n: int = 0
    heard: int = 0


class Poke(msgspec.Struct, tag_field="t", tag="poke", omit_defaults=True):
    epoch: str
    since: int
    seq: int
    cursors: dict[str, int | None] = {}
    transactions: list[msgspec.Raw] = []
    receipts: list[Receipt] = []
    forget: list[tuple[str, str]] = []
    reset: bool = False
    ticket: str = ""
    at: int = 0
    mark: int = 0
    parts: int = 0
    n: int = 0
    heard: int = 0


class Rows(msgspec.Struct, tag_field="t", tag="rows", omit_defaults=True):
    id: str
    epoch: str
    seq: int
    reset: bool
    columns: list[str]
    added: list[list[tuple[str, str | int | float | bool | None]]]
    removed: list[list[tuple[str, str | int | float | bool | None]]]
    n: int = 0


class Failed(msgspec.Struct, tag_field="t", tag="failed"):
    id: str
    code: str
    message: str


class Described(msgspec.Struct, tag_field="t", tag="described"):
    id: str
    seq: int
    predicates: dict[str, int]


class Pong(msgspec.Struct, tag_field="t", tag="pong", omit_defaults=True):
    now: int
    echo: int
    backup: Cursor | None = None


class Fault(msgspec.Struct, tag_field="t", tag="fault", omit_defaults=True):
    code: str
    message: str
    wait: int = 0


ClientFrame = (
    Hello | Push | Confirm | Took | Subscribe | Unsubscribe | Scroll | Describe | Past | Deeds | Publish | Ping
)  # fmt: skip
ServerFrame = (
    Welcome | Part | Poke | Rows | Shown | Failed | Described | Was | Did | Published | Watched | Pong | Fault
)  # fmt: skip

_encoder = msgspec.json.Encoder()
_pack = msgspec.json.Encoder(enc_hook=str).encode  # a reference is text
_client_decoder = msgspec.json.Decoder(ClientFrame)
_server_decoder = msgspec.json.Decoder(ServerFrame)
_committed_decoder = msgspec.json.Decoder(Committed)
_receipt_decoder = msgspec.json.Decoder(Receipt)


def encode(frame: Any) -> bytes:
    """The JSON of a frame (or of a `Committed` or `Receipt`, for the log)."""
    return _encoder.encode(frame)


def decode_client(data: bytes | str) -> ClientFrame:
    """The frame that a client sent; `ProtocolError` for anything that is none."""
    return _decode(_client_decoder, data)  # type: ignore[no-any-return]


def decode_server(data: bytes | str) -> ServerFrame:
    """The frame that a server sent; `ProtocolError` for anything that is none."""
    return _decode(_server_decoder, data)  # type: ignore[no-any-return]


def decode_committed(data: bytes | msgspec.Raw) -> Committed:
    """A log entry; `ProtocolError` for anything that is none."""
    return _decode(_committed_decoder, data)  # type: ignore[no-any-return]


def decode_receipt(data: bytes) -> Receipt:
    """A stored receipt; `ProtocolError` for anything that is none."""
    return _decode(_receipt_decoder, data)  # type: ignore[no-any-return]


def _decode(decoder: msgspec.json.Decoder[Any], data: bytes | str | msgspec.Raw) -> Any:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise ProtocolError("malformed", f"not a frame of this protocol: {error}") from None


def input_to_wire(given: Any) -> Any:
    """A query's input as it travels: a value as its pair, a collection as `{"many": [...]}`, a relation as
    `{"rows": [[...], ...]}`. The values must be normalised already.

    >>> input_to_wire(10), input_to_wire(["a", 1]), input_to_wire([("a", 1)])
    (('n', 10), {'many': [('s', 'a'), ('n', 1)]}, {'rows': [[('s', 'a'), ('n', 1)]]})
    """
    if isinstance(given, list | tuple):
        if given and all(isinstance(row, list | tuple) for row in given):
            return {"rows": [[to_wire(v) for v in row] for row in given]}
        return {"many": [to_wire(v) for v in given]}
    return to_wire(given)


def input_from_wire(wire: Any) -> Any:
    """The input that `input_to_wire` wrote; `ValueError` for anything else.

    >>> input_from_wire({"rows": [[["s", "a"], ["n", 1]]]})
    [('a', 1)]
    """
    if isinstance(wire, dict) and len(wire) == 1:
        if isinstance(many := wire.get("many"), list):
            return [_pair(v) for v in many]
        if isinstance(rows := wire.get("rows"), list) and all(isinstance(row, list) for row in rows):
            return [tuple(_pair(v) for v in row) for row in rows]
    return _pair(wire)


def _pair(wire: Any) -> Value | None:
    if isinstance(wire, list | tuple) and len(wire) == 2 and isinstance(wire[0], str):
        return from_wire(wire[0], wire[1])
    raise ValueError(f"not an input: {str(wire)[:80]}")


def change_to_wire(change: Change) -> WireChange:
    return (change.subject, change.predicate, change.slot, *to_wire(change.value))


def check_size(
    changes: Sequence[Change],
    changes_max: int = TRANSACTION_CHANGES_MAX,
    bytes_max: int = TRANSACTION_BYTES_MAX,
) -> None:
    """Raises `ValueError` for a transaction that no server would take."""
    if len(changes) > changes_max:
        said = f"{changes_max:,} changes; this one has {len(changes):,}"
    elif len(changes) * _CHANGE_BYTES_MAX <= bytes_max:
        return
    else:  # packed as a whole, a little more than what travels
        size = sum(len(_pack(changes[i : i + 1_000])) for i in range(0, len(changes), 1_000))
        if size <= bytes_max:
            return
        said = f"{bytes_max >> 20:,} MB; this one has {-(-size >> 20):,}"
    raise ValueError(f"a transaction that is to be synced has at most {said}: write it in several")


def wire_bytes(change: Change) -> int:
    """An upper bound of the bytes that a change or register takes in a frame: JSON escapes a byte as six at most."""
    value = change.value
    size = 6 * (len(value) if value.isascii() else len(value.encode())) if isinstance(value, str) else 40
    return size + 6 * (len(change.subject) + len(change.predicate) + len(change.slot)) + 120


def register_to_wire(change: Change) -> WireRegister:
    return (*change_to_wire(change), stamp_text(change.time, change.replica))


def change_from_wire(wire: WireChange, time: int, replica: str) -> Change:
    """Raises `ValueError` for what may not be stored: bad ids, values, slots that do not fit their value."""
    subject, predicate, place, letter, raw = wire
    value = from_wire(letter, raw)
    check_id(subject)
    if predicate == DELETED:
        if place != SINGLE or value is not True:
            raise ValueError('a deletion is [subject, "_deleted", "", "b", true]')
        return Change(subject, DELETED, SINGLE, True, time, replica)
    _check_predicate(predicate)
    if place == SINGLE:
        return Change(subject, predicate, SINGLE, value, time, replica)
    if place == RESET:
        if value is not None:
            raise ValueError("a reset marker carries no value")
    elif place[:2] == COUNTER:
        if value is not None and kind(value) != "n":
            raise ValueError("a counter counts numbers only")
    elif value is not None:
        if slot(value) != place:
            raise ValueError(f"slot {place[:80]!r} is not that of its value")
    elif place[:2] not in ("s:", "s#", "n:", "b:", "d:", "r:", "r#") or len(place) > 600:
        raise ValueError(f"not a slot: {place[:80]!r}")
    return Change(subject, predicate, place, value, time, replica)


def register_from_wire(wire: WireRegister) -> Change:
    """Raises `ValueError` as `change_from_wire` does."""
    return change_from_wire(wire[:5], *_parse_stamp(wire[5]))


# of these there are few where there is much
_check_predicate = lru_cache(1_000)(check_predicate)
_parse_stamp = lru_cache(1_000)(parse_stamp)
