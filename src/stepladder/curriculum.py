"""Curriculum: how easy each row of train is, by a score of its own, so that a training may begin with the easy ones.

Low is easy. Bengio et al. 2009, "Curriculum learning", ICML; when which row opens: batches.Curriculum.
"""

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
import polars as pl

from stepladder import tokens
from stepladder.errors import DataError
from stepladder.levels import baseline
from stepladder.training import Examples

FOR_PACKED = ("rarity",)  # a packed row of raw text has no length, rating or label of its own
SHOWN = 3  # ids in an error


def scored(examples: Examples, objective, section: dict | None, *, seed: int) -> Examples:
    """Return the examples with a score for each row, as the section `curriculum` asks; without one as they are.

    Raises DataError for records that have no rating, or too few of a label.
    """
    if section is None:
        return examples
    if objective.task in (None, "language_modeling"):
        scores = rarity(lambda: (row["ids"] for row in examples.rows))
    elif section["score"] == "length":
        scores = np.array(examples.lengths, float)
    else:
        found = _of_records(examples.records, objective, section, seed)
        scores = found[[row["row"] for row in examples.rows]]
    return dataclasses.replace(examples, scores=-scores if section["descending"] else scores)


def rarity(texts: Callable[[], Iterable[list[int]]]) -> np.ndarray:
    """Return the mean of -log p of each text's token ids, in nats; p is a token's share of all that are given.

    The texts are walked twice and never held together. Platanios et al. 2019, equation 2, take the sum, which follows
    the length.
    """
    counts = np.zeros(0, np.int64)
    for ids in texts():
        found = np.bincount(ids)
        counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
        counts[: len(found)] += found
    costs = np.log(counts.sum()) - np.log(np.maximum(counts, 1))
    return np.array([costs[ids].sum() / max(1, len(ids)) for ids in texts()])


def held_out_losses(records: pl.DataFrame, *, model: dict, num_folds: int, seed: int) -> np.ndarray:
    """Return -log of the probability of each record's target, in nats, by a baseline fitted to the other folds.

    Folds have equal shares of each label. Raises DataError where a label has fewer records than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold

    (rarest, number) = min(records["target"].value_counts().iter_rows(), key=lambda pair: pair[1])
    if number < num_folds:
        raise DataError(f"curriculum.num_folds={num_folds}: label {rarest!r} has {number} train records; lower it")
    losses = np.zeros(len(records))
    for known, asked in StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(losses, records["target"]):
        level = baseline.Level({"task": {"name": "classification"}, "model": model, "seed": seed})
        level.fit(records[known], records[asked], state=None, log=None)
        answers = level.predict(records[asked])
        shares = [row[target] for row, target in answers.select("probabilities", "target").iter_rows()]
        losses[asked] = -np.log(np.maximum(shares, np.finfo(float).tiny))
    return losses


def _of_records(records: pl.DataFrame, objective, section: dict, seed: int) -> np.ndarray:
    if section["score"] == "rarity":
        texts = tokens.encode(objective.tokenizer, records["input"].to_list(), add_special_tokens=False)
        return rarity(lambda: texts)
    if section["score"] == "loss":
        return held_out_losses(records, model=section["model"], num_folds=section["num_folds"], seed=seed)
    ratings = _ratings(records)
    return np.abs(ratings) if section["absolute"] else ratings


def _ratings(records: pl.DataFrame) -> np.ndarray:
    if "rating" not in records.columns:
        cure = "name its column, data.columns.rating, or take another score"
        raise DataError(f"curriculum.score=rating: the train records have no rating; {cure}")
    without = records.filter(pl.col("rating").is_null())["id"]
    if len(without):
        shown = ", ".join(without[:SHOWN]) + ", ..." * (len(without) > SHOWN)
        raise DataError(f"curriculum.score=rating: {len(without)} train records have no rating ({shown}); fill it in")
    return records["rating"].to_numpy()
