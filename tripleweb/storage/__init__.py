"""Storage: what is durable, and what everyone who stores must keep true.

**A tenant** (`TenantStorage`) keeps one app at the server. `load` gives the state in which the last commit left it.
`commit` takes a `Commit` whole and has it on disk when it returns; if it raises `StorageError`, nobody knows what is
there, the object answers nothing any more, and its owner closes it, opens the app again and loads. Commits continue
the log without a gap, and an entry's registers are the changes of its body at its stamp (the body is what is kept).
Receipts go with the commit that carries their confirmation, or a gist in their place, which goes with their
confirmation, too. `fold` is background work, in slices as small as its caller wants: it moves registers from the log
into a table, so that opening does not read the whole log, and nobody sees a difference. `since` reads the log on. All
methods may be called from any thread; commits come one at a time.

The log is also the history: `reach` finds a moment in it, `past` gives what a state of then is made of, `deeds` what
was done to one entity. `archive` is background work like `fold`: it makes the older part of the log small, and nobody
sees a difference. History begins after `floor`, 0 at first; `trim` raises the floor and lets go of what lies before
it, while registers, the graveyard, receipts, gists and replicas stay as they are.

**The server's directory** (`TenantStores`) opens tenants, each at most once at a time, and keeps the small registry:
the server's id, made once, and the apps with their members. Data and registry are apart: an app may have either.

`sqlite` is the default, `memory` the same for embedded servers and tests; `tests/test_storage.py` is the contract as
a test and runs over each. `writer` is the thread in which commits are made. `replica` is the other side: a client's
own durable file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from tripleweb.change import Change
from tripleweb.sync.records import Commit, Entry, TenantState

TAIL = 10_000


@dataclass(frozen=True, slots=True)
class Deed:
    """What a transaction has set of one entity. `at` in milliseconds, the server's clock; `by`: the user."""

    seq: int
    at: int
    by: str
    changes: list[Change]


class TenantStorage(Protocol):
    """One app, open. `app` is its id; `backlog` says how many log entries `fold` has before it."""

    @property
    def app(self) -> str: ...

    @property
    def backlog(self) -> int: ...

    def load(self, tail: int = TAIL) -> TenantState:
        """The state after the last commit. `state.registers` is read from the disk as it is consumed, from the
        snapshot of this moment; `state.tail` has at most the newest `tail` entries, fewer where they are large."""
        ...

    def commit(self, commit: Commit) -> None:
        """Atomic, and durable when it returns. Raises `StorageError`; then only `close` may follow."""
        ...

    def fold(self, limit: int = 500) -> int:
        """Moves at most `limit` registers on from the log; 0 says that nothing is left to do."""
        ...

    def since(self, seq: int, limit: int = 1_000) -> list[Entry]:
        """The entries that follow `seq` in the log, at most `limit`, in order. Raises `HistoryError` where the log does
        not reach back to them."""
        ...

    @property
    def floor(self) -> int:
        """The seq up to which there is no history: its state is the oldest that is known."""
        ...

    @property
    def unarchived(self) -> int:
        """How many entries `archive` has before it, about."""
        ...

    def archive(self) -> int:
        """One slice of making the log smaller, of some thousand changes; 0 says that nothing is to do now."""
        ...

    def trim(self, floor: int) -> int:
        """One slice of letting go of what lies before a floor (or before what is folded, if that is less); 0 says that
        it is done. Not beside `fold`. History before it may be gone as soon as the first slice is."""
        ...

    def reach(self, moment: int) -> int:
        """The seq of the last transaction committed by a moment, in milliseconds of the server's clock; 0 before the
        first. Raises `HistoryError` before the floor."""
        ...

    def past(self, seq: int, kinds: Collection[str] | None = None) -> Iterator[list[Change]]:
        """Pieces of which, merged in whatever order, the state after `seq` is made: all registers of predicates of
        these kinds (None: of all), and all graves. It reads a snapshot of the moment of its first step, and is to be
        closed. Raises `HistoryError` before the floor, and beyond the last commit."""
        ...

    def deeds(self, subject: str) -> Iterator[list[Deed]]:
        """What was done to an entity, oldest first, in pieces (some empty). The first deed has its registers as they
        were at the floor. It reads a snapshot of the moment of its first step, and is to be closed."""
        ...

    def close(self) -> None:
        """Ends it; more than once is fine. Everything committed stays."""
        ...


@dataclass(frozen=True)
class App:
    """An app as the registry knows it: `created` in milliseconds, `members` from user to role."""

    id: str
    name: str
    created: int
    members: dict[str, str] = field(default_factory=dict)

    def patched(self, name: str | None, members: Mapping[str, str | None]) -> App:
        """The same app with another name (None: the same) and other roles; a role of None takes the member out."""
        roles: dict[str, str | None] = {**self.members, **members}
        left = {user: role for user, role in roles.items() if role is not None}
        return replace(self, name=self.name if name is None else name, members=left)


class TenantStores(Protocol):
    """The tenants of one server. Raises `StorageError`; `StoreLockedError` where another server is at work."""

    @property
    def server_id(self) -> str: ...

    def open(self, app: str) -> TenantStorage:
        """Opens an app's data, makes it if there is none. Raises `StorageError` while it is open already."""
        ...

    def tenants(self) -> list[str]:
        """The apps that have data, sorted."""
        ...

    def drop(self, app: str) -> None:
        """Deletes an app's data for ever. Raises `StorageError` while it is open."""
        ...

    def apps(self) -> dict[str, App]:
        """The registry, by id."""
        ...

    def put(self, app: App) -> None:
        """Enters an app into the registry, or replaces it there."""
        ...

    def patch(
        self, app: str, name: str | None = None, members: Mapping[str, str | None] | None = None
    ) -> App:
        """Changes what is given, see `App.patched`; returns the new entry. Raises `KeyError` for an unknown app."""
        ...

    def delete(self, app: str) -> None:
        """Deletes an app: its data, then its entry in the registry."""
        ...

    def close(self) -> None:
        """Closes what is open and lets go of the directory."""
        ...
