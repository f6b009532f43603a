"""A JSONL file: one object a line, such as {"input": "Great.", "target": "good"}; numbers stay as written.

A list of texts stays a list, which a target may be.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from stepladder.errors import DataError
from stepladder.sources import _strict, _tables


def read(path: Path, *, columns: _tables.Columns | None) -> Iterator[dict]:
    """Yield a record for each line of the file; raises DataError naming file:row:column."""
    return _tables.records(partial(rows, path), columns)


def columns(path: Path) -> _tables.Columns:
    """Return the column map of a file that was given none; raises DataError with the line to paste."""
    return _tables.choose(rows(path))


def rows(path: Path) -> _tables.Rows:
    """Yield ("file:row", {key: text}) for each line; lines end at \\n alone, as JSON text may hold other breaks."""
    text = _strict.load(path)
    lines = text.rstrip("\r\n").split("\n")
    for number, line in enumerate(lines, start=1):
        place = f"{path}:{number}"
        try:
            row = json.loads(line, object_pairs_hook=_unique, parse_constant=_refuse, parse_int=str, parse_float=str)
        except json.JSONDecodeError as error:
            cut = "; the last line seems cut off" if number == len(lines) and not text.endswith("\n") else ""
            raise DataError(f"{place}:{error.colno}: not JSON ({error.msg}){cut}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not a record ({error})") from None
        if not isinstance(row, dict):
            raise DataError(f"{place}: not a record; expected an object such as {{'input': ..., 'target': ...}}")
        yield place, {key: _text(value, f"{place}:{key}") for key, value in row.items()}


def _unique(pairs: list[tuple[str, object]]) -> dict:
    keys = [key for key, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1}) if len(set(keys)) < len(keys) else []
    if twice:
        raise ValueError(f"key {twice[0]!r} comes twice")
    return dict(pairs)


def _refuse(literal: str) -> None:
    raise ValueError(f"{literal} is not JSON")


def _text(value: object, place: str) -> _tables.Value:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(i, str) for i in value)):
        return value
    raise DataError(f"{place}: a {'list' if isinstance(value, list) else 'nested object'}, expected text")
