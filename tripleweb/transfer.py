"""Out of a store into a file, and back: what `db.export` and `db.import_` do. The formats are in `exchange`.

Export writes all triples of one moment. Import reads the file twice: once to the end, to see whether every row is one
and fits the schema, and then, bunch by bunch, into transactions (`additions` says how fields get their values). A file
that is not in the order in which export writes is held in memory, to be sorted.

Invariants: a file that does not hold all there is, is not written unless somebody asked for that; of a file with a bad
row nothing is imported; each transaction has whole entities, as far as it has room; importing again completes what
was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, TypeVar

from tripleweb import additions
from tripleweb.additions import Place
from tripleweb.collector import collector_at_rest
from tripleweb.errors import DeletedError, SchemaError
from tripleweb.exchange import BadFile, Raw, datoms, jsonlines, parquet, spreadsheet
from tripleweb.exchange.files import ending, unpacked, written
from tripleweb.exchange.values import LETTERS, natural, value_of
from tripleweb.ids import check_id, check_predicate
from tripleweb.inventory import COUNT, MEMBER, SINGLE, Inventory
from tripleweb.loading import Loading
from tripleweb.progress import patient_progress
from tripleweb.schema import Field, Schema
from tripleweb.session import Session
from tripleweb.store import Store
from tripleweb.terms import Ref, Value, kind

FORMATS: dict[str, Any] = {".jsonl": jsonlines, ".csv": spreadsheet, ".edn": datoms, ".parquet": parquet}
BATCH = 10_000  # rows that are written at once
BUNCH = 100_000  # values of a transaction, if its last entity has no more of them
BUNCH_MAX = 200_000
BUNCH_BYTES = 48 << 20  # of their text; the server takes 224 MB, with JSON's escapes
PIECE = 50_000  # members of a set that come at once
_SHARED_MAX = 100_000
_HOLDINGS = {SINGLE, MEMBER, COUNT}

# line, subject, predicate, value, holding
_Row = tuple[int, str, str, Value, str]


class Imported(NamedTuple):
    """How many triples were written, and how many were left out, for their entities were deleted."""

    written: int
    left_out: int


def export(
    session: Session, loading: Loading, path: str | os.PathLike[str], timeout: float, strict: bool
) -> int:
    """Writes all triples into a file; returns how many."""
    target, named = Path(path), ending(path)
    format = FORMATS[named.removesuffix(".gz")]
    if format is parquet:
        parquet.arrow()
    loading.load(loading.ask_app(), timeout, strict)
    with session.lock:
        held = Inventory(session.store)
    name = f"exporting {target.name}"
    with patient_progress(name, held.count) as tell, written(target, named.endswith(".gz")) as file:
        format.write(file, _batches(held, tell))
    return held.count


def _batches(held: Inventory, tell: Callable[[int, int], object]) -> Iterator[list[Any]]:
    rows, done = iter(held), 0
    while batch := list(islice(rows, BATCH)):
        yield batch
        done += len(batch)
        tell(done, held.count)


def import_(
    session: Session,
    loading: Loading,
    schema: Schema,
    path: str | os.PathLike[str],
    deleted: Literal["raise", "skip"],
    timeout: float,
) -> Imported:
    """Writes the triples of a file; returns how many."""
    if deleted not in ("raise", "skip"):
        raise ValueError(f'deleted={deleted!r}: expected "raise" or "skip"')
    named = ending(path)
    with open(path, "rb") as file:
        source = _Source(file, Path(path).name, named, schema)
        survey = source.survey(session.store if deleted == "raise" else None)
        counters = sorted(survey.counters)
        asked = loading.ask_predicates(counters) if counters else None
        if counters:
            loading.load(asked, timeout, strict=True)  # one counts what is missing to the total
        is_whole = not session.is_partial and session.core.complete
        done, left_out = 0, 0
        with collector_at_rest(), patient_progress(f"importing {source.name}", survey.triples) as tell:
            for bunch in _bunches(survey.places or source.places()):
                more = session.write(lambda tx: additions.write(tx, bunch, is_whole))  # noqa: B023
                done, left_out = done + more[0], left_out + more[1]
                tell(done + left_out, survey.triples)
    return Imported(done, left_out)


class _Survey(NamedTuple):
    """What a look at the whole file has found. `places`: all of it, where it was not in order."""

    triples: int
    counters: set[str]
    places: list[Place] | None


class _OutOfOrder(Exception):
    """The rows of one field do not stand together, for all that one can tell."""


class _Source:
    """A file that is gone through, from its beginning each time."""

    def __init__(self, file: IO[bytes], name: str, ending: str, schema: Schema) -> None:
        self.name = name
        self._file = file
        self._ending = ending
        self._schema = schema
        self._format = FORMATS[ending.removesuffix(".gz")]
        self._what = "row" if self._format is parquet else "line"
        self._is_first_format: bool | None = None

    def survey(self, store: Store | None) -> _Survey:
        """Goes through all of it; raises for the first row that cannot be written, or (with a store) of a deleted
        entity. What is raised says where."""
        try:
            return self._surveyed(self._grouped(self._rows()), store)
        except _OutOfOrder:
            sorted_rows = self._sorted()
        places = list(self._checked(self._grouped(sorted_rows)))
        return self._surveyed(places, store)._replace(places=places)

    def places(self) -> Iterator[Place]:
        """What fields are to have."""
        return self._checked(self._grouped(self._rows()))

    def _surveyed(self, places: Iterable[Place], store: Store | None) -> _Survey:
        count, counters = 0, set()
        size = os.fstat(self._file.fileno()).st_size
        with patient_progress(f"checking {self.name}, bytes", size) as tell:
            for place in self._checked(places):
                if store is not None and store.has_graves and store.deleted(place.subject) is not None:
                    said = f"{place.subject!r} was deleted; deletes are for ever"
                    raise DeletedError(self._at(place.line, f'{said}: deleted="skip" leaves it out'))
                if place.holding == COUNT:
                    counters.add(place.predicate)
                before, count = count, count + len(place.values)
                if before // BATCH != count // BATCH:
                    tell(min(size, self._file.tell()), size)
        return _Survey(count, counters, None)

    def _checked(self, places: Iterable[Place]) -> Iterator[Place]:
        schema, fields = self._schema, dict[str, Field]()
        for place in places:
            predicate = place[1]
            field = fields.get(predicate)
            if field is None:
                field = fields[predicate] = schema.at(predicate)
            if place[3] and place[3] != COUNT and len(place[2]) == 1 and not field.type:
                yield place  # most are like this
                continue
            try:
                yield additions.check(field, place)
            except SchemaError as error:
                raise SchemaError(self._at(place.line, str(error))) from error.__cause__
            except ValueError as error:
                raise ValueError(self._at(place.line, str(error))) from None

    def _at(self, line: int, message: str) -> str:
        return f"{self.name}, {self._what} {line}: {message}" if line else f"{self.name}: {message}"

    # -- rows --------------------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[_Row]:
        """The rows of the file, from its beginning. Raises `ValueError` for what is none."""
        try:
            if self._is_first_format is None:
                self._is_first_format = self._format is jsonlines and jsonlines.first_format(self._opened())
            if self._is_first_format:
                yield from self._rows_of_first_format()
            else:
                yield from self._typed(self._format.read(self._opened()))
        except BadFile as error:
            raise ValueError(self._at(error.line, error.message)) from error.__cause__

    def _opened(self) -> IO[bytes]:
        self._file.seek(0)
        return unpacked(self._file) if self._ending.endswith(".gz") else self._file

    def _rows_of_first_format(self) -> Iterator[_Row]:
        """What its changes make visible, whatever their order."""
        store = Store()
        store.apply(jsonlines.read_first_format(self._opened()))
        for subject, predicate, value, holding in Inventory(store):
            yield 0, subject, check_predicate(predicate), value, holding

    def _typed(self, raws: Iterable[Raw]) -> Iterator[_Row]:
        """Rows with values as they are stored, checked one by one. Rows without a value are none."""
        types, names = self._schema.types, dict[str, str]()
        # what repeats itself is kept once
        shared, refs = _Few[str]().once, _Few[Ref]().once
        subject, seen = "", None
        for line, entity, predicate, raw, word, holding, is_text in raws:
            try:
                if entity != seen:
                    subject = seen = check_id(entity)
                name = names.get(predicate)
                if name is None:
                    name = names[predicate] = check_predicate(predicate)
                if holding and holding not in _HOLDINGS:
                    raise ValueError(f"field {holding!r:.40}: expected single, set or counter")
                letter = LETTERS.get(word)
                if letter is None and word:
                    raise ValueError(f"kind {word!r:.40}: expected one of {' '.join(LETTERS)}")
                if letter == "s" and type(raw) is str and len(raw) < 1_000 and raw.isascii():
                    yield line, subject, name, raw if len(raw) > 40 else shared(raw, raw), holding
                    continue
                if letter is None and raw is not None:
                    letter = _wanted(types.get(name, ""), raw, is_text)
                value = value_of(letter, raw) if letter else natural(raw, is_text)
            except (ValueError, TypeError) as error:
                raise BadFile(line, str(error)) from None
            if value is None:
                continue
            if type(value) is Ref:
                value = refs(value, value)
            yield line, subject, name, value, holding

    def _sorted(self) -> list[_Row]:
        """All rows, sorted, those that say the same once."""
        found: dict[Any, _Row] = {}
        for row in self._rows():
            _, subject, predicate, value, holding = row
            found.setdefault((subject, predicate, kind(value), value, holding), row)
        return sorted(found.values(), key=lambda row: row[1:3])

    def _grouped(self, rows: Iterable[_Row]) -> Iterator[Place]:
        """The values of each field, in pieces where there are very many. Raises `_OutOfOrder` for rows that are not
        sorted by subject and predicate, whose fields may not stand together."""
        last_subject = last_predicate = ""
        held: list[_Row] = []
        is_many = False  # this field has come to more than a piece
        for row in rows:
            _, subject, predicate, _, _ = row
            if subject == last_subject and predicate == last_predicate:
                if len(held) == PIECE:
                    is_many = True
                    yield from self._places(last_subject, last_predicate, held, is_many)
                    held = []
                held.append(row)
                continue
            if subject < last_subject or (subject == last_subject and predicate < last_predicate):
                raise _OutOfOrder
            if len(held) == 1 and not is_many:
                yield Place(last_subject, last_predicate, (held[0][3],), held[0][4], held[0][0])
            elif held:
                yield from self._places(last_subject, last_predicate, held, is_many)
            held, is_many, last_subject, last_predicate = [row], False, subject, predicate
        if held:
            yield from self._places(last_subject, last_predicate, held, is_many)

    def _places(self, subject: str, predicate: str, rows: list[_Row], is_many: bool) -> Iterator[Place]:
        by_holding: dict[str, dict[tuple[str, Value], int]] = {}
        for line, _, _, value, holding in rows:
            by_holding.setdefault(holding, {}).setdefault((kind(value), value), line)
        if len(by_holding) > 1:  # some say how they stand, others do not, or otherwise
            counts = {} if self._schema.at(predicate).type else by_holding.pop(COUNT, {})
            members = {key: line for held in by_holding.values() for key, line in held.items()}
            known = "" if self._schema.at(predicate).type else MEMBER
            by_holding = {COUNT: counts, known: members} if counts else {known: members}
        for holding, held in by_holding.items():
            values = [value for _, value in held]
            if is_many and not holding:
                holding = MEMBER
            yield Place(subject, predicate, values, holding, list(held.values())[min(1, len(held) - 1)])


_T = TypeVar("_T")


class _Few(dict[_T, _T]):
    """The values that came lately, each one object."""

    def once(self, value: _T, default: _T) -> _T:
        if len(self) > _SHARED_MAX:
            self.clear()
        return self.setdefault(value, default)


def _wanted(letter: str, raw: Any, is_text: bool) -> str:
    """The kind of a value that does not say so, where the schema does: text may stand for all, a number for an id."""
    if is_text and raw == "" and letter != "s":
        return ""
    return letter if is_text or (letter == "r" and type(raw) in (str, int)) else ""


def _bunches(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Places for one transaction each, whole entities if they are not very large."""
    bunch: list[Place] = []
    count = size = 0
    for place in places:
        if bunch and (
            (count >= BUNCH and place.subject != bunch[-1].subject)
            or count >= BUNCH_MAX
            or size >= BUNCH_BYTES
        ):
            yield bunch
            bunch, count, size = [], 0, 0
        bunch.append(place)
        count += len(place.values)
        for value in place.values:
            size += len(value) if isinstance(value, str) else 20
    if bunch:
        yield bunch
