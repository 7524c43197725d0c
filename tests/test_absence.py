"""Why a row is not in an answer: by hand, what the data say; at random, that whoever is blamed is guilty, by an oracle
of nested loops, and that of those who are blamed together none is innocent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest

from tests.datalog_generator import NUMBERS, TEXTS, Generator
from tests.datalog_oracle import Oracle, typed
from tests.datalog_source import Triple, Triples
from tripleweb.change import Change
from tripleweb.datalog import absence
from tripleweb.datalog.absence import Absence, Absences
from tripleweb.datalog.builtins import complete, outward
from tripleweb.datalog.clauses import Clause, Not, Variable, variables
from tripleweb.datalog.edn import show
from tripleweb.datalog.evaluate import Budget, evaluate
from tripleweb.datalog.evaluate import Evaluation as Whole
from tripleweb.datalog.inputs import prepare
from tripleweb.datalog.query import parse
from tripleweb.datalog.reasons import TEXT_MAX, Proofs, names_of
from tripleweb.store import Store
from tripleweb.terms import Ref, slot

WORLD: list[Triple] = [
    ("ada", "user/name", "Ada"), ("ada", "user/age", 29), ("bob", "user/name", "Bob"), ("bob", "user/age", 41),
    ("bob", "user/boss", Ref("ada")), ("bob", "user/blocked", True), ("cy", "user/name", "Cy"),
    ("cy", "user/age", "36"), ("di", "user/name", "Di"), ("di", "user/tags", "x"), ("di", "user/tags", "y"),
]  # fmt: skip


def store_of(triples: Sequence[Triple]) -> Store:
    store = Store()
    many = {
        (s, p) for number, (s, p, _) in enumerate(triples) if any((s, p) == t[:2] for t in triples[:number])
    }
    store.apply([Change(s, p, slot(v) if (s, p) in many else "", v, 1, "r") for s, p, v in triples])
    return store


def told(
    text: str,
    known: dict[str, Any],
    *inputs: Any,
    triples: Sequence[Triple] = WORLD,
    rules: str | None = None,
) -> list[Absence]:
    store = store_of(triples)
    return Absences(Proofs(*prepare(parse(text), inputs, rules), store), store).lines(known)


def blamed(lines: list[Absence]) -> list[str]:
    return ["  " * line.depth + f"{line.clause}: {line.note}" for line in lines if line.blamed]


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        (
            "[:find ?n :where [?u :user/name ?n] [?u :user/age ?a] [(> ?a 30)]]",
            {"?n": "Ada"},
            [
                '[?u :user/name ?n]: user/name of ada is "Ada"',
                "[?u :user/age ?a]: user/age of ada is 29",
                "[(> ?a 30)]: (> 29 30) is false",
            ],
        ),
        (
            "[:find ?n ?a :where [?u :user/name ?n] [?u :user/age ?a]]",
            {"?n": "Adda"},
            ['[?u :user/name ?n]: no user/name is "Adda"; there is "Ada"'],
        ),
        (
            "[:find ?n ?a :where [?u :user/name ?n] [?u :user/age ?a]]",
            {"?n": "Ada", "?a": 30},
            ["[?u :user/age ?a]: no user/age is 30; there is 29, 41"],
        ),
        (
            "[:find ?n ?a :where [?u :user/name ?n] [?u :user/age ?a]]",
            {"?n": "Ada", "?a": 41},
            [
                '[?u :user/name ?n]: user/name of ada is "Ada"',
                "[?u :user/age ?a]: user/age of ada is 29, not 41",
            ],
        ),
        (
            "[:find ?u ?e :where [?u :user/email ?e]]",
            {"?u": "ada"},
            [
                "[?u :user/email ?e]: no triple has user/email; did you mean user/age or user/tags or user/name?"
            ],
        ),
        (
            "[:find ?u ?e :where [?u :user/nam ?e]]",
            {"?u": "ada"},
            ["[?u :user/nam ?e]: no triple has user/nam; did you mean user/name or user/age or user/tags?"],
        ),
        (
            "[:find ?u ?a :where [?u :user/age ?a]]",
            {"?u": "di"},
            ["[?u :user/age ?a]: di has no user/age"],
        ),
        ("[:find ?u ?a :where [?u :user/age ?a]]", {"?u": "eve"}, ["[?u :user/age ?a]: there is no eve"]),
        (
            "[:find ?u ?a :kinds {:user/age number} :where [?u :user/age ?a]]",
            {"?u": "cy"},
            ['[?u :user/age ?a]: user/age of cy is text "36", and is read as number only'],
        ),
        (
            "[:find ?u :where [?u :user/name _] (not [?u :user/blocked true])]",
            {"?u": "bob"},
            ["(not [?u :user/blocked true]): it holds: user/blocked of bob is true"],
        ),
        (
            "[:find ?u ?x :where [?u :user/age ?a] [(+ ?a 1) ?x]]",
            {"?u": "ada", "?x": 31},
            ["[?u :user/age ?a]: user/age of ada is 29", "[(+ ?a 1) ?x]: (+ 29 1) = 30, but ?x is 31"],
        ),
        (
            '[:find ?u :where [?u :user/tags "x"] [?u :user/tags "z"]]',
            {"?u": "di"},
            ['[?u :user/tags "z"]: user/tags of di is "x", "y", not "z"'],
        ),
        ("[:find ?n :where [?u :user/name ?n]]", {"?n": "Ada"}, []),
    ],
)
def test_what_the_data_say(text: str, known: dict[str, Any], expected: list[str]) -> None:
    assert blamed(told(text, known)) == expected


def test_how_many_ways_are_left() -> None:
    lines = told("[:find ?n :where [?u :user/name ?n] [?u :user/age ?a] [(> ?a 30)]]", {})
    assert [(line.kind, line.left, line.blamed) for line in lines] == [
        ("triple", 4, False), ("triple", 3, False), ("call", 1, False),
    ]  # fmt: skip


def test_rules_are_told_body_by_body() -> None:
    rules = "[[(old ?u) [?u :user/age ?a] [(> ?a 50)]] [(old ?u) [?u :user/retired true]]]"
    lines = told("[:find ?u :where [?u :user/name _] (old ?u)]", {"?u": "bob"}, rules=rules)
    assert ["  " * one.depth + (one.clause or one.note) for one in lines if one.blamed or one.depth] == [
        "(old ?u)",
        "  body 1 of 2",
        "  [?u :user/age ?a]",
        "  [(> ?a 50)]",
        "  body 2 of 2",
        "  [?u :user/retired true]",
    ]
    notes = [line.note for line in lines if line.blamed]
    assert notes[0] == 'no body of it holds for (old "bob")'
    assert notes[2:] == ["(> 41 50) is false", "no triple has user/retired; did you mean user/age?"]


def test_a_rule_that_calls_itself_is_told_once() -> None:
    rules = "[[(reach ?a ?b) [?a :k/link ?b]] [(reach ?a ?b) [?a :k/link ?m] (reach ?m ?b)]]"
    triples: list[Triple] = [(f"e{n}", "k/link", Ref(f"e{(n + 1) % 9}")) for n in range(9)]
    text = "[:find ?a ?b :where (reach ?a ?b)]"
    lines = told(text, {"?a": "e0", "?b": "x"}, triples=triples, rules=rules)
    assert lines[0].blamed and max(line.depth for line in lines) <= absence.DEPTH_MAX + 1 and len(lines) < 30


def test_what_was_deleted_is_said_to_be() -> None:
    store = store_of(WORLD)
    store.apply([Change("ada", "_deleted", "", True, 2, "r")])
    proofs = Proofs(*prepare(parse("[:find ?u ?a :where [?u :user/age ?a]]"), []), store)
    assert blamed(Absences(proofs, store).lines({"?u": "ada"})) == ["[?u :user/age ?a]: ada was deleted"]


def test_work_has_a_bound_and_what_is_too_much_is_not_known() -> None:
    """To follow a product as it is written costs too much; what is guilty is found by a share of the work."""
    store = store_of([(f"e{n}", "k/n", n) for n in range(300)])
    text = "[:find ?a ?b ?c :where [?a :k/n ?x] [?b :k/n ?y] [?c :k/n ?z] [(> ?x 1000)]]"
    for budget in (Budget(rows=100_000), Budget(bytes=4 << 20)):
        lines = Absences(Proofs(*prepare(parse(text), []), store, budget), store).lines({"?a": "e1"})
        assert [line.left for line in lines] == [1, 300, None, None]
        assert blamed(lines) == ["[?a :k/n ?x]: k/n of e1 is 1", "[(> ?x 1000)]: (> 1 1000) is false"]
    lines = Absences(Proofs(*prepare(parse(text), []), store, Budget(rows=1)), store).lines({"?a": "e1"})
    assert not blamed(lines) and {line.left for line in lines} <= {1, None}


def test_a_value_that_many_have_is_joined_as_such() -> None:
    """A product of those who have one value with those who have the other is not made."""
    store = store_of([(f"e{n}", p, v) for n in range(400) for p, v in (("k/kind", n % 2), ("k/n", n))])
    text = "[:find ?a ?b :where [?u :k/kind ?a] [?v :k/kind ?b] [?u :k/n ?n] [?v :k/n ?n]]"
    proofs = Proofs(*prepare(parse(text), []), store, Budget(rows=60_000))
    lines = Absences(proofs, store).lines({"?a": 0, "?b": 1})
    assert [line.blamed for line in lines] == [True] * 4
    assert lines[-1].note == "an example costs too much to find"


# -- at random ------------------------------------------------------------------------------------------------


def check(seed: int) -> bool:
    """True if a row was looked for that is not there."""
    case = Generator(seed).case()
    rng = random.Random(seed)
    query = parse(case.text())
    inputs = [case.rules, *case.inputs]
    program, bound = prepare(query, inputs)
    triples = Triples(case.triples)
    store = store_of([(s, p, v) for s, p, v in triples.all()])
    proofs = Proofs(program, bound, store)
    if proofs.givens:
        return False
    names = [element.name for element in query.find if isinstance(element, Variable)]
    rows = complete(evaluate(Whole(program, bound, store))).rows
    at = [column for column, element in enumerate(query.find) if isinstance(element, Variable)]
    pool = [v for _, _, v in case.triples] + [s for s, _, _ in case.triples] + NUMBERS + TEXTS
    some = rng.choice(rows) if rows else None
    known = {
        name: outward(some[column]) if some and rng.random() < 0.6 else rng.choice(pool)
        for name, column in zip(names, at, strict=True)
        if rng.random() < 0.8
    }
    known = {name: value for name, value in known.items() if isinstance(value, str | int | float | bool)}
    note = f"seed {seed}: {case.text()} {case.inputs} {known}"
    lines = Absences(proofs, store).lines(known)
    guilty = [line for line in lines if line.blamed and line.depth == 0]
    given = {name: typed(value) for name, value in known.items()}
    oracle = Oracle(program.query, case.inputs, triples)
    envs = [
        {**env, **given}
        for env in oracle.envs
        if all(given[name] == env[name] for name in given.keys() & env.keys())
    ]

    def holds(clauses: Sequence[Clause]) -> bool:
        return any(oracle.holds(clauses, env) for env in envs)

    assert bool(guilty) == (not holds(query.where)), note
    if not guilty:
        return False
    if guilty[0].kind == "input":
        assert not envs, note
        return True
    texts = [line.clause for line in guilty]
    chosen: list[int] = []
    for number, clause in enumerate(query.where):
        if show(clause.form, TEXT_MAX) in texts:
            texts.remove(show(clause.form, TEXT_MAX))
            chosen.append(number)
    assert not texts, f"{note}: {texts}"
    start = {*known, *(name for env in oracle.envs for name in env)}

    def can(numbers: Sequence[int]) -> bool | None:
        """Whether these clauses hold; None where they cannot be followed without others."""
        clauses = [program.where[number] for number in numbers]
        final, stuck = program.closure(clauses, start)
        inside = {n for c in clauses if isinstance(c, Not) for n in (c.variables or variables(*c.clauses))}
        if stuck or inside & set(names_of(program.where)) - final:
            return None
        return holds([query.where[number] for number in numbers])

    alone = [number for number in chosen if can([number]) is False]
    if alone:
        assert len(alone) == len(chosen), note
        return True
    assert can(chosen) is False, note
    for number in chosen:
        others = [one for one in chosen if one != number]
        assert can(others) is not False, f"{note}: {show(query.where[number].form)} is innocent"
    return True


def check_all(count: int) -> int:
    """How many of so many random rows are not there; says the seed of what goes wrong, also by an exception."""
    base = random.randrange(1 << 30)
    absent = 0
    for seed in range(base, base + count):
        try:
            absent += check(seed)
        except BaseException as error:
            error.add_note(f"check({seed})")
            raise
    return absent


def test_who_is_blamed_is_guilty_and_nobody_else() -> None:
    assert check_all(150) > 30


@pytest.mark.long
def test_who_is_blamed_is_guilty_at_length() -> None:
    assert check_all(1_000) > 200
