"""Patterns: the stages of `[?e :predicate ?v]`, by what of it is known.

A function each for what is known of subject and value; a predicate that is a variable goes through them all, or
through all that is said about a known subject.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from tripleweb.datalog.builtins import CHUNK, chunks, inward
from tripleweb.datalog.clauses import Blank, Constant, Pattern, Term, Variable
from tripleweb.datalog.relation import Reader, Row, Rows, Stage, Work, distinct, known, picker


def pattern_stage(reader: Reader, clause: Pattern, columns: tuple[str, ...]) -> tuple[Stage, tuple[str, ...]]:
    terms = [clause.subject, clause.predicate, clause.value]
    new: list[str] = []
    alike: list[tuple[int, int]] = []
    for index, term in enumerate(terms):
        if isinstance(term, Variable) and term.name not in columns:
            if term.name in new:
                alike.append((len(columns) + new.index(term.name), len(columns) + len(new)))
                terms[index] = term = Variable(f"{term.name} {index}")  # a name that no query has
            new.append(term.name)
    subject, predicate, value = terms
    if isinstance(predicate, Constant):
        stage = _column(reader, subject, predicate.value, value, columns)
    elif known(subject, columns):
        stage = _around(reader, subject, predicate, value, columns)
    else:
        stage = _any_column(reader, subject, predicate, value, columns)
    if not alike:
        return stage, (*columns, *new)

    def check(rows: Rows) -> Work:
        rows = yield from stage(rows)
        made = partial(map, lambda row: row if all(row[a] == row[b] for a, b in alike) else None)
        return (yield from reader.make(rows, made))

    return check, (*columns, *new)


def _column(reader: Reader, subject: Term, predicate: str, value: Term, columns: Sequence[str]) -> Stage:
    """[subject :predicate value]; adds what is new of subject and value."""
    get_subject, get_value = known(subject, columns), known(value, columns)

    def both(rows: Rows) -> Work:
        assert get_subject and get_value
        find = yield from reader.look_up(predicate, True, 1 if isinstance(subject, Constant) else len(rows))
        out: Rows = []
        touched = 0
        for row in rows:
            held = find(get_subject(row))
            if len(held) > CHUNK:
                held = yield from reader.member_set(predicate, get_subject(row), held)
                touched += 1
            else:
                touched += 1 + len(held)
            if get_value(row) in held:
                out.append(row)
            if touched >= CHUNK:
                yield touched
                touched = 0
        yield touched
        return out

    def one(rows: Rows) -> Work:
        get, given, other = (get_subject, subject, value) if get_subject else (get_value, value, subject)
        assert get
        find = yield from reader.look_up(
            predicate, get is get_subject, 1 if isinstance(given, Constant) else len(rows)
        )
        if isinstance(other, Blank):
            return (
                yield from reader.make(rows, lambda part: (row if find(get(row)) else None for row in part))
            )
        return (
            yield from reader.make(rows, lambda part: ((*r, item) for r in part for item in find(get(r))))
        )

    def none(rows: Rows) -> Work:
        pairs = yield from reader.scan(predicate)
        wanted = [index for index, term in enumerate((subject, value)) if isinstance(term, Variable)]
        if len(wanted) < 2:
            pairs = yield from distinct(pairs, picker(wanted))
        if rows == [()]:
            return pairs
        return (yield from reader.make(rows, lambda part: (row + pair for row in part for pair in pairs)))

    return both if get_subject and get_value else one if get_subject or get_value else none


def _around(reader: Reader, subject: Term, predicate: Term, value: Term, columns: Sequence[str]) -> Stage:
    """[subject ?p value] with a known subject: everything about it."""
    get_subject = known(subject, columns)
    assert get_subject
    tests, new = [], []
    for index, term in enumerate((predicate, value)):
        if get := known(term, columns):
            tests.append((index, get))
        elif isinstance(term, Variable):
            new.append(index)
    pick = picker(new)

    def produce(part: Rows) -> Iterator[Row | None]:
        for row in part:
            name = get_subject(row)
            if isinstance(name, str):
                for found, held in reader.source.about(name):
                    pair = (found, inward(held))
                    yield row + pick(pair) if all(pair[i] == get(row) for i, get in tests) else None

    return lambda rows: reader.make(rows, produce)


def _any_column(
    reader: Reader, subject: Term, predicate: Term, value: Term, columns: tuple[str, ...]
) -> Stage:
    """[?s ?p value] with an unknown subject: each predicate in turn."""
    get_predicate = known(predicate, columns)
    named = isinstance(predicate, Variable) and get_predicate is None
    width = len(columns)
    # a new predicate is put before the other new columns; it must stand after a new subject
    more = [width + 2] if isinstance(value, Variable) and value.name not in columns else []
    places = [*range(width), width + 1, width, *more]
    reorder = picker(places) if named and isinstance(subject, Variable) else None

    def stage(rows: Rows) -> Work:
        by_predicate: dict[Any, Rows] = {}
        if get_predicate:
            for part in chunks(rows):
                for row in part:
                    by_predicate.setdefault(get_predicate(row), []).append(row)
                yield len(part)
        else:
            by_predicate = dict.fromkeys(reader.source.predicates(), rows)
        out: Rows = []
        for name, some in by_predicate.items():
            yield 1
            if not isinstance(name, str):
                continue
            if named:
                some = yield from reader.make(some, partial(_with_cell, name))
                found = yield from _column(reader, subject, name, value, (*columns, ""))(some)
            else:
                found = yield from _column(reader, subject, name, value, columns)(some)
            out += (yield from reader.make(found, partial(map, reorder))) if reorder else found
        return out

    return stage


def _with_cell(cell: Any, rows: Rows) -> Iterator[Row]:
    return ((*row, cell) for row in rows)
