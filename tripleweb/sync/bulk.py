"""Pushing without a socket: the body of one HTTP request, line by line, as frames of the protocol.

A body is JSON lines. The first one says which replica speaks; it is a hello, of which only `replica` is needed, or a
push that names the replica, so that one frame can be all there is:

    {"t":"push","replica":"curlexample1","transactions":[
      {"number":1,"id":"V1StGXR8","changes":[["ada","user/name","","s","Ada"]]}]}

(on one line). Further lines are `push`, `confirm`, or triples of the first format (see `messages`), of which
consecutive ones with the same `hlc` make a transaction; its number is the next one, its id is the `hlc`.

What a hello leaves out stands for a client that keeps nothing: `next` is beyond every number, `confirmed` is 0. A
transaction without a stamp gets one from the server's clock. Invariant: the same body makes the same numbers and ids,
so that sending it again is safe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from tripleweb.clock import pack, stamp_text
from tripleweb.errors import ProtocolError
from tripleweb.sync.messages import (
    FRAME_BYTES_MAX,
    PROTOCOL,
    Check,
    ClientFrame,
    Confirm,
    Hello,
    Push,
    PushedTransaction,
    WireChange,
    change_to_wire,
)
from tripleweb.sync.triples import change_from_triple

TRANSACTIONS_MAX = 50_000
NEXT = 1 << 53
_PIECE = 2_000  # changes of a transaction that travel in one frame


class _Transaction(msgspec.Struct):
    number: int
    id: str
    changes: list[WireChange]
    stamp: str = ""
    more: bool = False
    check: Check | None = None


class _Line(msgspec.Struct):
    """Any line: `t` tells frames apart, a triple has none."""

    t: str = ""
    protocol: tuple[int, int] = (PROTOCOL, PROTOCOL)
    replica: str = ""
    incarnation: str = ""
    next: int = NEXT
    confirmed: int = 0
    number: int = 0
    transactions: list[_Transaction] = []
    subject: Any = None
    predicate: Any = None
    object: Any = None
    object_type: Any = None
    hlc: Any = None


_decoder = msgspec.json.Decoder(_Line)


class BulkReader:
    """Reads one body. `pushed` has the number and id of every transaction that was read whole, in order.

    Raises `ProtocolError` that names the line.

    >>> reader = BulkReader(now_ms=1_700_000_000_000)
    >>> frames = reader.feed(b'{"t":"push","replica":"curlexample1","transactions":[{"number":1,"id":"a",'
    ...                      b'"changes":[["ada","user/age","","n",37]]}]}') + reader.finish()
    >>> [type(frame).__name__ for frame in frames], reader.pushed
    (['Hello', 'Push'], {1: 'a'})
    """

    def __init__(self, now_ms: int) -> None:
        self.pushed: dict[int, str] = {}
        self._now = now_ms
        self._lines = 0
        self._rest = bytearray()
        self._replica = ""
        self._number = 0  # the highest so far
        self._stamps = 0  # given here
        self._open: tuple[int, str] | None = None  # a pushed transaction that goes on
        self._triples: tuple[str, list[WireChange]] | None = None  # hlc, changes not yet passed on

    @property
    def waiting(self) -> int:
        """Bytes of a line that has not ended."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[ClientFrame]:
        """The frames of the lines that `data` ends."""
        *lines, rest = data.split(b"\n")
        frames: list[ClientFrame] = []
        for line in lines:
            self._rest += line
            frames.extend(self._end_line())
        self._rest += rest
        if len(self._rest) > FRAME_BYTES_MAX:
            raise self._error(f"a line has at most {FRAME_BYTES_MAX:,} bytes", "size", self._lines + 1)
        return frames

    def finish(self) -> list[ClientFrame]:
        """The frames that the end of the body makes."""
        frames = [*self._end_line(), *self._end_triples()]
        if not self._replica:
            raise self._error("the body is empty; its first line names the replica")
        if self._open is not None:
            raise self._error(f"transaction {self._open[0]} is not finished")
        return frames

    def _end_line(self) -> Iterator[ClientFrame]:
        text = bytes(self._rest)
        self._rest.clear()
        self._lines += 1
        if not text.strip():
            return
        try:
            line = _decoder.decode(text)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            raise self._error(f"not a line of a bulk push: {error}") from None
        if not self._replica:
            yield self._hello(line)
            if line.t == "push":
                yield from self._push(line)
        elif line.t == "push":
            yield from self._end_triples()
            yield from self._push(line)
        elif line.t == "confirm":
            yield from self._end_triples()
            yield Confirm(line.number)
        elif line.t == "" and line.subject is not None:
            yield from self._triple(line)
        else:
            raise self._error(
                f"a bulk push has lines of type push and confirm and triples, not {line.t[:40]!r}"
            )

    def _hello(self, line: _Line) -> Hello:
        if line.t not in ("hello", "push") or not line.replica:
            raise self._error('the first line is a hello or a push that names its "replica"')
        self._replica, self._number = line.replica, line.confirmed
        return Hello(line.protocol, line.replica, line.incarnation, line.next, line.confirmed, self._now)

    def _push(self, line: _Line) -> Iterator[Push]:
        transactions = []
        for tx in line.transactions:
            stamp = tx.stamp or self._stamp()
            transactions.append(PushedTransaction(tx.number, tx.id, stamp, tx.changes, tx.more, tx.check))
            self._open = (tx.number, tx.id) if tx.more else None
            if not tx.more:
                self._note(tx.number, tx.id)
        if transactions:
            yield Push(transactions)

    def _stamp(self) -> str:
        time = pack(self._now, 0) + self._stamps
        self._stamps += 1
        return stamp_text(time, self._replica)

    def _note(self, number: int, tx_id: str) -> None:
        if self.pushed.get(number, tx_id) != tx_id:
            raise self._error(f"two transactions have number {number}")
        self.pushed[number] = tx_id
        self._number = max(self._number, number)
        if len(self.pushed) > TRANSACTIONS_MAX:
            raise self._error(f"a bulk push has at most {TRANSACTIONS_MAX:,} transactions", "size")

    def _triple(self, line: _Line) -> Iterator[Push]:
        given = {
            "subject": line.subject,
            "predicate": line.predicate,
            "object": line.object,
            "object_type": line.object_type,
            "hlc": line.hlc,
        }
        try:
            change = change_from_triple({name: value for name, value in given.items() if value is not None})
        except (ValueError, TypeError) as error:
            raise self._error(str(error)) from None
        if change.replica != self._replica:
            raise self._error(f"a triple of replica {change.replica!r} in a push of {self._replica!r}")
        if self._triples is None or self._triples[0] != line.hlc:
            yield from self._end_triples()
            self._triples = (line.hlc, [])
        held = self._triples[1]
        held.append(change_to_wire(change))
        if len(held) >= _PIECE:
            yield self._piece(more=True)

    def _end_triples(self) -> Iterator[Push]:
        if self._triples is not None:
            yield self._piece(more=False)
            self._note(self._number + 1, self._triples[0])
            self._triples = None

    def _piece(self, more: bool) -> Push:
        assert self._triples is not None
        hlc, changes = self._triples
        self._triples = (hlc, [])
        return Push([PushedTransaction(self._number + 1, hlc, hlc, changes, more)])

    def _error(self, message: str, code: str = "malformed", line: int = 0) -> ProtocolError:
        return ProtocolError(code, f"line {line or self._lines}: {message}")
