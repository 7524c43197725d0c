"""Parquet, by pyarrow (the extra `[parquet]`): columns of text `subject`, `predicate`, `value`, `kind`, `field`, as in
CSV. Files of others may have a `value` of any type; without a `kind`, it is what its type says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from tripleweb.exchange import BadFile, Raw
from tripleweb.exchange.spreadsheet import COLUMNS
from tripleweb.exchange.values import WORDS, text_of
from tripleweb.inventory import Row

BATCH_ROWS = 20_000


def arrow() -> Any:
    """pyarrow with its Parquet. Raises `ImportError` that says what to do."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            "Parquet needs pyarrow: pip install 'tripleweb[parquet]', or use .csv, .jsonl or .edn"
        ) from error
    return pyarrow


def write(file: IO[bytes], batches: Iterable[Sequence[Row]]) -> None:
    pa = arrow()
    words = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [(name, words if name in ("predicate", "kind", "field") else pa.string(), False) for name in COLUMNS]
    )
    with pa.parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in batches:
            columns = [
                [row[0] for row in batch],
                [row[1] for row in batch],
                [text_of(row[2]) for row in batch],
                [WORDS[type(row[2])] for row in batch],
                [row[3] for row in batch],
            ]
            arrays = [
                pa.array(cells, pa.string()).cast(field.type)
                for cells, field in zip(columns, schema, strict=True)
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def read(file: IO[bytes]) -> Iterator[Raw]:
    pa = arrow()
    row = 0
    try:
        held = pa.parquet.ParquetFile(file)
        names = held.schema_arrow.names
        missing = [name for name in COLUMNS[:3] if names.count(name) != 1]
        if missing:
            had = ", ".join(names)[:80]
            raise BadFile(0, f"expected columns subject, predicate, value (and kind, field), got {had}")
        there = [name for name in COLUMNS if name in names]
        for batch in held.iter_batches(BATCH_ROWS, columns=there):
            columns = {name: batch.column(batch.schema.names.index(name)).to_pylist() for name in there}
            nothing = [""] * batch.num_rows
            kinds, fields = columns.get("kind", nothing), columns.get("field", nothing)
            for subject, predicate, value, kind, field in zip(
                columns["subject"], columns["predicate"], columns["value"], kinds, fields, strict=True
            ):
                row += 1
                yield (row, subject, predicate, value, kind or "", field or "", False)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, BadFile):
            raise
        raise BadFile(0, f"not a Parquet file, or a damaged one: {error}") from None
