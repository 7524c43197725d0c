"""Backups of an app: made beside its commits, read whole before they are called one, put back under a new epoch.

A backup is one SQLite file, the tenant's own as it was at some commit, with a note in its `meta` that says what it is
and what it must come to (`Note`). Invariants: a file has the name that was asked for only when it has been read whole:
every page, every log entry, every register; putting one back never deletes what was there, it is moved aside; from the
moment that this begins until the backup is in its place, the app does not open (a file `….blocked` beside it says why),
so that nobody finds it empty; whoever knew the old epoch sees another one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec

from tripleweb.errors import HistoryError, StorageError, TriplewebError
from tripleweb.ids import nano_id
from tripleweb.influx import loaded
from tripleweb.storage import App
from tripleweb.storage.file import SIDE_FILES, delete_database
from tripleweb.storage.sqlite import BLOCKED, SqliteStores, SqliteTenant, file_name
from tripleweb.storage.sqlite import ENDING as TENANT_ENDING
from tripleweb.store import Store
from tripleweb.sync.decisions import decode_gists
from tripleweb.sync.messages import Cursor, decode_receipt
from tripleweb.sync.records import Entry

ENDING = ".backup.sqlite"
LOG_MS = 90 * 86_400_000  # what a log has of an app's history, unless its server is told otherwise,
LOG_BYTES_MAX = 1 << 30
LOG_MIN = 20_000  # and of that the newest entries, however large
_FOLD = 5_000
_READ = 2_000


class UnfitError(StorageError):
    """A file that cannot be put back: it is no backup, a damaged one, or one of another app."""


class Note(msgspec.Struct, frozen=True):
    """What a backup says of itself. `digest` is of all that its log and its registers say."""

    app: str
    name: str
    created: int  # of the app, in milliseconds
    members: dict[str, str]
    epoch: str
    seq: int
    made: int  # milliseconds
    digest: str

    @property
    def position(self) -> Cursor:
        return self.epoch, self.seq


@dataclass(frozen=True, slots=True)
class PutBack:
    """What became of a restore: the epoch from now on, and where the data from before is, if there was any."""

    note: Note
    epoch: str
    aside: Path | None


def make(tenant: SqliteTenant, entry: App, target: Path, now_ms: int) -> Note:
    """Writes a backup to `target` while commits go on. Raises `StorageError`; then `target` is what it was."""
    fresh = _beside(target)
    try:
        tenant.copy_to(fresh)
        copy = SqliteTenant(fresh, tenant.app)
        try:
            while copy.fold(_FOLD):
                pass
            position, digest = copy.position, _read_whole(copy)
            note = Note(entry.id, entry.name, entry.created, entry.members, *position, now_ms, digest)
            copy.set_note(msgspec.json.encode(note).decode())
        finally:
            copy.close()
        _sync(fresh)
        os.replace(fresh, target)
        _sync(target.parent)
    except OSError as error:
        raise StorageError(f"{target}: {error}") from error
    finally:
        delete_database(fresh)
    return note


def verify(path: Path) -> Note:
    """Reads a backup whole; the file must be ours. Raises `StorageError` for one that is none, or not what it was."""
    if not path.is_file():
        raise StorageError(f"{path}: there is no such file")
    with open(path, "rb") as file:
        if file.read(16) != b"SQLite format 3\x00":
            raise StorageError(f"{path} is no backup of tripleweb's")
    tenant = SqliteTenant(path, "")
    try:
        note = _note(tenant, path)
        found = _read_whole(tenant)
        if found != note.digest or tenant.position != note.position:
            raise StorageError(f"{path} is damaged: it is not what it was when the backup was made")
        return note
    finally:
        tenant.close()


def put_back(stores: SqliteStores, app: str, source: Path, *, force: bool = False) -> PutBack:
    """Replaces an app's data by a backup, which is only read; the app must not be open. `force`: also by a backup of
    another app. Raises `UnfitError` for what is no backup of the app, `StorageError` for what else goes wrong; then the
    app's data is what it was."""
    place = stores.folder / file_name(app)
    fresh, blocked = _beside(place), Path(f"{place}{BLOCKED}")
    epoch = nano_id(os.urandom)
    try:
        shutil.copyfile(source, fresh)
        os.chmod(fresh, 0o600)
        try:
            note = verify(fresh)
        except StorageError as error:  # of the copy; the file that was given is what they know
            raise UnfitError(str(error).replace(str(fresh), str(source))) from error
        if note.app != app and not force:
            raise UnfitError(f"{source} is a backup of app {note.app!r}, not of {app!r}: force takes it, too")
        tenant = SqliteTenant(fresh, app)
        try:
            tenant.begin_epoch(epoch)
        finally:
            tenant.close()
        _sync(fresh)
        with stores.reserved(app):
            block(blocked, f"a restore of app {app} was interrupted: run it again")
            aside = move_aside(place)
            os.replace(fresh, place)
            _sync(place.parent)
            blocked.unlink()
            _sync(place.parent)
    except OSError as error:
        raise StorageError(f"{source}: {error}") from error
    finally:
        delete_database(fresh)
    if app not in stores.apps():
        stores.put(App(app, note.name if note.app == app else app, note.created, note.members))
    return PutBack(note, epoch, aside)


def move_aside(place: Path) -> Path | None:
    """Gives an app's file, and what belongs to it, another name, which is returned; None if there is none."""
    aside = Path(f"{place}.{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{nano_id(os.urandom, 4)}.aside")
    for ending in SIDE_FILES:
        with suppress(FileNotFoundError):
            os.rename(f"{place}{ending}", f"{aside}{ending}")
    try:
        os.rename(place, aside)
    except FileNotFoundError:
        return None
    return aside


def keep(stores: SqliteStores, tenant: SqliteTenant, entry: App, now_ms: int, many: int) -> Note:
    """Makes a backup in the server's own folder, where the newest `many` of an app are kept."""
    folder = _folder(stores, entry.id)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        note = make(tenant, entry, folder / f"{now_ms:015d}{ENDING}", now_ms)
        tenant.backed_up(note.position)
        for old in kept(stores, entry.id)[many:]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: {error}") from error
    return note


def kept(stores: SqliteStores, app: str) -> list[Path]:
    """The backups of an app in the server's folder, the newest first."""
    return sorted(_folder(stores, app).glob(f"[0-9]*{ENDING}"), reverse=True)


def kept_at(path: Path) -> int:
    """When one of these was made, in milliseconds."""
    return int(path.name.removesuffix(ENDING))


def rescue(stores: SqliteStores, app: str, why: str) -> str:
    """Moves the damaged file of an app aside and puts the newest backup of the server's own in its place; says what was
    done. Raises `StorageError` where there is none: the app stays shut until somebody restores it."""
    place = stores.folder / file_name(app)
    blocked = Path(f"{place}{BLOCKED}")
    with stores.reserved(app):
        block(
            blocked,
            f"app {app} is damaged ({why}): `tripleweb restore {app} FILE` puts a backup in its place",
        )
        aside = move_aside(place)
        said = f"app {app} is damaged: {why}; its file was moved to {aside}"
        block(
            blocked,
            f"{said}, and there is no backup here: `tripleweb restore {app} FILE` puts one in its place",
        )
    failed: list[str] = []
    for path in kept(stores, app):
        try:
            done = put_back(stores, app, path)
        except StorageError as error:
            failed.append(str(error))
            continue
        return f"{said}; the backup {path} is in its place, up to transaction {done.note.seq:,}"
    raise StorageError("; ".join([blocked.read_text(encoding="utf-8"), *failed]))


def _folder(stores: SqliteStores, app: str) -> Path:
    return stores.folder / "backups" / file_name(app).removesuffix(TENANT_ENDING)


def floor_of(
    tenant: SqliteTenant,
    now_ms: int,
    age_ms: int = LOG_MS,
    bytes_max: int = LOG_BYTES_MAX,
    least: int = LOG_MIN,
) -> int:
    """The floor that a log should have: what is older than `age_ms` goes, and more where it takes over `bytes_max`, but
    not of the newest `least` entries unless they are too old."""
    floor, last = tenant.floor, tenant.position[1]
    with suppress(HistoryError):  # all that is left is younger
        floor = max(floor, tenant.reach(now_ms - age_ms))
    size = tenant.log_bytes if last - floor > least else 0
    if size > bytes_max:  # entries are taken to be of one size; what that leaves over goes the next time
        floor = max(floor, min(last - least, floor + (last - floor) * (size - bytes_max) // size))
    return floor


def problems(tenant: SqliteTenant) -> Iterator[str]:
    """What is wrong with an app's data, as far as it can be told from itself: pages, the log, registers, receipts."""
    try:
        yield from tenant.integrity()
        state = tenant.load()
        last, numbers = tenant.floor, dict[str, int]()
        held = loaded(state.registers)
        replayed = (
            Store() if not last else loaded(held.registers())
        )  # what is cut off is in the registers alone
        for entry in _log(tenant):
            if entry.seq > state.seq:  # it came since the state was read
                break
            if entry.seq != last + 1:
                yield f"the log has no entry {last + 1}: {entry.seq} follows {last}"
            last = entry.seq
            replayed.apply(entry.registers)
            numbers[entry.replica] = max(numbers.get(entry.replica, 0), entry.number)
        if last != state.seq:
            yield f"the log ends at {last}, and {state.seq} were acknowledged"
        one, other = (dict.fromkeys(store.registers()) for store in (held, replayed))
        for register in (*one.keys() - other.keys(), *other.keys() - one.keys())[:3]:
            where = (
                "the table has, and the log does not"
                if register in one
                else "the log has, and the table does not"
            )
            yield f"table and log differ: {where}, {register}"
        for replica, number in numbers.items():
            row = state.replicas.get(replica)
            if row is None or row.last < number:
                yield f"the log has transaction {number} of replica {replica}, known up to {row.last if row else 0}"
        for (replica, number), (tx, body) in state.receipts.items():
            row = state.replicas.get(replica)
            if row is None or not row.confirmed < number <= row.last:
                yield f"a receipt of transaction {number} of replica {replica}, which is not known to have made it"
            elif (receipt := decode_receipt(body)).number != number or receipt.id != tx:
                yield f"the receipt of transaction {number} of replica {replica} is one of another"
        for (replica, number), body in state.gists.items():
            row, numbers_there = state.replicas.get(replica), [gist.number for gist in decode_gists(body)]
            if row is None or numbers_there[-1:] != [number] or not row.confirmed < number <= row.last:
                yield f"what is kept of the receipts of replica {replica} up to {number} is not of its transactions"
    except (TriplewebError, sqlite3.Error) as error:
        yield str(error)


def check(stores: SqliteStores, app: str) -> list[str]:
    """As `problems`, of an app that is not open here."""
    try:
        tenant = stores.open(app)
    except StorageError as error:
        return [str(error)]
    try:
        return list(problems(tenant))
    finally:
        tenant.close()


def compact(tenant: SqliteTenant, floor: int) -> tuple[int, int]:
    """Lets go of the log before a floor, and makes the file as small as what is in it; (bytes before, bytes after).
    Raises `StorageError`."""
    before = tenant.bytes
    while tenant.fold(_FOLD):
        pass
    while floor > tenant.floor and tenant.trim(floor):
        pass
    while tenant.archive():
        pass
    tenant.vacuum()
    return before, tenant.bytes


def _read_whole(tenant: SqliteTenant) -> str:
    """The digest of all there is, everything of it decoded once. Raises `StorageError`."""
    for problem in tenant.integrity():
        raise StorageError(problem)
    digest, last = blake2b(digest_size=16), tenant.floor
    for entry in _log(tenant):
        if entry.seq != last + 1:
            raise StorageError(f"the log has no entry {last + 1}")
        last = entry.seq
        digest.update(
            repr(
                (entry.seq, entry.replica, entry.number, entry.id, entry.by, entry.at, len(entry.body))
            ).encode()
        )
        digest.update(entry.body)
    state = tenant.load(0)
    if last != state.seq:
        raise StorageError(f"the log ends at {last}, and {state.seq} were acknowledged")
    for register in state.registers:  # all are in the table, in the order of their keys
        digest.update(repr(tuple(register)).encode())
    for replica, row in sorted(state.replicas.items()):
        digest.update(repr((replica, row.user, row.last, row.confirmed, row.time)).encode())
    return digest.hexdigest()


def _log(tenant: SqliteTenant) -> Iterator[Entry]:
    at = tenant.floor
    while entries := tenant.since(at, _READ):
        yield from entries
        at = entries[-1].seq


def _note(tenant: SqliteTenant, path: Path) -> Note:
    try:
        return msgspec.json.decode(tenant.note or "", type=Note)
    except msgspec.DecodeError:
        raise StorageError(f"{path} is an app's data, but no backup: `tripleweb backup` makes them") from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{nano_id(os.urandom, 8)}.part")


def block(path: Path, why: str) -> None:
    """An app's file is not to be opened until this is gone."""
    path.write_text(why, encoding="utf-8")
    _sync(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    """What is in a file, or which names are in a folder, is on the disk."""
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
