"""Targets: what a task wants in the target of a record: one label, several, a number or a text.

Several labels are kept as the JSON text of a sorted list, '["drama", "war"]', and none of them as '[]'; a number as it
was written.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import polars as pl

from stepladder.errors import DataError, unknown


def parsed(rows: Iterable[dict], *, name: str, task: dict) -> list[dict]:
    """Return the rows with their targets as the task keeps them; `task` is a composed section.

    Several labels come as a list or as one text between separators; an empty target means that no label fits.
    Raises DataError naming data set and row.
    """
    if task["name"] == "multilabel":
        return [row if row.get("drop") else _several(row, name, task["separator"]) for row in rows]
    rows = list(rows)
    for row in rows if task["name"] == "regression" else ():
        if not row.get("drop") and isinstance(row["target"], str):  # what is no text is refused for all tasks
            _require_number(row, name, task["scale"])
    return rows


def written(labels: Iterable[str]) -> str:
    """Return the text that is kept for several labels: each once, sorted."""
    return json.dumps(sorted(set(labels)), ensure_ascii=False)


def several(target: str | None) -> list[str]:
    """Return the labels that `written` made a text of, none of them for None."""
    return [] if target is None else json.loads(target)


def counts(targets: Iterable[str | None], task: str) -> Counter:
    """Return in how many targets each label stands; tasks without labels have none."""
    if task == "multilabel":
        return Counter(label for target in targets for label in several(target))
    return Counter(target for target in targets if target is not None) if task == "classification" else Counter()


def marks(frame: pl.DataFrame, labels: list[str], column: str = "target") -> np.ndarray:
    """Return 1.0 where a row has a label and 0.0 elsewhere, nan where it has no target, (rows, labels).

    Raises DataError for what is no label.
    """
    place = {label: i for i, label in enumerate(labels)}
    found = np.zeros((len(frame), len(labels)))
    for row, (identifier, target) in enumerate(frame.select("id", column).iter_rows()):
        found[row] = np.nan if target is None else 0.0
        for label in several(target):
            if label not in place:
                raise DataError(f"record '{identifier}': {unknown('label', label, labels)}")
            found[row, place[label]] = 1.0
    return found


def answered(records: pl.DataFrame, shares: np.ndarray, labels: list[str], chosen: np.ndarray) -> pl.DataFrame:
    """Return predictions of several labels: those `chosen` and the probability of each, both (rows, labels)."""
    answers = [written(label for label, yes in zip(labels, row, strict=True) if yes) for row in chosen.tolist()]
    columns = [pl.Series(label, shares[:, i]) for i, label in enumerate(labels)]
    return records.select("id", "source", "target").with_columns(
        pl.Series("answer", answers, pl.String), pl.struct(columns).alias("probabilities")
    )


def number(text: str) -> float:
    """Return the finite number that a text says, with a point and without marks between digits; nan for others."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and "_" not in text else math.nan


def numbers(column: Iterable[str | None]) -> np.ndarray:
    """Return targets as numbers, nan where there is none, (rows,)."""
    return np.array([math.nan if text is None else number(text) for text in column])


def measured(records: pl.DataFrame, values: np.ndarray, scale: dict | None) -> pl.DataFrame:
    """Return predictions of numbers, (rows,): clipped and rounded to the scale {low, high, step}, if there is one."""
    found = records.select("id", "source", pl.Series("target", numbers(records["target"])).fill_nan(None))
    return found.with_columns(pl.Series("answer", on_scale(values, scale)))


def on_scale(values: np.ndarray, scale: dict | None) -> np.ndarray:
    """Return the nearest numbers of a scale, halves upwards; any number where there is none."""
    if scale is None:
        return values
    low, high, step = scale["low"], scale["high"], scale["step"]
    if step:
        values = low + step * np.floor((values - low) / step + 0.5)
    return np.clip(values, low, high)


def _require_number(row: dict, name: str, scale: dict | None) -> None:
    place = f"data set {name}:{row.get('id') or repr(row['input'][:40])}:target"
    value = number(row["target"])
    if math.isnan(value) and row["target"].strip():
        raise DataError(f"{place}: {row['target'][:40]!r} is no number such as 3 or -2.5, which task regression wants")
    if scale and not scale["low"] <= value <= scale["high"]:
        raise DataError(f"{place}: {value:g} lies outside of task.scale, {scale['low']:g} to {scale['high']:g}")


def _several(row: dict, name: str, separator: str) -> dict:
    target = row["target"]
    if target is None and "empty" not in row:
        raise DataError(f"data set {name}: task multilabel needs a target column; set data.columns.target")
    labels = target if isinstance(target, list) else (target or "").split(separator) if target else []
    labels = [label.strip() for label in labels]
    if "" in labels:
        place = f"data set {name}:{row.get('id') or row['input'][:40]!r}:target"
        raise DataError(f"{place}: an empty label in {target!r}; labels stand between {separator!r}")
    return {key: value for key, value in row.items() if key != "empty"} | {"target": written(labels)}
