"""The table that people see: what it says, what it leaves out, and that data never becomes markup."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest

from tripleweb.table import CELL_MAX, cell_text, table_html, table_text
from tripleweb.terms import Ref


class Reader(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, list[str | None]] = {}
        self.cells: list[str] = []
        self.foot = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == [], "a tag is left open"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._open.append(tag)
        for name, value in attributes:
            self.attributes.setdefault(name, []).append(value)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("td", "th"):
            self.cells[-1] += data
        if self._open and self._open[-1] == "p":
            self.foot += data


def test_a_table() -> None:
    page = Reader(table_html(["name", "age"], [("Ada", 36), ("Bob", None)], notes=["online", ""]))
    assert page.cells == ["name", "age", "Ada", "36", "Bob", "–"]
    assert page.foot == "2 rows · online"
    assert set(page.tags) <= set("div style table thead tbody tr th td p".split())
    assert sorted(filter(None, page.attributes["class"])) == [
        "missing",
        "number",
        "number",
        "tripleweb-table",
    ]
    assert Reader(table_html(["a"], [(1,)])).foot == "1 row"
    assert Reader(table_html(["a"], [])).foot == "0 rows"


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "</td></table><img src=x onerror=alert(1)>",
        "\"><svg onload='alert(1)'>",
        "&lt;b&gt;",
        "</style><b>",
        "x" * 200 + '"><script>',
    ],
)
def test_data_is_escaped(evil: str) -> None:
    """Text from data is always escaped, wherever it stands."""
    rows = [(evil, [evil], {evil: evil}, Ref(evil))]
    page = Reader(table_html([evil, "b", "c", "d"], rows, notes=[evil]))
    assert set(page.tags) <= set("div style table thead tbody tr th td p".split())
    assert set(page.attributes) <= {"class", "scope", "title"}
    shown = evil if len(evil) <= CELL_MAX else evil[: CELL_MAX - 1] + "…"
    assert page.cells[0] == page.cells[4] == shown
    if len(evil) > CELL_MAX:
        assert page.attributes["title"][0] == evil


def test_what_is_left_out_is_said() -> None:
    """Capped rows and columns, "showing N of M"."""
    columns = [f"c{i}" for i in range(30)]
    rows = [tuple(range(30))] * 1234
    page = Reader(table_html(columns, rows, rows_max=3, columns_max=4, notes=["online"]))
    assert page.foot == "showing 3 of 1,234 rows · 4 of 30 columns · online"
    assert len(page.cells) == 4 * 5
    text = table_text(columns, rows, rows_max=3, columns_max=4).splitlines()
    assert text == ["c0  c1  c2  c3  …", " 0   1   2   3  …", " 0   1   2   3  …", " 0   1   2   3  …",
                    "[showing 3 of 1,234 rows · 4 of 30 columns]"]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("Ada", "Ada"),
        (True, "True"),
        (7, "7"),
        (2**60, "1152921504606846976"),
        (0.1 + 0.2, "0.3"),
        (1e300, "1e+300"),
        (None, "–"),
        (datetime(2013, 1, 1, tzinfo=UTC), "2013-01-01 00:00"),
        (datetime(2013, 1, 1, 5, 15, 30, 120000, tzinfo=UTC), "2013-01-01 05:15:30.120000"),
        ([1, "a", None], "1, a, –"),
        ({"name": "Ada", "tags": ["x", "y"]}, "name: Ada, tags: x, y"),
        ("a\nb\x1b[31m\u202e", "a\\nb\\x1b[31m\\u202e"),
        ("x" * 121, "x" * 119 + "…"),
        (["x"] * 10**6, ("x, " * 60)[:119] + "…"),
    ],
)
def test_cells(value: Any, text: str) -> None:
    assert cell_text(value) == text


def test_numbers_stand_to_the_right() -> None:
    text = table_text(["name", "n"], [("a", 100), ("bcdef", 2.5)])
    assert text.splitlines() == ["name     n", "a      100", "bcdef  2.5", "[2 rows]"]
    page = Reader(table_html(["a", "b", "c"], [(1, True, "1")]))
    assert page.attributes["class"] == ["tripleweb-table", "number", "number"]  # its head, too
