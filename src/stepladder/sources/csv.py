"""A CSV file with a header: every field is text, quoted as RFC 4180 says; ragged rows and open quotes are refused."""

import csv
import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stepladder.errors import DataError
from stepladder.sources import _strict, _tables


def read(path: Path, *, columns: _tables.Columns | None, delimiter: str) -> Iterator[dict]:
    """Yield a record for each row of the file; raises DataError naming file:row:column (the header is row 1)."""
    return _tables.records(partial(rows, path, delimiter=delimiter), columns)


def columns(path: Path, *, delimiter: str) -> _tables.Columns:
    """Return the column map of a file that was given none; raises DataError with the line to paste."""
    return _tables.choose(rows(path, delimiter=delimiter))


def rows(path: Path, *, delimiter: str) -> _tables.Rows:
    """Yield ("file:row", {column: text}) for each row below the header."""
    csv.field_size_limit(2**31 - 1)  # our own limit, checked later, names the column
    table = _numbered(csv.reader(io.StringIO(_strict.load(path), newline=""), delimiter=delimiter, strict=True), path)
    header = next(table)[1]
    for name in header:
        if not name.strip() or header.count(name) > 1:
            raise DataError(f"{path}:1: column name {name!r} is empty or comes twice; columns: {', '.join(header)}")
    number = 1
    for number, fields in table:
        if len(fields) != len(header):
            raise DataError(
                f"{path}:{number}: {len(fields)} fields, the header has {len(header)} ({', '.join(header)}); "
                f"quote fields that hold {delimiter!r} or line breaks"
            )
        yield f"{path}:{number}", dict(zip(header, fields, strict=True))
    if number == 1:
        raise DataError(f"{path}: a header but no rows")


def _numbered(reader: Iterator[list[str]], path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield rows with their number; blank lines are allowed at the end of the file only."""
    number, blank = 0, 0
    while True:
        number += 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}:{number}: {error}; is a quote left open or not doubled?") from None
        if fields and blank:
            raise DataError(f"{path}:{blank}: blank row")
        blank = blank or (0 if fields else number)
        if fields:
            yield number, fields
