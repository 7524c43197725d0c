"""A replica's durable file: what a client has, has written and has not yet been told the fate of.

Log first: a save appends one row with the registers it set, packed, so that it costs the same whatever is already
there; `chunks` hold the registers as they were at some save, and the content is the chunks with the later saves on
top. `compact` writes new chunks in small steps, into a new generation that counts from one moment on; it never holds
up a save for longer than one step. Opening reads the chunks and the rest of the log and compacts if the rest had
outgrown them: it takes as long as there is data, not as long as there is history. What was saved in columns where
nothing had been is data, and as quick to read as chunks: it makes nothing outgrow anything.

Invariants: a save is there whole or not at all; with the durability "process" it survives the death of the process
once it returned, with "full" that of the machine. One owner at a time, by a lock that dies with its process.

    chunks   generation, n, body       registers, packed as `packing.encode_apart` does
    saves    n, body                   [clear, revive, registers, drop], applied in this order, or registers as columns
    outbox   number, id, time, changes (with the query of a guarded transaction: `packing.encode_pending`)
    kept     what the server accepted, as in the outbox, with whose number it is and where it stands (`records.Kept`)
    fates    what became of writes: at least what `records.worth_keeping` says
    meta     JSON values by name; names beginning with "_" are the file's own, `_format` says what it is
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from tripleweb.blocks import Changes
from tripleweb.change import Change, Key
from tripleweb.collector import collector_at_rest
from tripleweb.errors import StorageError, StoreLockedError
from tripleweb.ids import nano_id
from tripleweb.storage.file import PAGE_BYTES, DatabaseFile, OwnerLock, delete_database
from tripleweb.storage.packing import (
    MARK,
    Unpacker,
    decode_pending,
    decode_save,
    encode,
    encode_apart,
    encode_blocks,
    encode_pending,
)
from tripleweb.store import Store
from tripleweb.sync.records import (
    FATES_MAX,
    LOST,
    LOST_MAX,
    Fate,
    Kept,
    LocalCommit,
    LocalState,
    Pending,
    lost,
    worth_keeping,
)

Durability = Literal["process", "full"]

VERSION = 1
FORM = f"tripleweb replica {VERSION}"
TABLES = """
CREATE TABLE chunks (generation INTEGER NOT NULL, n INTEGER NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (generation, n));
CREATE TABLE saves (n INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE outbox (number INTEGER PRIMARY KEY, id TEXT NOT NULL, time INTEGER NOT NULL, changes BLOB NOT NULL);
CREATE TABLE fates (n INTEGER PRIMARY KEY, time INTEGER NOT NULL, subject TEXT NOT NULL, predicate TEXT NOT NULL,
    value TEXT NOT NULL, outcome TEXT NOT NULL, "by" TEXT NOT NULL, reason TEXT NOT NULL)"""
# came later: a file that has none gets it, and an earlier version does not mind it
KEPT = """
CREATE TABLE IF NOT EXISTS kept (replica TEXT NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL,
    time INTEGER NOT NULL, changes BLOB NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL,
    was TEXT NOT NULL, PRIMARY KEY (replica, number))"""
_was = msgspec.json.Decoder(list[tuple[str, int]])
_KEEP = "INSERT OR REPLACE INTO kept (replica, number, id, time, epoch, seq, at, was, changes) "
CHUNK = 2_000  # registers in one row
PAGES = 5  # of the write-ahead log, that even a small save takes
BACKLOG_MIN = 20_000  # a log shorter than this is not worth compacting

# An adopted file carries the version in its name, so that versions that do not read each other keep apart.
ENDING = f".v{VERSION}.replica"


def apply_to(
    store: Store, clear: bool, revive: Iterable[str], registers: Iterable[Change], drop: Iterable[Key]
) -> Store:
    """One commit, or a part of one, on top of what is there (see `records.LocalCommit`). Returns what is then there."""
    if clear:
        store = Store()
    store.put(registers, (), revive)
    store.put((), drop)
    return store


class _Registers:
    """The registers of a store, whenever they are asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __iter__(self) -> Iterator[Change]:
        return self._store.registers()


class Replica(Protocol):
    """Where a session keeps its replica."""

    @property
    def path(self) -> str:
        """The file, or ":memory:"."""
        ...

    @property
    def keeps(self) -> bool:
        """False if nothing that is saved will ever be loaded again."""
        ...

    @property
    def due(self) -> bool:
        """True if `compact` is worth its while."""
        ...

    def load(self) -> LocalState:
        """The state after the last save."""
        ...

    def save(self, commit: LocalCommit) -> None:
        """Atomic, and durable when it returns. Raises `StorageError`; then nothing of it is saved."""
        ...

    def compact(self, registers: Iterable[Change]) -> Iterator[None]:
        """Rewrites the content as `registers`, which is everything that was saved up to the first step. One small
        piece of work a step, saves may come in between; left before its end, it has changed nothing."""
        ...

    def close(self) -> None:
        """Ends it and lets go of the file; more than once is fine."""
        ...

    def wipe(self) -> None:
        """Ends it and deletes what is there."""
        ...


class ReplicaFile:
    """A replica in a file of its own; see `Replica`.

    Raises `StoreLockedError` if another running session (of this process or another) has it, and `StorageError` for
    a file that is damaged, of another version, or not a replica at all; that file is not touched.
    """

    def __init__(self, path: str | os.PathLike[str], durability: Durability = "process") -> None:
        if durability not in ("process", "full"):
            raise ValueError(f'durability is "process" or "full", not {durability!r}')
        self._path = Path(os.path.realpath(path))  # a link to a file that is in use is that file
        if not self._path.parent.is_dir():  # else what is told of is the lock, of which nobody knows
            raise StorageError(f"{self._path}: there is no folder {self._path.parent}; make it first")
        self._owner = OwnerLock(Path(f"{self._path}.lock"), self._path)
        try:
            self._file = DatabaseFile(self._path, FORM, TABLES, full=durability == "full", sole=True)
            try:
                self._begin()
            except BaseException:
                self._file.close()
                raise
        except BaseException:
            self._owner.release(delete=True)  # it may be somebody else's file: leave nothing beside it
            raise

    def _begin(self) -> None:
        if self._file.created:
            with self._file.transaction():
                self._file.set_meta({"_generation": 0, "_folded": 0})
        with self._file.transaction() as connection:
            connection.execute(KEPT)
        with self._file.reading() as connection:
            self._generation, self._folded = (
                int(str(self._file.meta(name))) for name in ("_generation", "_folded")
            )
            self._saved, self._fate, self._outbox = connection.execute(
                "SELECT max(?, (SELECT ifnull(max(n), 0) FROM saves)), (SELECT ifnull(max(n), 0) FROM fates),"
                " (SELECT count(*) FROM outbox)",
                (self._folded,),
            ).fetchone()
        self._fates_due = self._fate + FATES_MAX  # the number after which they are swept
        self._chunked = 0  # registers in the chunks, or in saves that were the first of them
        self._backlog = 0  # other registers in the saves that are not in the chunks
        self._compacting = False

    keeps = True

    @property
    def path(self) -> str:
        return str(self._path)

    @property
    def unsent(self) -> int:
        """How many transactions were in the outbox when the file was opened."""
        return int(self._outbox)

    @property
    def due(self) -> bool:
        return not self._compacting and self._backlog > max(BACKLOG_MIN, self._chunked)

    def load(self) -> LocalState:
        store, unpacker = Store(), Unpacker()
        self._chunked = self._backlog = 0
        try:
            with collector_at_rest(), self._file.reading() as connection:
                for (body,) in connection.execute(
                    "SELECT body FROM chunks WHERE generation = ? ORDER BY n", (self._generation,)
                ):
                    self._chunked += unpacker.load(store, body)[0]
                for (body,) in connection.execute(
                    "SELECT body FROM saves WHERE n > ? ORDER BY n", (self._folded,)
                ):
                    if body[:1] == MARK:
                        count, fresh = unpacker.load(store, body)
                        self._chunked += fresh
                        self._backlog += count - fresh
                        continue
                    clear, revive, rows, drop = decode_save(body)
                    self._begin_anew(clear)
                    self._backlog += 1 + len(rows) + len(drop)
                    store = apply_to(store, clear, revive, map(Change._make, rows), drop)
                state = LocalState(
                    registers=_Registers(store),
                    store=store,
                    pending=[
                        Pending(number, tx, time, *decode_pending(changes))
                        for number, tx, time, changes in connection.execute(
                            "SELECT number, id, time, changes FROM outbox ORDER BY number"
                        )
                    ],
                    fates=[
                        Fate(time, subject, predicate, tuple(msgspec.json.decode(value)), outcome, by, reason)
                        for time, subject, predicate, value, outcome, by, reason in connection.execute(
                            'SELECT time, subject, predicate, value, outcome, "by", reason FROM fates ORDER BY n'
                        )
                    ],
                    kept=[
                        Kept(
                            replica,
                            number,
                            tx,
                            time,
                            decode_pending(changes)[0],
                            epoch,
                            seq,
                            at,
                            _was.decode(was),
                        )
                        for replica, number, tx, time, changes, epoch, seq, at, was in connection.execute(
                            "SELECT replica, number, id, time, changes, epoch, seq, at, was FROM kept"
                        )
                    ],
                    meta={
                        name: msgspec.json.decode(value)
                        for name, value in connection.execute("SELECT name, value FROM meta")
                        if not name.startswith("_")
                    },
                )
        except (msgspec.MsgspecError, ValueError, TypeError) as error:
            raise StorageError(f"{self._path} is damaged: {error}") from error
        found, state.fates = state.fates, worth_keeping(state.fates)
        if forgotten := lost(found) - lost(
            state.fates
        ):  # not yet by `_sweep_fates`; the session goes on from here
            state.meta["forgotten"] = state.meta.get("forgotten", 0) + forgotten
        if self.due:
            for _ in self.compact(state.registers):
                pass
        return state

    def _begin_anew(self, clear: bool) -> None:
        """What is forgotten is history from now on."""
        if clear:
            self._chunked, self._backlog = 0, self._backlog + self._chunked

    def save(self, commit: LocalCommit) -> None:
        rows = _pieces(commit)
        pending = [(p.number, p.id, p.time, encode_pending(p.changes, p.check)) for p in commit.pending]
        _check_names(commit)
        fate_values = [msgspec.json.encode(fate.value).decode() for fate in commit.fates]
        meta = {name: msgspec.json.encode(value).decode() for name, value in commit.meta.items()}
        size = sum(map(len, rows)) + sum(len(changes) for *_, changes in pending)
        self._file.ease(PAGES + 2 * size // PAGE_BYTES)
        with self._file.transaction() as connection:
            first, self._saved = self._saved + 1, self._saved + len(rows)  # a number is not used twice
            if rows:
                connection.executemany("INSERT INTO saves (n, body) VALUES (?, ?)", enumerate(rows, first))
            self._keep(connection, commit)
            if commit.decided:
                connection.executemany("DELETE FROM outbox WHERE number = ?", [(n,) for n in commit.decided])
            if pending:
                connection.executemany(
                    "INSERT OR REPLACE INTO outbox (number, id, time, changes) VALUES (?, ?, ?, ?)", pending
                )
            if commit.fates:
                first, self._fate = self._fate + 1, self._fate + len(commit.fates)
                connection.executemany(
                    'INSERT INTO fates (n, time, subject, predicate, value, outcome, "by", reason)'
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    [
                        (n, f.time, f.subject, f.predicate, value, f.outcome, f.by, f.reason)
                        for n, (f, value) in enumerate(zip(commit.fates, fate_values, strict=True), first)
                    ],
                )
                if self._fate > self._fates_due:
                    self._sweep_fates(connection)
            if meta:
                self._file.set_meta(meta)
            fresh = len(commit.registers) if commit.clear else commit.fresh
            self._begin_anew(commit.clear)
            self._chunked += fresh
            self._backlog += len(rows) + len(commit.registers) - fresh + len(commit.drop)

    def _keep(self, connection: sqlite3.Connection, commit: LocalCommit) -> None:
        """What the outbox has of a transaction that is kept from now on is not packed anew."""
        if commit.released:
            connection.executemany("DELETE FROM kept WHERE replica = ? AND number = ?", commit.released)
        outbox = set(commit.decided)
        for one in commit.kept:
            was = msgspec.json.encode(one.was).decode()
            at, identity = (one.epoch, one.seq, one.at, was), (one.number, one.id, one.time)
            if (
                one.number in outbox
                and connection.execute(
                    _KEEP + "SELECT ?, number, id, time, ?, ?, ?, ?, changes FROM outbox"
                    " WHERE number = ? AND id = ? AND time = ?",
                    (one.replica, *at, *identity),
                ).rowcount
            ):
                continue
            if not connection.execute(
                "UPDATE kept SET epoch = ?, seq = ?, at = ?, was = ?"
                " WHERE replica = ? AND number = ? AND id = ? AND time = ?",
                (*at, one.replica, *identity),
            ).rowcount:
                row = one.replica, *identity, *at, encode_pending(one.changes, None)
                connection.execute(_KEEP + "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def _sweep_fates(self, connection: sqlite3.Connection) -> None:
        """Forgets what `worth_keeping` would, once in a while: each time looks at all of them."""
        before = self._fate - FATES_MAX
        connection.execute("DELETE FROM fates WHERE n <= ? AND outcome NOT IN (?, ?)", (before, *LOST))
        connection.execute(
            "DELETE FROM fates WHERE n <= (SELECT n FROM fates WHERE n <= ? ORDER BY n DESC LIMIT 1 OFFSET ?)",
            (before, LOST_MAX),
        )
        self._fates_due = self._fate + FATES_MAX

    def compact(self, registers: Iterable[Change]) -> Iterator[None]:
        # What is in neither the old chunks nor the saves up to `folded` is in a later save, so registers that were
        # saved while the steps ran may be in the new chunks or not: replaying the later saves comes to the same.
        if self._compacting:
            raise StorageError(f"{self._path} is being compacted already")
        self._compacting = True
        try:
            yield from self._sweep()
            generation, folded, backlog = self._generation + 1, self._saved, self._backlog
            source, count, n = iter(registers), 0, 0
            while piece := list(islice(source, CHUNK)):
                body = encode_apart(piece)
                self._file.ease(PAGES + len(body) // PAGE_BYTES)
                with self._file.transaction() as connection:
                    connection.execute(
                        "INSERT INTO chunks (generation, n, body) VALUES (?, ?, ?)", (generation, n, body)
                    )
                count, n = count + len(piece), n + 1
                yield
            with self._file.transaction():
                self._file.set_meta({"_generation": generation, "_folded": folded})
            self._generation, self._folded, self._chunked = generation, folded, count
            self._backlog -= backlog
            yield
            yield from self._sweep()
            self._file.checkpoint()
        finally:
            self._compacting = False

    def _sweep(self) -> Iterator[None]:
        """Deletes what no longer counts: chunks of another generation, saves that are in the chunks."""
        gone = 1
        while gone:
            with self._file.transaction() as connection:
                gone = connection.execute(
                    "DELETE FROM chunks WHERE rowid IN (SELECT rowid FROM chunks WHERE generation <> ? LIMIT 8)",
                    (self._generation,),
                ).rowcount
                gone += connection.execute(
                    "DELETE FROM saves WHERE n IN (SELECT n FROM saves WHERE n <= ? ORDER BY n LIMIT 64)",
                    (self._folded,),
                ).rowcount
            if gone:
                yield

    def close(self) -> None:
        try:
            self._file.close()
        finally:
            self._owner.release()

    def wipe(self) -> None:
        self._file.check_process()
        if self._file.closed:
            raise StorageError(f"{self._path} was closed; it may be another session's by now")
        try:
            self._file.fail("was wiped")  # nothing more is written into it
            self._file.close()
            delete_database(self._path)
        except OSError as error:
            raise StorageError(f"{self._path}: {error}") from error
        finally:
            self._owner.release(delete=True)


def _check_names(commit: LocalCommit) -> None:
    for name in commit.meta:
        if name.startswith("_"):
            raise ValueError(f"names in meta do not begin with '_': {name!r}")


def _pieces(commit: LocalCommit) -> list[bytes]:
    """A commit's registers as rows of bounded size."""
    registers, drop = commit.registers, commit.drop
    if not (commit.clear or commit.revive or registers or drop):
        return []
    if len(registers) + len(drop) <= CHUNK and not isinstance(registers, Changes):
        return [encode((commit.clear, commit.revive, registers, drop))]
    rows = [encode((commit.clear, commit.revive, (), ()))]
    loose = registers.loose if isinstance(registers, Changes) else registers
    for i in range(0, len(loose), CHUNK):
        piece = loose[i : i + CHUNK]
        rows.append(encode_apart(piece) if commit.clear else encode((False, (), piece, ())))
    if isinstance(registers, Changes):
        rows += encode_blocks(registers.blocks)
    for i in range(0, len(drop), CHUNK):
        rows.append(encode((False, (), (), drop[i : i + CHUNK])))
    return rows


def check_belongs(replica: Replica, state: LocalState, app: str) -> None:
    """Raises `StorageError` for a replica of another app: it is of one for ever, or of none (""). What a local store
    holds, no server would ever hear of, and what a server does not have, the first load would take away."""
    owner = state.meta.get("app")
    if owner is None:
        replica.save(LocalCommit(meta={"app": app}))
    elif owner != app:
        what = (
            f"a replica of the app {owner!r}: connect to that"
            if owner
            else "a store without a server: open it"
        )
        raise StorageError(f"{replica.path} is {what}")


def adopt(folder: str | os.PathLike[str], durability: Durability = "process") -> ReplicaFile:
    """A replica of `folder` that no running session holds: one with unsent transactions first, then the one used
    last; a new one where there is none. Sessions of several processes may choose at the same time.

    Raises `StorageError` for a damaged file: it may hold what nobody else has, so it is not passed over.
    """
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StorageError(f"{folder}: {error}") from error
    choosing = OwnerLock(place / "adopt.lock", place, wait=10)
    best: ReplicaFile | None = None
    try:
        for path in sorted(place.glob("*" + ENDING), key=_last_used, reverse=True):
            try:
                found = ReplicaFile(path, durability)
            except StoreLockedError:
                continue
            if best is not None and not found.unsent:
                found.close()
                continue
            if best is not None:
                best.close()
            best = found
            if best.unsent:
                break
        if best is None:
            best = ReplicaFile(place / (nano_id(os.urandom, 12) + ENDING), durability)
        return best
    except BaseException:
        if best is not None:
            best.close()
        raise
    finally:
        choosing.release()


def unsent(folder: str | os.PathLike[str], besides: Collection[str] = ()) -> ReplicaFile | None:
    """A replica of `folder` with unsent transactions that no running session holds, other than those at the paths
    `besides`; None if there is none, or somebody else is choosing. Raises `StorageError`."""
    place = Path(folder)
    try:
        choosing = OwnerLock(place / "adopt.lock", place)
    except StoreLockedError:
        return None
    try:
        for path in sorted(place.glob("*" + ENDING)):
            if os.path.realpath(path) not in besides:
                try:
                    found = ReplicaFile(path)
                except StoreLockedError:
                    continue
                if found.unsent:
                    return found
                found.close()
    finally:
        choosing.release()
    return None


def _last_used(path: Path) -> float:
    """When it was last written; a session that was killed has left that in the write-ahead log."""
    return max((name.stat().st_mtime for name in (path, Path(f"{path}-wal")) if name.exists()), default=0)


class MemoryReplica:
    """A replica that ends with its process; see `Replica`. With `kept` False it ends with its session: nobody will load
    it again, so what is saved is not kept a second time."""

    path = ":memory:"
    due = False

    def __init__(self, kept: bool = True) -> None:
        self.keeps = kept
        self._content = Store()
        self._outbox: dict[int, Pending] = {}
        self._fates: list[Fate] = []
        self._kept: dict[tuple[str, int], Kept] = {}
        self._meta: dict[str, Any] = {}
        self._closed = False

    def load(self) -> LocalState:
        self._check()
        return LocalState(
            registers=list(self._content.registers()),
            pending=[replace(self._outbox[number]) for number in sorted(self._outbox)],
            fates=list(self._fates),
            meta=dict(self._meta),
            kept=list(self._kept.values()),
        )

    def save(self, commit: LocalCommit) -> None:
        self._check()
        _check_names(commit)
        if not self.keeps:
            return
        self._content = apply_to(self._content, commit.clear, commit.revive, commit.registers, commit.drop)
        for number in commit.decided:
            self._outbox.pop(number, None)
        for pending in commit.pending:
            self._outbox[pending.number] = replace(pending)
        self._fates = worth_keeping(self._fates + commit.fates)
        for key in commit.released:
            self._kept.pop(key, None)
        self._kept.update(((one.replica, one.number), one) for one in commit.kept)
        self._meta.update(commit.meta)

    def compact(self, registers: Iterable[Change]) -> Iterator[None]:
        yield from ()

    def close(self) -> None:
        self._closed = True

    def wipe(self) -> None:
        self.close()
        self._content = Store()

    def _check(self) -> None:
        if self._closed:
            raise StorageError("the replica was closed")
