"""Partial replicas for tests: a server's store with its `Relevance`, and replicas that are built from nothing but what
it ships: the registers of places that are newly needed, changes of places that are held, and what to forget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.live_histories import keys
from tripleweb.change import DELETED, SINGLE, Change
from tripleweb.datalog import evaluate
from tripleweb.datalog.portable import portable
from tripleweb.errors import TriplewebError
from tripleweb.store import Delta, Store
from tripleweb.sync.relevance import Interest, Relevance
from tripleweb.terms import Value

Place = tuple[str, str]


@dataclass(eq=False)
class Replica:
    name: str
    store: Store = field(default_factory=Store)
    queries: list[tuple[str, list[Any], Interest]] = field(default_factory=list)

    def holds(self, place: Place) -> bool:
        for _, _, interest in self.queries:
            if place in interest.places or interest.coarse is None or place[1] in interest.coarse:
                return True
        return False

    def triples(self) -> list[tuple[str, str, Value]]:
        store = self.store
        return [(s, p, v) for p in store.predicates() for s, v in store.scan(p)]


class Server:
    """The store of all, written to as to a `Store` (by a `History`, say). `commit` brings the replicas up to date."""

    def __init__(self) -> None:
        self.store = Store()
        self.relevance = Relevance(self.store)
        self.replicas: list[Replica] = []
        self.seq = 0
        self.shipped = 0  # registers
        self.reloads = 0
        self._changes: list[Change] = []
        self._revived: list[str] = []

    # -- as a store that is written to

    def apply(self, changes: Iterable[Change]) -> Delta:
        self._changes += (changes := list(changes))
        return self.store.apply(changes)

    def put(self, changes: Iterable[Change] = (), revive: Sequence[str] = ()) -> Delta:
        self._changes += (changes := list(changes))
        self._revived += revive
        return self.store.put(changes, revive=revive)

    def put_columns(self, subjects: Sequence[str], columns: Sequence[Any], stamp: tuple[int, str]) -> Delta:
        self._changes += [
            Change(s, predicate, SINGLE, value, *stamp)
            for predicate, cells in columns
            for s, value in zip(subjects, cells, strict=True)
        ]
        return self.store.put_columns(subjects, columns, stamp)

    # -- replicas

    def replica(self) -> Replica:
        self.replicas.append(Replica(f"replica {len(self.replicas)}"))
        return self.replicas[-1]

    def subscribe(self, replica: Replica, text: str, inputs: Sequence[Any] = ()) -> Interest:
        asked, sent = portable(text, inputs)
        interest = self.relevance.open(asked, sent)
        interest.readers[replica] = None
        replica.queries.append((text, list(inputs), interest))
        if not interest.is_loaded:
            self.relevance.load(interest, self.seq)
        self.ship(replica, self.places(interest))
        return interest

    def places(self, interest: Interest) -> list[Place]:
        """All that it needs."""
        names = self.store.predicates() if interest.coarse is None else sorted(interest.coarse)
        found = {(change.subject, change.predicate) for change in self.store.registers()}
        graves = {subject for subject, predicate in found if predicate == DELETED}
        coarse = [(s, p) for s, p in sorted(found) if p in names or (names and s in graves)]
        return [*interest.places, *coarse]

    def unsubscribe(self, replica: Replica, number: int) -> None:
        _, _, interest = replica.queries.pop(number)
        places = self.places(interest)
        if all(interest is not other for _, _, other in replica.queries):
            interest.readers.pop(replica, None)
        if not interest.readers:
            self.relevance.close(interest)
        self.forget(replica, places)

    def forget(self, replica: Replica, places: Iterable[Place]) -> None:
        gone = [place for place in places if not replica.holds(place)]
        replica.store.put(drop=[c.key for place in gone for c in replica.store.registers_at(*place)])

    def ship(self, replica: Replica, places: Iterable[Place]) -> None:
        changes = [change for place in places for change in self.store.registers_at(*place)]
        self.shipped += len(changes)
        replica.store.apply(changes)

    def commit(self, delta: Delta, reload: bool = True) -> None:
        """Ships what the replicas need of a delta. What cannot be followed is loaded again, or raises its trouble."""
        self.seq += 1
        out: dict[Replica, dict[Place, None]] = {}
        news = self.relevance.changed(delta, self.seq)
        for interest, places in news.items():
            if interest.trouble is not None:
                if not reload:
                    raise interest.trouble
                self.reloads += 1
                self.relevance.load(interest, self.seq)
                places = list(interest.since(self.seq - 1))
            assert set(places) == set(interest.since(self.seq - 1))
            for replica in interest.readers:
                out.setdefault(replica, {}).update(dict.fromkeys(places))
        for change in self._changes:
            deleted = change.predicate == DELETED
            place = change.subject, change.predicate
            holders = self.relevance.holders_of(place[0]) if deleted else self.relevance.holders(*place)
            for interest in holders:
                for replica in interest.readers:
                    out.setdefault(replica, {})[place] = None
        for replica in self.replicas:
            replica.store.put(revive=self._revived)
        for replica, places in out.items():
            self.ship(replica, places)
        self._changes.clear()
        self._revived.clear()

    def sweep(self) -> None:
        for interest in list(dict.fromkeys(i for replica in self.replicas for _, _, i in replica.queries)):
            before = dict(interest.places)
            dropped = self.relevance.sweep(interest, self.seq)
            assert set(before) == {*dropped, *interest.places}, (
                "a sweep found what was not known to be needed"
            )
            for replica in interest.readers:
                self.forget(replica, dropped)

    # -- what must hold

    def check(self, note: str) -> None:
        expected: dict[str, Any] = {}
        for replica in self.replicas:
            for text, inputs, interest in replica.queries:
                key = repr((text, inputs))
                if key not in expected:
                    expected[key] = _answer(text, inputs, self.store)
                here, due = _answer(text, inputs, replica.store), expected[key]
                assert here == due, (
                    f"{note}\n{replica.name}: {text}\n{inputs[1 if '%' in text else 0 :]}\n"
                    f"here {here}\ndue  {due}\nholds {sorted(interest.places)}"
                )
            held = {place: None for _, _, interest in replica.queries for place in interest.places}
            for place in held:
                assert registers(replica.store, place) == registers(self.store, place), f"{note}\n{place}"
            for subject, predicate, value in replica.triples():
                assert replica.holds((subject, predicate)), (
                    f"{note}\n{(subject, predicate, value)} is not needed"
                )


def registers(store: Store, place: Place) -> set[Any]:
    return {(*change, type(change.value)) for change in store.registers_at(*place)}


def _answer(text: str, inputs: Sequence[Any], store: Store) -> Any:
    """What a query gives, so that it can be compared."""
    try:
        result = evaluate.run(text, list(inputs), store)
    except TriplewebError as error:
        return type(error).__name__, error.message
    except Exception as error:  # noqa: BLE001 (a callable's)
        return type(error).__name__, str(error)
    rows = keys(result.rows)
    return (rows if ":order-by" in text else Counter(rows)), result.skipped
