"""Patterns: the same answers as Python's `re` on what both understand, from both of the ways in which they are run."""

from __future__ import annotations

import random
import re

import pytest

from tripleweb.datalog.regex import Pattern, _may_be_empty, _Reader
from tripleweb.errors import BudgetError

PIECES = [
    "a",
    "b",
    ".",
    "^",
    "$",
    "[ab]",
    "[^a]",
    "[a-c]",
    r"\w",
    r"\d",
    r"\b",
    r"\s",
    r"\.",
    "(X)",
    "(?:X)",
    "(X|X)",
]
REPEATS = ["*", "+", "?", "{2}", "{1,3}", "{2,}"]


def made(rng: random.Random, depth: int = 0) -> str:
    out = ""
    for _ in range(rng.randint(0, 4)):
        piece = rng.choice(PIECES)
        while "X" in piece:
            piece = piece.replace("X", made(rng, depth + 1) if depth < 3 else "a", 1)
        if piece not in ("^", "$", r"\b") and rng.random() < 0.5:
            piece += rng.choice(REPEATS) + rng.choice(["", "", "?"])
        out += piece
    return out


def repeats_nothing(node: tuple) -> bool:  # type: ignore[type-arg]
    """A repeat of what may be empty: there the machine goes on where `re` stops."""
    if node[0] == "repeat":
        return (node[3] != 1 and _may_be_empty(node[1])) or repeats_nothing(node[1])
    if node[0] == "group":
        return repeats_nothing(node[2])
    return any(map(repeats_nothing, node[1])) if node[0] in ("sequence", "either") else False


@pytest.mark.parametrize("seed", range(4))
def test_the_machine_finds_what_re_finds(seed: int) -> None:
    rng = random.Random(seed)
    compared = 0
    while compared < 2_000:
        source = made(rng)
        if len(source) > 200 or repeats_nothing(_Reader(source).pattern()):
            continue
        pattern, python = Pattern(source), re.compile(source)
        text = "".join(rng.choices("abc.1 \n", k=rng.randint(0, 9)))
        for whole, found in ((False, python.search(text)), (True, python.fullmatch(text))):
            groups = pattern._strings(text, pattern._run(text, 0, whole, [0]))
            assert groups == (None if found is None else (found[0], *found.groups())), (
                seed,
                source,
                text,
                whole,
            )
        assert pattern.search(text) == pattern._strings(text, pattern._run(text, 0, False, [0])), (
            seed,
            source,
            text,
        )
        compared += 1


def test_all_matches() -> None:
    for source, text in ((r"\d+", "a12b3"), ("a*", "baac"), ("(a)|b", "ab"), ("x", "abc"), ("", "ab")):
        expected = [(found[0], *found.groups()) for found in re.finditer(source, text)]
        pattern = Pattern(source)
        assert pattern.all(text) == expected
        pattern._cost = None  # leaves it to the machine
        assert pattern.all(text) == expected


def test_case_can_be_ignored() -> None:
    assert Pattern("(?i)ab[c-d]").match("ABD") == ("ABD",)
    assert Pattern("(?i)(a+)+b").search("x" + "A" * 2_000 + "B") is not None


@pytest.mark.parametrize("text", ["a" * 1_000, "a" * 1_000 + "c", "a" * 40])
def test_what_takes_re_for_ever_takes_the_machine_few_steps(text: str) -> None:
    for source in ("(a+)+b", "(a|a)*b", "(a*)*b", "(a|aa)+b", "(.*)*x", "a?" * 30 + "a" * 30 + "b"):
        steps = [0]
        pattern = Pattern(source)
        if len(text) * len(pattern._program) > 100_000:
            continue
        assert pattern._run(text, 0, False, steps) is None
        assert 0 < steps[0] <= len(pattern._program) * (len(text) + 1)
        assert pattern.search(text) is None


def test_too_many_steps_are_an_error() -> None:
    with pytest.raises(BudgetError, match="takes too long"):
        Pattern("(a+)+b").search("a" * 200_000)


@pytest.mark.parametrize(
    "source",
    [
        "(", ")", "a)", "(a", "[", "[a", "*a", "a**", "a*+", "a{2}{3}", "{2}", "a{3,2}", "a{2,1001}", "(?=a)",
        "(?P<n>a)",
        r"\1", r"\q", "a\\", "[b-a]", r"[a-\d]", "[[a]]", "[a--b]", "^*", r"\b+", "(" * 60 + ")" * 60, "a" * 1_001,
        "(((a{100}){100}){100}){100}", "a{,5}",
    ],
)  # fmt: skip
def test_what_is_no_pattern_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        Pattern(source)


def test_random_text_is_a_pattern_or_refused() -> None:
    rng = random.Random(5)
    accepted = 0
    for _ in range(3_000):
        source = "".join(rng.choices(r"ab()[]{}|*+?^$.\dw-,12:=!<", k=rng.randint(0, 12)))
        try:
            pattern = Pattern(source)
        except ValueError:
            continue
        accepted += 1
        pattern.search("ab1-")
        pattern.match("ab")
        re.compile(source)  # what is a pattern here is one there
    assert accepted > 200
