"""Objectives: one file a loss; each says how records become examples, what is minimised and how an answer is read off.

An objective is a class `Objective` with
`encode(records, *, train) -> list[Example]`, `collate(examples) -> batch`, `loss(model, batch) -> scalar`, a mean of
`count(batch)` predictions, `answer(model, batch) -> one dict a row` and `predictions(records, rows) -> DataFrame`.
An example is a dict with `length` (tokens), `row` (position of its record) and, where inputs may be too long, `cut`.
An answered row has `loss`, the nats of all it was to predict, and `tokens`, how many that were, so that a validation
loss does not depend on the batches.
"""

import importlib
import math
import pkgutil

import numpy as np
import polars as pl

from stepladder.errors import ConfigError, DataError, unknown

IGNORED = -100  # the target that PyTorch's cross-entropy leaves out


def load(name: str) -> type:
    """Return the class `Objective` of `objectives/<name>.py`; raises ConfigError for an unknown name."""
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise ConfigError(f"objective.name: {unknown('objective', name, known)}")
    return importlib.import_module(f"{__name__}.{name}").Objective


def positions(records: pl.DataFrame, labels: list[str]) -> list[int]:
    """Return the position of each record's target among the labels, IGNORED where it has none.

    Raises DataError for a target that is no label.
    """
    known = {label: i for i, label in enumerate(labels)} | {None: IGNORED}
    for identifier, target in records.select("id", "target").iter_rows():
        if target not in known:
            raise DataError(f"record '{identifier}': {unknown('label', target, labels)}")
    return [known[target] for target in records["target"]]


def named(label: int | float | list[float], labels: list[str] | None) -> list[str]:
    """Return what an example is to be answered with: its label is a position, a number, or a mark for each label."""
    if isinstance(label, list):
        return [name for name, mark in zip(labels, label, strict=True) if mark == 1]
    if unanswered(label):
        return []
    return [f"{label:g}"] if isinstance(label, float) else [labels[label]]


def unanswered(label: int | float | list[float]) -> bool:
    """Say whether an example has no target: its label is IGNORED, or nan where it is a number or marks."""
    first = label[0] if isinstance(label, list) else label
    return math.isnan(first) if isinstance(first, float) else first == IGNORED


def classified(records: pl.DataFrame, scores: np.ndarray, labels: list[str]) -> pl.DataFrame:
    """Return predictions with the label of the highest log-score and probabilities normalised over the labels."""
    shifted = np.exp(scores - scores.max(1, keepdims=True))  # (rows, labels)
    shares = shifted / shifted.sum(1, keepdims=True)
    columns = [pl.Series(label, shares[:, i]) for i, label in enumerate(labels)]
    return records.select("id", "source", "target").with_columns(
        pl.Series("answer", [labels[i] for i in scores.argmax(1)]),
        pl.struct(columns).alias("probabilities"),
    )
