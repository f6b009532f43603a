"""Predictions: what a candidate answered to each record, saved once and scored as often as one likes.

{"id": "r1", "source": None, "target": "good", "answer": "bad", "probabilities": {"bad": 0.7, "good": 0.3}}

The labels' order is that of the fields of `probabilities`, which only tasks with labels have; where a model named none
of them, the answer is null, which is wrong whatever the target; several labels a record
stand in target and answer as targets.written makes them, numbers as numbers; language modelling has bits and num_bytes,
and no answer.
"""

from pathlib import Path

import numpy as np
import polars as pl

from stepladder import targets
from stepladder.errors import DataError

COLUMNS = {
    "classification": ("id", "target", "answer", "probabilities"),
    "multilabel": ("id", "target", "answer", "probabilities"),
    "regression": ("id", "target", "answer"),
    "generation": ("id", "target", "answer"),
    "language_modeling": ("id", "bits", "num_bytes"),
}
TOLERANCE = 1e-2  # a row of bf16 probabilities sums to 1 only this well


def read(path: Path, task: str) -> pl.DataFrame:
    """Return the checked predictions of a file; DataError names the file, the first bad id and what was expected."""
    if not path.exists():
        raise DataError(f"{path}: not there; it is written by train (val) and evaluate (test)")
    predictions = pl.read_parquet(path)
    absent = [name for name in COLUMNS[task] if name not in predictions.columns]
    if absent:
        raise DataError(f"{path}: no column {', '.join(absent)}; {task} wants {', '.join(COLUMNS[task])}")
    if predictions.is_empty():
        raise DataError(f"{path}: no rows; at least one prediction is expected")
    _refuse(path, predictions, predictions["id"].is_duplicated(), "stands there twice; ids are unique")
    if task == "classification":
        _check_labels(path, predictions)
    if task == "multilabel":
        _check_marks(path, predictions)
    if task == "regression":
        for column in ("target", "answer"):
            odd = ~predictions[column].is_finite().fill_null(False)
            _refuse(path, predictions, odd, f"has a {column} that is no number")
    return predictions


def read_parts(folder: Path, candidate: str, task: str) -> dict[str, pl.DataFrame]:
    """Return {"val", "test"} of a candidate; DataError when an id stands on both sides."""
    paths = {part: folder / part / f"{candidate}.parquet" for part in ("val", "test")}
    parts = {part: read(path, task) for part, path in paths.items()}
    shared = parts["test"]["id"].is_in(parts["val"]["id"].implode())
    _refuse(paths["test"], parts["test"], shared, f"is in {paths['val']} too; val and test share no record")
    return parts


def labels(predictions: pl.DataFrame) -> list[str]:
    """Return the labels in their order."""
    return [field.name for field in predictions.schema["probabilities"].fields]


def matrix(predictions: pl.DataFrame) -> np.ndarray:
    """Return the probabilities, (rows, labels)."""
    return predictions["probabilities"].struct.unnest().to_numpy()


def indices(predictions: pl.DataFrame, column: str) -> np.ndarray:
    """Return the position of each row's label of `column` (target or answer) in the order of the labels, (rows,).

    An answer that is null stands behind the last label.
    """
    known = labels(predictions)
    return predictions[column].cast(pl.Enum(known)).to_physical().fill_null(len(known)).to_numpy().astype(np.int64)


def tallies(predictions: pl.DataFrame) -> np.ndarray:
    """Return for each row and label whether it was hit, answered and true, (rows, 3 * labels): sums feed F1 and MCC."""
    eye = np.eye(len(labels(predictions)) + 1)[:, :-1]  # no answer is none of them
    answered, true = eye[indices(predictions, "answer")], eye[indices(predictions, "target")]
    return np.hstack([answered * true, answered, true])


def against_the_rest(predictions: pl.DataFrame) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each label (of two, the second alone) the rows' probabilities of it and whether it is their target."""
    probabilities, true = matrix(predictions), indices(predictions, "target")
    num_labels = probabilities.shape[1]
    positives = range(num_labels) if num_labels > 2 else [num_labels - 1]
    return [(probabilities[:, label], true == label) for label in positives]


def summed(times: np.ndarray, values: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how often rows of each distinct value, ascending, count: chosen ones and others, each (choices, values).

    times: how often each row counts, (choices, rows); values and chosen (0 or 1): (rows,).
    """
    order = np.argsort(values, kind="stable")
    first = np.flatnonzero(np.diff(values[order], prepend=np.nan) != 0)
    sorted_times = np.take(times, order, axis=1)
    hits = sorted_times * chosen[order]
    both = hits, sorted_times - hits
    return both if len(first) == len(order) else tuple(np.add.reduceat(part, first, axis=1) for part in both)


def marked(predictions: pl.DataFrame, column: str) -> np.ndarray:
    """Return 1.0 where a row's target or answer, the `column`, has a label and 0.0 elsewhere, (rows, labels)."""
    return targets.marks(predictions, labels(predictions), column)


def served(records: pl.DataFrame, columns: dict[str, list], task: str) -> pl.DataFrame:
    """Return what a served model answered to records as predictions: its columns are answer and a share a label."""
    found, answers = records.select("id", "source", "target"), columns["answer"]
    if task == "multilabel":
        answers = [targets.written(labels) for labels in answers]
    if task == "regression":
        found = found.with_columns(pl.Series("target", targets.numbers(found["target"])).fill_nan(None))
    found = found.with_columns(pl.Series("answer", answers))
    shares = [pl.Series(label, values) for label, values in columns.items() if label != "answer"]
    return found.with_columns(pl.struct(shares).alias("probabilities")) if shares else found


def _check_marks(path: Path, predictions: pl.DataFrame) -> None:
    for column in ("target", "answer"):
        _refuse(path, predictions, predictions[column].is_null(), f"has no {column}")
        try:
            marked(predictions, column)
        except DataError as error:
            raise DataError(f"{path}: {column} of {error}") from None
    values = matrix(predictions)
    proper = ((values >= 0) & (values <= 1)).all(axis=1)  # nan is neither
    _refuse(path, predictions, pl.Series(~proper), "has probabilities outside 0 to 1")


def _check_labels(path: Path, predictions: pl.DataFrame) -> None:
    known = labels(predictions)
    for column in ("target", "answer"):
        stray = ~predictions[column].is_in(known).fill_null(column == "answer")
        _refuse(path, predictions, stray, f"has a {column} that is no label; labels: {', '.join(known)}")
    values = matrix(predictions)
    proper = np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1) & (abs(values.sum(axis=1) - 1) <= TOLERANCE)
    _refuse(path, predictions, pl.Series(~proper), "has probabilities that are negative, not finite or do not sum to 1")


def _refuse(path: Path, predictions: pl.DataFrame, bad: pl.Series, fault: str) -> None:
    if bad.any():
        first = predictions["id"].filter(bad)[0]
        raise DataError(f"{path}: id '{first}' {fault} ({bad.sum()} of {len(bad)} rows)")
