"""A field of an entity that ever held more than a single value: its registers, and what of them shows.

Invariants: `visible` is what `see` gave last; a closed cell (see `Cell`) has no members that do not have the marker's
stamp; counter shares stand below no floor, and show as their sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import fsum
from typing import Any

from tripleweb.change import COUNTER
from tripleweb.clock import Stamp
from tripleweb.terms import Value, kind, slot, sort_key
from tripleweb.view import ABSENT

NEVER: Stamp = (-1, "")
Held = tuple[Value | None, int, str]  # a register without its key: value, time, replica


class Cell:
    """A (subject, predicate) that ever held more than a single value. What was assigned as a whole and not written to
    since is closed: its members are a tuple, sorted, all with the marker's stamp."""

    __slots__ = ("marker", "members", "shares", "single", "visible")

    def __init__(self, single: Any) -> None:
        # the value at slot "", ABSENT for a tombstone or none; its stamp is in the column
        self.single = single
        self.marker: Stamp = NEVER
        self.members: tuple[Value, ...] | dict[str, Held] = ()
        self.shares: dict[str, Held] | None = None  # None: nobody has counted
        self.visible: tuple[Value, ...] = ()

    def opened(self) -> dict[str, Held]:
        """The members by their slots, to be written to."""
        members = self.members
        if type(members) is not dict:
            members = self.members = {slot(value): (value, *self.marker) for value in members}
        return members

    def counted(self) -> dict[str, Held]:
        """The shares by their slots, to be written to."""
        if self.shares is None:
            self.shares = {}
        return self.shares

    def held(self, place: str) -> Held | None:
        """The register of a member or share, None if there is none."""
        if place[:2] == COUNTER:
            return None if self.shares is None else self.shares.get(place)
        if type(self.members) is dict:
            return self.members.get(place)
        found = [value for value in self.members if slot(value) == place]
        return (found[0], *self.marker) if found else None

    def items(self) -> Iterator[tuple[str, Held]]:
        """Members and shares by their slots."""
        if type(self.members) is dict:
            yield from self.members.items()
        else:
            yield from [(slot(value), (value, *self.marker)) for value in self.members]
        if self.shares:
            yield from self.shares.items()

    def stands(self, members: tuple[Value, ...]) -> bool:
        """True if it is closed and has nothing but these members."""
        mine = self.members
        if type(mine) is dict or self.single is not ABSENT or self.shares or len(mine) != len(members):
            return False
        pairs = zip(mine, members, strict=True)  # -0.0 is equal to 0.0, and another value
        return all(type(a) is type(b) and a == b and type(a) is not float for a, b in pairs)

    def see(self, single: Stamp) -> None:
        """Brings `visible` up to date, sorted; `single` is the stamp of the single value."""
        floor = max(single, self.marker)
        shown: dict[str, Value] = {}
        if self.single is not ABSENT and single >= self.marker:
            shown[slot(self.single)] = self.single
        if type(self.members) is dict:
            for place, (value, time, replica) in self.members.items():
                if value is not None and (time, replica) >= floor:
                    shown[place] = value
        elif self.marker >= floor:
            shown.update([(slot(value), value) for value in self.members])
        shares = [value for value, _, _ in self.shares.values() if value is not None] if self.shares else ()
        if shares:
            beside = [v for v in shown.values() if kind(v) == "n"]
            shown = {place: v for place, v in shown.items() if kind(v) != "n"}
            count = total([*shares, *beside])
            shown[slot(count)] = count
        self.visible = tuple(sorted(shown.values(), key=value_order))


def total(shares: Iterable[Value]) -> Value:
    """The sum of a counter's shares: exact, so that it does not depend on their order."""
    numbers: list[Any] = [share for share in shares if kind(share) == "n"]
    if any(type(n) is float for n in numbers):
        return fsum(numbers)
    return int(sum(numbers))


def value_order(value: Value) -> tuple[Any, ...]:
    """A key that sorts what one field shows."""
    return (*sort_key(value), kind(value))
