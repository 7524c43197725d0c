"""What a file of triples is called, how it comes to be, and how its lines are read.

Invariants: a file that is written is there whole, on the disk, or what was there before still is; no line takes more
memory than `LINE_BYTES_MAX`, whatever a compressed file unfolds to.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, cast

from tripleweb.exchange import BadFile

# A value of a megabyte, each byte of it escaped as six, and its names
LINE_BYTES_MAX = 8 << 20
ENDINGS = (".parquet", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".edn", ".edn.gz")


def ending(path: str | os.PathLike[str]) -> str:
    """The ending of a file's name, which says its format. Raises `ValueError` for one that does not.

    >>> ending("all.csv.gz")
    '.csv.gz'
    """
    name = Path(path).name.lower()
    for known in ENDINGS:
        if name.endswith(known):
            return known
    raise ValueError(f"{Path(path).name!r}: the ending says the format: one of {' '.join(ENDINGS)}")


@contextmanager
def written(path: Path, is_packed: bool) -> Iterator[IO[bytes]]:
    """A file to write into, which takes its name when all of it is on the disk. Raises `OSError`."""
    if path.is_dir():
        raise IsADirectoryError(f"{str(path)!r} is a folder: expected the name of a file")
    if not path.parent.is_dir():  # else what is told of is a name that nobody gave
        raise FileNotFoundError(f"{str(path)!r}: there is no folder {str(path.parent)!r}; make it first")
    fresh = path.with_name(f".{path.name[:100]}.{os.urandom(6).hex()}.part")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            if is_packed:  # neither moment nor name in it: equal triples make equal bytes
                with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                    yield cast("IO[bytes]", packed)
            else:
                yield file
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        _settle(path.parent)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def _settle(folder: Path) -> None:
    """The name is on the disk, too, where a folder can be told so."""
    if os.name != "nt":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def unpacked(file: IO[bytes]) -> IO[bytes]:
    """What a compressed file holds."""
    return BufferedReader(cast(Any, gzip.GzipFile(fileobj=file, mode="rb")), 1 << 16)


def lines(file: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of a file, with their ends, counted from 1. Raises `BadFile`."""
    number = 0
    read, most = file.readline, LINE_BYTES_MAX
    try:
        while line := read(most + 1):
            number += 1
            if len(line) > most:
                raise BadFile(number, f"the line is longer than {most >> 20} MB, which no triple is")
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                line = line[3:]
            yield number, line
    except EOFError:
        raise BadFile(number, "the compressed file ends in the middle: it was cut off") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise BadFile(number, f"not a compressed file, or a damaged one: {error}") from None


def text(number: int, line: bytes) -> str:
    """A line as text. Raises `BadFile`."""
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise BadFile(number, f"not text in UTF-8: {error.reason} at byte {error.start + 1}") from None
