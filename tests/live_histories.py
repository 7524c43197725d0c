"""Random histories of a store, and live queries that must follow them: every construct of the language by name
(`CONSTRUCTS`), and random queries that mix them (`Mixture`).

A `Watched` is a query that is kept up to date beside its oracle, the query that is evaluated afresh; `History` writes
what can be written: values, members, assignments, counters, deletions, late changes that lose, and entities that
come back.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from tests.datalog_generator import ENTITIES, MANY, MIXED, NUMBERS, PREDICATES, TEXTS, Generator
from tests.datalog_generator import RULES as PLAIN_RULES
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

RULES = [
    *PLAIN_RULES,
    ("apart", "ee", '[(apart ?a ?b) [?a "k/e" ?b] (not (reach ?b ?a))]'),
    (
        "safe",
        "ee",
        """[(safe ?a ?b) [?a "k/link" ?b] (not (small ?b))]
           [(safe ?a ?b) (safe ?a ?m) [?m "k/link" ?b] (not [?b "k/n" 0])]""",
    ),
    ("climb", "en", '[(climb [?a] ?n) [?a "k/n" ?n]] [(climb [?a] ?n) [?a "k/e" ?m] (climb ?m ?n)]'),
    (
        "down",
        "nn",
        """[(down [?n] ?m) [(identity ?n) ?m]]
           [(down [?n] ?m) [(< 0 ?n 9)] [(- ?n 1) ?k] (down ?k ?m)]""",
    ),
    (
        "filled",
        "en",
        """[(filled ?a ?n) [?a "k/s" _] [(get-else $ ?a "k/n" 7) ?n]]
           [(filled ?a ?n) [?a "k/e" ?m] (filled ?m ?n)]""",
    ),
    ("top", "e", '[(top ?a) [?a "k/n" _] (not (reach _ ?a))]'),
    (
        "mixed",
        "ee",
        """[(mixed ?a ?b) (or [?a "k/e" ?b] [?a "o/e" ?b])]
           [(mixed ?a ?b) (mixed ?a ?m) (or [?m "k/e" ?b] (and [?m "k/link" ?b] [?b "k/n" 1]))]""",
    ),
    ("tied", "em", '[(tied ?a ?v) [?a "k/m" ?v]] [(tied ?a ?v) [?a "k/e" ?m] (tied ?m ?v)]'),
    (
        "shaded",
        "ee",
        """[(shaded ?a ?b) [?a "k/link" ?b] (not [?b "k/s" "a"] (top ?b))]
           [(shaded ?a ?b) [?a "k/link" ?m] (shaded ?m ?b) (not-join [?m] [?m "k/n" ?n] [(< ?n 1)])]""",
    ),
]
NEED_BOUND = {"climb", "down"}  # their first argument
RULES_TEXT = "[" + "\n".join(text for _, _, text in RULES) + "]"


def by_kind(kind: str) -> list[Value]:
    """Values of the kind that the generators call so."""
    return {"n": [*NUMBERS, 1.0], "s": TEXTS, "e": list(map(Ref, ENTITIES)), "m": [*MIXED, 1.0, *MOMENTS]}[kind]


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
                return [Change(subject, predicate, f"{COUNTER}{rng.choice('pq')}", rng.randrange(-1, 4), time, "r")]
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
            return [Change(subject, predicate, slot(value), value if rng.random() < 0.65 else None, time, "r")]
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
            values = [Change(subject, "k/n", SINGLE, 1, self.time, "r"), Change(subject, "k/e", SINGLE, Ref("e2"), 1, "r")]
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
            Change(subject, predicate, SINGLE, None, self.time, "r") for subject in EXTRA for predicate in singles
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
        assert here == fresh, f"{said}\n  only here {list((here - fresh).elements())}\n  missing {list((fresh - here).elements())}"
        skipped, due = self.live.result.skipped, self.oracle.result.skipped
        assert skipped == due, f"{said}: skipped {skipped} where {due} was due"
        old = Counter(before)
        assert (change is not None) == (here != old), f"{said}: {change}"
        assert self.live.version == version + (change is not None), f"{said}: version {self.live.version}"
        if change is not None:
            added, removed = Counter(keys(change.added)), Counter(keys(change.removed))
            assert not added & removed, f"{said}: {change}"
            old.subtract(removed)
            assert min(old.values(), default=0) >= 0, f"{said}: {change} takes out what was not there: {before}"
            old.update(added)
            assert +old == here, f"{said}: {change} makes {+old} of {before}"
        self.changes += change is not None
        self.sizes.add(len(self._shown))


def _outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "", call()
    except Exception as error:
        return f"{type(error).__name__}: {error}", None


# -- every construct by name ----------------------------------------------------------------------------------


def _tens(value: Any) -> Any:
    return value * 10 if type(value) in (int, float) else None


def _spread(values: list[Any]) -> Any:
    return f"{len(values)} of {sorted(map(str, values))}"


CALLABLES: dict[str, Callable[..., Any]] = {
    "positive": lambda value: type(value) in (int, float) and value > 0,
    "tens": _tens,
    "pair": lambda value: (str(value), len(str(value))),
    "list": lambda value: [1, 2, value],
    "spread": _spread,
    "rarely": lambda values: len(values) if len(values) % 3 else None,
}

# name -> queries; `| …` behind one is the list of its inputs (rules are given where % stands)
CONSTRUCTS: dict[str, str] = {
    "joins": """
        [:find ?e ?n :where [?e :k/n ?n]]
        [:find ?n :where [_ :k/n ?n]]
        [:find ?e :where [?e :k/link]]
        [:find ?a ?n :where [?a :k/e ?b] [?b :k/n ?n]]
        [:find ?a ?n ?s :where [?a :k/n ?n] [?a :k/s ?s] [?a :k/many ?n]]
        [:find ?a ?n :where [?a :o/e ?b] [?b :k/n ?n] [?b :o/n ?n]]
        [:find ?a ?m :where [?a :k/e ?b] [?b :o/e ?c] [?c :k/many ?m]]
        [:find ?a ?c :where [?a :k/c ?c] [?a :k/n ?c]]
        [:find ?a ?v ?b :where [?a :k/m ?v] [?b :k/m ?v]]
        [:find ?a ?s :where [?a :k/e ?x] [?b :k/s ?x] [?b :k/s ?s]]
        [:find ?x ?a ?b :where [?a :k/s ?x] [?b :k/link ?x]]
    """,
    "self-joins": """
        [:find ?a ?b :where [?a :k/n ?n] [?b :k/n ?n]]
        [:find ?a :where [?a :k/e ?a]]
        [:find ?a ?c :where [?a :k/link ?b] [?b :k/link ?c]]
        [:find ?a ?d :where [?a :k/link ?b] [?b :k/link ?c] [?c :k/link ?d]]
        [:find ?a :where [?a :k/link ?b] [?b :k/link ?a]]
        [:find ?a ?x :where [?a :k/n ?x] [?a :k/n ?y] [?b :k/n ?y] [?b :k/many ?x]]
        [:find ?a ?b :where [?a :k/link ?c] [?b :k/link ?c] [?a :k/e ?d] [?b :k/e ?d]]
        [:find ?b :where [?a :k/m ?v] [?b :k/m ?v] [?c :k/m ?v] [?a :k/n 1] [?c :k/n 0]]
    """,
    "constants": """
        [:find ?a :where [?a :k/n 1]]
        [:find ?a :where [?a :k/m true]]
        [:find ?a :where [?a :k/m 1]]
        [:find ?a :where [?a :k/m "1"]]
        [:find ?a :where [?a :k/m 1.5]]
        [:find ?a :where [?a :k/m #inst "2020-01-01T00:00:00Z"]]
        [:find ?b ?a :where ["e1" :k/link ?b] [?a :k/e "e2"]]
        [:find ?a :where [?a :k/s "e1"]]
        [:find ?n :where ["e1" :k/n 1] ["e2" :k/many ?n]]
        [:find ?a ?b :where [?a :k/s "a"] [?b :k/s "b"]]
        [:find ?x :in $ ?x :where [_ :k/n 2]] | ["there"]
        [:find ?a :where [?a :k/c 2]]
    """,
    "predicates": """
        [:find ?a :where [?a :k/n ?n] [(< ?n 2)]]
        [:find ?a ?b :where [?a :k/m ?v] [?b :k/m ?w] [(< ?v ?w)]]
        [:find ?a :where [?a :k/n ?n] [?a :k/many ?m] [(<= 0 ?n ?m)]]
        [:find ?a ?b :where [?a :k/m ?v] [?b :k/n ?w] [(= ?v ?w)]]
        [:find ?a ?b :where [?a :k/m ?v] [?b :k/n ?w] [(not= ?v ?w)]]
        [:find ?a :where [?a :k/m ?v] [(= ?v true)]]
        [:find ?a :where [?a :k/m ?v] [(true? ?v)]]
        [:find ?a :where [?a :k/n ?n] [(even? ?n)]]
        [:find ?a :where [?a :k/s ?s] [(clojure.string/starts-with? ?s "a")]]
        [:find ?a :where [?a :k/s ?s] [(re-find #"^.b" ?s)]]
        [:find ?a :where [?a :k/n ?n] [(contains? #{1 2} ?n)]]
        [:find ?a :where [?a :k/many ?n] [(> ?n 0) ?is] [(= ?is false)]]
        [:find ?a :where [?a :k/e ?b] [(= ?b "e2")]]
        [:find ?a ?c :where [?a :k/c ?c] [(> ?c 1)]]
        [:find ?a :where [?a :k/m ?v] [(and ?v true)]]
    """,
    "functions": """
        [:find ?a ?m :where [?a :k/n ?n] [(+ ?n 1) ?m]]
        [:find ?a ?b :where [?a :k/n ?n] [(+ ?n 1) ?m] [?b :k/n ?m]]
        [:find ?a ?x ?y :where [?a :k/n ?n] [(tuple ?a ?n) [?x ?y]]]
        [:find ?a :where [?a :k/n ?n] [(tuple ?a ?n) [?a ?n]]]
        [:find ?n :where [?a :k/n ?n] [?b :k/many ?m] [(tuple ?m ?m) [?n _]]]
        [:find ?a ?i :where [?a :k/n ?n] [(range 0 ?n) [?i ...]]]
        [:find ?a ?x ?y :where [?a :k/n ?x] [(ground [[1 2] [2 3] [2.5 4]]) [[?x ?y]]]]
        [:find ?i ?a :where [(ground [0 1 2]) [?i ...]] [?a :k/n ?i]]
        [:find ?a ?x :where [?a :k/m ?v] [(vector ?v ?a) ?x]]
        [:find ?a :where [?a :k/n ?n] [(/ 6 ?n) _]]
        [:find ?a ?q :where [?a :k/many ?n] [(/ 6 ?n) ?q]]
        [:find ?t :where [_ :k/s ?s] [(str ?s "-") ?t]]
        [:find ?a ?m :where [?a :k/n ?n] [?a :k/many ?k] [(max ?n ?k) ?m]]
        [:find ?a ?k :where [?a :k/m ?v] [(type ?v) ?k]]
        [:find ?x ?y :where [?a :k/n ?n] [(vector ?n ?a) ?p] [(tuple ?n ?p) [?x [_ ?y]]]]
        [:find ?a ?s :where [?a :k/many ?n] [?a :k/n ?m] [(vector ?n ?m) ?v] [(set ?v) [?s ...]]]
        [:find ?c :where [_ :k/s ?s] [(count ?s) ?c] [(* ?c 2) ?d] [_ :k/n ?d]]
    """,
    "lookups": """
        [:find ?e ?n :where [?e :k/s _] [(get-else $ ?e :k/n 9) ?n]]
        [:find ?e ?n :where [?e :k/s _] [(get-else $ ?e :k/many "none") ?n]]
        [:find ?e ?b :where [?e :k/n ?n] [(get-else $ ?e :k/m ?n) ?b]]
        [:find ?e ?p ?v :where [?e :k/n _] [(get-some $ ?e :k/s :k/many) [?p ?v]]]
        [:find ?e ?v :where [?e :k/n _] [(get-some $ ?e :o/n :k/c) ?v]]
        [:find ?e :where [?e :k/n _] [(missing? $ ?e :k/s)]]
        [:find ?e ?is :where [?e :k/n _] [(missing? $ ?e :k/many) ?is]]
        [:find ?e ?b :where [?e :k/e ?b] [(missing? $ ?b :k/e)] [(missing? $ ?e :o/e)]]
        [:find ?e ?b ?n :where [?e :k/e ?b] [(get-else $ ?b :k/n 0) ?n] [?e :k/n ?n]]
        [:find ?e ?x ?y :where [?e :k/link ?b] [(get-else $ ?e :k/n 0) ?x] [(get-else $ ?b :k/n 0) ?y]]
        [:find ?e :where [?e :k/link ?b] [(get-else $ ?e :k/n 0) ?x] [(get-else $ ?b :k/n 0) ?x]]
        [:find ?v :where [(get-else $ "e1" :k/n 0) ?v]]
        [:find ?b ?v :where [?a :k/s ?b] [(get-else $ ?b :k/n 0) ?v]]
    """,
    "not": """
        [:find ?a :where [?a :k/n _] (not [?a :k/s _])]
        [:find ?a :where [?a :k/n _] (not [_ :k/link ?a])]
        [:find ?a :where [?a :k/n ?n] (not [?a :k/many ?n])]
        [:find ?a :where [?a :k/n ?n] (not [?b :k/many ?n] [?b :k/s "a"])]
        [:find ?a :where [?a :k/n ?n] (not [?a :k/e ?b] [?b :k/n ?n])]
        [:find ?a :where [?a :k/n _] (not-join [?a] [?a :k/e ?b] [?b :k/n ?n])]
        [:find ?a ?n :where [?a :k/n ?n] (not-join [?a] [?a :k/link ?b] [?b :k/n ?n])]
        [:find ?a ?b :where [?a :k/link ?b] (not [?b :k/link ?a])]
        [:find ?a :where [?a :k/n _] (not ["e1" :k/link ?a])]
        [:find ?a :where [?a :k/n _] (not [?a :k/n _] ["e1" :k/s "a"])]
        [:find ?a :where [?a :k/n _] (not [?a :k/n _] [_ :k/m true])]
        [:find ?a ?v :where [?a :k/m ?v] (not [?a :k/m ?w] [(< ?w ?v)])]
        [:find ?a :where [?a :k/link ?b] (not [?a :k/n 1]) (not [?b :k/n 0])]
        [:find ?a :where [?a :k/n 1] (not [?a :k/n ?n] [?b :k/n ?n] [?b :k/s "b"])]
    """,
    "not with filters": """
        [:find ?a ?n :where [?a :k/n ?n] (not [(> ?n 1)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [?b :k/n ?m] [(< ?m ?n)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [?a :k/many ?m] [(< ?m ?n)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [?a :k/s _] [(= ?n 1)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [_ :k/s "a"] [(= ?n 1)])]
        [:find ?a ?b :where [?a :k/s _] [?b :k/s _] (not [(= ?a ?b)])]
        [:find ?a ?n :where [?a :k/n ?n] (not [(+ ?n 1) ?m] [_ :k/many ?m])]
        [:find ?a ?n :where [?a :k/n ?n] (not [(range 0 ?n) [?i ...]] [?a :k/many ?i])]
        [:find ?a ?n ?m :where [?a :k/n ?n] [?a :k/many ?m] (not [?a :k/e ?b] [(< ?n ?m)] [?b :k/n ?n])]
        [:find ?a :where [?a :k/n ?n] (not [(get-else $ ?a :k/s "none") ?s] [(= ?s "none")])]
        [:find ?a :where [?a :k/n ?n] (not [(get-else $ ?a :k/c 1) ?n])]
        [:find ?a :where [?a :k/n _] (not [?a :k/e ?b] [(missing? $ ?b :k/n)])]
        [:find ?a :where [?a :k/n _] (not [?a :k/e ?b] [(get-else $ ?b :k/n 0) ?n] [(= ?n 0)])]
        [:find ?a :where [?a :k/n _] (not-join [?a] [?a :k/link ?b] [(get-some $ ?b :k/s :k/m) [?p ?v]] [?c :k/s ?v])]
    """,
    "nested not": """
        [:find ?a :where [?a :k/n _] (not [?a :k/e ?b] (not [?b :k/s _]))]
        [:find ?a :where [?a :k/n _] (not [?a :k/link ?b] (not [?b :k/link ?a]))]
        [:find ?a :where [?a :k/n ?n] (not [?a :k/e ?b] (not [?b :k/n ?n]))]
        [:find ?a :where [?a :k/n ?n] (not (not [?a :k/many ?n]))]
        [:find ?e :where [?e :k/e ?b] (not [?b :k/n ?n] (not [?b :k/n 2.5]))]
        [:find ?a :where [?a :k/n _] (not [?a :k/e ?b] (not [?b :k/e ?c] (not [?c :k/s "a"])))]
        [:find ?a :where [?a :k/n ?n] (not-join [?a ?n] [?a :k/link ?b] (not-join [?b ?n] [?b :k/many ?m] [(< ?m ?n)]))]
        [:find ?a :where [?a :k/s _] (not [?a :k/n ?n] (not [?a :k/many ?m] [(< ?m ?n)]) [(> ?n 0)])]
        [:find ?a :where [?a :k/s _] (not-join [?a] [?a :k/link ?b] (or [?b :k/n 1] (and [?b :k/n 0] (not [?b :k/s "a"]))))]
    """,
    "or": """
        [:find ?a ?n :where (or [?a :k/n ?n] [?a :k/many ?n])]
        [:find ?a :where [?a :k/s _] (or [?a :k/n 1] [?a :k/many 1] [?a :k/m 1])]
        [:find ?a :where (or-join [?a] (and [?a :k/e ?b] [?b :k/n 1]) (and [?a :k/link ?b] [?b :k/s "a"]))]
        [:find ?a ?b :where (or [?a :k/e ?b] [?a :k/link ?b]) (or [?b :k/e ?a] [?b :k/link ?a])]
        [:find ?a :where [?a :k/n ?n] (or-join [[?n] ?a] [(> ?n 1)] [?a :k/s "a"])]
        [:find ?a ?x :where [?a :k/n ?n] (or (and [(< ?n 2)] [(identity "small") ?x] [(str ?n) _]) (and [(>= ?n 2)] [(identity "large") ?x]))]
        [:find ?a :where [?a :k/n ?n] (or [(= ?n 1)] (and [(= ?n 2)] (not [?a :k/s _])) [?a :k/many ?n])]
        [:find ?a :where [?a :k/s ?s] (not (or [?a :k/n 1] [?a :k/many 1]))]
        [:find ?a :where [?a :k/n _] (not (or-join [?a] (and [?a :k/e ?b] [?b :k/n 1]) [?a :k/s "a"]))]
        [:find ?a ?b :where (or (and [?a :k/e ?b] [?a :k/n 1]) (and [?a :k/e ?b] [?b :k/n 1]))]
        [:find ?a :where (or (or [?a :k/n 1] [?a :k/n 2]) (and [?a :k/s "a"] (or [?a :k/m 1] [?a :k/m true])))]
    """,
    "rules": """
        [:find ?a :in $ % :where (small ?a)]
        [:find ?a ?n :in $ % :where [?a :k/n ?n] (big ?n)]
        [:find ?a :in $ % :where (lonely ?a) (small ?a)]
        [:find ?a :in $ % :where [?a :k/s _] (not (lonely ?a))]
        [:find ?a :in $ % :where [?a :k/n _] (not [?a :k/e ?b] (small ?b))]
        [:find ?a :in $ % :where (or-join [?a] (small ?a) (and [?a :k/many ?n] (big ?n)))]
        [:find ?x :in $ % :where (r ?x ?x)] | ['[[(r ?a ?b) [?a :k/link ?c] [?c :k/link ?b]]]']
        [:find ?n :in $ % :where (r "e1" ?n) (r ?b ?n) [?b :k/s "a"]] | ['[[(r ?a ?n) [?a :k/n ?n]] [(r ?a ?n) [?a :k/many ?n]]]']
    """,
    "recursion": """
        [:find ?a ?b :in $ % :where (reach ?a ?b)]
        [:find ?a ?b :in $ % :where (back ?a ?b)]
        [:find ?a ?b :in $ % :where (twice ?a ?b)]
        [:find ?a ?b :in $ % :where (even-path ?a ?b)]
        [:find ?a ?b :in $ % :where (odd-path ?a ?b)]
        [:find ?a ?b :in $ % :where (safe ?a ?b)]
        [:find ?a ?b :in $ % :where (mixed ?a ?b)]
        [:find ?a ?v :in $ % :where (tied ?a ?v)]
        [:find ?a ?n :in $ % :where (filled ?a ?n)]
        [:find ?a ?b :in $ % :where (shaded ?a ?b)]
        [:find ?a ?b :in $ % :where (apart ?a ?b)]
        [:find ?a :in $ % :where (top ?a)]
        [:find ?a :in $ % :where (reach ?a ?a)]
        [:find ?a ?n :in $ % :where (reach ?a ?b) [?b :k/n ?n] [?a :k/n ?n]]
        [:find ?a ?c :in $ % :where (reach ?a ?b) (back ?b ?c)]
        [:find ?a ?b :in $ % :where (reach ?a ?b) (reach ?b ?a)]
        [:find ?a (count ?b) :in $ % :where (reach ?a ?b)]
    """,
    "recursion from": """
        [:find ?b :in $ % :where (reach "e1" ?b)]
        [:find ?a :in $ % :where (reach ?a "e1")]
        [:find ?b :in $ % :where (twice "e1" ?b)]
        [:find ?b :in $ % :where (back "e1" ?b)]
        [:find ?a :in $ % :where (back ?a "e1")]
        [:find ?b :in $ % ?a :where (reach ?a ?b)] | ["e2"]
        [:find ?a ?b :in $ % [?a ...] :where (safe ?a ?b)] | [["e2", "e4"]]
        [:find ?b :in $ % ?a :where (even-path ?a ?b)] | ["e3"]
        [:find ?a ?b :in $ % :where [?a :k/s "a"] (reach ?a ?b)]
        [:find ?a ?b :in $ % :where [?a :k/n 1] [?a :k/e ?c] (twice ?c ?b)]
        [:find ?a ?n :in $ % :where [?a :k/s _] (climb ?a ?n)]
        [:find ?n :in $ % :where (climb "e1" ?n)]
        [:find ?a ?m :in $ % :where [?a :k/n ?n] (down ?n ?m)]
        [:find ?m :in $ % ?n :where (down ?n ?m) [_ :k/n ?m]] | [4]
        [:find ?b :in $ % :where (reach "e1" ?b) (reach "e2" ?b)]
        [:find ?x :in $ % :where ["e1" :k/e ?a] (reach ?a ?b) [?b :k/n ?x]]
        [:find ?b :in $ % :where (mixed "e1" ?b) (not [?b :k/s "a"])]
        [:find ?a ?b :in $ % [[?a ?n]] :where [?a :k/n ?n] (reach ?a ?b)] | [[["e1", 1], ["e2", 2], ["e3", 1]]]
    """,
    "recursion under not": """
        [:find ?a :in $ % :where [?a :k/n _] (not (reach ?a "e1"))]
        [:find ?a :in $ % :where [?a :k/n _] (not (reach _ ?a))]
        [:find ?a ?b :in $ % :where [?a :k/e ?b] (not (twice ?b ?a))]
        [:find ?a :in $ % :where [?a :k/n ?n] (not (reach ?a ?b) [?b :k/n ?n])]
        [:find ?a :in $ % :where [?a :k/n _] (not (reach ?a ?b) (not [?b :k/s _]))]
        [:find ?a :in $ % :where (lonely ?a) (not (climb ?a 1))]
        [:find ?a :in $ % :where [?a :k/n _] (not-join [?a] (safe ?a ?b) (small ?b))]
        [:find ?a ?b :in $ % :where (reach ?a ?b) (not (mixed ?a ?b))]
        [:find ?a :in $ % :where [?a :k/s _] (or-join [?a] (top ?a) (and (reach ?a ?b) [?b :k/n 1] [?a :k/n _]))]
        [:find ?a :in $ % :where (top ?a) (not (apart ?a _))]
    """,
    "aggregates": """
        [:find ?s (count ?a) :where [?a :k/s ?s]]
        [:find ?s (sum ?n) :with ?a :where [?a :k/s ?s] [?a :k/n ?n]]
        [:find ?s (sum ?n) :where [?a :k/s ?s] [?a :k/n ?n]]
        [:find (avg ?n) (median ?n) (variance ?n) (stddev ?n) :with ?a :where [?a :k/n ?n]]
        [:find ?s (min ?n) (max ?n) (min 2 ?n) (max 2 ?n) :where [?a :k/s ?s] [?a :k/many ?n]]
        [:find (count-distinct ?v) (distinct ?v) :with ?a :where [?a :k/m ?v]]
        [:find (min ?v) (max ?v) (sum ?v) (avg ?v) :with ?a :where [?a :k/m ?v]]
        [:find (rand ?n) (sample 2 ?n) (rand 3 ?n) :where [_ :k/many ?n]]
        [:find ?a (count ?b) (count ?c) :where [?a :k/link ?b] [?a :k/e ?c]]
        [:find (count ?a) :where [?a :k/n _] (not [?a :k/s _])]
        [:find ?b (sum ?c) :with ?a :where [?a :k/e ?b] [?a :k/c ?c]]
        [:find (sum ?x) :with ?a :where [?a :k/n ?n] [(* ?n 0.1) ?x]]
        [:find ?n (count ?n) :where [?a :k/n ?n]]
        [:find (count ?a) (max ?n) :with ?b :where [?a :k/link ?b] [?b :k/n ?n]]
    """,
    "with": """
        [:find ?n :with ?a :where [?a :k/n ?n]]
        [:find ?s ?n :with ?b :where [?a :k/s ?s] [?a :k/link ?b] [?b :k/n ?n]]
        [:find ?n :with ?a ?m :where [?a :k/n ?n] [?a :k/many ?m] (not [?a :k/s "a"])]
    """,
    "order and limit": """
        [:find ?a ?n :where [?a :k/n ?n] :order-by [?n :desc]]
        [:find ?a ?n :where [?a :k/n ?n] :order-by [?n ?a :desc] :limit 2]
        [:find ?a ?v :where [?a :k/m ?v] :order-by [?v] :limit 3 :offset 1]
        [:find ?n :with ?a :where [?a :k/n ?n] :order-by [?n] :limit 3]
        [:find ?s (count ?a) :where [?a :k/s ?s] :order-by [count_a :desc] :limit 2]
        [:find ?a ?m :where [?a :k/many ?m] :limit 3]
        [:find ?a ?b :where [?a :k/link ?b] :offset 2]
        [:find ?a :where [?a :k/n _] :limit 0]
        [:find ?s (avg ?n) :where [?a :k/s ?s] [?a :k/n ?n] :order-by [avg_n :desc ?s] :offset 1]
        [:find ?a ?b :in $ % :where (reach ?a ?b) :order-by [?b ?a] :limit 4]
    """,
    "shapes": """
        [:find ?n . :where [_ :k/n ?n]]
        [:find [?n ...] :where [_ :k/n ?n]]
        [:find [?a ?n] :where [?a :k/n ?n]]
        [:find (count ?a) . :where [?a :k/n 1]]
        [:find [(min ?n) (max ?n)] :where [_ :k/n ?n]]
        [:find [?n ...] :where [_ :k/many ?n] :order-by [?n :desc] :limit 2]
        [:find ?a . :where [?a :k/n ?n] [(> ?n 1)] :order-by [?a :desc]]
        [:find ?n . :where [_ :k/n ?n] :offset 1]
    """,
    "inputs": """
        [:find ?a :in $ ?n :where [?a :k/n ?n]] | [1.0]
        [:find ?a ?n :in $ [?n ...] :where [?a :k/n ?n]] | [[1, 2, 2.5, 1.0, True]]
        [:find ?a ?v :in $ [?v ...] :where [?a :k/m ?v]] | [[True, 1, "1", "true"]]
        [:find ?a ?t :in $ [[?n ?t]] :where [?a :k/n ?n]] | [[[1, "one"], [2, "two"], [1, "uno"]]]
        [:find ?a :in $ [?n ?s] :where [?a :k/n ?n] [?a :k/s ?s]] | [[1, "a"]]
        [:find ?e ?n :in $ [?e ...] :where [?e :k/n ?n]] | [["e1", "e2", "nobody"]]
        [:find ?x ?a :in $ [?x ...] :where [?a :k/s ?s] (not [?a :k/n ?x])] | [[1, 2]]
        [:find ?x ?y :in $ [?x ...] [?y ...] :where [?a :k/n ?x] [?b :k/many ?y]] | [[1, 2], [0, 1]]
        [:find ?a :in $ [?n ...] :where [?a :k/n ?n]] | [[]]
        [:find ?m :in $ ?n :where [?a :k/many ?m] [(> ?m ?n)]] | [1]
        [:find ?x :in $ [[?x _]] :where (not [_ :k/n ?x])] | [[[1, 2], [3, 4], [0, 0]]]
        [:find ?e ?n :in $ [[?e ?n]] :where (not [?e :k/many ?n])] | [[["e1", 1], ["e2", 2], ["e3", 1]]]
        [:find ?a :in $ [[?a [?n ...]] ...] :where [?a :k/n ?n]] | [[["e1", [1, 2]], ["e2", [0]]]]
    """,
    "callables": """
        [:find ?a :in $ ?f :where [?a :k/m ?v] [(?f ?v)]] | [CALLABLES["positive"]]
        [:find ?a ?x :in $ ?f :where [?a :k/m ?v] [(?f ?v) ?x]] | [CALLABLES["tens"]]
        [:find ?a ?x ?y :in $ ?f :where [?a :k/s ?s] [(?f ?s) [?x ?y]]] | [CALLABLES["pair"]]
        [:find ?a ?x :in $ ?f :where [?a :k/n ?n] [(?f ?n) [?x ...]]] | [CALLABLES["list"]]
        [:find ?s (aggregate ?f ?n) :in $ ?f :with ?a :where [?a :k/s ?s] [?a :k/many ?n]] | [CALLABLES["spread"]]
        [:find ?s (aggregate ?f ?a) :in $ ?f :where [?a :k/s ?s]] | [CALLABLES["rarely"]]
        [:find ?a :in $ ?f :where [?a :k/n ?n] (not [?a :k/many ?m] [(?f ?m)])] | [CALLABLES["positive"]]
        [:find ?b :in $ % ?f :where [?a :k/n ?n] [(?f ?n)] (reach ?a ?b)] | [CALLABLES["positive"]]
        [:find ?b :in $ ?f :where [?a :k/n ?n] [(?f ?n) ?m] [(/ ?m 10) ?k] [?b :k/many ?k]] | [CALLABLES["tens"]]
    """,
    "kinds": """
        [:find ?a ?n :where [?a :k/n ?n] :kinds {:k/n number}]
        [:find ?a ?s :where [?a :k/s ?s] :kinds {:k/s text}]
        [:find ?a ?b :where [?a :k/e ?b] [?b :k/n ?n] :kinds {:k/e reference :k/n number}]
        [:find ?a :where [?a :k/n _] (not [?a :k/s _]) :kinds {:k/s text :k/n number}]
        [:find ?a ?n :where [?a :k/s _] [(get-else $ ?a :k/n 9) ?n] :kinds {:k/n number}]
        [:find ?a :where [?a :k/s _] [(missing? $ ?a :k/n)] :kinds {:k/n number}]
        [:find ?a :where [?a :k/m true] :kinds {:k/m boolean}]
        [:find ?a ?v :where [?a :k/m ?v] :kinds {:k/m date}]
        [:find ?a ?x :where [?a :k/s ?x] [?b :k/e ?x] :kinds {:k/s text :k/e reference}]
        [:find ?x ?b :where ["e1" :k/link ?x] [?b :k/s ?x] :kinds {:k/link reference}]
        [:find ?a :where [?a :k/s "a"] :kinds {:k/s reference}]
        [:find ?a ?b :in $ % :where (reach ?a ?b) :kinds {:k/link reference}]
        [:find ?a ?p ?v :where [?a :k/n _] [(get-some $ ?a :k/s :k/m) [?p ?v]] :kinds {:k/s text :k/m number}]
        [:find (sum ?n) :with ?a :where [?a :k/c ?n] :kinds {:k/c counter}]
    """,
    "pull and get": """
        [:find (pull ?a [:k/n :k/s {:k/e [:k/n {:k/link [:k/s]}]}]) :where [?a :k/n _]]
        [:find ?a (pull ?b [:k/many :k/_link]) :where [?a :k/e ?b]]
        [:find ?a (get ?a :k/e :k/n) :where [?a :k/s _]]
        [:find ?a (get ?a :k/n) :where [?a :k/s _] :order-by [(get ?a :k/n) ?a :desc] :limit 3]
        [:find [(pull ?a [:k/n {:k/e ...}]) ...] :where [?a :k/s "a"]]
    """,
    "variable predicates": """
        [:find ?p ?v :where ["e1" ?p ?v]]
        [:find ?a ?p :where [?a ?p 1] (not [?a :k/s "a"])]
        [:find ?p (count ?a) :where [?a ?p _]]
        [:find ?e ?n :in $ ?p :where [?e :k/s _] [(get-else $ ?e ?p 9) ?n]] | ["k/n"]
        [:find ?e :where [?e :k/n _] [(missing? $ ?e :k/_link)]]
    """,
}  # fmt: skip


def constructs(name: str) -> list[tuple[str, list[Any]]]:
    """The queries of a construct, with their inputs."""
    out = []
    for line in filter(None, map(str.strip, CONSTRUCTS[name].splitlines())):
        text, _, rest = line.partition(" | ")
        inputs = eval(rest, {"CALLABLES": CALLABLES}) if rest else []
        if "%" in text and not (inputs and isinstance(inputs[0], str) and inputs[0].startswith("[[")):
            inputs = [RULES_TEXT, *inputs]
        out.append((text, inputs))
    return out


# -- random queries that mix them -----------------------------------------------------------------------------


class Mixture(Generator):
    """Random queries of every construct. `text` has clauses in any order: they have none of their own."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rules = [rule for rule in RULES if rule[0] not in NEED_BOUND]
        self.case_inputs: list[Any] = []
        self.ins: list[str] = []

    def query(self) -> tuple[str, list[Any]]:
        """(text, inputs)."""
        rng = self.random
        case = self.case()
        where = case.where
        ins, inputs = [*case.ins, *self.ins], [*case.inputs, *self.case_inputs]
        rng.shuffle(where)
        find = " ".join(case.find)
        tail = ""
        shape = rng.random()
        if shape < 0.06:
            find = f"{case.find[0]} ."
        elif shape < 0.12:
            find = f"[{case.find[0]} ...]"
        elif shape < 0.16:
            find = f"[{find}]"
        if rng.random() < 0.15:
            names = [name for name in case.find[: 1 if shape < 0.12 else None] if name.startswith("?")]
            if names:
                tail += f" :order-by [{' '.join(name + rng.choice(['', ' :desc']) for name in names)}]"
        if rng.random() < 0.12:
            tail += f" :limit {rng.randint(0, 4)}"
        if rng.random() < 0.07:
            tail += f" :offset {rng.randint(0, 2)}"
        if rng.random() < 0.2:
            kinds = {"k/n": "number", "k/s": "text", "k/e": "reference", "k/m": "number", "k/link": "reference"}
            pairs = rng.sample(sorted(kinds.items()), rng.randint(1, 3))
            tail += f" :kinds {{{' '.join(f':{name} {kind}' for name, kind in pairs)}}}"
        used = {word.strip("()[] ") for word in find.split()}
        with_ = [name for name in case.with_ if name not in used]
        parts = [f"[:find {find}", *([f":with {' '.join(with_)}"] if with_ else [])]
        parts += [" ".join([":in $ %", *ins]), ":where", *where]
        return f"{' '.join(parts)}{tail}]", [RULES_TEXT, *inputs]

    # -- clauses beyond those of DataScript's generator

    def values(self, kind: str) -> list[Value]:
        return [*MIXED] if kind == "m" else super().values("n" if kind == "c" else kind)

    def pattern(self, bound: dict[str, str]) -> str:
        predicate = self.random.choice(sorted(KINDS))
        kind = "n" if KINDS[predicate] == "c" else KINDS[predicate]
        subject = self.term("e", bound)
        choice = self.random.random()
        if choice < 0.03:
            return f'[{subject} "{predicate}"]' if subject != "_" else f'[_ "{predicate}" _]'
        other = self.old(self.random.choice("ens"), bound) if choice < 0.1 else None
        return f'[{subject} "{predicate}" {other or self.term(kind, bound)}]'

    def clause(self, depth: int) -> str:
        bound = self.bound
        more = [self.get_some, self.many_of, self.mixed_test, self.called]
        more += [self.filtered_not, self.not_with_lookup, self.not_rule, self.not_or, self.guarded]
        if self.random.random() < 0.35:
            return self.random.choice(more)(bound)
        return super().clause(depth)

    def any_old(self, bound: dict[str, str]) -> str | None:
        return self.random.choice(sorted(bound)) if bound else None

    def get_some(self, bound: dict[str, str]) -> str:
        entity = self.old("e", bound)
        if entity is None:
            return self.pattern(bound)
        names = " ".join(f'"{name}"' for name in self.random.sample(sorted(KINDS), 2))
        return f"[(get-some $ {entity} {names}) [{self.variable('p', bound)} {self.variable('m', bound)}]]"

    def many_of(self, bound: dict[str, str]) -> str:
        n, rng = self.old("n", bound), self.random
        if n is None or rng.random() < 0.3:
            rows = f"[[1 {rng.choice([1, 2])}] [2 2.5] [0 3]]"
            return f"[(ground {rows}) [[{n or self.variable('n', bound)} {self.variable('n', bound)}]]]"
        item = self.old("n", bound) if rng.random() < 0.3 else self.variable("n", bound)
        return rng.choice([f"[(range 0 {n}) [{item} ...]]", f"[(vector {n} 2) [{item} ...]]"])

    def mixed_test(self, bound: dict[str, str]) -> str:
        a, b = self.any_old(bound), self.any_old(bound)
        if a is None:
            return self.pattern(bound)
        b = b if self.random.random() < 0.6 else self.constant(self.random.choice("mns"))
        return f"[({self.random.choice(['<', '=', 'not=', '>=', '!='])} {a} {b})]"

    def called(self, bound: dict[str, str]) -> str:
        held = self.any_old(bound)
        if held is None or self.ins:
            return self.pattern(bound)
        name = self.random.choice(["positive", "tens", "pair", "list"])
        self.ins.append("?call")
        self.case_inputs.append(CALLABLES[name])
        if name == "positive":
            return f"[(?call {held})]"
        if name == "tens":
            return f"[(?call {held}) {self.variable('n', bound)}]"
        if name == "pair":
            return f"[(?call {held}) [_ {self.variable('n', bound)}]]"
        return f"[(?call {held}) [{self.variable('m', bound)} ...]]"

    def filtered_not(self, bound: dict[str, str]) -> str:
        n, e = self.old("n", bound), self.old("e", bound)
        if n is None or e is None:
            return self.pattern(bound)
        subject = self.random.choice([e, "_", "?inner"])
        test = self.random.choice(["<", ">", "=", "not="])
        inside = [f'[{subject} "{self.random.choice(["k/many", "k/n", "k/m"])}" ?held]', f"[({test} ?held {n})]"]
        if self.random.random() < 0.3:
            inside.append(f'[{e} "k/e" {self.random.choice(["_", "?inner", "?other"])}]')
        if self.random.random() < 0.2:
            inside.append('(not [?held2 "k/many" ?held] [?held2 "k/s" "a"])')
        joined = sorted({n, *([e] if any(e in part for part in inside) else [])})
        self.random.shuffle(inside)
        if self.random.random() < 0.5 and "(not [?held2" not in inside[-1]:
            return f"(not-join [{' '.join(joined)}] {' '.join(inside)})"
        self.fresh += 1
        return f"(not {' '.join(inside)})".replace("?inner", f"?inner{self.fresh}").replace("?held", f"?held{self.fresh}").replace("?other", f"?other{self.fresh}")

    def not_with_lookup(self, bound: dict[str, str]) -> str:
        e = self.old("e", bound)
        if e is None:
            return self.pattern(bound)
        self.fresh += 1
        x, b = f"?got{self.fresh}", f"?via{self.fresh}"
        return self.random.choice(
            [
                f'(not [(get-else $ {e} "k/n" 1) {x}] [(= {x} 1)])',
                f'(not [{e} "k/e" {b}] [(get-else $ {b} "k/n" 0) {x}] [(< {x} 1)])',
                f'(not [{e} "k/link" {b}] [(missing? $ {b} "k/s")])',
                f'(not-join [{e}] [{e} "k/e" {b}] [(get-some $ {b} "k/s" "k/m") [_ {x}]] [_ "k/m" {x}])',
            ]
        )

    def not_rule(self, bound: dict[str, str]) -> str:
        e, other = self.old("e", bound), self.old("e", bound)
        if e is None:
            return self.pattern(bound)
        name = self.random.choice([name for name, kinds, _ in self.rules if kinds == "ee"])
        self.fresh += 1
        inner = f"?far{self.fresh}"
        return self.random.choice(
            [
                f"(not ({name} {e} {other}))",
                f"(not ({name} {e} {self.constant('e')}))",
                f"(not ({name} _ {e}))",
                f'(not ({name} {e} {inner}) [{inner} "k/n" 1])',
                f"(not-join [{e}] ({name} {inner} {e}) (small {inner}))",
                f"(not (top {e}))",
            ]
        )

    def not_or(self, bound: dict[str, str]) -> str:
        e = self.old("e", bound)
        if e is None:
            return self.pattern(bound)
        return self.random.choice(
            [
                f'(not (or [{e} "k/n" {self.constant("n")}] [{e} "k/s" {self.constant("s")}]))',
                f'(not (or-join [{e}] (and [{e} "k/e" ?o] [?o "k/n" 1]) (reach {e} {self.constant("e")})))',
                f'(or-join [{e}] (not [{e} "k/n" 1]) [{e} "k/s" "a"])',
                f'(not [{e} "k/n" _] (not (or [{e} "k/s" "a"] [{e} "o/n" 1])))',
            ]
        )

    def guarded(self, bound: dict[str, str]) -> str:
        n = self.old("n", bound)
        if n is None:
            return self.pattern(bound)
        choice, e = self.random.random(), self.old("e", bound)
        other = self.old("n", bound) if choice < 0.2 else self.variable("n", bound) if choice < 0.66 else ""
        if choice < 0.33 or (choice < 0.66 and e is None):
            return f"(down {n} {other})"
        if choice < 0.66:
            return f"(climb {e} {other})"
        e = e or self.variable("e", bound)
        return f'(or-join [[{n}] {e}] (and [(> {n} 1)] [{e} "k/n" _]) [{e} "k/many" {n}])'
