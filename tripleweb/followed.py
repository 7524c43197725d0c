"""What the live frames of equal queries share: the query that is followed, its last frame, and who shows it.

Guarded by the lock of the store, but for the making of frames. Invariants: what a refresh finds goes to every
listener once; a frame that was made is nobody's to modify, and is made once a version; an interrupt finds a query
that is kept up to date either settled, with its listeners told, or not.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import ref

import pandas as pd

from tripleweb.datalog.answer import Rows
from tripleweb.datalog.standing import Standing
from tripleweb.datalog.upkeep import Followed
from tripleweb.frame import Sheet, result_frame
from tripleweb.shield import Shield

if TYPE_CHECKING:
    from tripleweb.live import LiveFrame, LiveQueries


@dataclass(frozen=True)
class LiveDelta:
    """What a transaction did to an answer: the rows that came and those that went, as DataFrames."""

    _rows: Rows
    _columns: Sequence[str]
    _kinds: Mapping[str, str]
    _nullable: Collection[str]

    @cached_property
    def added(self) -> pd.DataFrame:
        return self._frame(self._rows.added)

    @cached_property
    def removed(self) -> pd.DataFrame:
        return self._frame(self._rows.removed)

    def _frame(self, rows: list[tuple[Any, ...]]) -> pd.DataFrame:
        return result_frame(self._columns, rows, kinds=self._kinds, nullable=self._nullable)

    def __repr__(self) -> str:
        return f"LiveDelta({len(self._rows.added)} added, {len(self._rows.removed)} removed)"


class Hold(ref["LiveFrame"]):
    """That a frame shows a query, as long as somebody holds the frame."""

    __slots__ = ("shared",)

    shared: Shared


class Shared:
    """One followed query and the frames that show it. Guarded by the host's lock."""

    def __init__(
        self,
        key: Hashable,
        live: Followed,
        owner: LiveQueries,
        kinds: Mapping[str, str],
        nullable: Collection[str],
        asked: Any = None,
        given: tuple[Sequence[Any], str | None] = ((), None),
    ) -> None:
        self.key = key
        self.live = live
        self.owner = owner
        self.kinds = kinds
        self.nullable = nullable
        self.asked = asked  # what the host knows it by
        self.given = given  # its inputs and the kept rules, as the host knows them
        self.holds: dict[int, Hold] = {}  # by id()
        self.anchors: set[int] = set()  # id() of the frames that are listened to or displayed
        self.order = 0  # among those with anchors
        self.read: Collection[str | None] = ()  # predicates it is filed under
        self.dirty = True  # of one that is not kept up to date: something may have changed
        self.evaluated = False
        self.memo: tuple[Stamp, pd.DataFrame] | None = None  # the last frame, which nobody modifies
        self._sheet = Sheet(live.query.columns, kinds, nullable)
        self._building = Lock()  # guards the sheet, so that nobody waits for a frame who only writes

    def hold(self, frame: LiveFrame) -> None:
        """From now on this frame shows the query."""
        hold = frame._hold = Hold(frame, self.owner.ended.append)
        hold.shared = self
        self.holds[id(hold)] = hold

    def frames(self) -> list[LiveFrame]:
        """The frames that somebody holds."""
        return [frame for hold in list(self.holds.values()) if (frame := hold()) is not None]

    def refresh(self) -> None:
        """Brings the answer up to date and tells the listeners; raises what the evaluation raises."""
        live, owner = self.live, self.owner
        if live.maintained is not None:
            if not live.has_news:
                return
            if not self.anchors and live.maintained.looked is None:
                # nobody has to be told: an interrupt costs an evaluation, and no more
                try:
                    live.refresh()
                except BaseException:
                    owner.soil(self)
                    raise
                return
            with Shield():  # or an interrupt would leave something found and not told
                try:
                    self._announce(live.refresh())
                except BaseException:
                    owner.soil(self)
                    raise
        elif self.dirty:
            inside = owner.host.within_transaction
            if inside and self.evaluated:
                return
            change = live.refresh(follow=not inside)
            self.dirty, self.evaluated = inside, True
            owner.file(self)
            self._announce(change)

    def _announce(self, change: Rows | None) -> None:
        if change is not None and self.anchors:
            for frame in self.frames():
                for listener in frame._listeners:  # each has frames of its own, which it may modify
                    delta = LiveDelta(change, self.live.query.columns, self.kinds, self.nullable)
                    self.owner.host.submit(partial(frame._call, listener, delta))

    @property
    def stamp(self) -> Stamp:
        """Changes with the answer, and also where only 1 became 1.0."""
        maintained = self.live.maintained
        standing = None if maintained is None else maintained.standing
        if isinstance(standing, Standing):
            return Stamp(self.live.version, standing, standing.recasts)
        return Stamp(self.live.version, self.live.result)

    def build(self, stamp: Stamp, rows: Sequence[Any], is_appended: bool) -> pd.DataFrame:
        """The frame of these rows. Call without the lock."""
        with self._building:
            if self.memo is None or self.memo[0] != stamp:
                self.memo = stamp, self._sheet.frame(rows, at_end=is_appended)
            return self.memo[1]

    def freeze(self) -> Shared:
        """A copy that follows nothing any more."""
        still: Any = Still(self.live)
        copy = Shared(self.key, still, self.owner, self.kinds, self.nullable, self.asked, self.given)
        copy.dirty, copy.evaluated = False, True
        if self.memo is not None and self.memo[0] == self.stamp:
            copy.memo = copy.stamp, self.memo[1]
        return copy


class Stamp:
    """Which answer a frame shows: of which version, as it was found there, recast how often."""

    __slots__ = ("found", "recasts", "version")

    def __init__(self, version: int, found: object, recasts: int = 0) -> None:
        self.version = version
        self.found = found  # compared by identity
        self.recasts = recasts

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Stamp)
            and self.version == other.version
            and self.found is other.found
            and self.recasts == other.recasts
        )

    __hash__ = None  # type: ignore[assignment]


class Still:
    """The answer of a live query as it was."""

    is_current = False
    maintained = None

    def __init__(self, live: Followed) -> None:
        self.query, self.version, self.result = live.query, live.version, live.result
        self.held, self.skipped = (self.result.rows, False), self.result.skipped
