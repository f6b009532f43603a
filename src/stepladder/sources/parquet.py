"""A Parquet file: numbers, booleans and dates become text as polars writes them; nested columns are refused.

But for lists of texts, which a target may be.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import polars as pl

from stepladder.errors import DataError
from stepladder.sources import _tables


def read(path: Path, *, columns: _tables.Columns | None) -> Iterator[dict]:
    """Yield a record for each row of the file; raises DataError naming file:row:column."""
    return _tables.records(partial(rows, path), columns)


def columns(path: Path) -> _tables.Columns:
    """Return the column map of a file that was given none; raises DataError with the line to paste."""
    return _tables.choose(rows(path))


def rows(path: Path) -> _tables.Rows:
    """Yield ("file:row", {column: text}) for each row, counted from 1."""
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, expected a file' if path.is_dir() else 'no such file'}")
    try:
        frame = pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None
    if not frame.height:
        raise DataError(f"{path}: no rows")
    for name, kind in frame.schema.items():
        if kind != pl.List(pl.String) and (kind.is_nested() or kind in (pl.Binary, pl.Object)):
            raise DataError(f"{path}:1:{name}: a column of {kind}, expected text")
    flat = [name for name, kind in frame.schema.items() if not kind.is_nested()]
    for number, row in enumerate(frame.cast(dict.fromkeys(flat, pl.String)).iter_rows(named=True), start=1):
        yield f"{path}:{number}", row
