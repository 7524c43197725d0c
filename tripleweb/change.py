"""A change: one register set at one stamp. Everything that is stored, merged or sent is made of these.

A *register* is (subject, predicate, slot). The slot says what the value means, so that no server needs a schema:

    ""            the single value of the field; no value: it was removed (a tombstone)
    "*"           reset marker of a many-valued field: an assignment of the whole set; carries no value
    "s:…" "n:…"   a member of a many-valued field, by its canonical form (`terms.slot`); no value: removed
    "c:REPLICA"   a replica's share of a counter: the sum of what it has counted so far
    "c:"          within a transaction that is not yet accepted: an increment of its replica's share

The predicate `_deleted` is the tombstone of a whole entity (slot "", value True). A register's change with the
higher stamp wins; equal stamps go by the value (`outranks`), so that everyone agrees.
"""

from __future__ import annotations

from typing import NamedTuple

from tripleweb.terms import Value, slot

DELETED = "_deleted"
SINGLE = ""
RESET = "*"
COUNTER = "c:"

Key = tuple[str, str, str]


class Change(NamedTuple):
    """One register, set to `value` at the stamp (`time`, `replica`); `value` None: no value."""

    subject: str
    predicate: str
    slot: str
    value: Value | None
    time: int
    replica: str

    @property
    def key(self) -> Key:
        return self.subject, self.predicate, self.slot

    @property
    def stamp(self) -> tuple[int, str]:
        return self.time, self.replica


def outranks(new: Value | None, old: Value | None) -> bool:
    """The last resort between two values of one register with the same stamp: a value beats none, then the
    greater canonical form wins. (One replica never makes two such; a copied replica file can.)"""
    if new is None or old is None:
        return new is not None and old is None
    if slot(new) != slot(old):
        return slot(new) > slot(old)
    return str(type(new)) > str(type(old))
