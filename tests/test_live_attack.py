"""Live queries against those who mean harm, or forgot a clause: what runs away ends, what grows is bounded, and no text
of a user's gets into generated code."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import tripleweb
from tripleweb.change import Change
from tripleweb.database import Database
from tripleweb.datalog import compiled
from tripleweb.datalog import upkeep as upkeep_module
from tripleweb.datalog.evaluate import Budget, run
from tripleweb.datalog.query import parse
from tripleweb.datalog.upkeep import Followed, Upkeep
from tripleweb.errors import BudgetError
from tripleweb.store import Store
from tripleweb.terms import Ref, Value

UP = "[[(up ?m) [_ :k/n ?m] [(< ?m 50)]] [(up ?m) (up ?n) [(< 49 ?n)] [(+ ?n 1) ?m]] [(up ?m) [_ :k/n ?m]]]"
BUDGET = Budget(bytes=3_000_000)


class Written:
    """A store with live queries, written one value at a time."""

    def __init__(self) -> None:
        self.store = Store()
        self.upkeep = Upkeep(self.store)
        self.time = 0

    def set(self, subject: str, predicate: str, value: Value | None) -> list[Followed]:
        self.time += 1
        return self.upkeep.changed(self.store.apply([Change(subject, predicate, "", value, self.time, "r")]))

    def many(self, predicate: str, count: int) -> None:
        self.time += 1
        self.upkeep.changed(
            self.store.apply(Change(f"e{n}", predicate, "", n, self.time, "r") for n in range(count))
        )


# -- what runs away -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [BUDGET, Budget(rows=20_000)])
def test_rules_that_go_on_for_ever_end_in_an_error(budget: Budget) -> None:
    here = Written()
    here.set("a", "k/n", 60)
    live = here.upkeep.open("[:find ?m :in % :where (up ?m)]", [UP])
    with pytest.raises(BudgetError):
        live.refresh(budget)
    assert not live.is_current and live.rows == []
    here.set("a", "k/n", 6)
    assert live.refresh(budget) is not None
    assert live.is_current and live.rows == [(6,)]


def test_a_write_that_makes_rules_go_on_for_ever_ends() -> None:
    """The write is made; who looks gets the error; once its cause is gone, it follows again."""
    here = Written()
    here.set("a", "k/n", 6)
    live = here.upkeep.open("[:find ?m :in % :where (up ?m)]", [UP], budget=BUDGET)
    other = here.upkeep.open("[:find ?e :where [?e :k/n ?n] [(< ?n 70)]]")
    live.refresh()
    other.refresh()
    assert live in here.set("b", "k/n", 60)
    assert here.store.values("b", "k/n") == [60]
    with pytest.raises(BudgetError):
        live.refresh()
    other.refresh()
    assert live.rows == [(6,)] and sorted(other.rows) == [("a",), ("b",)]
    here.set("b", "k/n", 7)
    change = live.refresh()
    assert change is not None and change.added == [(7,)] and change.removed == []
    assert live.is_current


def test_one_write_into_a_cross_product_costs_no_more_than_an_evaluation_may() -> None:
    """A trigger that finds far more than the query had is given up in the middle."""
    here = Written()
    here.many("k/y", 400)
    here.many("k/z", 400)
    live = here.upkeep.open("[:find ?a ?b ?c :where [?a :k/x _] [?b :k/y _] [?c :k/z _]]", budget=BUDGET)
    live.refresh()
    assert live.is_current and live.rows == []
    log = live.maintained.log if live.maintained is not None else []
    assert here.set("u", "k/x", 1) == [live]
    assert len(log) < 100_000 < 400 * 400
    with pytest.raises(BudgetError):
        live.refresh()
    here.set("u", "k/x", None)
    assert live.refresh() is None and live.is_current
    here.set("e5", "k/y", 9)
    assert live.is_current


@pytest.mark.parametrize("looks", [True, False])
def test_an_answer_that_grows_beyond_its_budget_is_given_up(
    looks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether somebody looks now and then or not; what is kept for it never gets much larger than it may."""
    monkeypatch.setattr(upkeep_module, "TOUCHED_MAX", 2_000)
    here = Written()
    live = here.upkeep.open("[:find ?a ?b :where [?a :k/y _] [?b :k/z _]]", budget=BUDGET)
    live.refresh()
    most = BUDGET.bytes // 150 if BUDGET.bytes else 0
    given_up = False
    for n in range(200):
        for predicate in ("k/y", "k/z"):
            given_up = live in here.set(f"e{n}", predicate, n) or given_up
            if live.maintained is not None:
                assert len(live.maintained.counts) <= most + 5_000
                assert len(live.maintained.log) <= 5_000
                if looks:
                    try:
                        live.refresh()
                    except BudgetError:
                        given_up = True
    assert given_up and not live.is_current
    with pytest.raises(BudgetError):
        live.refresh()
    for n in range(150):
        here.set(f"e{n}", "k/y", None)
    live.refresh()
    assert len(live.rows) == 50 * 200 and live.is_current


def test_triggers_that_work_within_negations_are_not_given_up_with_time() -> None:
    """What they touch is counted for ever, and is no reason to stop."""
    here = Written()
    here.many("k/y", 50)
    live = here.upkeep.open(
        "[:find ?e :where [?e :k/x ?v] (not [?o :k/y ?w] [(= ?v ?w)] [?o :k/y ?u] [(< ?u 90)])]"
    )
    live.refresh()
    for n in range(3_000):
        assert here.set("a", "k/x", n % 100) == []
    assert live.is_current
    live.refresh()
    assert live.rows == [("a",)]


# -- what there is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ending", [":order-by [?n] :limit 3", ":limit 3", ":order-by [?n :desc] :offset 0", ""]
)
@pytest.mark.parametrize("times", [1, 2])
def test_one_that_becomes_a_float_is_seen_so(ending: str, times: int) -> None:
    """1 and 1.0 are one row; which of them there is decides the column's dtype."""
    here = Written()
    here.set("a", "k/n", 1)
    live = here.upkeep.open(f"[:find ?e ?n :where [?e :k/n ?n] {ending}]")
    live.refresh()
    for value in (1.0, 1)[:times]:
        here.set("a", "k/n", value)
    for value in (1.0, 1, 1.0):
        here.set("a", "k/n", value)
        live.refresh()
        assert [type(row[1]) for row in live.rows] == [type(value)] and live.is_current


# -- text of a user's ----------------------------------------------------------------------------------------

MARK = "Zq"
NAMES = ["Zq/Zq", 'Zqk/it\'s "Zq" \\', "Zqk/u\u2028x", "Zqk/{Zq}%s", "Zqk/):import os#Zq", "Zqk/é", "Zq"]


def quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


def hostile(name: str) -> list[tuple[str, list[Any]]]:
    """Queries with a user's text wherever there can be any, and their inputs."""
    p = quoted(name)
    rules = f"[[(Zq'r ?a ?b) [?a {p} ?b]] [(Zq'r ?a ?c) [?a {p} ?Zqb] (Zq'r ?Zqb ?c)]]"
    left = f"[[(Zq'r ?a ?b) [?a {p} ?b]] [(Zq'r ?a ?c) (Zq'r ?a ?Zqb) [?Zqb {p} ?c]]]"
    identity: Callable[[Any], Any] = lambda value: value  # noqa: E731
    return [
        (f"[:find ?Zqe ?Zqv :where [?Zqe {p} ?Zqv]]", []),
        (f'[:find ?Zqe :in ?Zqi :where [?Zqe {p} ?Zqi] (not [?Zqe :Zq/Zq "Zq \\""])]', ["Zqid"]),
        (f'[:find ?e ?x :where [?e {p} ?v] [(str ?v "Zq\'\\"\\n") ?x]]', []),
        (f'[:find ?e ?x :where [?e :Zq/Zq ?v] [(get-else $ ?e {p} "Zq\'") ?x]]', []),
        (f"[:find ?e :where [?e :Zq/Zq ?v] [(missing? $ ?e {p})]]", []),
        ("[:find ?a ?b :in % :where (Zq'r ?a ?b)]", [rules]),
        ("[:find ?b :in % ?Zqs :where (Zq'r ?Zqs ?b)]", [left, "Zqid"]),
        (f'[:find (pull ?e [(:Zq/Zq :as "Zq\\"\'") {p}]) :where [?e {p}]]', []),
        (
            f"[:find ?x :in ?Zqf [?c ...] [[?Zqr ?s]] :where [?e {p} ?v] [(?Zqf ?v) ?x] (or [?e {p} ?c] [?e {p} ?s])]",
            [identity, ["Zq"], [("Zq", "Zq'\"")]],
        ),
        (f"[:find ?Zqe (sum ?v) (count ?v) :with ?e :where [?e {p} ?v] [?Zqe :Zq/Zq ?v]]", []),
    ]


def test_no_text_of_a_users_is_in_generated_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a predicate, id, value, name of a variable or of a rule, key or input, however it is asked or explained."""
    sources: list[str] = []
    plain = compiled._compiled

    def compile_it(source: str) -> Any:
        sources.append(source)
        return plain(source)

    monkeypatch.setattr(compiled, "_compiled", compile_it)
    with tripleweb.open() as db:
        values: list[Value] = ["Zq v\"'\n", Ref("Zqid"), 5, True]
        for n, name in enumerate(NAMES):
            for m, value in enumerate(values):
                db.set(f"Zq{n}'\"\\ {m}", name, value)
                db.set("Zqid", name, value)
        for name in NAMES:
            before = len(sources)
            for text, inputs in hostile(name):
                asked_and_followed(db, name, text, inputs)
            assert len(sources) > before + 10
    for source in sources:
        assert MARK not in source and source.isascii()


def asked_and_followed(db: Database, name: str, text: str, inputs: list[Any]) -> None:
    live = db.live(text, *inputs)
    assert len(live) == len(db.q(text, *inputs))
    db.explain(text, *inputs)
    assert live._shared.live.reason is None and live._shared.live.is_current
    db.set("Zqid", name, "Zq new")
    assert len(live) == len(db.q(text, *inputs))
    db.set("Zqid", name, Ref("Zqid"))
    live.close()


# -- numbers at their limits ----------------------------------------------------------------------------------


def test_numbers_at_their_limits_follow() -> None:
    """Rows that go and come again as the same huge number, more than once between two looks."""
    here = Written()
    here.set("a", "k/n", 1)
    for function in ("(+ ?n 1e308)", "(* ?n 1e308)", "(* ?n 9000000000000000000)", "(/ ?n 3)"):
        for find in ("?e ?x", "(sum ?x) (min ?x) (max ?x) (median ?x)"):
            ordered = ":order-by [?x] :limit 3" if find == "?e ?x" else ""
            query = parse(f"[:find {find} :where [?e :k/n ?n] [{function} ?x] {ordered}]")
            live = here.upkeep.open(query)
            for burst in ((2, 1.0), (5, 7, 5, 1, 1.0, 1), (1.0,), (1e308, -1e308, 1), (2**53 + 1, 1)):
                for value in burst:
                    here.set("a", "k/n", value)
                live.refresh()
                assert repr(live.rows) == repr(run(query, [], here.store).rows)
            assert live.is_current


# -- functions that are not pure --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("harm", ["set", "update", "transaction", "look", "follow"])
def test_a_function_that_writes_or_looks_while_it_is_called_for_a_change_does_no_harm(
    harm: str, block: bool
) -> None:
    """What is visible then is of the past: the store would never be right again."""
    with tripleweb.open() as db:
        armed: list[int] = []

        def impure(value: Any) -> Any:
            if armed:
                armed.clear()
                if harm == "set":
                    db.set("e0", "k/n", 77)
                elif harm == "update":
                    db.update("k", "e0", n=77)
                elif harm == "transaction":
                    with db.transaction():
                        db.set("e0", "k/n", 77)
                elif harm == "look":
                    len(unseen)
                else:
                    len(db.live("[:find ?n ?e :where [?e :k/n ?n]]"))
            return value

        for n in range(3):
            db.set(f"e{n}", "k/n", n)
        unseen = db.live("[:find ?n :where [_ :k/n ?n]]")
        text = "[:find ?e ?x :in ?f :where [?e :k/n ?n] [(?f ?n) ?x]]"
        live, plain = db.live(text, impure), db.live("[:find ?e ?n :where [?e :k/n ?n]]")
        assert len(live) == len(plain) == 3
        armed.append(1)
        if block:
            with db.transaction():
                db.set("e0", "k/n", 5)
                db.set("e1", "k/n", 6)
        else:
            db.set("e0", "k/n", 5)
        assert not armed
        store = db._session.store
        register = store.register(("e0", "k/n", ""))
        assert store.values("e0", "k/n") == [5] and register is not None and register.value == 5
        for following in (live, plain):
            assert sorted(following.value.values.tolist()) == [
                ["e0", 5],
                ["e1", 6 if block else 1],
                ["e2", 2],
            ]
        assert sorted(unseen.df["n"]) == [2, 5, 6] if block else [1, 2, 5]
        db.set("e0", "k/n", 8)
        assert sorted(live.df["x"]) == sorted(plain.df["n"]) == sorted(unseen.df["n"])
