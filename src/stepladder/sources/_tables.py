"""Tables: rows with a person's own column names become records, by a column map or by the rule of two columns."""

import json
from collections.abc import Callable, Iterator

from stepladder.errors import DataError, unknown
from stepladder.sources import _strict

FIELDS = ("input", "target", "id", "source", "group", "timestamp", "split", "rating")
SLICES = "slices"  # further columns of the table, kept under their own names
NAMED = {*FIELDS, "label", "length"}  # names that slices have already
Columns = dict[str, str | list[str]]
Value = str | list[str] | None
Rows = Iterator[tuple[str, dict[str, Value]]]  # ("data/raw/mine.csv:7", {"text": "Great.", "label": "good"})


def records(rows: Callable[[], Rows], columns: Columns | None) -> Iterator[dict]:
    """Yield a record for each row, renamed by `columns`, which maps a record's field to a column.

    Under `slices` it names further columns, which a record holds under `slices` as they are called. A target may be a
    list of texts. An empty one is None, and `empty` says where: a task may allow it.
    Raises DataError naming file:row:column for a missing column and for an empty or unreadable field.
    """
    columns = dict(columns or choose(rows()))
    further = _further(columns.pop(SLICES, []))
    for name in columns:
        if name not in FIELDS:
            raise DataError(f"data.columns.{name}: {unknown('field of a record', name, [*FIELDS, SLICES])}")
    if "input" not in columns:
        raise DataError(f"data.columns: {sorted(columns)} lacks input, the column that the model reads")
    for place, row in rows():
        record = {"target": None} | {name: _value(row, name, column, place) for name, column in columns.items()}
        if further:
            record[SLICES] = {column: _value(row, SLICES, column, place) for column in further}
        vacant = "target" in columns and record["target"] is None
        told = f"{place}:{columns['target']}: empty target; fill it in or delete the row" if vacant else ""
        yield record | ({"empty": told} if vacant else {})


def _further(names: list[str]) -> list[str]:
    """Return the columns to slice by; DataError for one that comes twice or is called as a slice is already."""
    for name in names:
        if name in NAMED:
            cure = f"map it, as {name}: {name}" if name in FIELDS else "rename the column"
            raise DataError(f"data.columns.{SLICES}: slices are made by a {name} of their own; {cure}")
        if names.count(name) > 1:
            raise DataError(f"data.columns.{SLICES}: {name!r} comes twice")
    return names


def choose(rows: Rows, kept: str = "") -> Columns:
    """Return the column map of a table that was given none: its own names, else the rule of two columns.

    With exactly two columns the one with fewer distinct values is the target. Raises DataError with the line to paste;
    `kept` stands in it for what `set` says of the data, where that is not the path of the rows.
    """
    place, first = next(rows)
    names = list(first)
    if {"input", "target"} <= set(names):
        return {name: name for name in FIELDS if name in names}
    if len(names) == 2:
        seen = [{str(first[name])} for name in names]
        for _, row in rows:
            for values, name in zip(seen, names, strict=True):
                values.add(str(row.get(name)))
        sizes = [len(values) for values in seen]
        if sizes[0] != sizes[1]:
            target = names[sizes.index(min(sizes))]
            return {"input": names[1 - names.index(target)], "target": target}
    file = place.rpartition(":")[0]
    line = _line_to_paste(names, kept or f"path: {json.dumps(file, ensure_ascii=False)}")
    raise DataError(f"{file}: which column is what? Write into params.yaml: {line}")


def _line_to_paste(names: list[str], kept: str) -> str:
    shown = [json.dumps(name, ensure_ascii=False) for name in names]
    guess = f"input: {shown[0]}, target: {shown[-1]}" if len(names) > 1 else f"input: {shown[0]}"
    return f"set: {{data: {{{kept}, columns: {{{guess}}}}}}} (columns: {', '.join(shown)})"


def _value(row: dict[str, Value], name: str, column: str, place: str) -> Value | float:
    if column not in row:
        raise DataError(f"{place}: no column for {name}. {unknown('column', column, row)}")
    value = row[column]
    if isinstance(value, list):
        if name != "target":
            raise DataError(f"{place}:{column}: a list, expected text")
        return [_strict.field(item, f"{place}:{column}") for item in value]
    empty = value is None or not value.strip()
    if empty and name == "input":
        raise DataError(f"{place}:{column}: empty {name}; fill it in or delete the row")
    if empty:
        return None
    field = _strict.field(value, f"{place}:{column}")
    return _strict.number(field, f"{place}:{column}") if name == "rating" else field
