"""The older part of an app's log in SQLite, small and quick to look back into.

The newest entries of the log are rows, as commits have left them. Before those it is kept in *runs* of some thousand
changes: what is known of the transactions (`runs`), and what they have set, apart by kind of predicate (`pages`), both
as `bundles`, a fifth of what the rows took. And there are *frames*: all registers of one kind as they were after some
transaction, copied from the table of triples once half as many changes of the kind have come as it has registers,
10,000 at least. So the state at a moment is the newest frame before it and what came since, which is hardly more than
half as much again, and all frames together take about as much as the changes do.

Invariants: every transaction after `floor` is in exactly one place, up to `archived` in a run, beyond it in a row of
the log; a frame that `framed` names is whole; merging the frame of a kind (none: nothing) and the kind's changes
after it gives its state, the graves being a kind of their own that every reader needs. Cutting at a floor first makes
a frame of each kind that has changed since its last one, so nothing before the floor is needed any more.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import msgspec

from tripleweb.change import DELETED, Change
from tripleweb.clock import parse_stamp
from tripleweb.errors import DamagedError, HistoryError, ProtocolError, StorageError
from tripleweb.ids import kind_of
from tripleweb.storage import TAIL, Deed
from tripleweb.storage.bundles import (
    Transaction,
    changed,
    names,
    pack_changes,
    pack_registers,
    pack_transactions,
    unpack_changes,
    unpack_registers,
    unpack_transactions,
    unpacked,
)
from tripleweb.storage.file import PAGE_BYTES, DatabaseFile
from tripleweb.store import Store
from tripleweb.sync.messages import Committed, WireChange, change_from_wire, change_to_wire, decode_committed

TABLES = """
CREATE TABLE runs (first INTEGER PRIMARY KEY, last INTEGER NOT NULL, earliest INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE pages (first INTEGER NOT NULL, kind TEXT NOT NULL, part INTEGER NOT NULL, changes INTEGER NOT NULL,
    body BLOB NOT NULL, PRIMARY KEY (first, kind, part));
CREATE TABLE frames (kind TEXT NOT NULL, seq INTEGER NOT NULL, part INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (kind, seq, part));
CREATE TABLE framed (kind TEXT NOT NULL, seq INTEGER NOT NULL, registers INTEGER NOT NULL, PRIMARY KEY (kind, seq));
INSERT INTO meta VALUES ('archived', 0), ('floor', 0), ('floor_at', 0)"""
KEPT_BYTES = 16 << 20  # of the newest entries, that stay rows however few they are
PIECE = 2_000  # changes, or registers, that are packed, read or cut off at a time
SCANNED = 20_000  # rows of the table that are looked at in one slice of copying a frame

_ROW = 'SELECT seq, replica, number, id, "by", at, body FROM log '
_LETTERS = {None: "", "string": "s", "number": "n", "boolean": "b", "date": "d", "ref": "r"}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How an archive is cut; tests take small ones. `kept`: the newest entries, which stay rows; `run_bytes`: of the
    rows that make a run; `frame`: changes of a kind, at least, between two frames of it."""

    kept: int = TAIL
    run_bytes: int = 192 << 10
    frame: int = 10_000


class Archive:
    """The part of an app's file that looks back. One thread at a time moves things; any number may read."""

    def __init__(self, file: DatabaseFile, sizes: Sizes) -> None:
        self._file = file
        self._sizes = sizes
        self._lock = threading.RLock()
        self._work: Iterator[int] | None = None
        with file.transaction() as connection:
            self.archived, self.floor = (int(str(file.meta(name))) for name in ("archived", "floor"))
            # what was begun and not finished when the file was left
            connection.execute("DELETE FROM pages WHERE first > ?", (self.archived,))
            connection.execute("DELETE FROM frames WHERE (kind, seq) NOT IN (SELECT kind, seq FROM framed)")
            framed = "SELECT kind, max(seq), registers FROM framed GROUP BY kind"
            newest = {kind: (seq, size) for kind, seq, size in connection.execute(framed)}
            self._large = {kind: size for kind, (_, size) in newest.items()}
            self._since: dict[str, int] = {}  # changes of a kind since its last frame
            for kind, first, changes in connection.execute("SELECT kind, first, changes FROM pages"):
                if first > newest.get(kind, (0, 0))[0]:
                    self._since[kind] = self._since.get(kind, 0) + changes
        self._looked = -1  # the seq up to which it was looked for what makes a run

    # -- moving ------------------------------------------------------------------------------------------------

    def waiting(self, seq: int) -> int:
        """How many entries are rows that need not be, about."""
        return max(0, seq - self.archived - self._sizes.kept)

    def step(self, seq: int, folded: int, part: int) -> int:
        """One slice of moving; how many registers it was about, 0 where nothing is to be done now."""
        return self._go_on(lambda: self._next(seq, folded, part))

    def cut(self, floor: int) -> int:
        """One slice of cutting, below a floor that is in the table of triples; 0 where that is done."""
        return self._go_on(lambda: self._cutting(floor) if floor > self.floor else None)

    def _go_on(self, begin: Any) -> int:
        with self._lock:
            for _ in range(3):  # what was going on may have come to its end, and what begins may find nothing
                if self._work is None:
                    self._work = begin()
                if self._work is None:
                    return 0
                try:
                    return max(1, next(self._work))
                except StopIteration:
                    self._work = None
                except BaseException:
                    self._work = None
                    raise
            return 0

    def close(self) -> None:
        """Drops what is going on; the file is closed next."""
        with self._lock:
            if self._work is not None:
                self._work.close()  # type: ignore[attr-defined]
                self._work = None

    def _next(self, seq: int, folded: int, part: int) -> Iterator[int] | None:
        if not part:
            for kind, changes in self._since.items():
                if changes >= max(self._sizes.frame, self._large.get(kind, 0) // 2):
                    return self._framing(kind)
        if seq == self._looked:
            return None
        last = self._run_end(seq, folded)
        if last is None:
            self._looked = seq
            return None
        return self._running(last)

    def _run_end(self, seq: int, folded: int) -> int | None:
        """The last entry of the next run; None if there are not enough yet that may leave the log."""
        with self._file.reading() as connection:
            newest = seq - self._sizes.kept
            size = 0
            kept = "SELECT seq, length(body) FROM log WHERE seq > ? ORDER BY seq DESC"
            for at, length in connection.execute(kept, (max(newest, self.archived),)):
                size += length
                if size > KEPT_BYTES:
                    newest = at - 1
                    break
            size = 0
            rest = "SELECT seq, length(body) FROM log WHERE seq > ? AND seq <= ? ORDER BY seq"
            for at, length in connection.execute(rest, (self.archived, min(newest, folded))):
                size += length
                if size >= self._sizes.run_bytes:
                    return int(at)
        return None

    def _running(self, last: int) -> Iterator[int]:
        """Moves entries from the log into a run; what a large one has set goes in pieces, of which nobody knows before
        the run is there."""
        first = self.archived + 1
        with self._file.reading() as connection:
            rows = connection.execute(
                _ROW + "WHERE seq >= ? AND seq <= ? ORDER BY seq", (first, last)
            ).fetchall()
        run: list[Transaction] = []
        pages: dict[str, list[tuple[int, int, WireChange]]] = {}
        parts: dict[str, int] = {}
        counted: dict[str, int] = {}
        moved = 0
        for owner, (seq, replica, number, tx, by, at, packed) in enumerate(rows):
            if seq != first + owner:
                raise DamagedError(f"{self._file.path} is damaged: the log has no entry {first + owner}")
            body = self._committed(seq, packed)
            run.append(Transaction(seq, replica, number, tx, by, at, *parse_stamp(body.stamp)))
            for place, change in enumerate(body.changes):
                kind = kind_of(change[1])
                page = pages.setdefault(kind, [])
                page.append((owner, place, change))
                counted[kind] = counted.get(kind, 0) + 1
                if len(page) == 2 * PIECE:  # what is left of such a one is a page of its own
                    part = parts[kind] = parts.get(kind, -1) + 1
                    with self._writing(len(page)) as connection:
                        self._put_page(connection, first, kind, part, page)
                    yield len(page)
                    page.clear()
            moved += len(body.changes)
        with self._writing(2 * len(rows)) as connection:
            for kind, page in pages.items():
                if page:
                    self._put_page(connection, first, kind, parts.get(kind, -1) + 1, page)
            earliest = min(one.at for one in run)
            body_ = pack_transactions(run)
            connection.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", (first, last, earliest, body_))
            connection.execute("DELETE FROM log WHERE seq <= ?", (last,))
            self._file.set_meta({"archived": last})
        self.archived = last
        for kind, changes in counted.items():
            self._since[kind] = self._since.get(kind, 0) + changes
        yield moved

    def _put_page(
        self,
        connection: sqlite3.Connection,
        first: int,
        kind: str,
        part: int,
        page: list[tuple[int, int, WireChange]],
    ) -> None:
        row = (first, kind, part, len(page), pack_changes(page))
        connection.execute("INSERT INTO pages VALUES (?, ?, ?, ?, ?)", row)

    def _framing(self, kind: str) -> Iterator[int]:
        """Copies a kind from the table of triples, as it is now, while that goes on."""
        with ExitStack() as stack:
            snapshot = stack.enter_context(self._file.snapshot())
            values = dict(snapshot.execute("SELECT name, value FROM meta"))
            seq, last = (
                values["folded"],
                snapshot.execute("SELECT max(rowid) FROM triples").fetchone()[0] or 0,
            )
            if values["folded_part"]:
                return
            statement = (
                "SELECT subject, predicate, slot, object, object_type, hlc FROM triples WHERE rowid > ? AND"
                " rowid <= ? AND (predicate = ? OR (predicate >= ? AND predicate < ?)) ORDER BY rowid"
            )
            registers = parts = 0
            for begin in range(0, last, SCANNED):
                rows = snapshot.execute(statement, (begin, begin + SCANNED, kind, f"{kind}/", f"{kind}0"))
                while found := rows.fetchmany(PIECE):
                    piece = [(_wire(*row[:5]), int(row[5][:16], 16), row[5][17:]) for row in found]
                    with self._writing(len(piece)) as connection:
                        self._put_frame(connection, kind, seq, parts, pack_registers(piece))
                    registers, parts = registers + len(piece), parts + 1
                    yield len(piece)
                yield 1
        self._finish_frame(kind, seq, registers)
        yield 1

    def _put_frame(self, connection: sqlite3.Connection, kind: str, seq: int, part: int, body: bytes) -> None:
        connection.execute("INSERT OR REPLACE INTO frames VALUES (?, ?, ?, ?)", (kind, seq, part, body))

    def _finish_frame(self, kind: str, seq: int, registers: int) -> None:
        with self._writing(1) as connection:
            connection.execute("INSERT OR REPLACE INTO framed VALUES (?, ?, ?)", (kind, seq, registers))
            self._large[kind] = registers
            # those of a run that goes beyond the frame count for the next one
            pages = "SELECT coalesce(sum(changes), 0) FROM pages WHERE kind = ? AND first > ?"
            self._since[kind] = connection.execute(pages, (kind, seq)).fetchone()[0]

    def _cutting(self, floor: int) -> Iterator[int]:
        at = 0
        with self._file.snapshot() as connection:
            at = self._moment(connection, floor)
            for kind in self._kinds(connection, floor):
                yield from self._rebase(connection, kind, floor)
        with self._writing(1) as connection:
            self._file.set_meta({"floor": floor, "floor_at": at})
        self.floor = floor
        while True:
            with self._writing(PIECE) as connection:
                found = "SELECT first, last FROM runs WHERE last <= ? ORDER BY first LIMIT 4"
                old = connection.execute(found, (floor,)).fetchall()
                for first, _ in old:
                    connection.execute("DELETE FROM pages WHERE first = ?", (first,))
                    connection.execute("DELETE FROM runs WHERE first = ?", (first,))
            if not old:
                break
            yield len(old)
        newest = "SELECT kind, max(seq) FROM framed WHERE seq <= ? GROUP BY kind"
        with self._file.reading() as connection:
            bases = connection.execute(newest, (floor,)).fetchall()
        for kind, base in bases:
            with self._writing(PIECE) as connection:
                connection.execute("DELETE FROM framed WHERE kind = ? AND seq < ?", (kind, base))
                connection.execute("DELETE FROM frames WHERE kind = ? AND seq < ?", (kind, base))
            yield 1
        while True:
            with self._writing(PIECE) as connection:
                first = connection.execute("SELECT min(seq) FROM log WHERE seq <= ?", (floor,)).fetchone()[0]
                if first is None:
                    self._file.set_meta({"archived": max(floor, self.archived)})
                    break
                upto = min(floor, first + PIECE)
                connection.execute("DELETE FROM log WHERE seq <= ?", (upto,))
            yield PIECE
        self.archived = max(floor, self.archived)

    def _kinds(self, connection: sqlite3.Connection, floor: int) -> list[str]:
        """The kinds that have changed up to a floor since their last frame before it."""
        framed = "SELECT kind, max(seq) FROM framed WHERE seq <= ? GROUP BY kind"
        bases = dict(connection.execute(framed, (floor,)))
        pages = "SELECT kind, max(last) FROM pages JOIN runs USING (first) WHERE first <= ? GROUP BY kind"
        last = dict(connection.execute(pages, (floor,)))
        for seq, body in connection.execute("SELECT seq, body FROM log WHERE seq <= ?", (floor,)):
            for change in self._committed(seq, body).changes:
                last[kind_of(change[1])] = seq
        return sorted(kind for kind, seq in last.items() if seq > bases.get(kind, 0))

    def _rebase(self, connection: sqlite3.Connection, kind: str, floor: int) -> Iterator[int]:
        """Makes a frame of a kind at a floor from what is known of it."""
        store = Store()
        for piece in self._pieces(connection, floor, {kind}):
            store.apply(piece)
            yield len(piece)
        registers = parts = 0
        held = store.graves() if kind == DELETED else (r for r in store.registers() if r.predicate != DELETED)
        while piece := list(islice(held, PIECE)):
            packed = pack_registers([(change_to_wire(one), one.time, one.replica) for one in piece])
            with self._writing(len(piece)) as writer:
                self._put_frame(writer, kind, floor, parts, packed)
            registers, parts = registers + len(piece), parts + 1
            yield len(piece)
        with self._writing(1) as writer:
            writer.execute("INSERT OR REPLACE INTO framed VALUES (?, ?, ?)", (kind, floor, registers))
        yield 1

    def _writing(self, registers: int) -> Any:
        """A transaction about so many registers, after a checkpoint if one is due."""
        self._file.ease(4 + registers * 100 // PAGE_BYTES)
        return self._file.transaction()

    # -- reading -----------------------------------------------------------------------------------------------

    def reach(self, moment: int) -> int:
        """See `storage.TenantStorage.reach`."""
        with self._file.snapshot() as connection:
            found = connection.execute(
                "SELECT seq FROM log WHERE at <= ? ORDER BY seq DESC LIMIT 1", (moment,)
            )
            seq = found.fetchone()
            if seq is not None:
                return int(seq[0])
            run = "SELECT body FROM runs WHERE earliest <= ? ORDER BY first DESC LIMIT 1"
            for (body,) in connection.execute(run, (moment,)):
                last = max(one.seq for one in self._run(body) if one.at <= moment)
                if last >= self._floor(connection):
                    return last
            floor = self._floor(connection)
            kept = self._value(connection, "floor_at")
            if floor and moment < kept:
                raise HistoryError(
                    f"history begins later than that: what came before transaction {floor} is kept no longer"
                )
            return floor

    def past(self, seq: int, kinds: Collection[str] | None) -> Iterator[list[Change]]:
        """See `storage.TenantStorage.past`."""
        with self._file.snapshot() as connection:
            self._check(connection, seq)
            wanted = None if kinds is None else {*kinds, DELETED}
            yield from self._pieces(connection, seq, wanted)

    def _pieces(
        self, connection: sqlite3.Connection, seq: int, kinds: Collection[str] | None
    ) -> Iterator[list[Change]]:
        framed = "SELECT kind, max(seq) FROM framed WHERE seq <= ? GROUP BY kind"
        bases = {
            kind: base for kind, base in connection.execute(framed, (seq,)) if kinds is None or kind in kinds
        }
        bodies = "SELECT body FROM frames WHERE kind = ? AND seq = ? ORDER BY part"
        for kind, base in sorted(bases.items()):
            for (body,) in connection.execute(bodies, (kind, base)):
                yield unpack_registers(self._raw(body))
        floor = self._floor(connection)
        # the index alone says where there is something to be read: an app has more runs than a kind has pages in them
        pages = (
            "SELECT pages.rowid, pages.first, last, kind FROM runs CROSS JOIN pages USING (first)"
            " WHERE last > ? AND runs.first <= ? ORDER BY runs.first, kind, part"
        )
        run: list[Transaction] = []
        for row, first, last, kind in connection.execute(pages, (floor, seq)):
            base = bases.get(kind, floor)
            if last > base and (kinds is None or kind in kinds):
                if not run or run[0].seq != first:
                    run = self._run(self._body(connection, "runs", first))
                yield changed(self._raw(self._body(connection, "pages", row)), run, base, seq)
        lowest = floor if kinds is None else min((bases.get(kind, floor) for kind in kinds), default=seq)
        begin = max(lowest, self._value(connection, "archived"))
        rows = connection.execute(
            "SELECT seq, body FROM log WHERE seq > ? AND seq <= ? ORDER BY seq", (begin, seq)
        )
        for some in iter(lambda: rows.fetchmany(200), []):
            piece: list[Change] = []
            for at, body in some:
                committed = self._committed(at, body)
                stamp = parse_stamp(committed.stamp)
                piece += [
                    change_from_wire(wire, *stamp)
                    for wire in committed.changes
                    if kinds is None or kind_of(wire[1]) in kinds
                ]
            yield piece

    def deeds(self, subject: str) -> Iterator[list[Deed]]:
        """See `storage.TenantStorage.deeds`."""
        with self._file.snapshot() as connection:
            floor = self._floor(connection)
            yield [
                Deed(
                    floor,
                    self._value(connection, "floor_at"),
                    "",
                    self._base(connection, subject, floor),
                )
            ]
            runs = "SELECT first, body FROM runs WHERE last > ? ORDER BY first"
            for first, about in connection.execute(runs, (floor,)):
                found: dict[int, list[tuple[int, WireChange]]] = {}
                for (body,) in connection.execute("SELECT body FROM pages WHERE first = ?", (first,)):
                    raw = self._raw(body)
                    if names(raw, subject):
                        for owner, place, change in zip(*unpack_changes(raw), strict=True):
                            if change[0] == subject:
                                found.setdefault(owner, []).append((place, change))
                run = self._run(about) if found else []
                yield [
                    Deed(
                        one.seq,
                        one.at,
                        one.by,
                        [change_from_wire(wire, one.time, one.stamped) for _, wire in sorted(found[owner])],
                    )
                    for owner, one in enumerate(run)
                    if owner in found and one.seq > floor
                ]
            written = msgspec.json.encode(subject)
            last = max(floor, self._value(connection, "archived"))
            rows = connection.execute(
                'SELECT seq, at, "by", body FROM log WHERE seq > ? AND instr(body, ?) ORDER BY seq',
                (last, written),
            )
            for seq, at, by, body in rows:
                committed = self._committed(seq, body)
                stamp = parse_stamp(committed.stamp)
                changes = [change_from_wire(wire, *stamp) for wire in committed.changes if wire[0] == subject]
                yield [Deed(seq, at, by, changes)] if changes else []

    def _base(self, connection: sqlite3.Connection, subject: str, floor: int) -> list[Change]:
        """The registers of an entity at the floor, of which there is a frame of every kind."""
        bodies = (
            "SELECT body FROM frames JOIN (SELECT kind, max(seq) AS seq FROM framed WHERE seq <= ? GROUP BY kind)"
            " USING (kind, seq)"
        )
        found: list[Change] = []
        for (body,) in connection.execute(bodies, (floor,)) if floor else ():
            raw = self._raw(body)
            if names(raw, subject):
                found += [one for one in unpack_registers(raw) if one.subject == subject]
        return found

    def entries(
        self, connection: sqlite3.Connection, seq: int, limit: int
    ) -> Iterator[tuple[int, str, int, str, str, int, bytes]]:
        """At most `limit` of the entries after `seq` that are in runs, as rows of the log."""
        runs = "SELECT first, last, body FROM runs WHERE last > ? ORDER BY first"
        left = limit
        for first, last, about in connection.execute(runs, (seq,)):
            if left <= 0:
                return
            run = self._run(about)
            low, high = max(0, seq + 1 - first), min(last - first, max(0, seq + 1 - first) + left - 1)
            changes: dict[int, list[tuple[int, WireChange]]] = {}
            for (body,) in connection.execute("SELECT body FROM pages WHERE first = ?", (first,)):
                for owner, place, change in zip(*unpack_changes(self._raw(body)), strict=True):
                    if low <= owner <= high:
                        changes.setdefault(owner, []).append((place, change))
            for owner in range(low, high + 1):
                one = run[owner]
                set_ = [change for _, change in sorted(changes.get(owner, ()), key=lambda pair: pair[0])]
                stamp = f"{one.time:016x}-{one.stamped}"
                body = msgspec.json.encode(Committed(one.seq, one.by, stamp, set_))
                yield one.seq, one.replica, one.number, one.id, one.by, one.at, body
                left -= 1

    def _moment(self, connection: sqlite3.Connection, seq: int) -> int:
        """When a transaction was committed."""
        for (at,) in connection.execute("SELECT at FROM log WHERE seq = ?", (seq,)):
            return int(at)
        run = "SELECT first, body FROM runs WHERE first <= ? AND last >= ?"
        for first, body in connection.execute(run, (seq, seq)):
            return int(self._run(body)[seq - first].at)
        raise DamagedError(f"{self._file.path} is damaged: the log has no entry {seq}")

    def _check(self, connection: sqlite3.Connection, seq: int) -> None:
        floor, last = self._floor(connection), self._value(connection, "seq")
        if not floor <= seq <= last:
            raise HistoryError(
                f"history is kept from transaction {floor} to {last}; {seq} lies outside of that"
            )

    def _floor(self, connection: sqlite3.Connection) -> int:
        return self._value(connection, "floor")

    def _value(self, connection: sqlite3.Connection, name: str) -> int:
        return int(connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    def _body(self, connection: sqlite3.Connection, table: str, row: int) -> bytes:
        found = connection.execute(f"SELECT body FROM {table} WHERE rowid = ?", (row,))
        return bytes(found.fetchone()[0])

    def _run(self, body: bytes) -> list[Transaction]:
        try:
            return unpack_transactions(body)
        except (ValueError, msgspec.DecodeError) as error:
            raise self._damaged(error) from error

    def _raw(self, body: bytes) -> bytes:
        try:
            return unpacked(body)
        except ValueError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> StorageError:
        return DamagedError(f"{self._file.path} is damaged: its archive: {error}")

    def _committed(self, seq: int, body: bytes) -> Committed:
        try:
            return decode_committed(body)
        except ProtocolError as error:
            raise DamagedError(f"{self._file.path} is damaged: log entry {seq}: {error}") from error


def _wire(subject: str, predicate: str, slot: str, held: Any, named: str | None) -> WireChange:
    """A row of the table of triples as it would travel."""
    letter = _LETTERS[named]
    return subject, predicate, slot, letter, bool(held) if letter == "b" else held
