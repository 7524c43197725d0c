"""What an attack on queries by columns found, one test each."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache
from time import process_time
from typing import Any

import pandas as pd
import pytest

import tripleweb
from tests.live_histories import keys
from tripleweb import t
from tripleweb.change import Change
from tripleweb.datalog import evaluate, maintained
from tripleweb.datalog import executor as executor_module
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.executor import Executor, Prepared
from tripleweb.datalog.query import parse
from tripleweb.datalog.upkeep import Upkeep
from tripleweb.datalog.vectorised import relations
from tripleweb.datalog.vectorised.mirrors import Mirror, mirrors_of
from tripleweb.errors import BudgetError
from tripleweb.store import Store
from tripleweb.terms import Ref, Value, slot

Triple = tuple[str, str, Value]
EACH = "[:find ?e ?n :where [?e :k/n ?n]]"


def stored(singles: Iterable[Triple], members: Iterable[Triple] = ()) -> Store:
    store = Store()
    store.apply([Change(*triple[:2], "", triple[2], 1, "r") for triple in singles])
    store.apply([Change(*triple[:2], slot(triple[2]), triple[2], 1, "r") for triple in members])
    return store


def check(store: Store, text: str, *inputs: Any, executor: Executor | None = None) -> None:
    """Columns say what the plain evaluator says: when they are looked at row by row, and as arrays."""
    query = parse(text)
    executor = executor or Executor(store, many=-1)
    expected = Counter(keys(evaluate.run(query, inputs, store).rows))
    for _ in range(3):
        assert Counter(keys(executor.run(query, inputs).rows)) == expected, text


BOTH: list[Triple] = [("e1", "k/m", "a"), ("e1", "k/m", Ref("a")), ("e2", "k/m", "a")]


@pytest.mark.parametrize(
    "text",
    [
        "[:find ?e ?v :where [?e :k/m ?v]]",
        '[:find ?e :where [?e :k/m "a"]]',
        "[:find ?v (count ?e) :where [?e :k/m ?v]]",
        "[:find ?e ?v :where [?e :k/n 1] [?e :k/m ?v]]",
        "[:find ?e ?v ?f :where [?e :k/m ?v] [?f :k/m ?v]]",
        "[:find ?e ?f :where [?f :k/s ?s] [?e :k/m ?s]]",
    ],
)
def test_a_text_and_a_reference_to_it_are_one_value(text: str) -> None:
    many = [(f"x{n}", "k/m", "z") for n in range(40)]
    check(stored([("e1", "k/n", 1), ("e7", "k/s", "a"), *many], BOTH), text)


@pytest.mark.parametrize("gone", BOTH[:2])
def test_of_a_text_and_a_reference_to_it_one_goes(gone: Triple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintained, "MANY", -1)
    many = [(f"x{n}", "k/m", "z") for n in range(40)]
    store = stored([("e7", "k/s", "a"), *many], BOTH)
    upkeep = Upkeep(store)
    live = upkeep.open("[:find ?e ?f :where [?f :k/s ?s] [?e :k/m ?s]]")
    live.refresh()
    upkeep.changed(store.apply([Change(*gone[:2], slot(gone[2]), None, 2, "r")]))
    live.refresh()
    assert sorted(live.rows) == [("e1", "e7"), ("e2", "e7")]


def test_what_a_collection_has_twice_counts_once() -> None:
    store = stored([("e1", "k/n", 1)])
    check(store, "[:find (count ?x) :where [_ :k/n ?n] [(ground [[1 2] [1 3]]) [[?x _]]]]")
    check(store, "[:find ?n ?x :where [_ :k/n ?n] [(vector ?n ?n 2) [?x ...]]]")


@pytest.mark.parametrize("text", ["x", "x\0", "x\0\0", "", "\0"])
def test_zeros_at_the_end_of_a_text_count(text: str) -> None:
    store = stored([(f"e{n}", "k/s", "x" * (n % 2) + "\0" * (n // 2)) for n in range(6)])
    check(store, "[:find ?e :in $ ?c :where [?e :k/s ?c]]", text)
    for name in ("=", "!=", "<", ">="):
        check(store, f"[:find ?e :in $ ?c :where [?e :k/s ?s] [({name} ?s ?c)]]", text)


@pytest.mark.parametrize("kind", ["number", "boolean", "date", "text", "reference"])
def test_a_text_is_looked_for_where_other_kinds_should_be(kind: str) -> None:
    store = stored([*[(f"e{n}", "k/n", n) for n in range(100)], ("e1", "o/s", "a"), ("e200", "k/n", "a")])
    check(store, f"[:find ?e ?f :where [?e :o/s ?s] [?f :k/n ?s] :kinds {{:k/n {kind}}}]")


# -- interrupts and budgets


def interrupted(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name, several", [("_encoded", False), ("_forget", False), ("_set_rows", True), ("_forget", True)]
)
@pytest.mark.parametrize("count", [1, 500])
def test_whoever_interrupts_a_query_finds_the_next_one_right(
    name: str, several: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few changed rows are looked at again, many make all anew: neither is left half done."""
    store = stored([(f"e{n}", "k/n", n) for n in range(200)], [("e1", "k/n", 500)] if several else [])
    executor, query = Executor(store, many=-1), parse(EACH)
    executor.run(query, [])
    store.apply([Change(f"f{n}", "k/s", "", "new", 2, "r") for n in range(count)])
    store.apply([Change("e3", "k/n", "", 7, 2, "r"), Change("e2", "k/n", "", None, 2, "r")])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Mirror, name, interrupted)
        executor.run(query, [])
    check(store, EACH, executor=executor)


@pytest.mark.parametrize(
    "text",
    [
        "[:find ?i :where [?e :k/n ?n] [(range 0 1000000000) [?i ...]]]",
        "[:find ?e :where [?e :k/n ?n] [(range 0 1000000000) [?i ...]] [(< ?i 0)]]",
        "[:find ?e ?i ?j :where [?e :k/n ?n] [(range 0 100000) [?i ...]] [(range 0 100000) [?j ...]]]",
    ],
)
@pytest.mark.parametrize("budget", [Budget(rows=100_000), Budget(bytes=1_000_000)])
def test_a_budget_ends_what_a_call_would_make(text: str, budget: Budget) -> None:
    """Before it is made, not after: a billion rows are more than a machine has."""
    store = stored([(f"e{n}", "k/n", n) for n in range(50)])
    with pytest.raises(BudgetError):
        Executor(store, many=-1).run(parse(text), [], budget=budget)


COUNTED = (
    "[[(counted ?n) [_ :k/n 0] [(ground 0) ?n]] [(counted ?n) (counted ?m) [(inc ?m) ?n] [(< ?n ?most)]]]"
)


def test_a_long_recursion_takes_as_long_for_each_of_its_rounds() -> None:
    """What came in a round is all that a round pays for."""
    store = stored([(f"e{n}", "k/n", n) for n in range(50)])
    executor, query = Executor(store, many=-1), parse("[:find (count ?n) . :in $ % :where (counted ?n)]")

    def seconds(most: int) -> float:
        begun = process_time()
        assert executor.run(query, [COUNTED.replace("?most", str(most))]).rows == [(most,)]
        return process_time() - begun

    seconds(100)
    assert seconds(20_000) < 20 * seconds(2_000)


def test_a_budget_ends_a_recursion_that_does_not_end_by_itself() -> None:
    store = stored([(f"e{n}", "k/n", n) for n in range(50)])
    rules = COUNTED.replace(" [(< ?n ?most)]", "")
    for budget in (Budget(rows=20_000), Budget(bytes=500_000)):
        with pytest.raises(BudgetError):
            Executor(store, many=-1).run(
                parse("[:find (count ?n) . :in $ % :where (counted ?n)]"), [rules], budget=budget
            )


def test_a_lookup_after_a_write_numbers_no_column_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes of all values of a column go with each write; its reverse index does not."""
    store = stored([*[(f"e{n}", "k/s", f"name {n // 2}") for n in range(400)], ("e401", "o/e", Ref("e3"))])
    executor = Executor(store, many=-1)
    texts = [
        "[:find ?e ?s :in $ [?s ...] :where [?e :k/s ?s]]",
        "[:find ?s :in $ [?s ...] :where [?e :k/s ?s]]",
        "[:find ?e :in $ [?s ...] :where [?e :k/s ?s] :kinds {:k/s text}]",
        "[:find ?e :in $ [?s ...] :where [?e :k/s ?s] :kinds {:k/s reference}]",
    ]
    for text in texts:
        check(store, text, ["name 3"], executor=executor)
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "cell_codes", property(interrupted))
        for time in range(2, 6):
            changes = [
                Change(f"e{time}", "k/s", "", None, time, "r"),
                Change(f"e{9 * time}", "k/s", "", "name 7", time, "r"),
                Change(f"f{time}", "k/s", "", Ref("name 1") if time == 5 else "name 1", time, "r"),
            ]
            store.apply(changes)
            for text in texts:
                check(store, text, ["name 1", "name 7", "nobody", 1], executor=executor)


def test_entities_that_are_only_referred_to_have_texts_as_ids() -> None:
    names = [(f"e{n}", "k/s", f"name {n}") for n in range(100)]
    store = stored([*names, *[(f"e{n}", "k/e", Ref(f"nobody {n}")) for n in range(100)]])
    check(store, '[:find ?b :where [?a :k/s "name 3"] [?a :k/e ?b]]')
    assert set(map(type, store.names)) == {str}


# -- values of every kind against those of every other

DAY = datetime(2020, 1, 1, tzinfo=UTC)
KINDS: dict[str, list[Value]] = {
    "n": [0, 1, 2, 3],
    "huge": [2**63 - 1, -(2**63), 2**53, 2**53 + 1, -(2**53) - 1, 1],
    "f": [0.0, -0.0, 1.0, 2.5, 1e308, -1e308, 2.0**53],
    "b": [True, False],
    "d": [DAY, DAY + timedelta(days=1)],
    "s": ["a", "b", "", "e1", "e3"],
    "r": [Ref("e1"), Ref("e2"), Ref("e3"), Ref("a")],
    "m": [1, 2.5, True, "a", "e1", Ref("e1"), DAY],
}
WORDS = {"n": "number", "f": "number", "b": "boolean", "d": "date", "s": "text", "r": "reference"}
AGGREGATES = "count count-distinct sum avg min max".split()


@cache
def of_every_kind() -> Store:
    rng = random.Random(5)
    singles = [
        (f"e{n}", f"k/{kind}", rng.choice(values))
        for n in range(60)
        for kind, values in KINDS.items()
        if rng.random() < 0.8
    ]
    members = [
        (f"e{rng.randrange(60)}", f"o/{kind}", value)
        for kind, values in KINDS.items()
        for value in values
        for _ in range(8)
    ]
    return stored(singles, members)


@pytest.mark.parametrize("other", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_meets_every_other(kind: str, other: str) -> None:
    store = of_every_kind()
    executor = Executor(store, many=-1)
    texts = [
        f"[:find ?a ?v :where [?a :k/{kind} ?v] [?b :k/{other} ?v]]",
        f"[:find ?a ?b :where [?a :o/{kind} ?v] [?b :o/{other} ?v]]",
        f"[:find ?a ?b :where [?a :k/{kind} ?v] [?b :o/{other} ?w] [(= ?v ?w)]]",
        f"[:find ?a ?v :where [?a :k/{kind} ?v] [?a :o/{other} ?v]]",
        f"[:find ?a :where [?a :k/{kind} ?v] (not [?b :o/{other} ?v] [?b :k/n 1])]",
        f"[:find ?v :where [?v :k/{kind} ?v]]",
        f"[:find ?a ?v ?w :where [?a :k/{kind} ?v] [?a :k/{other} ?w] [(< ?v ?w)]]",
        f"[:find ?a ?v ?w :where [?a :k/{kind} ?v] [?a :o/{other} ?w] [(!= ?v ?w)]]",
        *(f"[:find ?v ({each} ?w) :where [?a :k/{kind} ?v] [?a :o/{other} ?w]]" for each in AGGREGATES),
    ]
    if other in WORDS:
        texts += [
            f"[:find ?a :where [?a :k/{kind} ?v] [?b :o/m ?v] :kinds {{:o/m {WORDS[other]}}}]",
            f"[:find ?a ?b :where [?a :k/{kind} ?v] [?b :k/m ?v] :kinds {{:k/m {WORDS[other]}}}]",
            f"[:find ?b :where [?a :k/{kind} ?v] [?b :k/m ?v] :kinds {{:k/{kind} {WORDS[other]}}}]",
        ]
    for text in texts:
        check(store, text, executor=executor)
    for value in KINDS[other]:
        check(store, f"[:find ?a :in $ ?v :where [?a :k/{kind} ?v]]", value, executor=executor)
        check(store, f"[:find ?a :in $ ?v :where [?a :o/{kind} ?w] [(= ?v ?w)]]", value, executor=executor)
        check(store, f"[:find ?a :in $ ?v :where [?a :k/{kind} ?w] [(> ?w ?v)]]", value, executor=executor)
        check(store, f"[:find ?a :in $ [?v ...] :where [?a :k/{kind} ?v]]", [value], executor=executor)


@pytest.mark.parametrize("width", [2, 3, 6])
def test_wide_inputs_with_what_is_missing(width: int) -> None:
    rng, store = random.Random(width), of_every_kind()
    cells = [1, 1.0, "a", "e1", True, None, DAY]
    rows = [[f"e{rng.randrange(70)}", *(rng.choice(cells) for _ in range(width - 1))] for _ in range(300)]
    names = " ".join(f"?c{n}" for n in range(1, width))
    for where in ("[?e :k/n ?v]", "[?v :k/r ?e]", "[?v :k/m ?c1]", "[?e :k/m ?c1] [?e :k/n ?v]"):
        check(store, f"[:find ?e {names} ?v :in $ [[?e {names}]] :where {where}]", rows)
        check(store, f"[:find (count ?e) :in $ [[?e {names}]] :where {where} (not [?e :k/s ?c1])]", rows)


def test_between_writes_generated_code_may_touch_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write has large mirrors copied, which took four times as long as the query by generated code."""
    monkeypatch.setattr(executor_module, "COPIED", 100)
    store = stored((f"e{n}", f"k/{name}", n % 3) for n in range(3_000) for name in "nm")
    executor, query = Executor(store), parse("[:find ?e ?m :in $ ?n :where [?e :k/n ?n] [?e :k/m ?m]]")

    def way() -> str:
        executor.run(query, [1])
        return next(held.way for _, _, held in executor._prepared.values() if isinstance(held, Prepared))

    assert {way() for _ in range(20)} == {"vectorised"}
    for time in range(2, 12):
        store.apply([Change("e1", "k/n", "", time, time, "r"), Change("e2", "k/m", "", time, time, "r")])
        last = way()
    assert last == "compiled"
    check(store, "[:find ?e ?m :in $ ?n :where [?e :k/n ?n] [?e :k/m ?m]]", 1, executor=executor)


# -- what changed conditions in the code got away with


@pytest.mark.parametrize("tail", [":limit 2", ":offset 1", ":order-by [?n :desc]", ":limit 1 :offset 1"])
def test_groups_are_cut_and_put_in_order(tail: str) -> None:
    store = stored((f"e{n}", "k/n", n % 4) for n in range(50))
    query = parse(f"[:find ?n (count ?e) :where [?e :k/n ?n] {tail}]")
    assert list(Executor(store, many=-1).run(query, []).rows) == evaluate.run(query, [], store).rows


def test_groups_with_something_looked_up() -> None:
    store = stored([*[(f"e{n}", "k/e", Ref(f"e{n % 4}")) for n in range(50)], ("e1", "k/n", 7)])
    check(store, "[:find ?a (count ?e) (get ?a :k/n) :where [?e :k/e ?a]]")


def test_first_looks_know_kinds_and_what_is_bound() -> None:
    texts = [*[(f"e{n}", "k/m", "z") for n in range(100)], ("f1", "k/m", "a"), ("f2", "k/m", Ref("b"))]
    store = stored([*texts, ("g1", "o/s", "a"), ("g2", "o/s", "b"), ("e1", "o/m", "z"), ("f2", "o/m", "c")])
    for kind in ("text", "reference", "number"):
        for found in ("?s", "?f", "?e ?s"):
            check(store, f"[:find {found} :where [?e :o/s ?s] [?f :k/m ?s] :kinds {{:k/m {kind}}}]")
    check(store, "[:find ?e ?v :where [?e :o/m ?v] [?e :k/m ?v]]")


def test_nobody_names_itself() -> None:
    store = stored([*[(f"e{n}", "k/e", Ref(f"e{n + 1}")) for n in range(50)], ("x", "k/s", "a")])
    check(store, "[:find ?x :where [?x :k/s _] [?e :k/e ?e]]")


def test_inputs_are_compared_with_each_other_and_with_what_rules_derive() -> None:
    store = stored([*[(f"e{n}", "k/e", Ref(f"e{n + 1}")) for n in range(50)], ("e3", "k/s", "end")])
    rules = "[[(far ?a ?b) [?a :k/e ?b]] [(far ?a ?b) [?a :k/s ?b]] [(far ?a ?b) [?a :k/e ?c] (far ?c ?b)]]"
    for value in ("end", "e3", "e7", "nobody"):
        check(store, "[:find ?e :in $ ?a ?b :where [?e :k/s _] [(= ?a ?b)]]", value, "e3")
        check(store, "[:find ?a :in $ % ?v :where (far ?a ?b) [(= ?b ?v)]]", rules, value)
        check(store, "[:find ?a :in $ % ?v :where (far ?a ?b) [(!= ?b ?v)] [?b :k/s _]]", rules, value)
    check(store, "[:find ?a ?b :in $ % :where (far ?a ?b) [(missing? $ ?b :k/s)]]", rules)
    check(store, "[:find ?s :where [?e :k/s ?s] [(missing? $ ?s :k/s)]]")


def test_entities_that_come_without_a_value_of_a_column() -> None:
    store = stored((f"e{n}", f"k/{name}", n) for n in range(50) for name in "nm")
    executor, text = Executor(store, many=-1), "[:find ?e ?n ?m :where [?e :k/n ?n] [?e :k/m ?m]]"
    check(store, text, executor=executor)
    for time in range(2, 5):
        store.apply([Change(f"new {time}", "k/n", "", time, time, "r")])
        check(store, text, executor=executor)


@pytest.mark.parametrize(
    "text",
    [
        "[:find ?e :where [?e :k/s ?s] [?e :o/n ?n]]",
        '[:find ?e :where [?e :k/s "a"] [?e :o/n ?n]]',
        "[:find ?f :where [?f :k/n ?n] [?e :o/n ?n]]",
        "[:find ?s :where [?f :k/s ?s] [?e :o/s ?s] [?f :k/n 1]]",
        "[:find ?s :where [?f :k/s ?s] [?e :o/n ?n]]",
    ],
)
def test_live_queries_know_every_derivation(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of several goes, and the row stays until the last one went."""
    monkeypatch.setattr(maintained, "MANY", -1)
    each: list[tuple[str, Value]] = [("o/n", 1), ("o/n", 2), ("o/s", "a")]
    held: list[Triple] = [(subject, *one) for subject in ("e1", "e2") for one in each]
    store = stored(
        [("e1", "k/s", "a"), ("e1", "k/n", 1), *[(f"x{n}", "o/x", n) for n in range(90)]],
        held,
    )
    upkeep = Upkeep(store)
    live = upkeep.open(text)
    live.refresh()
    for time, (subject, predicate, value) in enumerate(held, 2):
        upkeep.changed(store.apply([Change(subject, predicate, slot(value), None, time, "r")]))
        live.refresh()
        assert keys(live.rows) == keys(evaluate.run(parse(text), [], store).rows), (text, time)


def test_what_two_bodies_find_is_one_row() -> None:
    store = stored((f"e{n}", f"k/{name}", n % size) for n in range(60) for name, size in (("n", 3), ("m", 2)))
    check(store, "[:find ?e :where (or [?e :k/n 1] [?e :k/m 1])]")
    check(store, "[:find ?e ?v :where (or [?e :k/n ?v] [?e :k/m ?v])]")
    check(store, "[:find (count ?e) :where (or [?e :k/n 1] [?e :k/m 1])]")


def test_a_reverse_index_knows_rows_not_cells() -> None:
    store = stored([(f"e{n}", "k/s", "a") for n in range(50)], [("e3", "k/s", "b"), ("e40", "k/s", "b")])
    store.column("k/s")[1].reverse()
    for value in "abc":
        check(store, f'[:find ?e :where [?e :k/s "{value}"]]')
        check(store, "[:find ?e ?v :in $ [?v ...] :where [?e :k/s ?v]]", [value])


@pytest.mark.parametrize("bits", [relations.WIDTH_BITS, 4])
def test_recursion_of_every_width(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tuples that go into one integer, and those that do not; many in a round, and some twice."""
    monkeypatch.setattr(relations, "WIDTH_BITS", bits)
    rng = random.Random(3)
    store = stored([], [(f"e{n}", "k/e", Ref(f"e{rng.randrange(n)}")) for n in range(1, 80) for _ in "ab"])
    rules = [
        '[[(r ?a) [?a :k/e "e0"]] [(r ?a) (r ?b) [?a :k/e ?b]]]',
        "[[(r ?a ?b) [?a :k/e ?b]] [(r ?a ?b) (r ?a ?c) (r ?c ?b)]]",
        "[[(r ?a ?b ?n) [?a :k/e ?b] [(ground 1) ?n]]"
        " [(r ?a ?b ?n) (r ?a ?c ?m) [?c :k/e ?b] [(inc ?m) ?n] [(< ?n 5)]]]",
    ]
    for width, rule in enumerate(rules, 1):
        names = " ".join("?a ?b ?n".split()[:width])
        check(store, f"[:find {names} :in $ % :where (r {names})]", rule)
        check(store, f"[:find ?a :in $ % :where (r {names}) (not [?a :k/e ?x] (r {names}) [?x :k/e])]", rule)


def test_large_negative_integers_are_not_floats() -> None:
    store = stored(
        (f"e{n}", f"k/{name}", v) for n in range(40) for name, v in (("n", -(2**53) - n), ("f", -(2.0**53)))
    )
    check(store, "[:find ?a :where [?a :k/n ?n] [?a :k/f ?f] [(= ?n ?f)]]")
    check(store, "[:find ?a ?b :where [?a :k/n ?n] [?b :k/f ?n]]")


def test_entities_are_looked_for_among_texts() -> None:
    """More texts than there are entities, most of which are nobody's id: what is not found has no rows."""
    ids = [f"e{n}" for n in range(8)]
    texts = [(f"e{n % 8}", "k/s", f"text {n}") for n in range(60)]
    links: list[Triple] = [(id, "k/link", Ref(other)) for id in ids for other in ids]
    store = stored([("e1", "k/s", "e2")], [*texts, *links, ("e3", "k/s", "e1")])
    check(store, "[:find ?a ?x ?b :where [?a :k/link ?x] [?b :k/s ?x]]")
    check(store, "[:find ?a (count ?b) :where [?a :k/link ?x] [?b :k/s ?x] [?b :k/link ?y]]")


def test_an_entity_is_named_while_it_is_asked_for() -> None:
    """An input that was nobody's id, and then what a reference names that came since the last time."""
    store = stored([("e1", "k/link", Ref("e1")), ("e1", "k/n", 1), ("e2", "k/n", 1)])
    query = "[:find ?e :in $ [?e ...] :where (not [?x :k/link ?e])]"
    executor = Executor(store, many=-1)
    for _ in range(6):
        check(store, query, ["e1", "e2", "e5"], executor=executor)
    store.apply([Change("e2", "k/link", "", Ref("e5"), 2, "r")])
    check(store, query, ["e1", "e2", "e5"], executor=executor)


def test_arithmetic_beyond_exact_floats_stays_whole() -> None:
    large = (1 << 53) - 1
    singles: list[Triple] = [(f"e{n}", "k/n", large - n) for n in range(40)]
    store = stored([*singles, *[(f"e{n}", "k/s", 3 + n) for n in range(40)]])
    for operation in ("+", "-", "*", "/"):
        check(store, f"[:find ?e ?x :where [?e :k/n ?n] [?e :k/s ?s] [({operation} ?n ?s) ?x]]")
    check(store, "[:find ?e ?x :where [?e :k/n ?n] [(* ?n ?n) ?x]]")  # what goes beyond 64 bits is no value
    check(store, "[:find (sum ?n) :with ?e :where [?e :k/n ?n]]")


def test_columns_that_come_at_once_are_seen() -> None:
    """Values of many entities, over those that a mirror shows."""
    ids = [f"e{n}" for n in range(30)]
    store = Store()
    executor = Executor(store, many=-1)
    for round in range(12):
        columns: list[tuple[str, list[Any]]] = [("k/n", [n + round for n in range(30)])]
        store.put_columns(ids, columns, (round + 1, "r"))
        check(store, EACH, executor=executor)


ON = t.ref("k", optional=True)
FORESEEN = tripleweb.schema(k={"n": t.number(), "on": ON, "many": t.ref_many("k")})
WALKS = (
    '[:find ?e :where [?e :k/on "k3"]]',
    '[:find ?e ?n :where [?e :k/many "k5"] [?e :k/n ?n]]',
    "[:find ?e ?f :where [?e :k/n 7] [?f :k/many ?e]]",
    "[:find ?e ?n :where [?f :k/n 9] [?e :k/on ?f] [?e :k/n ?n]]",
)


def kin(start: int, stop: int, seed: int) -> pd.DataFrame:
    """Entities that refer to each other, some of them to such as are not there yet."""
    rng = random.Random(seed)
    far = stop + 50
    return pd.DataFrame(
        {
            "id": [f"k{n}" for n in range(start, stop)],
            "n": range(start, stop),
            "on": [rng.choice([None, Ref(f"k{rng.randrange(far)}")]) for _ in range(start, stop)],
            "many": [
                {Ref(f"k{rng.randrange(far)}") for _ in range(rng.randrange(3))} for _ in range(start, stop)
            ],
        }
    )


def sorted_references(db: tripleweb.Database) -> set[str]:
    """The columns whose mirrors are up to date and sorted."""
    found = set()
    for name in ("k/n", "k/on", "k/many"):
        column = db._session.store.column(name)[1]
        mirror = column.mirror
        if mirror and mirror.order is not None and not mirror.stale and mirror.size == len(column.values):
            found.add(name)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_what_is_loaded_has_its_references_sorted(seed: int) -> None:
    """And they stay right whatever comes afterwards: rows, entities that were only referred to, what is taken back."""
    db = tripleweb.open(schema=FORESEEN)

    def holds() -> None:
        for text in WALKS:
            check(db._session.store, text, executor=db._executor)

    db.insert_frame("k", kin(0, 900, seed), id="id")
    assert sorted_references(db) == set(), "few rows are looked at as they are"
    db.insert_frame("k", kin(900, 2_400, seed + 10), id="id")
    assert sorted_references(db) == {"k/on", "k/many"}
    holds()
    db.insert_frame("k", kin(2_400, 3_400, seed + 20), id="id")
    assert sorted_references(db) == set(), "a smaller part is for the next query"
    holds()
    with pytest.raises(ZeroDivisionError), db.transaction():
        db.insert_frame("k", kin(3_400, 7_000, seed + 30), id="id")
        holds()
        1 / 0  # noqa: B018
    holds()
    db.insert_frame("k", kin(3_400, 7_000, seed + 40), id="id")
    db.delete("k5")
    db.update("k", "k8", on="k3", many=["k3", "k5"])
    holds()
    db.undo()
    holds()
    db.close()


@pytest.mark.parametrize("kinds", ["", ":kinds {:k/up text}", ":kinds {:k/up reference}"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("kind", ["r", "s", "rs", "rn"])
def test_what_refers_to_members_is_followed_round_by_round(kind: str, several: bool, kinds: str) -> None:
    """As references and as texts, which are one value; of one kind only, where the query says so."""
    above: dict[str, Any] = {"r": Ref, "s": str, "n": len}
    tree = [(f"e{n}", "k/up", above[kind[n % len(kind)]](f"e{n // 2}")) for n in range(1, 64)]
    store = stored(
        [("e1", "k/n", 1), *(() if several else tree)], [("e1", "k/up", Ref("e9")), *tree] if several else ()
    )
    mirrors_of(store).of("k/up").index()
    rules = (
        "[[(below ?m ?u) [?u :k/up ?m]] [(below ?m ?u) [?x :k/up ?m] (below ?x ?u)]]",
        "[[(below ?m ?u) [?u :k/n ?n] [(ground ?m) ?n]] [(below ?m ?u) (below ?m ?x) [?u :k/up ?x]]]",
        "[[(below ?m ?u) [(= ?m ?u)] (under ?u)] [(under ?u) [?u :k/n]] [(under ?u) (under ?x) [?u :k/up ?x]]]",
    )
    for text in rules:
        for start in ("e1", "e7", "e40", "nobody", 2):
            check(store, f"[:find ?u :in $ % ?m :where (below ?m ?u) {kinds}]", text, start)
        check(store, f"[:find ?u ?n :in $ % ?m :where (below ?m ?u) [?u :k/n ?n] {kinds}]", text, "e1")
