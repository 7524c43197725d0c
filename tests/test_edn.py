"""The EDN reader: what it reads, what it refuses and where, and that it prints what it read."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from tripleweb.datalog.edn import DEPTH_MAX, TEXT_MAX, Form, read, read_all, show
from tripleweb.errors import QueryError


def plain(form: Form) -> Any:
    """A form without its kinds and places: collections as tuples."""
    return tuple(map(plain, form.value)) if isinstance(form.value, tuple) else form.value


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("?x", "symbol", "?x"),
        ("...", "symbol", "..."),
        ("-", "symbol", "-"),
        ("<=", "symbol", "<="),
        (":user/name", "keyword", "user/name"),
        (":a/b/c", "keyword", "a/b/c"),
        ("36", "number", 36),
        ("-1", "number", -1),
        ("+7", "number", 7),
        ("9223372036854775807", "number", 2**63 - 1),
        ("1.50", "number", 1.5),
        ("1e3", "number", 1000.0),
        ("true", "boolean", True),
        ("false", "boolean", False),
        ("nil", "nil", None),
        ('"a\\n\\"b\\" \\u00e9"', "string", 'a\n"b" é'),
        ('"two\nlines"', "string", "two\nlines"),
        ('"\\ud83d\\ude00"', "string", "😀"),
        ('#"\\d+"', "regex", "\\d+"),
        ('#inst "2013"', "date", datetime(2013, 1, 1, tzinfo=UTC)),
        ('#inst "2013-05-06T07:08:09.25Z"', "date", datetime(2013, 5, 6, 7, 8, 9, 250_000, tzinfo=UTC)),
        ('#inst "2013-01-01T00:30+01:00"', "date", datetime(2012, 12, 31, 23, 30, tzinfo=UTC)),
        ("(a, b)", "list", ("a", "b")),
        ("[1 [2]]", "vector", (1, (2,))),
        ("{:a 1}", "map", ("a", 1)),
        ("#{1 2}", "set", (1, 2)),
        ("[1 #_ 2 #_#_3 4 5] ; the rest", "vector", (1, 5)),
    ],
)
def test_reads(text: str, kind: str, value: object) -> None:
    form = read(text)
    assert form.kind == kind
    assert plain(form) == value
    assert type(plain(form)) is type(value)
    assert read(show(form)) == form


def test_forms_know_their_places() -> None:
    form = read('[:find ?x\n :where ; here\n  [?x "a\nb"] (r)]')
    where = form.value[3]
    assert [(item.line, item.column) for item in (form, form.value[1], where, *where.value, form.value[4])] == [
        (1, 1), (1, 8), (3, 3), (3, 4), (3, 7), (4, 5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "line", "column", "said"),
    [
        ("", 1, 1, "nothing to read"),
        (" ; only this", 1, 1, "nothing to read"),
        ("[1 2", 1, 1, "not closed"),
        ("[\n(1 2]", 2, 5, "expected )"),
        ("1 2", 1, 3, "more text"),
        ("]", 1, 1, "closes nothing"),
        ("[#_]", 1, 4, "closes nothing"),
        ("[1] #_", 1, 5, "nothing follows"),
        ('["abc', 1, 2, "not closed"),
        ('"\\q"', 1, 1, "unknown escape"),
        ('"\\ud83d"', 1, 1, "surrogate"),
        ("{:a}", 1, 1, "no value"),
        ("9223372036854775808", 1, 1, "64 bit"),
        ("9" * 5_000, 1, 1, "64 bit"),
        ("1e999", 1, 1, "not a number"),
        ("1/2", 1, 1, "not a number"),
        ("0x1F", 1, 1, "not a number"),
        ("01", 1, 1, "not a number"),
        ("::a", 1, 1, "not a keyword"),
        (":", 1, 1, "not a keyword"),
        ("\\a", 1, 1, "a character"),
        ("'[1]", 1, 1, "quote"),
        ("^{:a 1} b", 1, 1, "metadata"),
        ('#uuid "a"', 1, 1, "unknown tag"),
        ('#inst "2013-13"', 1, 1, "not a date"),
        ('#inst "yesterday"', 1, 1, "not a date"),
        ("#inst 2013", 1, 1, "without its text"),
        ("[" * (DEPTH_MAX + 1), 1, DEPTH_MAX + 1, "deep"),
        ("#_" * 100_000, 1, 2 * DEPTH_MAX + 1, "deep"),
        ("x" * (TEXT_MAX + 1), 1, 1, "characters"),
    ],
)
def test_refuses_with_a_place(text: str, line: int, column: int, said: str) -> None:
    with pytest.raises(QueryError, match=None) as caught:
        read(text)
    assert (caught.value.line, caught.value.column) == (line, column)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_reads_what_is_as_deep_and_as_long_as_it_may_be() -> None:
    assert read("[" * DEPTH_MAX + "]" * DEPTH_MAX).kind == "vector"
    assert len(read_all("a " * (TEXT_MAX // 2))) == TEXT_MAX // 2


def test_prints_what_it_can_read_again() -> None:
    rng = random.Random(3)

    def make(depth: int) -> Form:
        kinds = ["symbol", "keyword", "string", "number", "boolean", "nil", "date"]
        kind = rng.choice(kinds if not depth else [*kinds, "list", "vector", "set", "map"])
        if kind in ("list", "vector", "set", "map"):
            count = rng.randint(0, 3) * (2 if kind == "map" else 1)
            return Form(kind, tuple(make(depth - 1) for _ in range(count)))
        values: dict[str, Any] = {
            "symbol": rng.choice(["?x", "a-b", "user/name", "..."]),
            "keyword": rng.choice(["a", "user/name"]),
            "string": "".join(rng.choices('ab"\\\n\t\ré😀 ;', k=rng.randint(0, 6))),
            "number": rng.choice([0, -7, 2**62, 1.5, -2e300, 5e-324]),
            "boolean": rng.random() < 0.5,
            "nil": None,
            "date": datetime(rng.randint(1, 9999), 1, 1, 2, 3, 4, rng.randint(0, 999_999), UTC),
        }
        return Form(kind, values[kind])

    for _ in range(500):
        form = make(4)
        assert read(show(form)) == form, show(form)
