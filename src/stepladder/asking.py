"""Asking: a registered model answers the rows of a file, some at a time, and goes on where it was stopped.

Answers are kept beside the target, a line a row, until all are there; then the target appears, whole. Rows keep their
columns; the answer, and a share for each label, stand behind them. Neither rows nor answers are in memory together.
"""

import glob
import hashlib
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars as pl
from filelock import FileLock, Timeout

from stepladder import disk, store
from stepladder.errors import BusyError, ConfigError, DataError, unknown

SIZE = 256  # rows that are asked together, and lost at most
WRITE = {
    ".csv": pl.LazyFrame.sink_csv,
    ".jsonl": pl.LazyFrame.sink_ndjson,
    ".parquet": partial(pl.LazyFrame.sink_parquet, row_group_size=2**14),
}


def _lines(path: Path) -> pl.LazyFrame:
    return pl.scan_ndjson(glob.escape(str(path)), infer_schema_length=None)


READ = {
    ".csv": partial(pl.scan_csv, infer_schema=False, glob=False),
    ".jsonl": _lines,
    ".parquet": partial(pl.scan_parquet, glob=False),
}


def file(source: Path, target: Path, *, column: str, model: str, ask: Callable[[list[str]], list[dict]]) -> int:
    """Write `target`, the rows of `source` with what `ask` answers to the texts of a column; return how many rows.

    `model` names what is asked, so that answers of another are not gone on with. Names end in .csv,
    .jsonl or .parquet. Raises ConfigError for other ends, DataError for a column or a text that is not there.
    """
    for path, known in ((source, READ), (target, WRITE)):
        if path.suffix not in known:
            raise ConfigError(f"{path}: {unknown('kind of file', path.suffix, known)}")
    busy = target.with_name(f".{target.name}.busy")
    try:
        with FileLock(busy, timeout=0):
            rows, number = _rows(source, column)
            kept = _kept(target, f"{store.sha256(source)} {column} {model}")
            _ask(rows, number, kept, column=column, ask=ask, one_text=target.suffix == ".csv")
            joined = pl.concat([rows, _lines(kept)], how="horizontal")
            disk.publish(target, partial(WRITE[target.suffix], joined))
            kept.unlink()
    except Timeout:
        raise BusyError(f"{target}: another process writes it; wait for it, or end it") from None
    busy.unlink(missing_ok=True)
    return number


def _rows(source: Path, column: str) -> tuple[pl.LazyFrame, int]:
    """Return the rows, which are read as they are needed, and how many they are."""
    try:
        rows = READ[source.suffix](source)
        names = rows.collect_schema().names()
        if column not in names:
            raise DataError(f"{source}: {unknown('column', column, names)}; name it with --column")
        rows = rows.with_columns(pl.col(column).cast(pl.String))
        empty = pl.col(column).str.strip_chars().fill_null("") == ""
        told = rows.select(number=pl.len(), empty=empty.arg_true().first()).collect(engine="streaming")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{source}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    number, first = told.row(0)
    if first is not None:
        raise DataError(f"{source}: row {first + 1} has no text in column {column}")
    return rows, number


def _kept(target: Path, asked: str) -> Path:
    """Return where the answers to what is asked are kept; those to anything else are removed."""
    kept = target.with_name(f".{target.name}.{hashlib.sha256(asked.encode()).hexdigest()[:16]}.part")
    for other in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        if other != kept:
            other.unlink()
    return kept


def _ask(rows: pl.LazyFrame, number: int, kept: Path, *, column: str, ask: Callable, one_text: bool) -> None:
    """Bring to the disk the answers that are not there; with one_text a list of labels is written as one text."""
    with kept.open("a+b") as part:
        done = _done(part)
        batches = rows.slice(done).select(column).collect_batches(chunk_size=SIZE, maintain_order=True)
        for texts in (piece[column].to_list() for batch in batches for piece in batch.iter_slices(SIZE)):
            answers = ask(texts)
            if taken := [name for name in answers[0] if name in rows.collect_schema()]:
                raise DataError(f"the rows have a column {taken[0]!r} already, as the answers do; rename it")
            part.write("".join(f"{json.dumps(_flat(answer) if one_text else answer)}\n" for answer in answers).encode())
            part.flush()
            os.fsync(part.fileno())
            done += len(texts)
            print(f"answered {done:,} of {number:,} rows", flush=True)


def _flat(answer: dict) -> dict:
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in answer.items()}


def _done(part) -> int:
    """Return how many lines an open file holds, and cut off half of one that a killed process left."""
    part.seek(0)
    number = whole = 0
    for line in part:
        if line.endswith(b"\n"):
            number, whole = number + 1, whole + len(line)
    part.truncate(whole)
    if number:
        print(f"going on after {number:,} rows", flush=True)
    return number
