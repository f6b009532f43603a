"""Asking: a registered model answers the rows of a file, some at a time, and goes on where it was stopped.

Answers are kept beside the target, a line a row, until all are there; then the target appears, whole. Rows keep their
columns; the answer, and a share for each label, stand behind them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import polars as pl
from filelock import FileLock, Timeout

from stepladder import disk, records, store
from stepladder.errors import BusyError, ConfigError, DataError, unknown

SIZE = 256  # rows that are asked together, and lost at most
READ = {
    ".csv": partial(pl.read_csv, infer_schema=False),
    ".jsonl": partial(pl.read_ndjson, infer_schema_length=None),
    ".parquet": pl.read_parquet,
}
WRITE = {".csv": pl.DataFrame.write_csv, ".jsonl": pl.DataFrame.write_ndjson, ".parquet": pl.DataFrame.write_parquet}


def file(source: Path, target: Path, *, column: str, model: str, ask: Callable[[list[str]], list[dict]]) -> int:
    """Write `target`, the rows of `source` with what `ask` answers to the texts of a column; return how many rows.

    `model` names what is asked, so that answers of another are not gone on with. Names end in .csv,
    .jsonl or .parquet. Raises ConfigError for other ends, DataError for a column or a text that is not there.
    """
    for path, known in ((source, READ), (target, WRITE)):
        if path.suffix not in known:
            raise ConfigError(f"{path}: {unknown('kind of file', path.suffix, known)}")
    try:
        with FileLock(target.with_name(f".{target.name}.busy"), timeout=0):
            return _answered(_rows(source, column), source, target, column=column, model=model, ask=ask)
    except Timeout:
        raise BusyError(f"{target}: another process writes it; wait for it, or end it") from None


def _answered(rows: pl.DataFrame, source: Path, target: Path, *, column: str, model: str, ask: Callable) -> int:
    key = hashlib.sha256(f"{store.sha256(source)} {column} {model}".encode()).hexdigest()
    kept, done = target.with_name(f".{target.name}.part"), 0
    if kept.is_file():
        done = _done(kept, key)
    if not done:
        records.write_text(f"{json.dumps({'key': key})}\n", kept)
    with kept.open("a", encoding="utf-8") as part:
        for start in range(done, len(rows), SIZE):
            answers = ask(rows[column][start : start + SIZE].to_list())
            part.write("".join(f"{json.dumps(answer)}\n" for answer in answers))
            part.flush()
            os.fsync(part.fileno())
            print(f"answered {min(start + SIZE, len(rows)):,} of {len(rows):,} rows", flush=True)
    disk.publish(target, lambda made: WRITE[target.suffix](_joined(rows, kept, target.suffix), made))
    kept.unlink()
    target.with_name(f".{target.name}.busy").unlink(missing_ok=True)
    return len(rows)


def _rows(source: Path, column: str) -> pl.DataFrame:
    try:
        rows = READ[source.suffix](source)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{source}: cannot be read ({' '.join(str(error).split())[:200]})") from None
    if column not in rows.columns:
        raise DataError(f"{source}: {unknown('column', column, rows.columns)}; name it with --column")
    empty = rows[column].cast(pl.String).str.strip_chars().fill_null("") == ""
    if empty.any():
        raise DataError(f"{source}: row {empty.arg_true()[0] + 1} has no text in column {column}")
    return rows.with_columns(pl.col(column).cast(pl.String))


def _lines(kept: Path) -> Iterator[dict]:
    """Yield the whole lines of a file of which a killed process may have left half of the last one."""
    for line in kept.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def _done(kept: Path, key: str) -> int:
    """Return how many rows a part holds already, none where they are of another model or rows; cut half a line."""
    head, *answers = [*_lines(kept)] or [{}]
    if head.get("key") != key:
        return 0
    records.write_text("".join(f"{json.dumps(line)}\n" for line in (head, *answers)), kept)
    if answers:
        print(f"going on after {len(answers):,} rows", flush=True)
    return len(answers)


def _joined(rows: pl.DataFrame, kept: Path, suffix: str) -> pl.DataFrame:
    """Return the rows with their answers; a list of labels is text in a CSV."""
    _, *answers = _lines(kept)
    found = pl.DataFrame(answers, infer_schema_length=None)
    lists = [name for name, kind in found.schema.items() if kind == pl.List and suffix == ".csv"]
    found = found.with_columns(pl.Series(name, map(json.dumps, found[name].to_list()), pl.String) for name in lists)
    if taken := [name for name in found.columns if name in rows.columns]:
        raise DataError(f"the rows have a column {taken[0]!r} already, as the answers do; rename it")
    return rows.hstack(found)
