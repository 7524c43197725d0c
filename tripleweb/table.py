"""Rows as a small table for people: HTML for notebooks, text for terminals. Pure; needs no pandas.

Invariants: whatever comes from the data is escaped and stands as text; the table is never longer or wider than its
caps, and says what it leaves out. Colours are the notebook's own (JupyterLab's CSS variables), with fallbacks that
suit light and dark pages alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import islice
from typing import Any

ROWS_MAX = 25
COLUMNS_MAX = 20
CELL_MAX = 120  # characters
DEPTH_MAX = 20  # of trees that were pulled; below it nothing would be seen anyway

_NUMBER = ' class="number"'
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# The class stands there twice where JupyterLab has a stronger rule of its own: it aligns every cell to the right.
_STYLE = """
.tripleweb-table table {border-collapse: collapse; font-size: var(--jp-ui-font-size1, 13px); margin: 0;
  color: var(--jp-content-font-color1, inherit); font-variant-numeric: tabular-nums}
.tripleweb-table th, .tripleweb-table td {padding: 3px 10px; white-space: nowrap; border: none; max-width: 40em;
  overflow: hidden; text-overflow: ellipsis}
.tripleweb-table.tripleweb-table th, .tripleweb-table.tripleweb-table td {text-align: left}
.tripleweb-table th {font-weight: 600; border-bottom: 1px solid var(--jp-border-color1, rgba(128, 128, 128, .5))}
.tripleweb-table td {border-bottom: 1px solid var(--jp-border-color2, rgba(128, 128, 128, .2))}
.tripleweb-table.tripleweb-table .number {text-align: right}
.tripleweb-table .missing, .tripleweb-table p {color: var(--jp-content-font-color2, gray)}
.tripleweb-table p {font-size: var(--jp-ui-font-size0, 11px); margin: 4px 0 0 10px}
"""

# The page says where its server is, not the notebook.
_WAKE = """(() => {
  const config = document.getElementById("jupyter-config-data");
  if (!config) return;
  const base = JSON.parse(config.textContent).baseUrl.replace(/\\/?$/, "/");
  const client = new URL(`${base}api/tripleweb/v1/static/live.js`, location.origin).href;
  import(client).then((live) => live.mountAll(), () => {});
})()"""


def table_html(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    notes: Iterable[str] = (),
    rows_max: int = ROWS_MAX,
    columns_max: int = COLUMNS_MAX,
    of: int | None = None,
) -> str:
    """The first rows as an HTML table with a line below: how many there are (`of`, where `rows` are
    not all of them), and `notes`.

    >>> "&lt;b&gt;" in table_html(["name"], [("<b>",)])
    True
    """
    shown = columns[:columns_max]
    more = "<th>…</th>" if len(columns) > len(shown) else ""
    listed = list(islice(rows, rows_max))
    head = "".join(
        f'<th scope="col"{_NUMBER * _has_numbers(listed, i)}>{escape(cell_text(name))}</th>'
        for i, name in enumerate(shown)
    )
    head += more
    body = []
    for row in listed:
        cells = "".join(_cell_html(value) for value in row[: len(shown)])
        body.append(f"<tr>{cells}{'<td>…</td>' if more else ''}</tr>")
    foot = escape(_foot(len(rows) if of is None else of, rows_max, len(columns), columns_max, notes))
    return (
        f'<div class="tripleweb-table"><style>{_STYLE}</style>\n'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table>\n"
        f"<p>{foot}</p></div>"
    )


def living_html(html: str, app: str, view: str) -> str:
    """A table that comes to life in a page of the server that knows `view`: its content becomes what the query answers
    there. Elsewhere, and until the notebook is trusted, it stays as it is."""
    named = f'data-tripleweb-app="{escape(app)}" data-tripleweb-view="{escape(view)}"'
    return f"<div {named}>{html}</div>\n<script>{_WAKE}</script>"


def table_text(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    notes: Iterable[str] = (),
    rows_max: int = ROWS_MAX,
    columns_max: int = COLUMNS_MAX,
    of: int | None = None,
) -> str:
    """The same as plain text.

    >>> print(table_text(["name", "age"], [("Ada", 36), ("Bob", None)]))
    name  age
    Ada    36
    Bob     –
    [2 rows]
    """
    count = min(len(columns), columns_max)
    lines = [[cell_text(name) for name in columns[:count]]]
    shown = list(islice(rows, rows_max))
    lines += [[cell_text(value) for value in row[:count]] for row in shown]
    if len(columns) > count:
        lines = [[*line, "…"] for line in lines]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    right = [_has_numbers(shown, i) for i in range(count)] + [False]
    text = [
        "  ".join(
            cell.rjust(width) if side else cell.ljust(width)
            for cell, width, side in zip(line, widths, right[: len(line)], strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join(
        [*text, f"[{_foot(len(rows) if of is None else of, rows_max, len(columns), columns_max, notes)}]"]
    )


def cell_text(value: Any, depth: int = 0) -> str:
    """A value as a person wants to read it, on one line and not too long.

    >>> cell_text(1234.56789), cell_text(None), cell_text(["a", 1])
    ('1234.57', '–', 'a, 1')
    """
    text = _whole_text(value, depth)
    return text if len(text) <= CELL_MAX else text[: CELL_MAX - 1] + "…"


def _whole_text(value: Any, depth: int = 0) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        text = value.replace(tzinfo=None).isoformat(" ")
        return text.removesuffix(":00") if text.endswith(":00:00") else text
    if isinstance(value, Mapping | list | tuple) and depth >= DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key}: {cell_text(part, depth + 1)}" for key, part in islice(value.items(), CELL_MAX)
        )
    if isinstance(value, list | tuple):
        return ", ".join(cell_text(part, depth + 1) for part in islice(value, CELL_MAX))
    return _UNPRINTABLE.sub(lambda found: repr(found[0])[1:-1], str(value)[: 10 * CELL_MAX])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _has_numbers(rows: Iterable[Sequence[Any]], column: int) -> bool:
    return any(_is_number(row[column]) for row in rows)


def _cell_html(value: Any) -> str:
    text = cell_text(value)
    kind = _NUMBER if _is_number(value) else ' class="missing"' if value is None else ""
    whole = f' title="{escape(_whole_text(value))}"' if len(text) == CELL_MAX else ""
    return f"<td{kind}{whole}>{escape(text)}</td>"


def _foot(rows: int, rows_max: int, columns: int, columns_max: int, notes: Iterable[str]) -> str:
    words = [
        f"showing {rows_max:,} of {rows:,} rows" if rows > rows_max else f"{rows:,} row{'s' * (rows != 1)}"
    ]
    if columns > columns_max:
        words.append(f"{columns_max} of {columns} columns")
    return " · ".join([*words, *(cell_text(note) for note in notes if note)])
