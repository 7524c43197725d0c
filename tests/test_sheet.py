"""Frames of an answer from version to version: always what the plain way makes of the same rows."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tripleweb import frame as frame_module
from tripleweb.datalog.builtins import inward, outward
from tripleweb.frame import Sheet, result_frame, text_dtype
from tripleweb.terms import FALSE, TRUE, Ref

Row = tuple[Any, ...]
LETTERS = {str: "s", int: "n", float: "n", bool: "b", datetime: "d"}


def plain_series(values: Sequence[Any], kind: str, nullable: bool) -> pd.Series:
    """A column the slow way: pandas makes a Series of every value, and nothing is remembered."""
    types = set(map(type, values))
    nullable = nullable or type(None) in types
    types.discard(type(None))
    letters = {LETTERS.get(each, "") for each in types} or {"s" if kind == "r" else kind}
    letter = letters.pop() if len(letters) == 1 else ""
    if letter == "s":
        return pd.Series(values, dtype=text_dtype())
    if letter == "d":
        naive = [None if value is None else value.astimezone(UTC).replace(tzinfo=None) for value in values]
        return pd.Series(np.array(naive, dtype="datetime64[us]")).dt.tz_localize("UTC")
    if letter in ("b", "n"):
        whole, masked = {"b": ("bool", "boolean"), "n": ("int64", "Int64")}[letter]
        if float in types:
            whole, masked = "float64", "Float64"
        if whole == "int64" and any(value is not None and not -(2**63) <= value < 2**63 for value in values):
            return pd.Series(list(values), dtype=object)
        return pd.Series(list(values), dtype=masked if nullable else whole)
    return pd.Series(list(values), dtype=object)


def plain_frame(
    names: Sequence[str], rows: Sequence[Row], kinds: dict[str, str], nullable: set[str]
) -> pd.DataFrame:
    cells = [list(map(outward, column)) for column in zip(*rows, strict=True)] if rows else [()] * len(names)
    data = {
        name: plain_series(values, kinds.get(name, ""), name in nullable)
        for name, values in zip(names, cells, strict=False)
    }
    return pd.DataFrame(data, columns=list(names), index=pd.RangeIndex(len(rows)))


def check_same(got: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(got, wanted, check_exact=True)
    assert isinstance(got.index, pd.RangeIndex)
    for name in got.columns:
        if wanted[name].dtype == object:
            assert list(map(type, got[name])) == list(map(type, wanted[name]))


def moment(rng: random.Random) -> datetime:
    zone = rng.choice([UTC, timezone(timedelta(hours=5, minutes=30))])
    return datetime(2020, 1, 1, tzinfo=zone) + timedelta(microseconds=rng.randrange(10**15))


VALUES: dict[str, Callable[[random.Random], Any]] = {
    "texts": lambda rng: rng.choice(["", "é", "x" * 50, f"t{rng.random()}", "nan", "None"]),
    "references": lambda rng: rng.choice(["a", Ref("a"), Ref("b")]),
    "integers": lambda rng: rng.choice([0, 1, -5, 2**63 - 1, -(2**63), rng.randrange(10**6)]),
    "numbers": lambda rng: rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 9, 1.5]),
    "floats": lambda rng: rng.choice([0.0, -1.5, 1e300, rng.random()]),
    "flags": lambda rng: rng.choice([TRUE, FALSE]),
    "dates": moment,
    "tuples": lambda rng: rng.choice([(1, "a"), (TRUE,), ()]),
    "mixed": lambda rng: rng.choice([1, "a", TRUE, 1.5, moment(rng)]),
    "nearly texts": lambda rng: "a" if rng.random() < 0.97 else 7,
    "sums": lambda rng: 2**70 if rng.random() < 0.003 else rng.randrange(9),
    "perhaps": lambda rng: None if rng.random() < 0.05 else "a",
    "perhaps a number": lambda rng: None if rng.random() < 0.05 else 1,
    "perhaps a flag": lambda rng: None if rng.random() < 0.05 else TRUE,
    "perhaps a date": lambda rng: None if rng.random() < 0.05 else moment(rng),
}


def changed(rng: random.Random, rows: list[Row], fresh: Callable[[], Row], at_end: bool) -> list[Row]:
    """Other rows that have much in common with these."""
    rows = list(rows)
    for _ in range(rng.choice([0, 1, 1, 2, 3, 10, 40])):
        what = rng.random()
        if what < 0.4 and rows:
            start = rng.randrange(len(rows))
            del rows[start : start + rng.choice([1, 1, 1, 2, 5, 70])]
        elif what < 0.7 or at_end:
            rows += [fresh() for _ in range(rng.choice([1, 1, 3]))]
        elif what < 0.85:
            rows.insert(rng.randint(0, len(rows)), fresh())
        elif rows:
            rows[rng.randrange(len(rows))] = fresh()
    if rng.random() < 0.03:
        rows = []
    if rng.random() < 0.03 and not at_end:
        rng.shuffle(rows)
    return rows


@pytest.mark.parametrize("seed", range(60))
def test_a_patched_frame_is_a_fresh_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same values, dtypes, order and index, whatever came, went and moved; and no frame that was given out changes."""
    monkeypatch.setattr(frame_module, "PATCHED_FROM", 1)
    rng = random.Random(seed)
    print("seed", seed)
    chosen = rng.sample(sorted(VALUES), 4)
    names = [f"c{index}" for index in range(len(chosen))]
    kinds = {name: rng.choice(["", *"snbdr"]) for name in names}
    nullable = {name for name in names if rng.random() < 0.3}
    at_end = rng.random() < 0.5

    def fresh() -> Row:
        return (*(VALUES[each](rng) for each in chosen), rng.random())  # a cell more, as :with has it

    sheet = Sheet(names, kinds, nullable)
    rows = [fresh() for _ in range(rng.choice([0, 5, 100, 400]))]
    given: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    for _ in range(12):
        got = sheet.frame(rows, at_end=at_end)
        wanted = plain_frame(names, rows, kinds, nullable)
        check_same(got, wanted)
        given.append((got, wanted))
        rows = changed(rng, rows, fresh, at_end)
    for got, wanted in given:
        check_same(got, wanted)


@pytest.mark.parametrize("seed", range(20))
def test_a_frame_of_rows_is_what_pandas_would_make(seed: int) -> None:
    rng = random.Random(seed)
    print("seed", seed)
    names = sorted(VALUES)
    kinds = {name: rng.choice(["", *"snbdr"]) for name in names}
    nullable = {name for name in names if rng.random() < 0.3}
    rows = [tuple(outward(VALUES[name](rng)) for name in names) for _ in range(rng.choice([0, 1, 2, 30]))]
    got = result_frame(names, rows, kinds=kinds, nullable=nullable, attrs={"a": 1})
    check_same(got, plain_frame(names, rows, kinds, nullable))
    assert got.attrs == {"tripleweb": {"a": 1}}


def test_one_change_of_many_rows_looks_at_few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []  # (texts that pyarrow holds are made anew: numbers here)
    plain = frame_module._values_at

    def counted(rows: Any, index: int) -> Any:
        looked.append(len(rows))
        return plain(rows, index)

    monkeypatch.setattr(frame_module, "_values_at", counted)
    rows = [(n + 0.5, n, inward(n % 2 == 0)) for n in range(2_000)]
    for at_end in (True, False):
        sheet = Sheet("abc", {}, ())
        sheet.frame(rows)
        for position in (0, 700, 1_998):
            after = [*rows[:position], *rows[position + 1 :], (-1.5, 1, TRUE)]
            looked.clear()
            check_same(sheet.frame(after, at_end=at_end), plain_frame("abc", after, {}, set()))
            assert sum(looked) <= 12, looked
            sheet.frame(rows)
    sheet = Sheet("abc", {}, ())
    sheet.frame(rows)
    inside = [*rows[:500], (-1.5, 1, TRUE), *rows[500:900], (-2.5, 2, FALSE), *rows[901:]]
    looked.clear()
    check_same(sheet.frame(inside), plain_frame("abc", inside, {}, set()))
    assert sum(looked) <= 12, looked


def test_a_row_that_comes_back_with_another_number_is_another_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 and 1.0 are equal, and the dtype tells them apart."""
    monkeypatch.setattr(frame_module, "PATCHED_FROM", 1)
    rows: list[Row] = [(n,) for n in range(100)]
    sheet = Sheet(["n"], {}, ())
    assert sheet.frame(rows).dtypes["n"] == "int64"
    rows = [*rows[:-1], (99.0,)]
    assert sheet.frame(rows, at_end=True).dtypes["n"] == "float64"
    rows = [*rows[:-1], (99,)]
    assert sheet.frame(rows, at_end=False).dtypes["n"] == "int64"


def test_rows_that_came_back_to_their_places_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The very same tuples, in the middle of others: then what is looked at here and there tells nothing."""
    monkeypatch.setattr(frame_module, "PATCHED_FROM", 1)
    rows: list[Row] = [(n,) for n in range(100)]
    for changed_at in range(100):
        sheet = Sheet(["n"], {}, ())
        sheet.frame(rows)
        after = [*rows[:changed_at], (-1,), *rows[changed_at + 1 :]]
        check_same(sheet.frame(after, at_end=True), plain_frame(["n"], after, {}, set()))


def test_a_sum_that_outgrew_64_bits_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "PATCHED_FROM", 1)
    rows: list[Row] = [(n,) for n in range(20)]
    sheet = Sheet(["n"], {}, ())
    for large in ([], [(2**70,)], []):
        check_same(sheet.frame(rows + large), plain_frame(["n"], rows + large, {}, set()))


def test_an_interrupt_leaves_a_sheet_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_module, "PATCHED_FROM", 1)
    plain = frame_module._values_at
    rows: list[Row] = [(n + 0.5, n) for n in range(50)]
    sheet = Sheet("ab", {}, ())
    sheet.frame(rows)
    for stop in range(4):
        calls = iter(range(100))

        def struck(rows: Any, index: int, calls: Any = calls, stop: int = stop) -> Any:
            if next(calls) == stop:
                raise KeyboardInterrupt
            return plain(rows, index)

        after = [*rows[1:], (-0.5 - stop, stop)]
        monkeypatch.setattr(frame_module, "_values_at", struck)
        with pytest.raises(KeyboardInterrupt):
            sheet.frame(after, at_end=True)
        monkeypatch.setattr(frame_module, "_values_at", plain)
        rows = [*after[1:], (1_000.5, 1)]
        check_same(sheet.frame(rows, at_end=True), plain_frame("ab", rows, {}, set()))
