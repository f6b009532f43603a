"""A Hugging Face data set snapshot: the csv, jsonl and parquet files of a folder, in the order of their names."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stepladder.errors import DataError
from stepladder.sources import _tables, csv, jsonl, parquet

KINDS = {".csv": partial(csv.rows, delimiter=","), ".jsonl": jsonl.rows, ".parquet": parquet.rows}


def read(path: Path, *, columns: _tables.Columns | None, files: str) -> Iterator[dict]:
    """Yield a record for each row of the files that match the pattern `files`, such as "**/train*".

    Raises DataError naming file:row:column, and when no file matches.
    """
    return _tables.records(partial(rows, path, files=files), columns)


def columns(path: Path, *, files: str) -> _tables.Columns:
    """Return the column map of a snapshot that was given none; raises DataError with the line to paste."""
    return _tables.choose(rows(path, files=files), kept="...")


def rows(path: Path, *, files: str) -> _tables.Rows:
    """Yield ("file:row", {column: text}) for each row of each file; hidden files are left out."""
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; expected a data set snapshot")
    visible = [p for p in sorted(path.glob(files)) if not any(part[0] == "." for part in p.relative_to(path).parts)]
    found = [p for p in visible if p.suffix in KINDS]
    if not found:
        raise DataError(f"{path}: no file matches {files!r} and ends in {', '.join(KINDS)}")
    for file in found:
        yield from KINDS[file.suffix](file)
