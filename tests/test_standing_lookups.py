"""The answer that stands of queries with `pull` and `get`, against fresh answers over random histories."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

import tripleweb
from tests.datalog_source import Triples
from tests.pull_generator import KINDS, MANY, Maker
from tripleweb.datalog.builtins import inward
from tripleweb.datalog.clauses import Variable
from tripleweb.datalog.evaluate import run
from tripleweb.datalog.looked import StandingLookups
from tripleweb.datalog.pull import DEPTH_MAX, frozen
from tripleweb.datalog.query import Query, parse, variable_name
from tripleweb.errors import BudgetError
from tripleweb.terms import Ref

Row = tuple[Any, ...]


def found_rows(query: Query, source: Triples) -> list[Row]:
    """The distinct rows of find and with, as triggers would give them."""
    names = [*map(variable_name, query.find), *query.with_]
    plain = replace(
        query, find=tuple(map(Variable, names)), columns=tuple(map(str, range(len(names)))), hidden=(), with_=(),
        order_by=(), limit=None, offset=0, shape="relation",
    )  # fmt: skip
    return [tuple(map(inward, row)) for row in run(plain, [], source).rows]


def keys(rows: list[Row]) -> list[Row]:
    return [tuple(map(frozen, row)) for row in rows]


def random_query(maker: Maker) -> str:
    chance = maker.random
    elements = [
        "?u",
        '(get ?u "k/n")',
        '(get ?u "k/e" "k/s")',
        '(get ?u "k/link" "k/n")',
        '(get ?u "k/many")',
        "?v",
    ]
    find = chance.sample(elements, chance.randint(0, 3))
    find += [f"(pull ?u {maker.pattern(1)})"] if chance.random() < 0.6 or not find else []
    aggregated = chance.random() < 0.25
    find += ["(count ?x)"] if aggregated else []
    orders = ['(get ?u "k/n")', '(get ?u "k/e" "k/n")', '(get ?u "k/many")'] if "?u" in " ".join(find) else []
    order = [
        f"{by} {chance.choice([':asc', ':desc'])}"
        for by in chance.sample(orders, chance.randint(0, len(orders)))
    ]
    where = '[?u "k/n" ?v] [?u _ ?x]' if "?v" in find else '[?u "k/link" ?x]'
    parts = [*find, ":with ?x" if chance.random() < 0.2 and not aggregated else "", ":where", where]
    parts += [f":order-by [{' '.join(order)}]"] if order else []
    parts += [f":limit {chance.randint(0, 4)}"] if chance.random() < 0.3 else []
    parts += [f":offset {chance.randint(0, 2)}"] if chance.random() < 0.2 else []
    if chance.random() < 0.15 and not aggregated:
        parts[0], parts[len(find) - 1] = f"[{parts[0]}", f"{parts[len(find) - 1]}]"
        parts[0] = parts[0] if len(find) > 1 else f"[{find[0]}]"
    return f"[:find {' '.join(parts)} {KINDS if chance.random() < 0.5 else ''}]"


def check_history(seed: int) -> int:
    maker = Maker(seed)
    query = parse(random_query(maker))
    source = Triples(maker.triples())
    standing = StandingLookups(query, {}, source)
    held: Counter[Row] = Counter(found_rows(query, source))
    standing.fill(held)
    standing.settle()
    answer = run(query, [], source).rows
    changes = 0
    for step in range(12):
        said = f"seed {seed}, step {step}: {query.text}"
        now, before = standing.rows, keys(answer)
        # without :order-by the first of a tuple is the first by the order of all, in both
        if query.order_by or query.limit is not None or query.offset or query.shape == "tuple":
            assert keys(now) == before, said
        else:
            assert Counter(keys(now)) == Counter(before), said
        gone = maker.random.sample(source.all(), min(len(source.all()), maker.random.choice([0, 1, 2])))
        for _ in range(maker.random.choice([1, 1, 2])):  # several deltas between two looks
            first = source.change([], gone)
            second = source.change([maker.triple(misfits=True)])
            gone = []
            standing.changed(first.removed, second.added)
        fresh = Counter(found_rows(query, source))
        for row in held - fresh:
            standing.apply(row, -1)
        for row in fresh - held:
            standing.apply(row, 1)
        held = fresh
        change = standing.settle()
        answer = run(query, [], source).rows
        after = keys(answer)
        if change is None:
            assert Counter(before) == Counter(after), said
        else:
            changes += 1
            moved = Counter(before)
            moved.subtract(Counter(keys(change.removed)))
            moved.update(Counter(keys(change.added)))
            assert min(moved.values(), default=0) >= 0, said
            assert +moved == Counter(after), said
            assert not Counter(keys(change.removed)) & Counter(keys(change.added)), f"{said}: for nothing"
        assert (change is None) == (
            before == after or (Counter(before) == Counter(after) and not query.order_by)
        ), said
    return changes


def test_what_stands_is_what_a_fresh_answer_is() -> None:
    assert sum(map(check_history, range(400))) > 1_000


@pytest.mark.long
def test_for_long() -> None:
    for seed in range(1_000, 1_500):
        check_history(seed)


def test_only_what_is_shown_is_pulled() -> None:
    """:limit 2 of a thousand: what is ordered by is looked up for all, the tree for two."""
    triples = [("post", Ref(f"p{n:03}"), n) for n in range(300)]
    source = Triples([("all", "has", ref) for _, ref, _ in triples])
    source.change([(str(ref), "score", n) for _, ref, n in triples])
    source.change([(str(ref), "title", f"t{n}") for _, ref, n in triples])
    query = parse("[:find (pull ?p [:title]) :where [_ :has ?p] :order-by [(get ?p :score) :desc] :limit 2]")
    standing = StandingLookups(query, {}, source)
    rows = found_rows(query, source)
    standing.fill(rows)
    standing.settle()
    assert standing.rows == [({"title": "t299"},), ({"title": "t298"},)]
    assert [len(each.pull) for each in standing._late] == [2]
    delta = source.change([("p005", "score", 1_000)], [("p005", "score", 5)])
    standing.changed(delta.removed, delta.added)
    before = standing.touched
    change = standing.settle()
    assert change is not None
    assert (change.added, change.removed) == ([({"title": "t5"},)], [({"title": "t298"},)])
    assert standing.touched - before < 20, "work in proportion to the change"
    delta = source.change([("p007", "title", "unseen")], [("p007", "title", "t7")])
    standing.changed(delta.removed, delta.added)
    assert standing.settle() is None


def test_a_change_of_order_alone_is_a_change() -> None:
    source = Triples([("a", "n", 1), ("b", "n", 2), ("a", "there", 1), ("b", "there", 1)])
    query = parse("[:find ?u (get ?u :m) :where [?u :there] :order-by [(get ?u :n) :desc]]")
    standing = StandingLookups(query, {}, source)
    standing.fill(found_rows(query, source))
    standing.settle()
    assert standing.rows == [("b", None), ("a", None)]
    delta = source.change([("a", "n", 3)], [("a", "n", 1)])
    standing.changed(delta.removed, delta.added)
    change = standing.settle()
    assert change is not None and (change.added, change.removed) == ([], [])
    assert standing.rows == [("a", None), ("b", None)]
    delta = source.change([("a", "n", 4)], [("a", "n", 3)])
    standing.changed(delta.removed, delta.added)
    assert standing.settle() is None, "nobody can see that"


def test_a_tree_that_grows_too_deep_and_shrinks_again() -> None:
    """The error is seen as long as it is one; what is shown afterwards is right."""
    db = tripleweb.open()
    for n in range(DEPTH_MAX - 2):
        db.set(f"n{n}", "k/to", Ref(f"n{n + 1}"))
    live = db.live("[:find (pull ?e [:db/id {:k/to ...}]) (get ?e :k/n) :where [?e :k/root]]")
    db.set("n0", "k/root", True)
    assert len(live) == 1
    assert live._shared.live.maintained is not None
    db.set("m", "k/root", True)
    db.set("m", "k/to", Ref("n0"))
    db.set("o", "k/root", True)
    db.set("o", "k/to", Ref("m"))
    db.set("o", "k/n", 1)
    for _ in range(2):
        with pytest.raises(BudgetError, match="entities deep"):
            _ = live.df
    db.unset("o", "k/to")
    assert live.df["n"].isna().tolist().count(False) == 1
    assert sorted(cell["id"] for cell in live.df["e"]) == ["m", "n0", "o"]
    live.close()


def test_the_triggers_keep_what_is_looked_up() -> None:
    """In a store, by way of the engine: a hundred writes, and the answer is a fresh one's after each."""
    maker = Maker(5)
    db = tripleweb.open()
    queries = [parse(random_query(Maker(seed))) for seed in range(40)]
    lives = [(query, db.live(query.text)) for query in queries]
    maintained = 0
    for step in range(60):
        subject, predicate, value = maker.triple(misfits=True)
        if maker.random.random() < 0.25:
            db.unset(subject, predicate)
        else:
            db.set(subject, predicate, {value} if predicate in MANY else value)
        for query, live in lives:
            if maker.random.random() < 0.3:
                fresh = run(query, [], db._session.store).rows
                found = live._result()[1].rows
                if query.order_by or query.limit is not None or query.offset or query.shape == "tuple":
                    assert keys(found) == keys(fresh), f"step {step}: {query.text}"
                else:
                    assert Counter(keys(found)) == Counter(keys(fresh)), f"step {step}: {query.text}"
                maintained += live._shared.live.maintained is not None
    assert maintained > 200, "hardly anything is maintained: this compares evaluations with each other"
    for _, live in lives:
        live.close()
