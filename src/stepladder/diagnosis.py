"""Diagnosis: how a candidate came to be and where it errs; learning curves, confusions, its best and worst answers.

Rows are judged by one number each, the smaller the better: `COSTS`.
"""

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl

from stepladder import metrics, targets
from stepladder.predictions import indices, matrix

COSTS = {  # task -> the metric whose rows say how bad an answer is, or how good
    "classification": "log_loss",
    "multilabel": "subset_accuracy",
    "regression": "mean_absolute_error",
    "generation": "token_f1",
}
NUM_BEST, NUM_WORST, NUM_SHARED, MAX_POINTS, MAX_CHARACTERS = 3, 5, 5, 120, 300


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


def shared(frames: dict[str, pl.DataFrame], rows: pl.DataFrame, *, task: str, seed: int) -> list[dict]:
    """Return {id, input, target, answers: {candidate: {answer, probabilities}}} of what is answered most differently.

    frames: test predictions of each candidate, about the same ids. probabilities: of each label that was answered.
    Ties go by a seeded hash of the id. Raw text has no answers, and one candidate alone differs from none.
    """
    if len(frames) < 2 or task == "language_modeling":
        return []
    frames = {name: frame.sort("id") for name, frame in frames.items()}
    first, texts = next(iter(frames.values())), dict(rows.select("id", "input").iter_rows())
    unlike, names = _unlike(list(frames.values()), task), first["id"].to_list()
    places = [hashlib.sha256(f"{seed}:{name}".encode()).hexdigest() for name in names]
    picked = sorted(range(len(names)), key=lambda row: (-unlike[row], places[row]))[:NUM_SHARED]
    return [
        {"id": names[row], "input": _cut(texts[names[row]]), "target": _cut(first["target"][row])}
        | {"answers": {name: _answered(frame.row(row, named=True), task) for name, frame in frames.items()}}
        for row in picked
    ]


def chosen(own: dict, found: dict, *, under: str = "") -> list[str]:
    """Return what a search put in place of a candidate's own values: ["optimizer.learning_rate=0.002"].

    own: its composed sections; found: those of tuned/<c>.yaml, whole.
    """
    lines = []
    for key, value in found.items():
        before = own.get(key)
        if isinstance(value, dict):
            lines += chosen(before if isinstance(before, dict) else {}, value, under=f"{under}{key}.")
        elif key not in own or value != before:
            lines.append(f"{under}{key}={value if isinstance(value, str) else json.dumps(value)}")
    return lines


def _unlike(frames: list[pl.DataFrame], task: str) -> np.ndarray:
    """Return how far apart the answers to each row are, (rows,).

    Of labels how many pairs of candidates named different ones, of numbers and of what texts cost their deviation.
    A model that named none of the labels differs from no other: rows without an answer are no examples of answers.
    """
    if task in ("classification", "multilabel"):
        rows = zip(*(frame["answer"] for frame in frames), strict=True)
        named = [Counter(answer for answer in row if answer is not None) for row in rows]
        return np.array([(each.total() ** 2 - sum(number**2 for number in each.values())) // 2 for each in named])
    values = [frame["answer"].to_numpy() if task == "regression" else _costs(frame, task) for frame in frames]
    return np.std(values, axis=0).round(9)  # answers that are alike may differ in the last bits of their mean


def _answered(found: dict, task: str) -> dict:
    """Return the answer of a row of predictions, and the probability of each label that it names."""
    answer, given = found["answer"], found.get("probabilities") or {}
    named = targets.several(answer) if task == "multilabel" else [answer]
    return {"answer": _cut(answer), "probabilities": [given[label] for label in named if label in given]}


def _costs(predictions: pl.DataFrame, task: str) -> np.ndarray:
    """Return how bad each answer is, (rows,); of raw text the bits per byte."""
    if task == "language_modeling":
        return (predictions["bits"] / predictions["num_bytes"]).to_numpy()
    metric = metrics.load(COSTS[task])
    return metric.rows(predictions) * (-1 if metric.GREATER_IS_BETTER else 1)


def _cut(value: object) -> object:
    return f"{value[:MAX_CHARACTERS]} …" if isinstance(value, str) and len(value) > MAX_CHARACTERS else value
