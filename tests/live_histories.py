"""Random histories of a store, and live queries that must follow them.

`History` writes what can be written: values, members, assignments, counters, deletions, late changes that lose, and
entities that come back. A `Watched` is a query that is kept up to date beside its oracle, the query that is evaluated
afresh.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.datalog_generator import ENTITIES, MANY, MIXED, NUMBERS, PREDICATES, TEXTS
from tripleweb.change import COUNTER, DELETED, RESET, SINGLE, Change
from tripleweb.datalog.live import LiveQuery
from tripleweb.datalog.upkeep import Followed, Upkeep
from tripleweb.store import Delta, Store
from tripleweb.terms import Ref, Value, slot

# One more kind, so that rows of one table are not those of the other; `c` are counters.
KINDS = {**PREDICATES, "k/c": "c", "o/n": "n", "o/e": "e"}
EXTRA = [f"x{n}" for n in range(30)]  # entities of large batches
MOMENTS = [datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 6, 1, tzinfo=UTC)]
ODD: list[Value] = [True, 1, 2.5, "a", "e1", Ref("e1"), Ref("a"), MOMENTS[0]]  # where they do not belong


def by_kind(kind: str) -> list[Value]:
    """Values of the kind that the generators call so."""
    return {"n": [*NUMBERS, 1.0], "s": TEXTS, "e": list(map(Ref, ENTITIES)), "m": [*MIXED, 1.0, *MOMENTS]}[
        kind
    ]


class History:
    """Writes to a store, from one seed. `batch` gives the delta of each."""

    def __init__(self, seed: int, store: Store, predicates: Sequence[str] = tuple(KINDS)) -> None:
        self.random = random.Random(f"history {seed}")
        self.store = store
        self.predicates = predicates
        self.time = 100
        self.is_large = False
        self._buried: list[str] = []

    def value(self, predicate: str) -> Value:
        kind = KINDS[predicate]
        if self.random.random() < 0.06:
            return self.random.choice(ODD)
        return self.random.choice(by_kind("n" if kind == "c" else kind))

    def change(self, predicate: str, subject: str) -> list[Change]:
        """One thing that somebody writes."""
        rng, time = self.random, self.time
        if rng.random() < 0.05:
            time -= rng.randrange(50)  # late: it may lose
        choice = rng.random()
        value = self.value(predicate)
        if predicate == "k/c":
            if choice < 0.6:
                return [
                    Change(
                        subject, predicate, f"{COUNTER}{rng.choice('pq')}", rng.randrange(-1, 4), time, "r"
                    )
                ]
            choice = 0.95  # numbers beside the shares are added to them
        if choice < 0.06:
            return [Change(subject, predicate, RESET, None, time, "r")]
        if choice < 0.12:  # the whole set is assigned
            members = {slot(v): v for v in (self.value(predicate) for _ in range(rng.randrange(3)))}
            return [
                Change(subject, predicate, RESET, None, time, "r"),
                *(Change(subject, predicate, place, v, time, "r") for place, v in members.items()),
            ]
        if choice < 0.2 or (predicate in MANY and choice < 0.92):
            return [
                Change(subject, predicate, slot(value), value if rng.random() < 0.65 else None, time, "r")
            ]
        return [Change(subject, predicate, SINGLE, value if rng.random() < 0.7 else None, time, "r")]

    def batch(self, size: int | None = None) -> Delta:
        rng = self.random
        self.time += 60 if rng.random() < 0.3 else 1
        if size is None:
            size = rng.choice([1, 1, 1, 1, 2, 3, 6, 12])
        if rng.random() < 0.03:
            return self._bury_or_raise()
        changes: list[Change] = []
        for _ in range(size):
            self.time += rng.random() < 0.5
            changes += self.change(rng.choice(self.predicates), rng.choice(ENTITIES))
        return self.store.apply(changes)

    def _bury_or_raise(self) -> Delta:
        rng = self.random
        if self._buried:
            subject = self._buried.pop()
            values = [
                Change(subject, "k/n", SINGLE, 1, self.time, "r"),
                Change(subject, "k/e", SINGLE, Ref("e2"), 1, "r"),
            ]
            return self.store.put(values, revive=[subject])
        self._buried.append(rng.choice(ENTITIES))
        changes = [Change(self._buried[0], DELETED, SINGLE, True, self.time, "r")]
        for _ in range(rng.randrange(3)):
            changes += self.change(rng.choice(self.predicates), rng.choice(ENTITIES))
        return self.store.apply(changes)

    def large(self) -> Delta:
        """More than a hundred triples that come, or go again."""
        rng = self.random
        self.time += 1
        self.is_large = not self.is_large
        singles = [p for p in self.predicates if p not in MANY and p != "k/c"]
        columns = []
        for predicate in singles:
            kind = KINDS[predicate]
            columns.append((predicate, [rng.choice(by_kind(kind)) for _ in EXTRA]))
        if self.is_large:
            return self.store.put_columns(EXTRA, columns, (self.time, "r"))
        return self.store.apply(
            Change(subject, predicate, SINGLE, None, self.time, "r")
            for subject in EXTRA
            for predicate in singles
        )


# -- queries that are followed --------------------------------------------------------------------------------


def typed(value: Any) -> Any:
    """A cell that can be compared and counted: True is not 1, 1 is 1.0."""
    if isinstance(value, dict):  # what was pulled is shown as it is stored: there 1 is not 1.0
        return "map", str(value)
    if isinstance(value, tuple | list):
        return "collection", tuple(map(typed, value))
    if isinstance(value, bool):
        return "boolean", value
    if isinstance(value, int | float):
        return "number", value
    return type(value).__name__, value


def keys(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
    return [tuple(map(typed, row)) for row in rows]


class Watched:
    """A live query beside its oracle. `check` refreshes both and compares all that can be compared."""

    def __init__(self, upkeep: Upkeep, text: str, inputs: Sequence[Any], note: str) -> None:
        self.text = text
        self.note = f"{note}\n{text}\n{list(inputs)[1 if '%' in text else 0 :]}"
        self.live: Followed = upkeep.open(text, inputs)
        self.oracle = LiveQuery(text, inputs, upkeep.store)
        self.changes = 0
        self.sizes: set[int] = set()
        self._shown: list[tuple[Any, ...]] = []
        self.check("at first")

    def check(self, moment: str) -> None:
        said = f"{self.note}\n{moment}"
        version = self.live.version
        wrong, change = _outcome(self.live.refresh)
        expected_wrong, _ = _outcome(self.oracle.refresh)
        assert wrong == expected_wrong, f"{said}: {wrong} where {expected_wrong} was due"
        before, self._shown = self._shown, keys(self.live.rows)
        expected = keys(self.oracle.rows)
        if self.oracle.query.order_by:
            assert self._shown == expected, f"{said}\n  here  {self.live.rows}\n  fresh {self.oracle.rows}"
        here, fresh = Counter(self._shown), Counter(expected)
        assert here == fresh, (
            f"{said}\n  only here {list((here - fresh).elements())}\n  missing {list((fresh - here).elements())}"
        )
        skipped, due = self.live.result.skipped, self.oracle.result.skipped
        assert skipped == due, f"{said}: skipped {skipped} where {due} was due"
        old = Counter(before)
        assert (change is not None) == (here != old), f"{said}: {change}"
        assert self.live.version == version + (change is not None), f"{said}: version {self.live.version}"
        if change is not None:
            added, removed = Counter(keys(change.added)), Counter(keys(change.removed))
            assert not added & removed, f"{said}: {change}"
            old.subtract(removed)
            assert min(old.values(), default=0) >= 0, (
                f"{said}: {change} takes out what was not there: {before}"
            )
            old.update(added)
            assert +old == here, f"{said}: {change} makes {+old} of {before}"
        self.changes += change is not None
        self.sizes.add(len(self._shown))


def _outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "", call()
    except Exception as error:  # noqa: BLE001 (whatever it is, both must have it)
        return f"{type(error).__name__}: {error}", None
