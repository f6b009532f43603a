"""Records: the rows that every stage reads, collected from a source, cleaned, and kept in Parquet files.

{"id": "movie_7", "input": "A fine film.", "target": "positive", "source": "movie", "group": None, "timestamp": None}
"""

import hashlib
import importlib
import json
import logging
import os
import pkgutil
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

from stepladder import disk, sources, targets
from stepladder.errors import ConfigError, DataError, unknown

log = logging.getLogger(__name__)

COLUMNS = ("id", "input", "target", "source", "group", "timestamp")
FURTHER = {"split": pl.String, "rating": pl.Float64}  # where a source has them
LABELLED = ("classification", "multilabel")  # tasks whose targets are labels
GUESSED = "no column map was given, so '{target}', with fewer distinct values, is the target and '{input}' the input"
NUM_EXAMPLES = 5  # dropped inputs shown for each reason
PIECE_BYTES, PIECE_ROWS = 2**21, 2**8  # of text that are read at a time; rows that are read first
GROUP_BYTES, GROUP_ROWS = 2**26, 2**18  # of text in a row group at most; rows as polars has them


def collect(path: Path, *, source: str, columns: dict | None, options: dict | None) -> tuple[list[dict], dict]:
    """Return the records of a source and how it was read: {"columns": map or None, "note": what was guessed or None}.

    Raises DataError naming file, row and column, ConfigError for an unknown source.
    """
    known = [module.name for module in pkgutil.iter_modules(sources.__path__) if not module.name.startswith("_")]
    if source not in known:
        raise ConfigError(f"data.source: {unknown('source', source, known)}")
    module = importlib.import_module(f"stepladder.sources.{source}")
    arguments = dict(options or {})
    if not hasattr(module, "columns"):
        return list(module.read(path, **arguments)), {"columns": None, "note": None}
    used = columns or module.columns(path, **arguments)
    guessed = not columns and used["input"] != "input"
    note = GUESSED.format(**used) if guessed else None
    if guessed:
        log.warning("%s: %s; to say otherwise, set data.columns", path, note)
    return list(module.read(path, columns=used, **arguments)), {"columns": used, "note": note}


def locate(name: str, *, path: str | None, assets: Path) -> Path:
    """Return where data set `name` lies: a person's own file, or what the stage fetch_data noted in `assets`.

    Raises DataError that says where to put a missing file.
    """
    if path is not None:
        if not Path(path).exists():
            raise DataError(f"{path}: no such file; put it there, or set the place: set: {{data: {{path: ...}}}}")
        return Path(path)
    noted = json.loads(assets.read_text()) if assets.is_file() else {}
    place = noted.get("folder") or noted.get("file")
    if place is None:
        raise DataError(f"{assets}: nothing was fetched for data set {name}; python -m pipelines.fetch data={name}")
    return Path(os.environ.get("DVC_ROOT") or ".") / place


def clean(rows: Iterable[dict], *, name: str, task: str, labels: Iterable[str] | None) -> tuple[pl.DataFrame, dict]:
    """Return the records whose normalised input was not seen before, and the ledger of all rows.

    The first of equal inputs is kept; all of them are dropped when different labels are given to them. An id
    that is missing becomes a hash of the normalised input, so added rows change no id. The ledger is
    {"rows_in", "rows_out", "dropped": {reason: rows}, "examples": {reason: [input]}}.
    Raises DataError for an empty input or target, for unknown labels and for labels that differ in case or spaces only.
    """
    rows = list(rows)
    kept = [row for row in rows if not row.get("drop")]
    dropped: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row.get("drop"):
            dropped[row["drop"]].append(row["input"])
    _require_filled(kept, name, task)
    if task in LABELLED:
        _require_tidy_labels(kept, name, task, labels)
    unique = _unique(kept, dropped, task)
    if not unique:
        raise DataError(f"data set {name}: no record is left of {len(rows)} rows ({_reasons(dropped) or 'no rows'})")
    frame = _frame(unique, name)
    ledger = {
        "rows_in": len(rows),
        "rows_out": frame.height,
        "dropped": {reason: len(inputs) for reason, inputs in dropped.items()},
        "examples": {reason: inputs[:NUM_EXAMPLES] for reason, inputs in dropped.items()},
    }
    assert ledger["rows_in"] == ledger["rows_out"] + sum(ledger["dropped"].values()), "the ledger does not balance"
    return frame, ledger


def normalise(text: str) -> str:
    """Return `text` as it is compared: without case, NFC, each run of white space one space.

    Canonical caseless matching, Unicode Standard 3.13 D145: decompose, fold, compose.
    """
    return " ".join(unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold()).split())


def read(path: Path | str) -> pl.DataFrame:
    """Return the records of a Parquet file in their order; raises DataError when it is missing or holds no records."""
    with _readable(Path(path)):
        frame = pl.read_parquet(path, glob=False)
        _require_columns(frame.columns, path)
    return frame


def pieces(path: Path | str, column: str) -> Iterator[pl.Series]:
    """Yield a column of a Parquet file a few megabytes at a time: what is in memory does not grow with the file."""
    with _readable(Path(path)):
        table = pl.scan_parquet(path, glob=False)
        _require_columns(table.collect_schema().names(), path)
        height, start, rows = table.select(pl.len()).collect().item(), 0, PIECE_ROWS
    while start < height:
        with _readable(Path(path)):
            piece = table.select(column).slice(start, rows).collect(engine="streaming")[column]
        yield piece
        start, size = start + rows, piece.str.len_bytes().sum()
        rows = min(4 * rows, max(1, PIECE_BYTES * rows // max(1, size)))  # texts may become longer


def write(frame: pl.DataFrame, path: Path | str) -> None:
    """Write `frame` as Parquet: the same bytes for the same rows, and never half a file.

    A reader holds a row group at a time, so that long texts are cut into several.
    """
    size = sum(frame[name].str.len_bytes().sum() for name, kind in frame.schema.items() if kind == pl.String)
    rows = max(1, min(GROUP_ROWS, GROUP_BYTES * frame.height // max(1, size)))
    options = {"compression": "zstd", "compression_level": 3, "row_group_size": rows}
    disk.publish(Path(path), lambda file: frame.write_parquet(file, **options))


def write_text(text: str, path: Path | str) -> None:
    """Write `text` as UTF-8, never half a file."""
    disk.publish(Path(path), lambda file: file.write(text.encode()))


def write_json(value: object, path: Path | str) -> None:
    """Write `value` as indented JSON in the order of its keys, never half a file."""
    write_text(json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n", path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise DataError(f"{path}: no such file; make it with: dvc repro split")
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({str(error).splitlines()[0]})") from None


def _require_columns(found: list[str], path: Path | str) -> None:
    missing = [column for column in COLUMNS if column not in found]
    if missing:
        raise DataError(f"{path}: not records (missing {', '.join(missing)}); expected {', '.join(COLUMNS)}")


def _require_filled(rows: list[dict], name: str, task: str) -> None:
    for number, row in enumerate(rows, start=1):
        place = f"data set {name}:{row.get('id') or number}"
        if isinstance(row["target"], list):
            raise DataError(f"{place}:target: a list, expected text; several labels a record want task: multilabel")
        if "empty" in row:
            raise DataError(row["empty"])
        for column in ("input",) if task == "language_modeling" else ("input", "target"):
            value = row[column]
            if value is None and column == "target":
                raise DataError(f"data set {name}: task {task} needs a target column; set data.columns.target")
            if not value.strip():
                raise DataError(f"{place}:{column}: empty; fill it in or delete the row")


def _require_tidy_labels(rows: list[dict], name: str, task: str, labels: Iterable[str] | None) -> None:
    counts = targets.counts((row["target"] for row in rows), task)
    alike: dict[str, list[str]] = defaultdict(list)
    for target in sorted(counts):
        alike[normalise(target)].append(target)
    for spellings in alike.values():
        if len(spellings) > 1:
            shown = ", ".join(f"{target!r} ({counts[target]} rows)" for target in spellings)
            raise DataError(f"data set {name}: targets {shown} differ in case or spaces only; write them alike")
    for target in counts if labels else ():
        if target not in set(labels):
            raise DataError(f"data set {name}: {counts[target]} rows. {unknown('label', target, labels)}")
    if len(counts) == 1 and task == "classification":
        raise DataError(f"data set {name}: one label, {next(iter(counts))!r}; a classification needs at least two")
    if rows and not counts:
        raise DataError(f"data set {name}: no record has a label; is data.columns.target the right column?")


def _unique(rows: list[dict], dropped: dict[str, list[str]], task: str) -> list[dict]:
    """Return the rows to keep and note the others, by reason, in `dropped`."""
    keys = [normalise(row["input"]) for row in rows]
    given: dict[str, set] = defaultdict(set)
    for key, row in zip(keys, rows, strict=True):
        given[key].add(row["target"])
    first: dict[str, dict] = {}
    for key, row in zip(keys, rows, strict=True):
        if task in LABELLED and len(given[key]) > 1:
            dropped["equal inputs with different targets"].append(row["input"])
        elif key not in first:
            first[key] = row | {"id": row.get("id") or hashlib.sha256(key.encode()).hexdigest()[:16]}
        else:
            other = row["target"] != first[key]["target"]
            dropped["input seen before, with another target" if other else "input seen before"].append(row["input"])
    return list(first.values())


def _frame(rows: list[dict], name: str) -> pl.DataFrame:
    columns = [*COLUMNS, *(name for name in FURTHER if any(name in row for row in rows))]
    values = {column: [row.get(column) for row in rows] for column in columns}
    for column in rows[0].get("slices", ()):
        values[column] = [row["slices"][column] for row in rows]
    frame = pl.DataFrame(values, {name: FURTHER.get(name, pl.String) for name in values})
    twice = frame.filter(pl.col("id").is_duplicated())["id"]
    if len(twice):
        raise DataError(f"data set {name}: id {twice[0]!r} is on {twice.eq(twice[0]).sum()} rows; ids must be unique")
    return frame


def _reasons(dropped: dict[str, list[str]]) -> str:
    return ", ".join(f"{len(inputs)} {reason}" for reason, inputs in dropped.items())
