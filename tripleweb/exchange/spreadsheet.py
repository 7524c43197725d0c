"""CSV: a header, then a line a value, as RFC 4180 has it: fields with commas, quotes or line ends stand in quotes.

    subject,predicate,value,kind,field
    ada,user/age,36,number,single

Columns are found by their names, in any order; `kind` and `field` may be missing, others are passed over. Where there
is no kind, a value is what it looks like, and an empty one is none.
"""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from itertools import count
from typing import IO

from tripleweb.exchange import BadFile, Raw
from tripleweb.exchange.files import lines, text
from tripleweb.exchange.values import WORDS, text_of
from tripleweb.inventory import Row
from tripleweb.terms import TEXT_BYTES_MAX

COLUMNS = ("subject", "predicate", "value", "kind", "field")
_NEEDED = COLUMNS[:3]


def write(file: IO[bytes], batches: Iterable[Sequence[Row]]) -> None:
    file.write((",".join(COLUMNS) + "\r\n").encode())
    for batch in batches:
        out = StringIO()
        csv.writer(out, lineterminator="\r\n").writerows(  # which has it quote lone \r and \n alike
            [
                (subject, predicate, text_of(value), WORDS[type(value)], holding)
                for subject, predicate, value, holding in batch
            ]
        )
        file.write(out.getvalue().encode())


def read(file: IO[bytes]) -> Iterator[Raw]:
    with _long_fields():
        rows = csv.reader((text(number, line) for number, line in lines(file)), strict=True)
        at = 1  # where the row begins
        try:
            header = [name.strip().lower() for name in next(rows, [])]
            missing = [name for name in _NEEDED if header.count(name) != 1]
            if missing:
                had = ", ".join(header)[:80] or "nothing"
                raise BadFile(
                    1, f"expected a header with subject, predicate, value (and kind, field), got {had}"
                )
            subject, predicate, value = map(header.index, _NEEDED)
            kind, field = (header.index(name) if name in header else -1 for name in COLUMNS[3:])
            width = len(header)
            for _ in count():
                at = rows.line_num + 1
                row = next(rows, None)
                if row is None:
                    return
                if len(row) != width:
                    if not row:
                        continue  # an empty line
                    raise BadFile(at, f"expected {width} fields as in the header, got {len(row)}")
                yield (
                    at,
                    row[subject],
                    row[predicate],
                    row[value],
                    row[kind] if kind >= 0 else "",
                    row[field] if field >= 0 else "",
                    True,
                )
        except csv.Error as error:
            raise BadFile(at, f"not a row of CSV: {error}") from None


_counting = threading.Lock()
_readers = 0
_usual = 0


@contextmanager
def _long_fields() -> Iterator[None]:
    """The longest field that `csv` takes is a setting of the whole process: it is set while somebody reads here."""
    global _readers, _usual
    with _counting:
        if _readers == 0:
            _usual = csv.field_size_limit()
            csv.field_size_limit(max(_usual, TEXT_BYTES_MAX + 1))
        _readers += 1
    try:
        yield
    finally:
        with _counting:
            _readers -= 1
            if _readers == 0:
                csv.field_size_limit(_usual)
