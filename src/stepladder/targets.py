"""Targets: what a task wants in the target of a record: one label, several, a number or a text.

Several labels are kept as the JSON text of a sorted list, '["drama", "war"]', and none of them as '[]'.
"""

import json
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
    if task["name"] != "multilabel":
        return list(rows)
    return [row if row.get("drop") else _several(row, name, task["separator"]) for row in rows]


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
