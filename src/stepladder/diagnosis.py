"""Diagnosis: how a candidate came to be and where it errs; learning curves, confusions, its best and worst answers.

Rows are judged by one number each, the smaller the better: `COSTS`.
"""

import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl

from stepladder import metrics
from stepladder.predictions import indices, matrix

COSTS = {  # task -> the metric whose rows say how bad an answer is, or how good
    "classification": "log_loss",
    "multilabel": "subset_accuracy",
    "regression": "mean_absolute_error",
    "generation": "token_f1",
}
NUM_BEST, NUM_WORST, MAX_POINTS, MAX_CHARACTERS = 3, 5, 120, 300


def curves(history: Path) -> dict[str, list[list[float]]]:
    """Return {name: [[step, value], ...]} of losses and validation metrics in a history, long ones thinned evenly."""
    found = defaultdict(list)
    for line in history.read_text(encoding="utf-8").splitlines() if history.exists() else ():
        entry = json.loads(line)
        if not entry["name"].endswith("learning_rate"):
            found[entry["name"]].append([entry["step"], entry["value"]])
    thin = {
        name: np.unique(np.linspace(0, len(all_) - 1, MAX_POINTS).round().astype(int)) for name, all_ in found.items()
    }
    return {name: [found[name][place] for place in places] for name, places in sorted(thin.items())}


def confusion(predictions: pl.DataFrame, labels: list[str]) -> list[list[int]]:
    """Return how many rows of each label (first index) got each answer (second), in the order of `labels`."""
    counts = dict.fromkeys(itertools.product(labels, labels), 0) | Counter(
        predictions.select("target", "answer").iter_rows()
    )
    return [[counts[target, answer] for answer in labels] for target in labels]


def examples(predictions: pl.DataFrame, rows: pl.DataFrame, task: str) -> dict[str, list[dict]]:
    """Return {best, worst} of {id, input, target, answer, cost}, and of labels the probability of target and answer."""
    costs = _costs(predictions, task)
    order = np.lexsort((predictions["id"].to_numpy(), costs))  # ties in the order of ids
    texts = dict(rows.select("id", "input").iter_rows())
    chances = matrix(predictions) if task == "classification" else None
    places = {column: indices(predictions, column) for column in ("target", "answer") if chances is not None}

    def shown(row: int) -> dict:
        found = predictions.row(row, named=True)
        told = {key: _cut(found.get(key)) for key in ("id", "target", "answer")} | {"cost": float(costs[row])}
        known = {column: place[row] for column, place in places.items() if found[column] is not None}
        sure = {f"{column}_probability": float(chances[row, place]) for column, place in known.items()}
        return told | {"input": _cut(texts[found["id"]])} | sure

    worst = [row for row in order[::-1][:NUM_WORST].tolist() if costs[row] > costs[order[0]]]
    return {"best": [shown(row) for row in order[:NUM_BEST].tolist()], "worst": [shown(row) for row in worst]}


def _costs(predictions: pl.DataFrame, task: str) -> np.ndarray:
    """Return how bad each answer is, (rows,); of raw text the bits per byte."""
    if task == "language_modeling":
        return (predictions["bits"] / predictions["num_bytes"]).to_numpy()
    metric = metrics.load(COSTS[task])
    return metric.rows(predictions) * (-1 if metric.GREATER_IS_BETTER else 1)


def _cut(value: object) -> object:
    return f"{value[:MAX_CHARACTERS]} …" if isinstance(value, str) and len(value) > MAX_CHARACTERS else value
