"""Why a row is in an answer: proofs by hand, and random ones that are taken at their word, since a store with the
triples of a proof and no others must have the row, and one without those of every proof must not."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from tests.datalog_generator import Case, Generator
from tests.datalog_source import Triple, Triples
from tripleweb.datalog import evaluate, reasons
from tripleweb.datalog.builtins import order
from tripleweb.datalog.inputs import prepare
from tripleweb.datalog.query import Aggregate, Query, parse, variable_name
from tripleweb.datalog.reasons import Reasons, why
from tripleweb.errors import BudgetError
from tripleweb.terms import Ref

REACH = "[[(reach ?a ?b) [?a :k/link ?b]] [(reach ?a ?b) [?a :k/link ?m] (reach ?m ?b)]]"
_NOT_POSITIVE = re.compile(r"\(not|missing\?|get-else|lonely")


def links(*pairs: str) -> list[Triple]:
    """`ab` is a link from a to b."""
    return [(pair[0], "k/link", Ref(pair[1])) for pair in pairs]


def told(triples: Iterable[Triple], text: str, known: dict[str, Any], *inputs: Any, most: int = 1) -> Reasons:
    return why(*prepare(parse(text), inputs), Triples(triples), known, most=most)


def lines(found: Reasons) -> list[str]:
    out = []
    for line in found.lines:
        triple = "" if line.triple is None else " ".join(map(str, line.triple))
        parts = [line.kind, line.clause, triple, line.note, "" if line.ways is None else f"{line.ways} ways"]
        out.append("  " * line.depth + " | ".join(filter(None, parts)))
    return out


# -- by hand -------------------------------------------------------------------------------------------------


def test_recursion_shows_its_path_and_takes_the_shortest() -> None:
    triples = links("ab", "bc", "cd", "ad", "da")
    found = told(triples, "[:find ?b :in $ % ?a :where (reach ?a ?b)]", {"?b": "d"}, REACH, "b")
    assert lines(found) == [
        'rule | (reach ?a ?b) | (reach "b" "d"): body 2 of 2 | 1 ways',
        "  triple | [?a :k/link ?m] | b k/link c",
        '  rule | (reach ?m ?b) | (reach "c" "d"): body 1 of 2 | 2 ways',
        "    triple | [?a :k/link ?b] | c k/link d",
    ]


def test_a_circle_is_no_proof() -> None:
    """Around a circle everything reaches itself, by itself: the proof begins outside."""
    rules = "[[(good ?a) [?a :k/next ?b] (good ?b)] [(good ?a) [?a :k/seed true]]]"
    triples: list[Triple] = [("a", "k/next", Ref("b")), ("b", "k/next", Ref("a")), ("b", "k/seed", True)]
    found = told(triples, "[:find ?a :in $ % :where (good ?a)]", {"?a": "a"}, rules)
    assert set(found.triples) == {("a", "k/next", "b"), ("b", "k/seed", True)}


def test_a_long_path_is_a_proof_like_any_other() -> None:
    steps = 200
    triples: list[Triple] = [(f"e{n}", "k/link", Ref(f"e{n + 1}")) for n in range(steps)]
    found = told(
        triples, "[:find ?a ?b :in $ % :where (reach ?a ?b)]", {"?a": "e0", "?b": f"e{steps}"}, REACH
    )
    assert (len(found.triples), found.lines[-1].depth) == (steps, steps)


def test_a_proof_that_is_too_long_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasons, "GOALS_ENOUGH", 2)
    monkeypatch.setattr(reasons, "GOALS_MAX", 5)
    triples: list[Triple] = [(f"e{n}", "k/link", Ref(f"e{n + 1}")) for n in range(20)]
    with pytest.raises(BudgetError, match="more than 5 steps through rules"):
        told(triples, "[:find ?b :in $ % :where (reach ?a ?b)]", {"?b": "e20", "?a": "e0"}, REACH)


def test_work_is_counted() -> None:
    program, inputs = prepare(parse("[:find ?a :where [?a :k/link ?b] [?b :k/link ?a]]"), [])
    with pytest.raises(BudgetError, match="more than 2 units of work"):
        why(program, inputs, Triples(links("ab", "ba")), {"?a": "a"}, budget=evaluate.Budget(rows=2))


def test_what_a_rule_says_twice_is_shown_once() -> None:
    text = "[:find ?a :in $ % :where (reach ?a ?b) (reach ?a ?b)]"
    assert lines(told(links("ab"), text, {"?a": "a"}, REACH)) == [
        'rule | (reach ?a ?b) | (reach "a" "b"): body 1 of 2 | 1 ways',
        "  triple | [?a :k/link ?b] | a k/link b",
        'rule | (reach ?a ?b) | (reach "a" "b"): body 1 of 2: as above | 1 ways',
    ]


WORLD: list[Triple] = [
    ("ada", "user/age", 36), ("ada", "user/name", "Ada"), ("bob", "user/age", 17), ("bob", "user/name", "Bob"),
    ("bob", "user/boss", Ref("ada")), ("cy", "user/age", "old"), ("cy", "user/name", "Cy"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "known", "expected"),
    [
        (
            "[:find ?n :where [?u :user/name ?n] (not [?u :user/boss _])]",
            {"?n": "Ada"},
            ["triple | [?u :user/name ?n] | ada user/name Ada",
             'not | (not [?u :user/boss _]) | nothing matches for ?u = "ada"'],
        ),
        (
            "[:find ?u ?b :where [?u :user/age _] [(get-else $ ?u :user/boss \"nobody\") ?b]]",
            {"?u": "bob", "?b": "ada"},
            ["triple | [?u :user/age _] | bob user/age 17",
             'triple | [(get-else $ ?u :user/boss "nobody") ?b] | bob user/boss ada | '
             '(get-else "bob" "user/boss" "nobody") = "ada"'],
        ),
        (
            "[:find ?u :where [?u :user/age ?a] (or [?u :user/boss] (and [(> ?a 30)] [?u :user/name]))]",
            {"?u": "ada"},
            ["triple | [?u :user/age ?a] | ada user/age 36",
             "or | (or [?u :user/boss] (and [(> ?a 30)] [?u :user/name])) | branch 2 of 2 | 1 ways",
             "  call | [(> ?a 30)] | (> 36 30)",
             "  triple | [?u :user/name] | ada user/name Ada"],
        ),
        (
            "[:find ?older :where [\"ada\" :user/age ?a] [(+ ?a 1) ?older]]",
            {"?older": 37},
            ['triple | ["ada" :user/age ?a] | ada user/age 36', "call | [(+ ?a 1) ?older] | (+ 36 1) = 37"],
        ),
        (
            "[:find (sum ?a) :where [_ :user/age ?a]]",
            {},
            ["aggregate | (sum ?a) | 53 over 3 rows, 1 of them no numbers",
             "triple | [_ :user/age ?a] | bob user/age 17",
             "triple | [_ :user/age ?a] | ada user/age 36",
             "triple | [_ :user/age ?a] | cy user/age old"],
        ),
        (
            "[:find (pull ?u [:user/name {:user/boss [:user/name]}]) :where [?u :user/age 17]]",
            {"?u": "bob"},
            ["triple | [?u :user/age 17] | bob user/age 17",
             "pull | (pull ?u [:user/name {:user/boss [:user/name]}]) | bob user/name Bob",
             "pull | (pull ?u [:user/name {:user/boss [:user/name]}]) | bob user/boss ada",
             "pull | (pull ?u [:user/name {:user/boss [:user/name]}]) | ada user/name Ada"],
        ),
        (
            "[:find ?u :where [?u :user/age ?a] :kinds {:user/age text}]",
            {"?u": "cy"},
            ["triple | [?u :user/age ?a] | cy user/age old"],
        ),
    ],
)  # fmt: skip
def test_by_hand(text: str, known: dict[str, Any], expected: list[str]) -> None:
    assert lines(told(WORLD, text, known)) == expected


def test_inputs_and_callables_are_told_of() -> None:
    def short(name: str) -> bool:
        return len(name) < 3

    text = "[:find ?n :in $ ?f [?n ...] :where [?u :user/name ?n] [(?f ?n)]]"
    assert lines(told(WORLD, text, {"?n": "Cy"}, short, ["Cy", "Bob"])) == [
        'input | :in [?n ...] | ?n = "Cy"',
        "triple | [?u :user/name ?n] | cy user/name Cy",
        'call | [(?f ?n)] | (short "Cy")',
    ]


def test_the_smallest_derivations_come_first_and_all_are_counted() -> None:
    text = "[:find ?a :in $ % :where (reach ?a ?b)]"
    found = told(links("ab", "bc", "cd"), text, {"?a": "a"}, REACH, most=2)
    assert found.derivations == 3
    assert [
        sum(line.triple is not None and line.derivation == n for line in found.lines) for n in (1, 2)
    ] == [1, 2]


def test_of_a_large_group_some_are_shown_and_the_rest_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reasons, "GROUP_MAX", 3)
    triples: list[Triple] = [(f"e{n}", "k/n", n) for n in range(10)]
    found = told(triples, "[:find (max ?n) :where [_ :k/n ?n]]", {})
    assert (found.rows, found.left_out, len(found.triples)) == (10, 7, 3)


def test_a_collection_that_was_made_is_found_by_how_it_is_given_out() -> None:
    text = "[:find ?pair :where [?u :user/age ?a] [(tuple ?u ?a) ?pair]]"
    assert set(told(WORLD, text, {"?pair": ("bob", 17)}).triples) == {("bob", "user/age", 17)}
    assert told(WORLD, text, {"?pair": ("bob", 18)}).derivations == 0


# -- random --------------------------------------------------------------------------------------------------


def known_of(query: Query, row: Sequence[Any]) -> dict[str, Any]:
    return {
        variable_name(element): cell
        for element, cell in zip(query.find, row, strict=True)
        if not isinstance(element, Aggregate)
    }


def check(case: Case, chosen: random.Random) -> tuple[int, int]:
    """(rows looked at, of these with a proof that was taken at its word)."""
    text = case.text()
    inputs = [case.rules, *case.inputs]
    query = parse(text)
    prepared = prepare(query, inputs)
    is_positive = not _NOT_POSITIVE.search(text)
    is_grouped = any(isinstance(element, Aggregate) for element in query.find)

    def has(triples: Iterable[Triple], row: Sequence[Any]) -> bool:
        found = evaluate.run(query, inputs, Triples(triples)).rows
        return tuple(map(order, row)) in [tuple(map(order, one)) for one in found]  # True is not 1

    def explained(triples: Iterable[Triple], row: Sequence[Any], most: int = 1) -> Reasons:
        return why(*prepared, Triples(triples), known_of(query, row), most=most)

    answer = evaluate.run(query, inputs, Triples(case.triples)).rows
    proved = 0
    for row in chosen.sample(answer, min(2, len(answer))):
        where = f"seed {case.seed}: {text} {case.inputs} {row}"
        found = explained(case.triples, row)
        assert found.derivations, where
        assert set(found.triples) <= set(case.triples), where
        if not is_positive:
            continue
        proved += 1
        assert has(found.triples, row), where
        if is_grouped:
            continue
        left = [triple for triple in case.triples if triple not in found.triples]
        if found.derivations == 1 and all(line.ways in (None, 1) for line in found.lines):
            for gone in found.triples:
                assert not has((triple for triple in case.triples if triple != gone), row), (where, gone)
        while found.triples and has(left, row):  # other proofs are left
            found = explained(left, row)
            assert found.derivations and has(found.triples, row), where
            left = [triple for triple in left if triple not in found.triples]
        assert bool(explained(left, row).derivations) == (has(left, row)), where
    return len(answer), proved


def run(seeds: Iterable[int]) -> tuple[int, int]:
    looked = proved = 0
    for seed in seeds:
        one, other = check(Generator(seed).case(), random.Random(seed))
        looked, proved = looked + one, proved + other
    return looked, proved


def test_proofs_of_random_queries_are_taken_at_their_word() -> None:
    looked, proved = run(range(150))
    assert looked > 150 and proved > 50


@pytest.mark.long
def test_proofs_of_many_random_queries_are_taken_at_their_word() -> None:
    looked, proved = run(range(10_000, 10_800))
    assert looked > 800 and proved > 300


def test_derivations_are_all_values_of_all_variables() -> None:
    """Counted by a query that finds every variable, those that stand for `_` among them."""
    counted = 0
    for seed in range(300):
        case = Generator(seed).case()
        if case.ins or any(word in " ".join(case.where + case.find) for word in ("or", "not", "(", "e-path")):
            continue
        numbers = iter(range(100))
        where = [
            re.sub(r"\b_\B|(?<=[ \[])_(?=[ \]])", lambda _: f"?blank{next(numbers)}", clause)
            for clause in case.where
        ]
        names = sorted(set(re.findall(r"\?\w+", " ".join(where))))
        every = evaluate.run(
            f"[:find {' '.join(names)} :where {' '.join(where)}]", [], Triples(case.triples)
        ).rows
        query = parse(case.text())
        for row in evaluate.run(query, [case.rules], Triples(case.triples)).rows[:3]:
            cells = known_of(query, row)
            same = [r for r in every if all(order(r[names.index(n)]) == order(c) for n, c in cells.items())]
            found = why(*prepare(query, [case.rules]), Triples(case.triples), cells)
            assert found.derivations == len(same), (seed, case.text(), row)
            counted += 1
    assert counted > 50
