"""Matthews correlation between answers and targets for any number of labels; -1 to 1, 0 for a constant answer.

Gorodkin 2004, "Comparing two K-category assignments by a K-category correlation coefficient", equation 8.
"""

import numpy as np
import polars as pl

from stepladder.predictions import tallies as counts

TASK = "classification"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return combine(counts(predictions).sum(axis=0))


def combine(totals: np.ndarray) -> float:
    hits, answered, true = np.split(totals, 3)
    num_rows = true.sum()
    spread = (num_rows**2 - answered @ answered) * (num_rows**2 - true @ true)
    return float((hits.sum() * num_rows - answered @ true) / np.sqrt(spread)) if spread > 0 else 0.0
