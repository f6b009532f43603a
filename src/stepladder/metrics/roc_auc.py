"""ROC-AUC: how probably a row of a label gets a higher probability for it than a row of another label; 0 to 1.

With two labels the second one is the positive; with more, the mean over labels of one against the rest. Not defined
(nan) when a label is missing among the targets. By ranks: Hanley and McNeil 1982, "The meaning and use of the area
under a receiver operating characteristic (ROC) curve".
"""

import numpy as np
import polars as pl

from stepladder.predictions import against_the_rest, summed

TASK = "classification"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(weighted(predictions, np.ones((1, len(predictions))))[0])


def weighted(predictions: pl.DataFrame, times: np.ndarray) -> np.ndarray:
    """Return the value for each choice of rows; times: how often each row counts, (choices, rows)."""
    return np.mean([_area(times, *label) for label in against_the_rest(predictions)], axis=0)


def without(predictions: pl.DataFrame) -> np.ndarray:
    """Return the value without each row, (rows,): it takes the pairs along that it is in."""
    return np.mean([_left_out(*label) for label in against_the_rest(predictions)], axis=0)


def _left_out(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    place = np.unique(scores, return_inverse=True)[1]
    hits, others = (part[0] for part in summed(np.ones((1, len(scores))), scores, positive))  # (distinct scores,)
    below = np.cumsum(others) - others / 2
    above = hits.sum() - np.cumsum(hits) + hits / 2
    own = np.where(positive, below[place], above[place])
    pairs = (hits.sum() - positive) * (others.sum() - ~positive)
    return np.divide(hits @ below - own, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _area(times: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    hits, others = summed(times, scores, positive)  # (choices, distinct scores)
    below = np.cumsum(others, axis=1) - others / 2  # a tie counts half
    pairs = hits.sum(axis=1) * others.sum(axis=1)
    return np.divide((hits * below).sum(axis=1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
