"""Why a row is in an answer, or why not, as a DataFrame: which row is meant, and how its reasons are shown.

Call with the store's lock held, since the answer, the triples and their stamps must be those of one moment.
Invariants: a row that is named is exactly one row of the answer, or it is an error; who wrote a triple is said only
where this store knows it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from tripleweb.change import Change
from tripleweb.clock import unpack
from tripleweb.datalog import reasons
from tripleweb.datalog.absence import Absence, Absences
from tripleweb.datalog.builtins import complete, inward, order, outward
from tripleweb.datalog.clauses import Binding, Variable, guess
from tripleweb.datalog.edn import show
from tripleweb.datalog.evaluate import Budget, Evaluation, evaluate
from tripleweb.datalog.plan import Program
from tripleweb.datalog.query import Aggregate, variable_name
from tripleweb.datalog.reasons import Proofs, Reasons, Triple
from tripleweb.datalog.upkeep import Followed
from tripleweb.frame import FrameLike, result_frame
from tripleweb.store import Store
from tripleweb.terms import normalise

COLUMNS = {
    "derivation": "n", "depth": "n", "kind": "s", "clause": "s", "subject": "s", "predicate": "s", "value": "",
    "time": "d", "user": "s", "note": "s", "ways": "n",
}  # fmt: skip
WHY_NOT = {"depth": "n", "kind": "s", "clause": "s", "left": "n", "blamed": "b", "note": "s"}
_MISSING = {"subject", "predicate", "value", "time", "user", "ways"}
_SCALARS = (str, int, float, bool, datetime)
_ALL = 1 << 62  # rows: as an answer is cut, but nothing is left out

Author = Callable[[str], str | None]  # who writes as a replica, where that is known


def why(
    live: Followed, row: Any, most: int, author: Author, attrs: Mapping[str, Any], budget: Budget | None
) -> pd.DataFrame:
    """The frame of `LiveFrame.why`. Raises `ValueError` or `TypeError` for what is no row of the answer."""
    most = operator.index(most)
    if most < 1:
        raise ValueError(f"derivations={most}: expected at least 1")
    cells = live.result.rows[_place(live.result.rows, live.query.columns, row)]
    store = live.upkeep.store
    told = reasons.why(
        live.program, live.bound_inputs, store, _known(live, cells, budget), most=most, budget=budget
    )
    said = {
        "derivations": told.derivations,
        "triples": len(told.triples),
        "rows": told.rows,
        "rows_left_out": told.left_out,
    }
    return result_frame(
        tuple(COLUMNS), _rows(told, store, author), kinds=COLUMNS, nullable=_MISSING, attrs={**attrs, **said}
    )


def why_not(
    program: Program,
    inputs: Sequence[tuple[Binding, Any]],
    store: Store,
    row: Any,
    attrs: Mapping[str, Any],
    budget: Budget | None,
) -> pd.DataFrame:
    """The frame of `Database.why_not`. Raises `ValueError` or `TypeError` for what is no row of such an answer."""
    query = program.query
    given = cells_of(row, query.columns)
    known = {
        element.name: given[column]
        for column, element in zip(query.columns, query.find, strict=True)
        if isinstance(element, Variable) and given.get(column) is not None
    }
    for column, element in zip(query.columns, query.find, strict=True):
        cell = given.get(column)
        if isinstance(element, Variable) and not _fits_a_variable(cell):
            raise TypeError(f"{column}: no variable has a {type(cell).__name__}: {cell!r:.80}")
    lines = Absences(Proofs(program, inputs, store, budget), store).lines(known)
    found = False
    if not any(line.blamed for line in lines):
        reason = _beyond(program, inputs, store, given, budget)
        found = reason is None
        lines.append(
            reason or Absence(0, "row", "", None, False, "it is in the answer; live.why(row) says why")
        )
    if not found and not attrs.get("complete", True):
        lines.append(Absence(0, "row", "", None, False, "not all that it reads is here: that may be why"))
    rows = [(line.depth, line.kind, line.clause, line.left, line.blamed, line.note) for line in lines]
    return result_frame(
        tuple(WHY_NOT), rows, kinds=WHY_NOT, nullable={"left"}, attrs={**attrs, "found": found}
    )


def _beyond(
    program: Program,
    inputs: Sequence[tuple[Binding, Any]],
    store: Store,
    given: Mapping[str, Any],
    budget: Budget | None,
) -> Absence | None:
    """What keeps a row out whose clauses hold: a cell that is made of others, or the place where an answer ends; None
    if it is in the answer."""
    query = program.query
    whole = Program(replace(query, limit=_ALL, offset=0, shape="relation"))
    rows = complete(evaluate(Evaluation(whole, inputs, store), budget)).rows
    at = {column: query.columns.index(column) for column in given}

    def unlike(row: Sequence[Any]) -> list[str]:
        return [column for column in given if not same(row[at[column]], given[column])]

    def distance(row: Sequence[Any]) -> tuple[int, int]:
        others = unlike(row)
        return sum(isinstance(query.find[at[column]], Variable) for column in others), len(others)

    places = [number for number, row in enumerate(rows) if not unlike(row)]
    if not places:
        near = min(rows, key=distance, default=None)
        others = list(given) if near is None else unlike(near)
        said = [] if near is None else [
            f"{column} is {_cell_text(near[at[column]])}, not {_cell_text(given[column])}" for column in others
        ]  # fmt: skip
        elements = [query.find[at[column]] for column in others]
        forms = [one.name if isinstance(one, Variable) else show(one.form) for one in elements]
        return Absence(0, "find", ", ".join(forms), None, True, "; ".join(said) or "the answer has no rows")
    first, last = query.offset + 1, len(rows) if query.limit is None else query.offset + query.limit
    last = min(first, last) if query.shape in ("tuple", "scalar") else last
    if any(first <= place + 1 <= last for place in places):
        return None
    has = "no rows" if last < first else f"row {first} only" if last == first else f"rows {first} to {last}"
    if query.limit is None and last > first:
        has = f"rows {first} and on"
    return Absence(
        0, "limit", "", None, True, f"it is row {places[0] + 1:,} of {len(rows):,}, and the query has {has}"
    )


def _cell_text(cell: Any) -> str:
    return "missing" if cell is None else f"{cell!r:.80}"


def _fits_a_variable(cell: Any) -> bool:
    """False for what no clause gives: a value is compared by its hash."""
    try:
        hash(inward(cell))
    except TypeError:
        return False
    return True


def _rows(told: Reasons, store: Store, author: Author) -> list[tuple[Any, ...]]:
    out = []
    for line in told.lines:
        triple: tuple[Any, ...] = (None, None, None, None, None)
        if line.triple is not None:
            written = written_as(store, line.triple)
            subject, predicate, value = line.triple
            when = None if written is None else moment(written.time)
            triple = subject, predicate, value, when, None if written is None else author(written.replica)
        derivation = None if line.derivation == 0 else line.derivation
        out.append((derivation, line.depth, line.kind, line.clause, *triple, line.note, line.ways))
    return out


def written_as(store: Store, triple: Triple) -> Change | None:
    """The newest register that makes a triple; None where none does."""
    subject, predicate, value = triple
    there = [change for change in store.registers_at(subject, predicate) if change.value is not None]
    exact = [change for change in there if type(change.value) is type(value) and change.value == value]
    return max(
        exact or there, key=lambda change: change.stamp, default=None
    )  # a counter is a sum of its shares


def moment(time: int) -> datetime:
    """When a stamp was made, by the clock of who made it."""
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=unpack(time)[0])


# -- which row -----------------------------------------------------------------------------------------------


def _place(rows: Sequence[Sequence[Any]], columns: Sequence[str], row: Any) -> int:
    """Where in the answer a row is that somebody names."""
    if hasattr(row, "__index__") and not isinstance(row, bool):
        label = operator.index(row)
        if not 0 <= label < len(rows):
            raise ValueError(f"there is no row {label}: the answer has {len(rows):,}")
        return label
    named = cells_of(row, columns)
    at = {column: columns.index(column) for column in named}
    found = [
        place for place, cells in enumerate(rows) if all(same(cells[at[name]], named[name]) for name in named)
    ]
    if len(found) != 1:
        what = ", ".join(f"{name}={value!r:.80}" for name, value in named.items())
        raise ValueError(
            f"{len(found):,} rows have {what}: expected one, so give more of its columns, or its number"
            if found
            else f"no row of the answer has {what}; db.why_not(query, row) says why"
        )
    return found[0]


def cells_of(row: Any, columns: Sequence[str]) -> dict[str, Any]:
    """The cells of a row that a user of pandas holds, by column: a Series, a frame of one row, a dict of some
    columns, or the values of all of them in order; of a single column its value. Missing ones are None. Raises
    `ValueError` and `TypeError`."""
    if isinstance(row, FrameLike):
        row = row.df
    if isinstance(row, pd.DataFrame):
        if len(row) != 1:
            raise ValueError(f"a frame of {len(row):,} rows: expected one row")
        row = {name: row[name].iloc[0] for name in row}
    elif isinstance(row, pd.Series):
        row = dict(row.items())
    if isinstance(row, Mapping):
        cells = {str(name).removeprefix("?"): cell for name, cell in row.items()}
        unknown = [name for name in cells if name not in columns]
        if unknown or not cells:
            what = f"no column {unknown[0]!r:.80}{guess(unknown[0], columns)}" if unknown else "an empty row"
            raise ValueError(f"{what}; the columns are {', '.join(columns)}")
    elif isinstance(row, tuple | list) or (isinstance(row, _SCALARS) and len(columns) == 1):
        row = [row] if isinstance(row, _SCALARS) else row
        if len(row) != len(columns):
            raise ValueError(f"{len(row)} values for {len(columns)} columns: {', '.join(columns)}")
        cells = dict(zip(columns, row, strict=True))
    else:
        raise TypeError(
            f"a row is a Series, a dict of columns or a tuple of values, not {type(row).__name__}"
        )
    return {name: plain(cell) for name, cell in cells.items()}


def plain(cell: Any) -> Any:
    """A cell of a frame as Python has it: what pandas takes for missing is None."""
    if isinstance(cell, dict | list | tuple | set | frozenset) or (
        hasattr(cell, "__len__") and not isinstance(cell, str)
    ):
        return cell
    return None if pd.isna(cell) else normalise(cell)


def same(cell: Any, given: Any) -> bool:
    """True if they are one value: True is not 1, 1 is 1.0."""
    if isinstance(cell, _SCALARS) and isinstance(given, _SCALARS):
        return order(inward(cell)) == order(inward(given))
    is_same: Any = cell == given
    return bool(is_same) if isinstance(is_same, bool) else False


def _known(live: Followed, cells: Sequence[Any], budget: Budget | None) -> dict[str, Any]:
    """The values of the variables that a row shows. What is pulled does not say of which entity: it is looked for."""
    query = live.query
    pairs = list(zip(query.find, cells, strict=True))
    known = {element.name: cell for element, cell in pairs if isinstance(element, Variable)}
    names = [variable_name(element) for element in query.find if not isinstance(element, Aggregate)]
    lacking = [name for name in dict.fromkeys(names) if name not in known]
    if lacking:
        width, more = len(query.find), len(lacking)
        wide = replace(
            query,
            find=(*query.find, *map(Variable, lacking)),
            columns=(*query.columns, *lacking),
            order_by=tuple((at + more if at >= width else at, down) for at, down in query.order_by),
        )
        found = complete(
            evaluate(Evaluation(Program(wide), live.bound_inputs, live.upkeep.store), budget)
        ).rows
        whole = next(row for row in found if all(map(same, row[:width], cells)))
        known |= dict(zip(lacking, whole[width:], strict=True))
    return {name: outward(value) for name, value in known.items()}
