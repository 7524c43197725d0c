"""SQLite, the embedded default: one file for an app, in a directory that belongs to one server.

What is durable before an acknowledgement is the log (with receipts, replicas and the clock): rows appended in one
transaction, which is an order of magnitude cheaper than keeping the table of triples and its index. The table follows
through `fold`; `load` reads the table and what of the log is not in it yet. Invariants: table plus the rest of the log
is the whole log merged as `Store` merges it; `folded` in `meta` moves in the same transaction as the rows; the log
stays, for it is the history: what of it is older lies in an `archive`.

The table has the columns of a plain triple store, so that it can be read with any SQLite:

    subject predicate object object_type hlc    one register; `hlc` is its stamp, text that sorts as stamps do
    slot deleted                                 `change.py` says what slots mean; deleted: it holds no value
    seq tx author                                the transaction it came with

Folding merges in SQL: the higher `hlc` stands; equal ones go by `change.outranks`.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

from tripleweb.change import DELETED, RESET, Change
from tripleweb.clock import parse_stamp, stamp_text
from tripleweb.errors import DamagedError, HistoryError, ProtocolError, StorageError
from tripleweb.ids import check_app, nano_id
from tripleweb.storage import TAIL, App, Deed, archive, commits
from tripleweb.storage.file import PAGE_BYTES, DatabaseFile, OwnerLock, delete_database
from tripleweb.storage.rows import (
    OUTRANKING,
    PUT_TRIPLES,
    buried_of,
    from_columns,
    insert,
    outranks_row,
    to_columns,
)
from tripleweb.sync.messages import change_from_wire, decode_committed, encode
from tripleweb.sync.records import Commit, Entry, ReplicaRow, TenantState

T = TypeVar("T")
TENANT_FORM = "tripleweb tenant 4"
TENANT_TABLES = (
    """
CREATE TABLE log (seq INTEGER PRIMARY KEY, replica TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL,
    "by" TEXT NOT NULL, at INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE receipts (replica TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (replica, number));
CREATE TABLE replicas (replica TEXT PRIMARY KEY, user TEXT NOT NULL, last INTEGER NOT NULL,
    confirmed INTEGER NOT NULL, time INTEGER NOT NULL, seen INTEGER NOT NULL);
CREATE TABLE gists (replica TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (replica, number));
CREATE TABLE names (name TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE triples (subject TEXT NOT NULL, predicate TEXT NOT NULL, object, object_type TEXT, hlc TEXT NOT NULL,
    slot TEXT NOT NULL, deleted INTEGER NOT NULL, seq INTEGER NOT NULL, tx TEXT NOT NULL, author TEXT NOT NULL,
    PRIMARY KEY (subject, predicate, slot));"""
    + archive.TABLES
)
# receipts were kept whole for ever; whoever is known counts as seen when the server last wrote
_SEEN = """
ALTER TABLE replicas ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
UPDATE replicas SET seen = (SELECT value >> 16 FROM meta WHERE name = 'time');
CREATE TABLE gists (replica TEXT NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (replica, number));
CREATE TABLE names (name TEXT PRIMARY KEY, body BLOB NOT NULL)"""
OLDER = {
    "tripleweb tenant 2": archive.TABLES + ";" + _SEEN,  # and all of the log was rows
    "tripleweb tenant 3": _SEEN,
}
TAIL_BYTES_MAX = 16 << 20
UNREAD_BYTES = 1 << 20
PAGES = 8  # of the write-ahead log, that even a small commit takes
_ENTRY = 'SELECT seq, replica, number, id, "by", at, body FROM log '


class Unread(Sequence[Change]):
    """What a large entry of the log has set, read when somebody asks for it: hardly anybody does."""

    __slots__ = ("_held", "_read")

    def __init__(self, read: Callable[[], tuple[Change, ...]]) -> None:
        self._read = read
        self._held: tuple[Change, ...] | None = None

    def _all(self) -> tuple[Change, ...]:
        if self._held is None:
            self._held = self._read()
        return self._held

    def __len__(self) -> int:
        return len(self._all())

    def __iter__(self) -> Iterator[Change]:
        return iter(self._all())

    def __eq__(self, other: object) -> bool:
        return self._all() == (other._all() if isinstance(other, Unread) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(self._all())

    @overload
    def __getitem__(self, place: int) -> Change: ...

    @overload
    def __getitem__(self, place: slice) -> tuple[Change, ...]: ...

    def __getitem__(self, place: int | slice) -> Change | tuple[Change, ...]:
        return self._all()[place]


class SqliteTenant:
    """One app's file; the contract is `storage.TenantStorage`."""

    def __init__(self, path: Path, app: str, sizes: archive.Sizes | None = None) -> None:
        self.app = app
        self._file = DatabaseFile(path, TENANT_FORM, TENANT_TABLES, full=True, sole=False, older=OLDER)
        try:
            if self._file.created:
                with self._file.transaction():
                    self._file.set_meta(
                        {"epoch": nano_id(os.urandom), "seq": 0, "time": 0, "folded": 0, "folded_part": 0}
                    )
            with self._file.reading() as connection:
                connection.create_function("outranks", 4, outranks_row, deterministic=True)
                connection.execute(
                    "SELECT json_extract('[1]', '$[0]')"
                )  # or it says here that there is no JSON
                connection.executescript(commits.TAKING)
                self._epoch = str(self._file.meta("epoch"))
                self._seq, self._folded, self._part = (
                    int(str(self._file.meta(name))) for name in ("seq", "folded", "folded_part")
                )
            self._archive = archive.Archive(self._file, sizes or archive.Sizes())
            self._folding: Entry | None = None  # the entry of which `_part` registers are in the table
        except ValueError as error:
            self._file.close()
            raise DamagedError(f"{path} is damaged: {error}") from error
        except BaseException:
            self._file.close()
            raise

    @property
    def backlog(self) -> int:
        return self._seq - self._folded

    @property
    def closed(self) -> bool:
        return self._file.closed

    def load(self, tail: int = TAIL) -> TenantState:
        with ExitStack() as stack:
            connection = stack.enter_context(self._file.snapshot())
            values = dict(connection.execute("SELECT name, value FROM meta"))
            folded = values["folded"], values["folded_part"]
            newest: list[Entry] = []
            size = 0
            for row in connection.execute(_ENTRY + "ORDER BY seq DESC LIMIT ?", (tail,)):
                size += len(row[6])
                if newest and size > TAIL_BYTES_MAX:
                    break
                newest.append(self._entry(row))
            return TenantState(
                epoch=self._epoch,
                origin=values.get("origin", self._epoch),
                backup=msgspec.json.decode(values["backup"], type=tuple[str, int])
                if "backup" in values
                else None,
                seq=values["seq"],
                time=values["time"],
                replicas={
                    replica: ReplicaRow(*row)
                    for replica, *row in connection.execute(
                        "SELECT replica, user, last, confirmed, time, seen FROM replicas"
                    )
                },
                receipts={
                    (replica, number): (tx, body)
                    for replica, number, tx, body in connection.execute(
                        "SELECT replica, number, id, body FROM receipts"
                    )
                },
                gists={
                    (replica, number): body
                    for replica, number, body in connection.execute("SELECT replica, number, body FROM gists")
                },
                names=dict(connection.execute("SELECT name, body FROM names")),
                tail=newest[::-1],
                registers=self._registers(connection, *folded, stack.pop_all()),
            )

    def _registers(
        self, connection: sqlite3.Connection, folded: int, part: int, stack: ExitStack
    ) -> Iterator[Change]:
        last, time, replica = "", 0, ""
        with stack:
            rows = connection.execute(
                "SELECT subject, predicate, slot, object, object_type, hlc FROM triples"
            )
            try:
                for subject, predicate, slot, held, named, hlc in rows:
                    if hlc != last:
                        last, time, replica = hlc, int(hlc[:16], 16), hlc[17:]
                    yield Change(subject, predicate, slot, from_columns(held, named), time, replica)
            except (ValueError, TypeError) as error:
                raise DamagedError(f"{self._file.path} is damaged: {error}") from error
            for row in connection.execute(_ENTRY + "WHERE seq > ? ORDER BY seq", (folded,)):
                yield from self._entry(row).registers[part:]  # the first of the first one are in the table
                part = 0

    def _entry(self, row: Any) -> Entry:
        seq, replica, number, tx, by, at, packed = row
        read = partial(self._read, seq, packed)
        registers = Unread(read) if len(packed) > UNREAD_BYTES else read()
        return Entry(seq, replica, number, tx, by, at, packed, registers)

    def _read(self, seq: int, packed: bytes) -> tuple[Change, ...]:
        try:
            body = decode_committed(packed)
            stamp = parse_stamp(body.stamp)
            return tuple([change_from_wire(wire, *stamp) for wire in body.changes])
        except (ValueError, TypeError, ProtocolError) as error:
            raise DamagedError(f"{self._file.path} is damaged: log entry {seq}: {error}") from error

    def since(self, seq: int, limit: int = 1_000) -> list[Entry]:
        with self._file.snapshot() as connection:
            values = dict(connection.execute("SELECT name, value FROM meta"))
            if seq < values["floor"]:
                raise HistoryError(
                    f"the log of app {self.app!r} begins after entry {values['floor']}, not {seq}"
                )
            older = self._archive.entries(connection, seq, limit) if seq < values["archived"] else ()
            found = [self._entry(row) for row in older]
            rest = (seq + len(found), limit - len(found))
            rows = connection.execute(_ENTRY + "WHERE seq > ? ORDER BY seq LIMIT ?", rest)
            return found + [self._entry(row) for row in rows]

    def commit(self, commit: Commit) -> None:
        try:
            self._check_continues(commit)
            packed = commits.packed(commit)
            self._file.ease(PAGES + commits.scattered(commit) + 2 * sum(map(len, packed[:5])) // PAGE_BYTES)
            self._file.execute(commits.TAKE, packed)
        except BaseException as error:
            self._file.fail(f"a commit failed ({error}); open it again")
            raise
        self._seq = commit.seq

    def _check_continues(self, commit: Commit) -> None:
        expected = list(range(self._seq + 1, commit.seq + 1))
        if commit.seq < self._seq or [entry.seq for entry in commit.entries] != expected:
            raise StorageError(
                f"{self._file.path}: commit {commit.batch} up to {commit.seq} does not continue {self._seq}"
            )

    def fold(self, limit: int = 500) -> int:
        if not self.backlog:
            self._file.checkpoint()
            return 0
        try:
            self._file.ease(PAGES + min(limit, self.backlog))  # each register on a page of its own, at worst
            with self._file.transaction() as connection:
                moved, folded, part, entry = self._move(connection, limit)
                self._file.set_meta({"folded": folded, "folded_part": part})
        except StorageError as error:
            self._file.fail(f"folding failed ({error}); open it again")
            raise
        self._folded, self._part, self._folding = folded, part, entry
        return moved

    def _move(self, connection: sqlite3.Connection, limit: int) -> tuple[int, int, int, Entry | None]:
        """Merges the next registers; returns how many, and where that leaves off: the last entry that is in the
        table, how many registers of the next one are, and that one."""
        moved, folded, part, entry = 0, self._folded, self._part, self._folding
        pieces: list[tuple[Entry, Sequence[Change]]] = []
        begin = folded if entry is None else folded + 1
        rows = connection.execute(_ENTRY + "WHERE seq > ? ORDER BY seq LIMIT ?", (begin, limit))
        while moved < limit and folded < self._seq:
            if entry is None:
                row = rows.fetchone()
                if row is None or row[0] != folded + 1:
                    raise DamagedError(f"{self._file.path} is damaged: the log has no entry {folded + 1}")
                entry = self._entry(row)
            piece = entry.registers[part : part + limit - moved]
            pieces.append((entry, piece))
            moved += max(len(piece), 1)
            part += len(piece)
            if part >= len(entry.registers):
                folded, part, entry = folded + 1, 0, None
        rows.close()
        self._merge(connection, pieces)
        return moved, folded, part, entry

    def _merge(
        self, connection: sqlite3.Connection, pieces: Sequence[tuple[Entry, Sequence[Change]]]
    ) -> None:
        buried = buried_of(connection, {change.subject for _, piece in pieces for change in piece})
        rows: list[tuple[Any, ...]] = []
        for entry, piece in pieces:
            for change in piece:
                subject = change.subject
                if change.predicate == DELETED:
                    if subject not in buried:
                        insert(connection, PUT_TRIPLES, rows, OUTRANKING)
                        rows.clear()
                        connection.execute("DELETE FROM triples WHERE subject = ?", (subject,))
                        buried.add(subject)
                elif subject in buried:
                    continue
                held, named = to_columns(change.value)
                deleted = change.predicate == DELETED or (change.value is None and change.slot != RESET)
                hlc = stamp_text(change.time, change.replica)
                row = subject, change.predicate, change.slot, held, named, hlc, deleted
                rows.append((*row, entry.seq, entry.id, entry.by))
        insert(connection, PUT_TRIPLES, rows, OUTRANKING)

    # -- history -----------------------------------------------------------------------------------------------

    @property
    def floor(self) -> int:
        return self._archive.floor

    @property
    def unarchived(self) -> int:
        return self._archive.waiting(self._seq)

    def archive(self) -> int:
        return self._older(lambda: self._archive.step(self._seq, self._folded, self._part))

    def trim(self, floor: int) -> int:
        return self._older(lambda: self._archive.cut(min(floor, self._folded)))

    def _older(self, work: Callable[[], int]) -> int:
        with self._file.reading():
            pass  # or it says here that it is closed, or has failed
        try:
            return work()
        except StorageError as error:
            self._file.fail(f"moving the older part of the log failed ({error}); open it again")
            raise

    def reach(self, moment: int) -> int:
        return self._archive.reach(moment)

    def past(self, seq: int, kinds: Collection[str] | None = None) -> Iterator[list[Change]]:
        return self._archive.past(seq, kinds)

    def deeds(self, subject: str) -> Iterator[list[Deed]]:
        return self._archive.deeds(subject)

    def close(self) -> None:
        if not self._file.closed:
            self._archive.close()
        self._file.close()

    # -- for backups -------------------------------------------------------------------------------------------

    @property
    def position(self) -> tuple[str, int]:
        return self._epoch, self._seq

    @property
    def bytes(self) -> int:
        """The size of the file, without what waits beside it."""
        return self._file.path.stat().st_size

    @property
    def log_bytes(self) -> int:
        """What the log takes in the file, about. It is added up."""
        sums = (
            f"(SELECT ifnull(sum(length(body)), 0) FROM {table})"
            for table in ("log", "runs", "pages", "frames")
        )
        with self._file.snapshot() as connection:
            return int(connection.execute(f"SELECT {' + '.join(sums)}").fetchone()[0])

    @property
    def note(self) -> str | None:
        """What `set_note` has said of this file."""
        with self._file.reading():
            return None if (held := self._file.meta("note")) is None else str(held)

    def set_note(self, note: str) -> None:
        with self._file.transaction():
            self._file.set_meta({"note": note})

    def backed_up(self, position: tuple[str, int]) -> None:
        """A verified backup reaches this far: `load` says it from now on."""
        with self._file.transaction():
            self._file.set_meta({"backup": encode(position).decode()})

    def begin_epoch(self, epoch: str) -> None:
        """What is here is the beginning of another history than the one that it was written in."""
        with self._file.transaction() as connection:
            self._file.set_meta({"epoch": epoch, "origin": self._file.meta("origin") or self._epoch})
            connection.execute("DELETE FROM meta WHERE name IN ('note', 'backup')")
        self._epoch = epoch

    def copy_to(self, path: Path) -> None:
        """A file of its own with all that is committed in this moment, while commits go on."""
        with self._file.snapshot() as connection:
            connection.execute("COMMIT")  # it takes a snapshot by itself, and not within a transaction
            connection.execute("PRAGMA query_only = 0")
            connection.execute("VACUUM INTO ?", (str(path),))

    def integrity(self) -> list[str]:
        """What is wrong with its pages."""
        with self._file.snapshot() as connection:
            found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
            return [] if found == ["ok"] else [f"{self._file.path} is damaged: {one}" for one in found]

    def vacuum(self) -> None:
        """Gives back the room that is not used. Nobody else may be at it."""
        with self._file.reading() as connection:
            connection.execute("VACUUM")
        self._file.checkpoint()


REGISTRY_FORM = "tripleweb registry 1"
REGISTRY_TABLES = """
CREATE TABLE apps (id TEXT PRIMARY KEY, name TEXT NOT NULL, created INTEGER NOT NULL, members TEXT NOT NULL)"""
ENDING = ".tenant.sqlite"
BLOCKED = ".blocked"  # a file beside an app's that says why it is not to be opened
_RESERVED = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(10))}


def file_name(app: str) -> str:
    """The name of an app's file: no two apps share one, also where file names have no case; none is a device.

    >>> file_name("my-app"), file_name("My.App"), file_name("aux")
    ('my-app.tenant.sqlite', '%4dy%2e%41pp.tenant.sqlite', '%61ux.tenant.sqlite')
    """
    plain = "abcdefghijklmnopqrstuvwxyz0123456789_-"
    name = "".join(c if c in plain else f"%{ord(c):02x}" for c in check_app(app))
    if name in _RESERVED:
        name = f"%{ord(name[0]):02x}{name[1:]}"
    return name + ENDING


def app_of(name: str) -> str:
    """The app whose file has this name.

    >>> app_of(file_name("My.App"))
    'My.App'
    """
    first, *rest = name.removesuffix(ENDING).split("%")
    return first + "".join(chr(int(piece[:2], 16)) + piece[2:] for piece in rest)


class SqliteStores:
    """A server's directory: `server.sqlite`, a file for each tenant, and the lock; see `storage.TenantStores`."""

    def __init__(self, folder: str | os.PathLike[str], sizes: archive.Sizes | None = None) -> None:
        self.folder = Path(folder)
        self._sizes = sizes
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StorageError(f"{folder}: {error}") from error
        self._open: dict[str, SqliteTenant] = {}
        self._guard = threading.Lock()
        self._owner = OwnerLock(self.folder / "server.lock", self.folder)
        try:
            self._registry = DatabaseFile(
                self.folder / "server.sqlite", REGISTRY_FORM, REGISTRY_TABLES, full=True, sole=True
            )
            if self._registry.created:
                with self._registry.transaction():
                    self._registry.set_meta({"server_id": nano_id(os.urandom)})
            with self._registry.reading():
                self.server_id = str(self._registry.meta("server_id"))
        except BaseException:
            self._owner.release()
            raise

    def open(self, app: str) -> SqliteTenant:
        path = self.folder / file_name(app)
        with self._guard:
            self._check_closed(app)
            self._check_free(path)
            tenant = self._open[app] = SqliteTenant(path, app, self._sizes)
            return tenant

    def _check_free(self, path: Path) -> None:
        try:
            why = Path(f"{path}{BLOCKED}").read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError(f"{path}: {error}") from error
        raise StorageError(why)

    @contextmanager
    def reserved(self, app: str) -> Iterator[None]:
        """Nobody opens an app's data meanwhile. Raises `StorageError` while it is open."""
        with self._guard:
            self._check_closed(app)
            yield

    def _check_closed(self, app: str) -> None:
        held = self._open.get(app)
        if held is not None and not held.closed:
            raise StorageError(f"app {app!r} is open already")

    def tenants(self) -> list[str]:
        return sorted(app_of(path.name) for path in self.folder.glob("*" + ENDING))

    def drop(self, app: str) -> None:
        with self._guard:
            self._check_closed(app)
            try:
                delete_database(self.folder / file_name(app))
            except OSError as error:
                raise StorageError(f"{self.folder}: {error}") from error

    def apps(self) -> dict[str, App]:
        with self._registry.reading() as connection:
            rows = connection.execute("SELECT id, name, created, members FROM apps ORDER BY id")
            return {row[0]: App(row[0], row[1], row[2], msgspec.json.decode(row[3])) for row in rows}

    def put(self, app: App) -> None:
        check_app(app.id)
        with self._registry.transaction() as connection:
            self._put(connection, app)

    def _put(self, connection: sqlite3.Connection, app: App) -> None:
        connection.execute(
            "INSERT OR REPLACE INTO apps (id, name, created, members) VALUES (?, ?, ?, ?)",
            (app.id, app.name, app.created, msgspec.json.encode(app.members).decode()),
        )

    def patch(
        self, app: str, name: str | None = None, members: Mapping[str, str | None] | None = None
    ) -> App:
        with self._registry.transaction() as connection:
            patched = self.apps()[app].patched(name, members or {})
            self._put(connection, patched)
            return patched

    def delete(self, app: str) -> None:
        self.drop(app)
        with self._registry.transaction() as connection:
            connection.execute("DELETE FROM apps WHERE id = ?", (app,))

    def close(self) -> None:
        with self._guard, ExitStack() as stack:
            stack.callback(self._owner.release)
            stack.callback(self._registry.close)
            for tenant in self._open.values():
                stack.callback(tenant.close)
