"""What a batch of changes did to the visible triples: the one kind of news that everybody listens to.

Invariant: a delta added to the old triples gives the new ones; nothing is both removed and added by it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from operator import itemgetter
from typing import Any

from tripleweb.blocks import Block, Triple, in_blocks
from tripleweb.terms import slot
from tripleweb.view import ABSENT


class Delta:
    """What a batch of changes did to the visible triples, netted: `removed` from and `added` to them."""

    __slots__ = ("_predicates", "added", "removed")

    def __init__(self, removed: list[Triple] | None = None, added: list[Triple] | None = None) -> None:
        self.removed: list[Triple] = [] if removed is None else removed
        self.added: list[Triple] = [] if added is None else added
        self._predicates: frozenset[str] | None = None

    @property
    def predicates(self) -> frozenset[str]:
        """The predicates that it touches; to be asked for when it is complete."""
        if self._predicates is None:
            of = itemgetter(1)
            self._predicates = frozenset(map(of, self.removed)) | frozenset(map(of, self.added))
        return self._predicates

    @property
    def come(self) -> int:
        """How many triples were added."""
        return len(self.added)

    def __bool__(self) -> bool:
        return bool(self.removed or self.added)

    def __repr__(self) -> str:
        return f"Delta(removed={self.removed!r}, added={self.added!r})"


class ColumnDelta(Delta):
    """A delta of which much was written at once; the triples of that are made when somebody looks at them."""

    __slots__ = ("_all", "blocks", "loose")

    def __init__(self, removed: list[Triple], loose: list[Triple], blocks: list[Block]) -> None:
        self.removed = removed
        self.loose = loose  # what was added besides
        self.blocks = blocks
        self._all: list[Triple] | None = None
        self._predicates = None

    @property
    def added(self) -> list[Triple]:  # type: ignore[override]
        if self._all is None:
            self._all = list(self.loose)
            for block in self.blocks:
                self._all += block.triples()
        return self._all

    @property
    def come(self) -> int:
        return len(self.loose) + in_blocks(self.blocks)

    @property
    def predicates(self) -> frozenset[str]:
        if self._predicates is None:
            rest = Delta(self.removed, self.loose).predicates
            self._predicates = rest.union(block.predicate for block in self.blocks if block.count)
        return self._predicates

    def __bool__(self) -> bool:
        return bool(self.removed or self.loose or any(block.count for block in self.blocks))


def change_of(subject: str, predicate: str, old: Any, new: Any) -> Delta:
    """The delta of one single value that took the place of another (either may be ABSENT)."""
    if type(old) is type(new) and old == new:
        return Delta()
    return Delta(
        [] if old is ABSENT else [(subject, predicate, old)],
        [] if new is ABSENT else [(subject, predicate, new)],
    )


def net(deltas: Iterable[Delta]) -> Delta:
    """Several deltas, one after the other, as one."""
    deltas = [delta for delta in deltas if delta]
    if len(deltas) == 1:
        return deltas[0]
    wide = [delta for delta in deltas if isinstance(delta, ColumnDelta)]
    if wide:  # what others do not touch need not be counted
        rest = net(delta for delta in deltas if not isinstance(delta, ColumnDelta))
        touched = [delta.predicates for delta in (rest, *wide)]
        is_apart = sum(map(len, touched)) == len(frozenset().union(*touched))
        if is_apart or not any(delta.removed for delta in deltas):  # or what came has stayed
            return ColumnDelta(
                list(chain(rest.removed, *(delta.removed for delta in wide))),
                list(chain(rest.added, *(delta.loose for delta in wide))),
                list(chain.from_iterable(delta.blocks for delta in wide)),
            )
    counts: dict[tuple[str, str, type, str], list[Any]] = {}
    for delta in deltas:
        for triples, sign in ((delta.removed, -1), (delta.added, 1)):
            for triple in triples:
                s, p, v = triple
                entry = counts.setdefault((s, p, type(v), slot(v)), [0, triple])
                entry[0] += sign
    return Delta(
        [triple for n, triple in counts.values() if n < 0], [triple for n, triple in counts.values() if n > 0]
    )
