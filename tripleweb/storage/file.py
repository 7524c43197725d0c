"""A database file that is ours: one owner, recognised before it is touched, written in whole transactions.

Invariants: what a transaction wrote is there whole or not at all; every failure is a `StorageError` that names the
file; a file that is not of the expected form is not altered. After a failure that leaves it open what is on disk, the
object refuses to go on; its owner closes it and opens the file again. The connection is guarded by a lock, so any
thread may call, and a forked child never touches its parent's connection (SQLite's locks do not survive a fork).

The write-ahead log is written back by hand: `checkpoint` in idle moments, `ease` when it has grown large.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

from tripleweb.errors import DamagedError, StorageError, StoreLockedError

WAL_BYTES_MAX = 4 << 20  # a checkpoint is due after so many, about
# The log's file shrinks to this when it starts over. More than it usually has: space that is given back and taken
# anew each time makes syncs wait for the file system; where that tells the disk of it (`discard`), a tenth of a second.
WAL_BYTES_KEPT = 10 << 20
PAGE_BYTES = 4 << 10
SIDE_FILES = ("-wal", "-shm")


class OwnerLock:
    """The right to a path, by a lock on a file beside it; ends with `release` or with the process, however it ends.

    Raises `StoreLockedError` if somebody else has it, after waiting `wait` seconds for them.
    """

    def __init__(self, path: Path, what: Path, wait: float = 0) -> None:
        self.path = path
        self._file: FileIO | None = None
        deadline = time.monotonic() + wait
        while not self._acquired():
            if time.monotonic() >= deadline:
                raise StoreLockedError(f"{what} is in use by another running session ({_owner(path)})")
            time.sleep(0.005)

    def _acquired(self) -> bool:
        try:
            while True:
                self._file = FileIO(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
                if not _lock(self._file.fileno()):
                    self.release()
                    return False
                if self._is_current():
                    self._file.truncate(0)
                    self._file.write(f"{os.getpid()}\n".encode())
                    return True
                self.release()
        except OSError as error:
            raise StorageError(f"{self.path}: {error}") from error

    def _is_current(self) -> bool:
        """False if the file that was locked was deleted in between by its last owner, and perhaps made again."""
        assert self._file is not None
        try:
            return sys.platform == "win32" or os.path.samestat(
                os.fstat(self._file.fileno()), os.stat(self.path)
            )
        except FileNotFoundError:
            return False

    def release(self, delete: bool = False) -> None:
        """Closing the file is what releases: an explicit unlock in a forked child would unlock the parent."""
        if self._file is None:
            return
        if delete and sys.platform != "win32":
            self.path.unlink(missing_ok=True)
        self._file.close()
        self._file = None
        if delete and sys.platform == "win32":
            with suppress(PermissionError):  # the next owner has it open already
                self.path.unlink(missing_ok=True)


if sys.platform == "win32":
    import msvcrt

    def _lock(handle: int) -> bool:
        os.lseek(handle, 1 << 30, os.SEEK_SET)  # beyond the text: locked bytes cannot be read there
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(handle, 0, os.SEEK_SET)
        return True
else:
    import fcntl

    def _lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _owner(path: Path) -> str:
    try:
        owner = path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        owner = ""
    if owner == str(os.getpid()):
        return f"process {owner}, which is this one: close that first"
    return f"process {owner}" if owner else "process unknown"


class DatabaseFile:
    """One SQLite file of the form `form` (`"<kind> <version>"`), made of `tables` if it is new (`created`).

    `full`: a transaction survives the end of the machine, not only that of the process. `sole`: no other connection
    ever reads it, which also spares the shared memory that file systems of a network do not have. `older`: the forms
    from which it is brought to this one as it is opened, each with the statements that do so.
    """

    def __init__(
        self,
        path: Path,
        form: str,
        tables: str,
        *,
        full: bool,
        sole: bool,
        older: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.created = False
        self._full = full
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._failure = ""
        self._closed = False
        self._readers: set[sqlite3.Connection] = set()
        self._wal = Path(f"{path}-wal")
        self._wal_bytes_max = WAL_BYTES_MAX
        self._written = 0  # bytes, about, since it was looked whether a checkpoint is due
        _files.add(self)
        with self._errors():
            unclean = self._wal.exists() and self._wal.stat().st_size > 0
            # made beforehand, so that nobody else may read it
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            wait = 1 if sole else 5  # seconds; what is ours alone has nobody to wait for
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=wait
            )
        try:
            with self._errors():
                if sole:  # before anything is read, or the shared memory is made after all
                    self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._prepare(self._connection)
                found = self._recognise(form, older or {})
                if unclean:
                    self._check()
                if self._connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                    raise StorageError(f"{path}: this file system does not allow a write-ahead log")
                if self.created:
                    self._lay(form, "CREATE TABLE meta (name TEXT PRIMARY KEY, value);" + tables)
                elif found != form:
                    self._lay(form, (older or {})[found])
        except BaseException as error:
            self._connection.close()
            if getattr(error.__cause__, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY:
                raise StoreLockedError(f"{path} is in use, maybe under another name") from None
            raise

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA synchronous = {'FULL' if self._full else 'NORMAL'}")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        connection.execute("PRAGMA cache_size = -1000")

    def _recognise(self, form: str, older: Mapping[str, str]) -> str:
        """The form that it has; this one if it is new."""
        names = {
            row[0] for row in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        }
        if not names:
            self.created = True
            return form
        found = None
        if "meta" in names:
            with suppress(sqlite3.OperationalError):  # a table of that name, but not ours
                found = self.meta("_format")
        if found == form or found in older:
            return str(found)
        kind = form.rpartition(" ")[0]
        if str(found).rpartition(" ")[0] == kind:
            raise StorageError(
                f"{self.path} has the format {found!r}; this version of tripleweb reads {form!r}"
            )
        raise StorageError(f"{self.path} is not a {kind} (its format is {found!r})")

    def _lay(self, form: str, tables: str) -> None:
        with self.transaction() as connection:
            for statement in tables.split(";"):
                connection.execute(statement)
            self.set_meta({"_format": form})

    def _check(self) -> None:
        """The last owner did not close it: read every page once before anything is promised on top of it."""
        found = [row[0] for row in self._connection.execute("PRAGMA quick_check(3)")]
        if found != ["ok"]:
            raise DamagedError(f"{self.path} is damaged: {'; '.join(found)}")

    # -- using -------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What happens inside is written when the block ends without an exception, else nothing of it is."""
        with self._lock:
            connection = self._ready()
            begun = False
            try:
                connection.execute("BEGIN IMMEDIATE")
                begun = True
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                self._undo(error, begun)
                if isinstance(error, sqlite3.Error):
                    raise self._told(error) from error
                raise

    def execute(self, statement: str, values: Sequence[Any]) -> None:
        """One statement, which is a transaction by itself."""
        with self._lock:
            connection = self._ready()
            try:
                # of many, though they are one: `execute` would let go of the interpreter's lock once more for a row id
                connection.executemany(statement, (values,))
            except BaseException as error:
                self._undo(error, begun=True)
                if isinstance(error, sqlite3.Error):
                    raise self._told(error) from error
                raise

    def _undo(self, error: BaseException, begun: bool) -> None:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as second:
                self._failure = f"{self.path}: {error}; and could not be taken back: {second}"
        elif begun and not isinstance(error, sqlite3.Error):
            # an interrupt between the commit and here: it landed, but the caller will not know
            self._failure = f"{self.path} was interrupted right after a commit; open it again"
        if isinstance(error, sqlite3.Error) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_IOERR:
            # a failed sync may have dropped what was written before, or may yet bring back what failed
            self._failure = f"{self.path}: {error}; open it again"

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for reading outside of a transaction: each statement sees what is committed."""
        with self._lock, self._errors():
            yield self._ready()

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own on the state of this moment, while commits go on. Not for `sole` files."""
        with self._errors():
            self._ready()
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=5)
            self._readers.add(connection)
        try:
            with self._errors():
                self._prepare(connection)
                connection.execute("PRAGMA query_only = 1")
                connection.execute("BEGIN")
                connection.execute("SELECT 1 FROM meta").fetchone()  # a snapshot begins with the first read
                yield connection
        finally:
            self._readers.discard(connection)
            connection.close()

    def meta(self, name: str) -> object:
        """A value of the table `meta`, None if there is none."""
        row = self._connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row[0]

    def set_meta(self, values: Mapping[str, object]) -> None:
        """Sets values of the table `meta`, within a transaction."""
        self._connection.executemany(
            "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            list(values.items()),
        )

    def checkpoint(self) -> None:
        """Writes the write-ahead log back into the file, as far as no reader needs it, without waiting for any."""
        with self._lock, self._errors():
            _, frames, done = self._ready().execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            # held up by a reader: do not try again with every commit
            self._wal_bytes_max = WAL_BYTES_MAX if frames == done else 2 * self._wal.stat().st_size

    def ease(self, pages: int) -> None:
        """A checkpoint, if much has come since the last one, of which the size of the log's file says nothing; cheap
        otherwise. Done before a transaction, not after it: what fails or is interrupted here must not look as if the
        transaction had failed. `pages`: of the log, that it will take, about."""
        self._written += pages * PAGE_BYTES
        if self._written < WAL_BYTES_MAX:
            return
        self._written = 0
        with self._errors():
            size = self._wal.stat().st_size
        if size > self._wal_bytes_max:
            self.checkpoint()

    @property
    def closed(self) -> bool:
        return self._closed

    def fail(self, reason: str) -> None:
        """From now on nothing works but `close`."""
        self._failure = self._failure or f"{self.path}: {reason}"

    def close(self) -> None:
        """Leaves one file without side files behind, unless it was forked, has failed or is still being read."""
        if os.getpid() != self._pid:  # whose lock a thread of the parent may hold for ever
            self._closed = True
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for reader in list(self._readers):
                reader.close()
            try:
                if not self._failure:
                    with self._errors():
                        self._connection.execute("PRAGMA busy_timeout = 0")  # no reader is waited for
                        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                self._connection.close()

    def _ready(self) -> sqlite3.Connection:
        if self._failure:
            raise StorageError(self._failure)
        if self._closed:
            raise StorageError(f"{self.path} was closed")
        self.check_process()
        return self._connection

    def check_process(self) -> None:
        """Raises `StorageError` in a fork of the process that opened the file."""
        if os.getpid() != self._pid:
            raise StorageError(
                f"{self.path} was opened by process {self._pid}, of which this one is a fork: open a store of its own"
            )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise self._told(error) from error

    def _told(self, error: Exception) -> StorageError:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return DamagedError(f"{self.path} is damaged: {error}")
        return StorageError(f"{self.path}: {error}")


def delete_database(path: Path) -> None:
    """Deletes a closed database file and its side files; the file first, so that no half of it is taken for all."""
    for name in (path, *(Path(f"{path}{ending}") for ending in SIDE_FILES)):
        name.unlink(missing_ok=True)


_files: weakref.WeakSet[DatabaseFile] = weakref.WeakSet()


def _keep_for_ever() -> None:
    """In a fork: a connection that is closed there, or only freed, would write the parent's log back and delete it."""
    for file in list(_files):
        for connection in (getattr(file, "_connection", None), *file._readers):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


if hasattr(os, "register_at_fork"):
    import ctypes

    os.register_at_fork(after_in_child=_keep_for_ever)
