"""Who needs which places of the server's store, so that a replica holds what its queries need and nothing else.

An `Interest` is what one query with its inputs needs; equal subscriptions share it. It holds places, each with the
number of the commit in which it came in, or, where the query cannot be compiled, whole predicates (`coarse`). A
replica that holds the places of its interests, each as the server has it, answers each of its queries as the server
would (`datalog.lineage` says why). A place that is needed no more stays held, and current, until `sweep`.

The caller forwards: what changed at a place goes to its `holders`, an entity's deletion to `holders_of`, and of the
places that `changed` gives all registers (`Store.registers_at`), in one piece with the change. Invariants: `holders`
is right after each call; an interest whose triggers fail has `trouble`, holds what it held, and is loaded again or
closed. Nothing here may run while the store is changing or is being read elsewhere in the middle of a change.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from typing import Any

from tripleweb.datalog.bodies import Unsupported
from tripleweb.datalog.inputs import prepare
from tripleweb.datalog.needed import Lineages, Needed, Place
from tripleweb.datalog.pull import frozen
from tripleweb.datalog.query import parse
from tripleweb.ids import kind_of
from tripleweb.store import Delta, Store

SLACK = 64  # places: so many more than at the last sweep, and half as many again, may be worth a sweep


class Interest:
    """What one query needs. `readers` is the caller's. `coarse`: whole predicates, None for all there are; empty where
    it holds `places`, which are in the order in which they came."""

    __slots__ = ("coarse", "is_loaded", "key", "needed", "places", "readers", "swept")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.readers: dict[Any, None] = {}  # in order, so that a run is the same whatever the hashes
        self.places: dict[Place, int] = {}
        self.coarse: frozenset[str] | None = frozenset()
        self.is_loaded = False
        self.needed: Needed | None = None  # None: it is coarse
        self.swept = 0  # how many places it had when they were last found from nothing

    @property
    def trouble(self) -> BaseException | None:
        """Why it follows no more."""
        return None if self.needed is None else self.needed.trouble

    def holds(self, subject: str, predicate: str) -> bool:
        """True if it holds a place."""
        coarse = self.coarse
        if coarse is None or (subject, predicate) in self.places:
            return True
        return bool(coarse) and (predicate in coarse or f"{kind_of(predicate)}/" in coarse)

    def lacks(self, places: Iterable[Place]) -> list[Place]:
        """Those of some places which it held that it holds no more: they were swept. Of what is coarse nothing is."""
        if self.coarse is None or self.coarse:
            return []
        return [place for place in places if place not in self.places]

    def since(self, seq: int) -> Iterator[Place]:
        """The places that came in after a commit, the latest first."""
        for place in reversed(self.places):
            if self.places[place] <= seq:
                return
            yield place


class Relevance:
    """The interests in one store.

    >>> from tripleweb.change import Change
    >>> store = Store()
    >>> relevance = Relevance(store)
    >>> mine = relevance.open("[:find ?t :in $ ?u :where [?p :post/author ?u] [?p :post/title ?t]]", ["ada"])
    >>> relevance.load(mine, 0)
    >>> changes = [Change("p", "post/author", "", "ada", 1, "r"), Change("p", "post/title", "", "Hi", 1, "r")]
    >>> [list(places) for places in relevance.changed(store.apply(changes), 1).values()]
    [[('p', 'post/author'), ('p', 'post/title')]]
    >>> list(relevance.holders("p", "post/title")) == [mine], list(relevance.holders("p", "post/score"))
    (True, [])
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lineages = Lineages(store)
        self._interests: dict[Hashable, Interest] = {}
        self._of: dict[Needed, Interest] = {}
        # place -> who holds it: one as it is, more in a dict
        self._held: dict[Place, Interest | dict[Interest, None]] = {}
        self._predicates: dict[str, int] = {}  # how many places of each are held
        self._coarse: dict[str | None, dict[Interest, None]] = {}

    @property
    def work(self) -> int:
        """Rows that triggers looked at so far."""
        return self._lineages.work

    # -- interests

    def open(self, query: str | None, inputs: Sequence[Any] = (), rules: str | None = None) -> Interest:
        """The interest of a query (None: everything), shared with who asks for the same. It hears of every commit from
        now on; `load` it before it counts. Raises `QueryError` and `ValueError` for what cannot be run."""
        key = (query, tuple(map(frozen, inputs)), rules)
        interest = self._interests.get(key)
        if interest is not None:
            return interest
        interest = Interest(key)
        if query is None:
            interest.coarse = None
        else:
            program, pairs = prepare(parse(query), inputs, rules)
            try:
                interest.needed = Needed(self._lineages, program, pairs, interest.places)
                self._of[interest.needed] = interest
            except Unsupported:
                interest.coarse = program.query.predicates
        self._interests[key] = interest
        for predicate in _coarse_keys(interest):
            self._coarse.setdefault(predicate, {})[interest] = None
        return interest

    def open_predicates(self, predicates: Iterable[str]) -> Interest:
        """The interest in all that has one of these predicates; `"user/"` stands for all of a kind."""
        coarse = frozenset(predicates)
        interest = self._interests.get(coarse)
        if interest is None:
            interest = self._interests[coarse] = Interest(coarse)
            interest.coarse = coarse
            for predicate in _coarse_keys(interest):
                self._coarse.setdefault(predicate, {})[interest] = None
        return interest

    def open_places(self) -> Interest:
        """An interest in the places that the caller tells it of, by `hold` and `let_go`."""
        key = object()
        interest = self._interests[key] = Interest(key)
        interest.is_loaded = True
        return interest

    def load(self, interest: Interest, seq: int, units: float = float("inf")) -> None:
        """Finds every place, from nothing, as of the commit `seq`; the new ones come in with that. Raises `BudgetError`
        where it takes more units of work: then it holds what it held, and has `trouble`."""
        if interest.needed is not None:
            for place in interest.needed.find(units):
                if place not in interest.places:
                    self._hold(interest, place, seq)
            interest.swept = len(interest.places)
        interest.is_loaded = True

    def expected_rows(self, interest: Interest) -> float:
        """About how many rows `load` will look at."""
        if interest.needed is not None:
            return interest.needed.price
        return float(sum(map(self._store.count, self._names(interest))))

    def held(self, interest: Interest) -> Iterator[Place]:
        """The places that it holds: of a coarse one those where there is something, or was."""
        yield from interest.places
        coarse = interest.coarse
        if coarse is None or coarse:
            yield from self._store.places(
                lambda name: coarse is None or name in coarse or f"{kind_of(name)}/" in coarse
            )

    def _names(self, interest: Interest) -> list[str]:
        """The predicates of a coarse interest."""
        coarse = interest.coarse
        if not coarse and coarse is not None:
            return []
        names = self._store.predicates()
        return names if coarse is None else [n for n in names if n in coarse or f"{kind_of(n)}/" in coarse]

    def close(self, interest: Interest) -> None:
        """Nobody reads it any more."""
        del self._interests[interest.key]
        for predicate in _coarse_keys(interest):
            del self._coarse[predicate][interest]
            if not self._coarse[predicate]:
                del self._coarse[predicate]
        for place in list(interest.places):
            self._release(interest, place)
        if interest.needed is not None:
            del self._of[interest.needed]
            interest.needed.close()

    def is_stale(self, interest: Interest) -> bool:
        """True if it has grown so much that a sweep may be worth while, or cannot be followed."""
        return interest.trouble is not None or len(interest.places) > interest.swept * 1.5 + SLACK

    def sweep(self, interest: Interest, seq: int, units: float = float("inf")) -> list[Place]:
        """Finds every place anew; those that were held and are not needed, which it holds no more. Raises as `load`."""
        if interest.needed is None:
            return []
        needed = interest.needed.find(units)
        dropped = [place for place in interest.places if place not in needed]
        for place in dropped:
            self._release(interest, place)
        for place in needed:
            if place not in interest.places:
                self._hold(interest, place, seq)
        interest.swept = len(needed)
        return dropped

    # -- places

    def changed(self, delta: Delta, seq: int) -> dict[Interest, list[Place]]:
        """The places that are newly needed with this commit, by who needs them; who has `trouble` is among them. To be
        called once after each commit."""
        out: dict[Interest, list[Place]] = {}
        for needed in self._lineages.changed(delta):
            interest = self._of[needed]
            out[interest] = list(needed.news)
            needed.news.clear()
            for place in out[interest]:
                self._hold(interest, place, seq)
        return out

    def holders(self, subject: str, predicate: str) -> Collection[Interest]:
        """Who holds a place, coarse ones among them; to be gone through before anything else is called here."""
        held = self._held.get((subject, predicate))
        if held is None and not self._coarse:
            return ()
        found = _all(held)
        if self._coarse:
            found = dict(found)
            for name in (predicate, f"{kind_of(predicate)}/", None):
                found.update(self._coarse.get(name, {}))
        return found

    def holders_of(self, subject: str) -> Collection[Interest]:
        """Who holds any place of an entity. Coarse ones do: they hold what it could have."""
        found: dict[Interest, None] = {}
        for predicate in self._predicates:
            found.update(_all(self._held.get((subject, predicate))))
        for several in self._coarse.values():
            found.update(several)
        return found

    def hold(self, interest: Interest, place: Place, seq: int) -> None:
        """One of `open_places` holds a place from now on (the latest)."""
        if place in interest.places:
            del interest.places[place]
            interest.places[place] = seq
        else:
            self._hold(interest, place, seq)

    def let_go(self, interest: Interest, place: Place) -> None:
        """It holds it no more."""
        self._release(interest, place)

    def _hold(self, interest: Interest, place: Place, seq: int) -> None:
        held = self._held.get(place)
        if held is None:
            self._held[place] = interest
            self._predicates[place[1]] = self._predicates.get(place[1], 0) + 1
        elif isinstance(held, dict):
            held[interest] = None
        else:
            self._held[place] = {held: None, interest: None}
        interest.places[place] = seq

    def _release(self, interest: Interest, place: Place) -> None:
        del interest.places[place]
        held = self._held[place]
        if isinstance(held, dict) and len(held) > 1:
            del held[interest]
            return
        del self._held[place]
        if self._predicates[place[1]] == 1:
            del self._predicates[place[1]]
        else:
            self._predicates[place[1]] -= 1


def _all(held: Interest | dict[Interest, None] | None) -> dict[Interest, None]:
    return {} if held is None else held if isinstance(held, dict) else {held: None}


def _coarse_keys(interest: Interest) -> Sequence[str | None]:
    """Where it stands among the coarse ones: by predicate, or at None for all."""
    return [None] if interest.coarse is None else [*sorted(interest.coarse)]
