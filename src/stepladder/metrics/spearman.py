"""Spearman: the correlation of the ranks of answers and targets, equal ones sharing their mean rank; -1 to 1.

Not defined (nan) where all answers, or all targets, are equal. Spearman 1904, "The proof and measurement of association
between two things".
"""

import numpy as np
import polars as pl

from stepladder.predictions import summed

TASK = "regression"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(weighted(predictions, np.ones((1, len(predictions))))[0])


def weighted(predictions: pl.DataFrame, times: np.ndarray) -> np.ndarray:
    """Return the value for each choice of rows; times: how often each row counts, (choices, rows)."""
    x, y = (_ranks(times, predictions[column].to_numpy()) for column in ("answer", "target"))  # (choices, rows)
    products = [(times * one * other).sum(axis=1) for one, other in ((x, y), (x, x), (y, y))]
    spread = np.sqrt(products[1] * products[2])
    return np.divide(products[0], spread, out=np.full(len(spread), np.nan), where=spread > 0)


def _ranks(times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return each row's rank less the mean rank, in each choice."""
    sums, _ = summed(times, values, np.ones(len(values)))
    place = np.unique(values, return_inverse=True)[1]
    ranks = np.cumsum(sums, axis=1) - (sums - 1) / 2
    return ranks[:, place] - (times.sum(axis=1, keepdims=True) + 1) / 2
