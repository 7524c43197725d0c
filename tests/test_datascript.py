"""The engine against DataScript itself (the npm package `datascript`, run by Node) on generated databases and queries.

`tests/datascript/answer.cjs` is DataScript's side. Entities are integers there: `e1` is 1000001. The package is
installed once into a folder of the cache, outside of the tree. Every failure names its seed; `as_case(SEED)` makes it
again, and cases that were found are kept in `tests/datascript/regressions.json`, which runs first.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.datalog_generator import ENTITIES, MANY, PREDICATES, Case, Generator
from tests.datalog_source import Triples
from tests.npm import installed
from tripleweb.change import Change
from tripleweb.datalog.evaluate import run
from tripleweb.datalog.query import parse
from tripleweb.datalog.upkeep import Upkeep
from tripleweb.store import Store
from tripleweb.terms import Ref, slot

VERSION = "1.8.1"
HERE = Path(__file__).parent / "datascript"
FIRST_ENTITY = 1_000_000
REFERENCES = [predicate for predicate, kind in PREDICATES.items() if kind == "e"]
SECONDS = 110


@pytest.fixture(scope="session")
def datascript(outer_environment: dict[str, str]) -> Path:
    """The folder where DataScript is installed; installs it if need be."""
    return installed("datascript", VERSION, outer_environment).parent


def ask(folder: Path, cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """DataScript's answers, by the names of the cases."""
    command = ["node", str(HERE / "answer.cjs"), str(folder)]
    try:
        done = subprocess.run(
            command, input=json.dumps(cases), capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except subprocess.TimeoutExpired as late:
        lines = (late.stdout or b"").decode().splitlines() if isinstance(late.stdout, bytes) else []
        raise AssertionError(
            f"DataScript hangs at {cases[len(lines)]['name']}: {cases[len(lines)]['query']}"
        ) from None
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {answer["name"]: answer for answer in answers}


def to_entity(value: Any) -> Any:
    """`e1` as DataScript's integer, anything else as it is."""
    if isinstance(value, list):
        return [to_entity(item) for item in value]
    return FIRST_ENTITY + int(value[1:]) if value in ENTITIES else value


def plain(cell: Any, unordered: bool = False) -> Any:
    """A cell of either side in one form: entities as their ids, numbers as floats to twelve digits."""
    if isinstance(cell, list | tuple):
        cells = [plain(item) for item in cell]
        return tuple(sorted(cells, key=repr) if unordered else cells)
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        if FIRST_ENTITY < cell < FIRST_ENTITY + 100:
            return f"e{cell - FIRST_ENTITY}"
        return float(f"{cell:.11e}")
    return cell


def counted(rows: Any, case: dict[str, Any]) -> Counter[Any]:
    unordered = [element.startswith("(distinct") for element in case["find"]]
    return Counter(
        tuple(plain(cell, free) for cell, free in zip(row, unordered, strict=True)) for row in rows or []
    )


def as_case(seed: int) -> dict[str, Any]:
    made: Case = Generator(seed, datascript=True).case()
    return {
        "name": f"seed {seed}",
        "triples": [[s, p, str(v) if isinstance(v, str) else v] for s, p, v in made.triples],
        "find": made.find,
        "query": made.text(),
        "inputs": [made.rules, *made.inputs],
    }


def theirs(case: dict[str, Any]) -> dict[str, Any]:
    query = re.sub(r'"(e\d)"', lambda match: str(to_entity(match[1])), case["query"])
    rules = re.sub(r'"(e\d)"', lambda match: str(to_entity(match[1])), case["inputs"][0])
    return {
        "name": case["name"],
        "triples": [[to_entity(s), p, to_entity(v)] for s, p, v in case["triples"]],
        "references": REFERENCES,
        "many": sorted(MANY),
        "query": query,
        "inputs": [rules, *map(to_entity, case["inputs"][1:])],
    }


def ours(case: dict[str, Any]) -> list[tuple[Any, ...]]:
    triples = Triples((s, p, Ref(v) if p in REFERENCES else v) for s, p, v in case["triples"])
    return run(case["query"], case["inputs"], triples).rows


def ours_live(case: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The answer of a query that was opened on an empty store and saw every triple come, one by one; then, in another
    order, each triple go and come again."""
    store = Store()
    upkeep = Upkeep(store)
    live = upkeep.open(case["query"], case["inputs"])
    live.refresh()
    changes = [
        Change(s, p, slot(value) if p in MANY else "", value, 0, "r")
        for s, p, v in case["triples"]
        for value in [Ref(v) if p in REFERENCES else v]
    ]
    again = random.Random(case["name"]).sample(changes, min(len(changes), 12))
    gone = [change._replace(value=None) for change in again]
    for time, change in enumerate([*changes, *gone, *reversed(again)], 1):
        upkeep.changed(store.apply([change._replace(time=time)]))
    assert live.is_current or live.query.predicates is None, live.reason
    live.refresh()
    return live.rows


def check_same(folder: Path, cases: list[dict[str, Any]]) -> None:
    """Every case on both sides, here fresh as well as live; all differences are reported together."""
    answers = ask(folder, [theirs(case) for case in cases])
    wrong, rows = [], 0
    for case in cases:
        answer = answers[case["name"]]
        if "error" in answer:
            wrong.append(f"{case['name']}: DataScript says {answer['error']}\n  {case['query']}")
            continue
        expected = counted(answer["rows"], case)
        rows += bool(expected)
        for way, answered in (("fresh", ours), ("live", ours_live)):
            found = counted(answered(case), case)
            if found != expected:
                wrong.append(
                    f"{case['name']}, {way}: {case['query']}\n  inputs {case['inputs'][1:]}\n"
                    f"  only here {list((found - expected).elements())[:5]}\n"
                    f"  only there {list((expected - found).elements())[:5]}"
                )
    assert not wrong, f"{len(wrong)} of {len(cases)} differ\n" + "\n".join(wrong[:10])
    assert rows >= len(cases) // 4, "most answers are empty: this compares next to nothing"


def test_found_cases(datascript: Path) -> None:
    check_same(datascript, json.loads((HERE / "regressions.json").read_text(encoding="utf-8")))


def test_200_generated_pairs(datascript: Path) -> None:
    check_same(datascript, [as_case(seed) for seed in range(200)])


@pytest.mark.long
@pytest.mark.parametrize("start", range(10_000, 12_500, 500))
def test_2500_generated_pairs(datascript: Path, start: int) -> None:
    check_same(datascript, [as_case(seed) for seed in range(start, start + 500)])


FACTS = json.loads((HERE / "language.json").read_text(encoding="utf-8"))


def fact_rows(rows: Any, query: str) -> list[str]:
    """The rows of either side, however they are shaped, in one order."""
    shape = parse(query).shape
    if shape == "scalar":
        rows = [] if rows is None else [[rows]]
    elif shape == "tuple":
        rows = [rows] if rows else []
    elif shape == "collection":
        rows = [[cell] for cell in rows]
    return sorted(repr(tuple(map(plain, row))) for row in rows)


@pytest.mark.parametrize("fact", FACTS["cases"], ids=lambda fact: fact["query"])
def test_facts_of_the_language(fact: dict[str, Any]) -> None:
    """What DataScript's documentation and its own tests say of joins, bindings, `not`, `or`, rules, functions, find
    specifications and aggregates."""
    triples = Triples((s, p, Ref(v) if p == "user/parent" else v) for s, p, v in FACTS["triples"])
    found = run(fact["query"], fact["inputs"], triples).rows
    assert sorted(repr(tuple(map(plain, row))) for row in found) == sorted(
        repr(tuple(map(plain, row))) for row in fact["rows"]
    )


def test_the_facts_are_datascripts(datascript: Path) -> None:
    def said(text: Any) -> Any:
        if not isinstance(text, str) or not text.startswith(("[", "{")):
            return to_entity(text)
        text = re.sub(r'"(e\d)"', lambda match: str(to_entity(match[1])), text)
        return re.sub(r":(user/_?\w+)", r'"\1"', text)

    cases = [
        {
            "name": str(index),
            "triples": [[to_entity(s), p, to_entity(v)] for s, p, v in FACTS["triples"]]
            if fact["source"]
            else None,
            "references": ["user/parent"],
            "many": ["user/aka"],
            "query": said(fact["query"]),
            "inputs": list(map(said, fact["inputs"])),
        }
        for index, fact in enumerate(FACTS["cases"])
    ]
    answers = ask(datascript, cases)
    wrong = []
    for index, fact in enumerate(FACTS["cases"]):
        answer = answers[str(index)]
        expected = sorted(repr(tuple(map(plain, row))) for row in fact["rows"])
        if "error" in answer or fact_rows(answer["rows"], fact["query"]) != expected:
            wrong.append(f"{fact['query']}: there {answer}, here {fact['rows']}")
    assert not wrong, "\n".join(wrong)


CALLS = """
(+ 1 2 3.5) (+) (- 5) (- 5 1 1) (* 2 3) (*) (/ 6 3) (/ 7 2) (/ 4) (quot -7 2) (quot 7 2) (rem -7 2) (rem 7 -2)
(mod -7 2) (mod 7 -2) (mod 7.5 2) (rem -7.5 2) (inc 1.5) (dec 0) (max 1 3 2) (min 3 1 2) (< 1 2 3) (< 1 3 2)
(>= 3 3 2) (= 1 1 1) (= "a" "b") (= 1 "1") (not= 1 "1") (not= 1 1) (!= 1 2 1) (== 1 1) (= [1 2] [1 2])
(compare 1 2) (compare "b" "a") (zero? 0) (pos? 1) (neg? -1) (even? 4) (odd? 4) (true? true) (false? true)
(not false) (not 0) (and 1 2) (and false 1) (or false 2) (or 3 false) (nil? 1) (some? 1) (identity 5) (ground 5)
(str "a" 1 2.5 true) (str) (pr-str "a" 1 true) (print-str "a" 1) (prn-str "a") (println-str "a")
(subs "hello" 1 3) (subs "hello" 2) (count "abc") (count [1 2 3]) (empty? "") (empty? [1]) (not-empty [1])
(not-empty []) (contains? #{1 2} 2) (contains? [5 6] 1) (contains? [5 6] 5) (range 3) (range 2 5) (range 5 0 -2)
(vector 1 "a") (list 1 2) (tuple 1 2) (untuple [1 2]) (re-find "a+" "baac") (re-find "(a)(x)?" "ba")
(re-matches "a." "ab") (re-matches "a" "ab") (re-seq "[0-9]" "a1b2") (re-find "x" "a")
(clojure.string/blank? " ") (clojure.string/blank? "a") (clojure.string/includes? "abc" "bc")
(clojure.string/starts-with? "abc" "ab") (clojure.string/ends-with? "abc" "ab") (max 1) (< 1) (- 1.5 0.5)
(* 1.5 2)
"""


def test_built_ins_on_constants(datascript: Path) -> None:
    calls = re.findall(r"\((?:[^()\"]|\"[^\"]*\")*\)(?=\s)", CALLS)
    assert len(calls) > 80
    cases = []
    for call in calls:
        pattern = re.match(r'\((re-\w+) ("[^"]*") (.*)\)', call)
        before = f"[(re-pattern {pattern[2]}) ?re]" if pattern else ""
        called = f"({pattern[1]} ?re {pattern[3]})" if pattern else call
        query = f"[:find ?x :in ?one :where {before} [{called} ?x]]"
        cases.append({"name": call, "triples": None, "query": query, "inputs": [1]})
    answers = ask(datascript, cases)
    wrong = []
    for case in cases:
        answer = answers[case["name"]]
        found = [plain(row) for row in run(case["query"], case["inputs"], Triples()).rows]
        expected = [plain(row) for row in answer.get("rows") or []]
        if found != expected or "error" in answer:
            wrong.append(f"{case['name']}: here {found}, there {answer}")
    assert not wrong, "\n" + "\n".join(wrong)
