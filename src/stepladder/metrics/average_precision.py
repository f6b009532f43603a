"""Average precision: the area under the curve of precision against recall, in steps; 0 to 1, chance is a label's share.

With two labels the second one is the positive; with more, the mean over labels of one against the rest. Not defined
(nan) when a label is missing among the targets. Zhu 2004, "Recall, precision and average precision".
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
    """Return the value without each row, (rows,): of scores below its own one answer less, of those above all as is."""
    return np.mean([_left_out(*label) for label in against_the_rest(predictions)], axis=0)


def _left_out(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    distinct, place = np.unique(-scores, return_inverse=True)  # best first
    sums = summed(np.ones((1, len(scores))), -scores, positive)
    hits, found, answered = sums[0][0], np.cumsum(sums[0][0]), np.cumsum(sums[0][0] + sums[1][0])
    above = np.cumsum(hits * found / answered) - hits * found / answered
    left = np.empty((2, len(distinct)))
    for hit in (0, 1):  # whether the row that is left out is a hit
        precision = np.divide(found - hit, answered - 1, out=np.zeros(len(distinct)), where=answered > 1)
        below = (hits * precision)[::-1].cumsum()[::-1] - hits * precision
        true = found[-1] - hit
        defined = 0 < true < answered[-1] - 1
        left[hit] = (above + (hits - hit) * precision + below) / true if defined else np.nan
    return left[positive.astype(int), place]


def _area(times: np.ndarray, scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    hits, others = (part[:, ::-1] for part in summed(times, scores, positive))  # (choices, distinct scores), best first
    found = np.cumsum(hits, axis=1)
    answered = found + np.cumsum(others, axis=1)
    precision = np.divide(found, answered, out=np.zeros(answered.shape), where=answered > 0)
    true = found[:, -1]
    area = np.divide((hits * precision).sum(axis=1), true, out=np.full(len(true), np.nan), where=true > 0)
    return np.where(true < answered[:, -1], area, np.nan)
