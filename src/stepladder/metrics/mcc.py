"""Matthews correlation between answers and targets for any number of labels; -1 to 1, 0 for a constant answer.

Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", equation 8.
"""

import numpy as np
import polars as pl

from stepladder.predictions import tallies as counts

TASK = "classification"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def combine(totals: np.ndarray) -> np.ndarray:
    hits, answered, true = np.split(totals, 3, axis=-1)
    num_rows = true.sum(axis=-1)
    unanswered = num_rows - answered.sum(axis=-1)  # an answer of its own kind
    spread = (num_rows**2 - (answered**2).sum(axis=-1) - unanswered**2) * (num_rows**2 - (true**2).sum(axis=-1))
    excess = hits.sum(axis=-1) * num_rows - (answered * true).sum(axis=-1)
    return np.divide(excess, np.sqrt(spread.clip(0)), out=np.zeros_like(excess), where=spread > 0)
