"""What `explain` says of a query: counted against other ways to count, and by hand where it is short.

A failure of a random query prints its seed; `check(SEED)` replays it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

import tripleweb
from tests.datalog_generator import RULES_TEXT, Generator
from tests.datalog_oracle import Oracle
from tests.datalog_source import Triples
from tests.test_evaluate_properties import store_of
from tripleweb.change import Change
from tripleweb.datalog import evaluate
from tripleweb.datalog.answer import answer
from tripleweb.datalog.evaluate import Budget
from tripleweb.datalog.executor import Executor
from tripleweb.datalog.explain import COLUMNS, Explained, explain
from tripleweb.datalog.query import parse
from tripleweb.datalog.upkeep import Upkeep
from tripleweb.errors import BudgetError, QueryError
from tripleweb.store import Store
from tripleweb.terms import Ref, Value, slot

Told = list[dict[str, Any]]


SECONDS = count()


def clock() -> float:
    """A second later than last time."""
    return float(next(SECONDS))


def filled(*triples: tuple[str, str, Value]) -> Store:
    store = Store()
    store.apply(Change(s, p, slot(v), v, time, "r") for time, (s, p, v) in enumerate(triples, 1))
    return store


def told(explained: Explained) -> Told:
    return [dict(zip(COLUMNS, row, strict=True)) for row in explained.rows]


def ask(store: Store, text: str, *inputs: Any, rules: str = "") -> tuple[Told, dict[str, Any]]:
    explained = explain(Executor(store), parse(text).bind_rules(rules), inputs, clock=clock)
    return told(explained), explained.facts


def select(rows: Told, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


PEOPLE = filled(
    ("ada", "user/name", "Ada"),
    ("ada", "user/age", 36),
    ("bob", "user/name", "Bob"),
    ("bob", "user/age", 17),
    ("cy", "user/name", "Cy"),
    ("bob", "user/boss", Ref("ada")),
    ("cy", "user/boss", Ref("bob")),
)
CHIEFS = "[(chief ?a ?b) [?a :user/boss ?b]] [(chief ?a ?b) [?a :user/boss ?m] (chief ?m ?b)]"
ADULTS = "[(adult ?u) [?u :user/age ?a] [(>= ?a 18)]] [(adult ?u) [?u :user/vip true]]"


def check(seed: int) -> str:
    """Derivations, rows and work of a random query, each against another way to know them; returns the executor."""
    case = Generator(seed).case()
    note = f"seed {seed}\n{case.text()}\n{case.inputs}\n{case.triples}"
    store = store_of(case)
    query = parse(case.text().replace(":in $ %", ":in $")).bind_rules(RULES_TEXT)
    executor = Executor(store)
    explained = explain(executor, query, case.inputs, clock=clock)
    rows, facts = told(explained), explained.facts
    result = evaluate.run(query, case.inputs, store)
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), note
    assert (rows[-1]["access"], rows[-1]["actual"]) == ("answer", len(result.rows)), note
    assert facts["rows"] == len(result.rows), note
    assert sum(row["touched"] for row in rows) == facts["touched"], f"{rows}\n{facts}\n{note}"
    steps = rows[:-1]
    if facts["executor"] == "compiled":
        ends = {row["body"]: row["actual"] for row in steps}  # the last step of each body stays
        live = Upkeep(store).open(query, case.inputs)
        live.refresh()
        assert live.maintained is not None, note
        derivations = sum(live.maintained.counts.values())
        assert sum(ends.values()) == derivations, f"{rows}\n{derivations}\n{note}"
        if "(not " not in case.text():  # a negation may find an index that was not there at first
            assert facts["touched"] == executor.run(query, case.inputs).work, note
    elif facts["executor"] == "vectorised":
        assert facts["touched"] >= facts["rows"], (
            note
        )  # the next run may have other arrays, and another order
    else:
        expected = Oracle(query, case.inputs, Triples(case.triples)).bindings()
        top = [row for row in steps if not row["within"]]
        assert not top or top[-1]["actual"] == len(expected), f"{rows}\n{expected}\n{note}"
        assert facts["touched"] == result.work, note
    return str(facts["executor"])


def check_all(seeds: range) -> None:
    seen = {check(seed) for seed in seeds}
    assert seen >= {"compiled", "plain"}


def test_random_queries() -> None:
    check_all(range(150))


@pytest.mark.long
def test_many_random_queries() -> None:
    check_all(range(1_000, 1_350))


def test_steps_in_the_order_that_they_run() -> None:
    rows, facts = ask(
        PEOPLE,
        "[:find ?n (count ?s) :in $ ?least "
        ":where [(>= ?age ?least)] [?s :user/boss ?u] [?u :user/name ?n] [?u :user/age ?age]]",
        18,
    )
    assert select(rows, "clause", "access", "actual", "touched") == [
        ("[?u :user/age ?age]", "scan", 2, 3),
        ("[(>= ?age ?least)]", "filter", 1, 0),
        ("[?s :user/boss ?u]", "look up value", 1, 1),
        ("[?u :user/name ?n]", "look up subject", 1, 1),
        (":find ?n (count ?s)", "answer", 1, 0),
    ]
    assert {row["executor"] for row in rows} == {"compiled"} and facts["executor_reason"] is None
    assert facts["predicates"] == ["user/age", "user/boss", "user/name"]


def test_or_and_rules_are_bodies() -> None:
    rows, _ = ask(PEOPLE, '[:find ?u :where (adult ?u) (or [?u :user/name "Ada"])]', rules=ADULTS)
    assert select(rows, "body", "clause", "within", "actual") == [
        (1, '[?u :user/name "Ada"]', '(or [?u :user/name "Ada"])', 1),
        (1, "[?u :user/age ?a]", "(adult ?u)", 1),
        (1, "[(>= ?a 18)]", "(adult ?u)", 1),
        (2, "[?u :user/vip true]", "(adult ?u)", 0),
        (2, '[?u :user/name "Ada"]', '(or [?u :user/name "Ada"])', 0),
        (1, ":find ?u", "", 1),
    ]


def test_rules_within_rules_say_all_that_they_stand_in() -> None:
    rules = "[(grown ?x) (adult ?x)] " + ADULTS
    rows, _ = ask(PEOPLE, "[:find ?u :where (grown ?u)]", rules=rules)
    assert rows[0]["within"] == "(grown ?u), (adult ?x)"


def test_recursion_and_negation_have_steps_of_their_own() -> None:
    text = '[:find ?b :where (chief "cy" ?b) (not [?b :user/age 17])]'
    rows, facts = ask(PEOPLE, text, rules=CHIEFS)
    assert select(rows, "clause", "within", "access", "actual", "executor") == [
        ('(chief "cy" ?b)', "", "relation", 2, "recursion"),
        ("(not [?b :user/age 17])", "", "negation", 1, "plain"),
        ("[?b :user/age 17]", "(not [?b :user/age 17])", "look up subject", 1, "plain"),
        ("[?a :user/boss ?b]", "(chief ?a ?b)", "look up subject", 2, "recursion"),
        ("[?a :user/boss ?m]", "(chief ?a ?b)", "look up subject", 2, "recursion"),
        ("(chief ?m ?b)", "(chief ?a ?b)", "relation", 1, "recursion"),
        (":find ?b", "", "answer", 1, "plain"),
    ]
    assert (facts["executor"], facts["live"], facts["live_reason"]) == ("plain", "triggers", None)
    assert "recursion" in facts["executor_reason"]


def test_a_negation_of_a_compiled_query_is_one_step() -> None:
    rows, _ = ask(PEOPLE, "[:find ?u :where [?u :user/name] (not [_ :user/boss ?u])]")
    assert select(rows, "clause", "access", "actual") == [
        ("[?u :user/name]", "scan", 3),
        ("(not [_ :user/boss ?u])", "negation", 1),
        (":find ?u", "answer", 1),
    ]


def test_why_a_live_frame_would_be_evaluated_afresh() -> None:
    _, facts = ask(PEOPLE, "[:find ?p :where [_ ?p 36]]")
    assert (facts["live"], facts["live_reason"]) == ("afresh", "a predicate is a variable")
    assert facts["predicates"] is None


@pytest.mark.parametrize(
    ("clause", "note"),
    [
        ("[?u :user/nmae _]", "no triple has :user/nmae; did you mean :user/name?"),
        ("[?u :usr/name _]", "no triple has :usr/name; did you mean :user/name?"),
        ("[?u :user/qqqq _]", "no triple has :user/qqqq"),
        ('[(get-else $ ?u "user/aeg" 1) _]', "no triple has :user/aeg; did you mean :user/age?"),
        ("(not [?u :user/bos])", "no triple has :user/bos; did you mean :user/boss?"),
        ("[?u :user/age _]", ""),
    ],
)
def test_predicates_that_nobody_has_written(clause: str, note: str) -> None:
    for more in ("", "(chief ?u _)"):  # compiled, and not
        rows, _ = ask(PEOPLE, f"[:find ?u :where [?u :user/name] {clause} {more}]", rules=CHIEFS)
        assert [row["note"] for row in rows if row["note"]] == [note] * bool(note)


def test_what_is_pulled_but_not_there() -> None:
    rows, _ = ask(PEOPLE, "[:find (pull ?u [:user/nmae :user/name]) :where [?u :user/age]]")
    assert rows[-1]["note"] == "no triple has :user/nmae; did you mean :user/name?"


def test_cross_products() -> None:
    for more in ("", "(chief ?a _)"):
        rows, _ = ask(PEOPLE, f"[:find ?a ?b :where [?a :user/boss] [?b :user/age] {more}]", rules=CHIEFS)
        notes = [row["note"] for row in rows if row["note"]]
        assert notes == ["a cross product: it shares nothing with the 2 rows before"], rows
    rows, _ = ask(PEOPLE, '[:find ?a ?b :where [?a :user/name "Ada"] [?b :user/age]]')
    assert not any(row["note"] for row in rows)  # one row times others is what was asked for


def test_time_is_the_clocks() -> None:
    for text in ("[:find ?n :where [?u :user/name ?n] [?u :user/age _]]", "[:find ?b :where (chief _ ?b)]"):
        explained = explain(Executor(PEOPLE), parse(text).bind_rules(CHIEFS), [], clock=clock)
        times = [row["ms"] for row in told(explained)]
        assert all(ms >= 0 for ms in times) and explained.facts["ms"] >= 1000
        if explained.facts["executor"] == "plain":  # each moment counts for one step
            assert sum(times) == pytest.approx(explained.facts["ms"])
            assert all(times)


def test_time_counts_for_the_innermost_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def wait(seconds: float) -> None:
        nonlocal now
        now += seconds

    join = evaluate._answered
    monkeypatch.setattr(
        evaluate, "_answered", lambda *given: [wait(3), *join(*given)][1:]
    )  # of a rule's call
    monkeypatch.setattr(evaluate, "answer", lambda *given: (wait(7), answer(*given))[1])
    text = "[:find ?b :in $ ?old :where [?a :user/boss ?b] (old ?a ?old)]"
    rules = "[(old [?u ?old]) [?u :user/age ?a] [(?old ?a)]]"
    query = parse(text).bind_rules(rules)
    found = explain(Executor(PEOPLE), query, [lambda age: wait(5) or age > 10], clock=lambda: now)
    spent = {row["clause"]: row["ms"] for row in told(found) if row["ms"]}
    assert spent == {"(old ?a ?old)": 3000, "[(?old ?a)]": 5000, ":find ?b": 7000}
    assert found.facts["ms"] == 15_000


def test_estimates_know_the_columns() -> None:
    store = filled(*[(f"u{n}", "user/team", n % 4) for n in range(100)])
    rows, _ = ask(store, "[:find ?u :where [?u :user/team 3]]")
    assert select(rows, "estimated", "actual")[0] == (25, 25)
    assert rows[-1]["estimated"] is None


def test_no_index_is_left_behind() -> None:
    """The triggers of a live query would look values up; answering once does not."""
    store = filled(("a", "k/to", Ref("b")), ("b", "k/to", Ref("c")))
    _, facts = ask(store, "[:find ?a ?c :where [?a :k/to ?b] [?b :k/to ?c]]")
    assert (facts["executor"], facts["live"]) == ("compiled", "triggers")
    assert store.column("k/to")[1].index is None


def test_inputs_of_every_form() -> None:
    def ages() -> Iterator[int]:
        yield from (17, 36)

    rows, _ = ask(PEOPLE, "[:find ?u :in $ [?a ...] :where [?u :user/age ?a]]", ages())
    assert select(rows, "clause", "access", "actual")[0] == (":in [?a ...]", "relation", 2)
    assert rows[-1]["actual"] == 2
    calls: list[int] = []

    def adult(age: int) -> bool:
        calls.append(age)
        return age >= 18

    rows, facts = ask(PEOPLE, "[:find ?u :in $ ?adult :where [?u :user/age ?a] [(?adult ?a)]]", adult)
    assert (sorted(calls), rows[-1]["actual"], facts["executor"]) == ([17, 36], 1, "plain")


def test_errors() -> None:
    executor = Executor(PEOPLE)
    with pytest.raises(QueryError, match="takes 1 inputs"):
        explain(executor, parse("[:find ?u :in $ ?a :where [?u :user/age ?a]]"), [], clock=clock)
    for more in ("", "(chief ?a _)"):
        query = parse(f"[:find ?a ?b ?c :where [?a :user/name] [?b :user/name] [?c :user/name] {more}]")
        with pytest.raises(BudgetError):
            explain(executor, query.bind_rules(CHIEFS), [], clock=clock, budget=Budget(rows=5))


def test_as_a_frame() -> None:
    with tripleweb.open() as db:
        ada = db.insert("user", name="Ada", age=36)
        db.rules("[(adult ?u) [?u :user/age ?a] [(>= ?a 18)]]")
        frame = db.explain("[:find ?n :in $ ?n :where (adult ?u) [?u :user/name ?n]]", "Ada")
        assert frame.columns.tolist() == list(COLUMNS)
        assert frame["clause"].tolist()[-1] == ":find ?n" and frame["actual"].tolist()[-1] == 1
        assert frame.dtypes[["step", "body", "actual", "touched"]].eq("int64").all()
        assert str(frame.dtypes["ms"]) == "float64" and frame["ms"].sum() > 0
        attrs = frame.attrs["tripleweb"]
        assert json.loads(json.dumps(attrs)) == attrs
        assert attrs["complete"] is True and attrs["live"] == "triggers"
        with pytest.raises(QueryError, match="nowhere bound"):
            db.explain("[:find ?x :where [_ :user/name]]")
        with db.transaction():
            db.set(ada, "user/age", 17)
            assert db.explain("[:find ?u :where (adult ?u)]")["actual"].tolist()[-1] == 0
