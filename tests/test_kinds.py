"""Queries that say of which kinds their predicates are: what does not fit is not there, here and at the server."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

import tripleweb
from tests.datalog_generator import ENTITIES, PREDICATES, RULES_TEXT, Generator
from tests.datalog_oracle import typed
from tripleweb import t
from tripleweb.change import Change
from tripleweb.datalog.evaluate import run
from tripleweb.datalog.live import LiveQuery
from tripleweb.datalog.query import parse
from tripleweb.errors import QueryError
from tripleweb.store import Store
from tripleweb.sync.messages import Subscribe as Asking
from tripleweb.sync.messages import Subscription, decode_client, encode
from tripleweb.terms import Ref, Value, kind, slot

MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
VALUES: list[Value] = [True, 0, 1, 2.5, "a", "e1", Ref("e1"), Ref("a"), "e2", Ref("e2"), MOMENT]
LETTERS = {"k/n": "n", "k/many": "n", "k/s": "s", "k/e": "r", "k/link": "r"}


def store_of(triples: list[tuple[str, str, Value]]) -> Store:
    store = Store()
    store.apply(Change(s, p, slot(v), v, time, "r") for time, (s, p, v) in enumerate(triples, 1))
    return store


def answer(query: Any, inputs: list[Any], store: Any) -> list[str]:
    return sorted(str([typed(cell) for cell in row]) for row in run(query, inputs, store).rows)


def check(seed: int) -> int:
    """Random queries over a store with misfits answer as over one that never had them. Returns how many were told
    apart from an answer that sees all."""
    rng = random.Random(seed)
    case = Generator(seed).case()
    plain = [word for word in case.find if word.startswith("?")]
    if plain == case.find and rng.random() < 0.3:  # a predicate that is a variable ranges over what fits
        case.where.append(f"[{rng.choice(plain)} ?p9 ?v9]")
        case.find.append("?p9")
    kinds = dict(rng.sample(sorted(LETTERS.items()), rng.randint(1, len(LETTERS))))
    fitting = [(s, p, v) for s, p, v in case.triples if p not in kinds or kind(v) == kinds[p]]
    misfits = [
        (s, p, v)
        for s in ENTITIES
        for p in PREDICATES
        for v in rng.sample(VALUES, rng.choice([0, 1, 1, 3]))
        if p in kinds and kind(v) != kinds[p]
    ]
    everything = store_of(rng.sample(fitting + misfits, len(fitting) + len(misfits)))
    inputs = [RULES_TEXT, *case.inputs]
    query = parse(case.text()).of_kinds(kinds)
    note = f"seed {seed}\n{query.text}\n{inputs[1:]}\n{fitting}\n{misfits}"
    expected = answer(case.text(), inputs, store_of(fitting))
    assert answer(query, inputs, everything) == expected, note
    assert answer(query.text, inputs, everything.view()) == expected, f"from its text, over a view: {note}"
    return expected != answer(case.text(), inputs, everything)


@pytest.mark.parametrize("start", range(0, 200, 50))
def test_misfits_are_as_if_they_were_not_there(start: int) -> None:
    """Data from others that does not fit the schema reads as missing, never as an exception."""
    told_apart = sum(check(seed) for seed in range(start, start + 50))
    assert told_apart >= 5, "too few of these queries would notice"


@pytest.mark.long
@pytest.mark.parametrize("start", range(1_000, 2_000, 250))
def test_misfits_are_as_if_they_were_not_there_for_long(start: int) -> None:
    assert sum(check(seed) for seed in range(start, start + 250)) > 0


USERS = tripleweb.schema(
    user={
        "name": t.string(),
        "age": t.number(optional=True),
        "boss": t.ref("user", optional=True),
        "tags": t.many(t.string()),
        "hits": t.counter(),
        "active": t.boolean(optional=True),
        "since": t.date(optional=True),
    }
)
FITTING: list[tuple[str, str, Value]] = [
    ("a", "user/name", "Ada"), ("a", "user/age", 36), ("a", "user/boss", Ref("b")), ("a", "user/tags", "x"),
    ("b", "user/name", "Bob"), ("b", "user/active", True), ("b", "user/since", MOMENT),
]  # fmt: skip
MISFITS: list[tuple[str, str, Value]] = [
    ("a", "user/name", Ref("Ada")), ("a", "user/active", 1), ("a", "user/since", "2020-01-01"),
    ("b", "user/age", "41"), ("b", "user/boss", "a"), ("b", "user/tags", Ref("y")), ("b", "user/hits", "many"),
    ("c", "user/name", 7), ("c", "user/age", True),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[:find [?n ...] :where [_ :user/name ?n]]", ["Ada", "Bob"]),
        ("[:find [?u ...] :where [?u :user/name]]", ["a", "b"]),
        ("[:find [?u ...] :where [?u :user/name _]]", ["a", "b"]),
        ('[:find [?u ...] :where [?u :user/boss "a"]]', []),
        ('[:find [?u ...] :where [?u :user/boss "b"]]', ["a"]),
        ("[:find [?u ...] :where [?u :user/active 1]]", []),
        ("[:find [?u ...] :where [?u :user/active true]]", ["b"]),
        ("[:find [?n ...] :where [?u :user/boss ?b] [?b :user/name ?n]]", ["Bob"]),
        ("[:find [?u ...] :where [?u :user/name] (not [?u :user/age])]", ["b"]),
        ("[:find [?u ...] :where (or [?u :user/tags] [?u :user/hits])]", ["a"]),
        ("[:find [?u ...] :where [?u :user/name] [(missing? $ ?u :user/boss)]]", ["b"]),
        ("[:find [?u ...] :where [?u :user/name] [(missing? $ ?u :user/_boss)]]", ["a"]),
        ("[:find [?v ...] :where [?u :user/name] [(get-else $ ?u :user/age 0) ?v]]", [0, 36]),
        ("[:find [?v ...] :where [?u :user/name] [(get-some $ ?u :user/hits :user/tags) [?p ?v]]]", ["x"]),
        ('[:find [?p ...] :where ["b" ?p _]]', ["user/active", "user/name", "user/since"]),
        ('[:find [?u ...] :where [?u ?p "a"]]', []),
        ('[:find [?v ...] :in $ ?p :where [_ ?p ?v]]', [36]),
        ("[:find (sum ?a) . :where [_ :user/age ?a]]", 36),
        ("[:find [?d ...] :where [_ :user/since ?d]]", [MOMENT]),
    ],
)  # fmt: skip
def test_every_clause_sees_what_fits(text: str, expected: object) -> None:
    """A client with a schema adds its fields' *kinds* to the clauses of the queries it runs and subscribes, so both
    ends answer the same."""
    db = tripleweb.open(schema=USERS)
    server = store_of([*FITTING, *MISFITS])
    db._session.store.apply(server.registers())
    inputs = ["user/age"] if "?p :where" in text else []
    plain = sorted if isinstance(expected, list) else lambda value: value
    assert plain(db.q(text, *inputs)) == expected
    assert plain(db.live(text, *inputs).value) == expected
    # as a subscription takes it to the server, which knows no schema
    asked = Asking(Subscription("x", kind="rows", query=db.live(text, *inputs)._shared.live.query.text))
    arrived = decode_client(encode(asked))
    assert isinstance(arrived, Asking) and arrived.subscription.query is not None
    there = LiveQuery(arrived.subscription.query, inputs, server)
    there.refresh()
    cells = [row[0] for row in there.rows]
    assert (sorted(cells) if isinstance(expected, list) else cells[0]) == expected


def test_what_was_counted_is_a_number() -> None:
    db = tripleweb.open(schema=USERS)
    db.insert("user", id="a", name="Ada", hits=2)
    db._session.store.apply(
        [Change("a", "user/hits", "", "x", 99, "z"), Change("b", "user/hits", "", 5, 99, "z")]
    )
    assert sorted(db.q("[:find [?n ...] :where [_ :user/hits ?n]]")) == [2, 5]
    assert db.get("user", "a")["hits"] == 2 and db.get("user", "b")["hits"] == 5


def test_fields_that_the_schema_does_not_know_are_free() -> None:
    """Old clients ignore fields they do not know."""
    db = tripleweb.open(schema=USERS)
    db._session.store.apply(
        [Change("a", "user/nick", "", 7, 1, "z"), Change("a", "other/x", "", True, 1, "z")]
    )
    assert db.q("[:find ?v . :where [_ :user/nick ?v]]") == 7 and db.q("[:find ?v . :where [_ :other/x ?v]]")
    assert db.get("user", "a") is None and db.frame("user").empty


# -- the part of a query that says it ------------------------------------------------------------------------------


def test_kinds_in_a_query() -> None:
    store = store_of([("a", "k/v", 1), ("b", "k/v", "x"), ("c", "k/v", Ref("x")), ("d", "k/v", True)])
    for word, found in {
        "number": ["a"],
        "text": ["b"],
        "reference": ["c"],
        "boolean": ["d"],
        "date": [],
    }.items():
        assert sorted(run(f"[:find ?s :where [?s :k/v] :kinds {{:k/v {word}}}]", [], store).rows) == [
            (s,) for s in found
        ]
        text = f'{{:find [?s] :where [[?s :k/v]] :kinds {{"k/v" {word}}}}}'
        assert sorted(run(text, [], store).rows) == [(s,) for s in found]


@pytest.mark.parametrize(
    ("part", "column", "said"),
    [
        (":kinds", 1, "not kinds of predicates"),
        (":kinds [:k/v number]", 35, "not kinds of predicates"),
        (":kinds {k/v number}", 36, "not a predicate"),
        (":kinds {:k/v string}", 41, "not a kind"),
        (":kinds {:k/v number :k/v text}", 48, "a predicate with two kinds"),
        (":kinds {:k/v number} :kinds {}", 49, "twice"),
    ],
)
def test_kinds_that_cannot_be(part: str, column: int, said: str) -> None:
    with pytest.raises(QueryError, match=said) as error:
        parse(f"[:find ?s :where [?s :k/v] {part}]")
    assert (error.value.line, error.value.column) == (1, column)


@pytest.mark.parametrize(
    "text",
    [
        '[:find ?a (max 2 ?b) :keys x y :with ?c :in $ % ?c [[?d _]] [?e ...] :where [?a "odd name/x" ?b] (r ?a ?c) '
        '[?c :k/v 1.50] [(= ?d "a \\"b\\"\\n" #inst "2020")] [(re-find #"a\\.b" ?e)] :order-by [y :desc ?a] :limit 3 '
        ":offset 1]",
        '{:find [?a .], :in [$ %], :where [[?a "odd name/x" -1e300] [?a :k/v #{1 "x"}]] ; a comment\n}',
        "[:find (pull ?a [* {:k/v [:x]}]) :where [?a _ true] :kinds {:k/v number :other date}]",
    ],
)
def test_the_text_says_it_all(text: str) -> None:
    kinds = {"odd name/x": "s", "k/v": "r", 'qu"ote/\\': "b", "é": "d"}
    query = parse(text.replace('#{1 "x"}', "1")).of_kinds(kinds)
    again = parse(query.text)
    for name in (
        "shape",
        "find",
        "columns",
        "inputs",
        "with_",
        "where",
        "order_by",
        "limit",
        "offset",
        "kinds",
    ):
        assert getattr(again, name) == getattr(query, name), name
    assert query.kinds.items() >= {**kinds, "k/v": query.kinds["k/v"]}.items(), (
        "rules and pulls may read anything"
    )
    own = parse(text.replace('#{1 "x"}', "1")).kinds
    assert query.kinds.items() >= own.items(), "what the query says itself stands"
    assert again.of_kinds(kinds) is again


def test_only_what_is_read_is_told() -> None:
    query = parse("[:find ?x :where [?x :a/b 1] (not [?x :c/d])]")
    assert query.of_kinds({"a/b": "n", "c/d": "s", "e/f": "b"}).kinds == {"a/b": "n", "c/d": "s"}
    assert query.of_kinds({"e/f": "b"}) is query
