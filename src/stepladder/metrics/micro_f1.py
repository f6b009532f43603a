"""Micro F1: the harmonic mean of precision and recall over all labels of all rows together; 0 to 1.

1 where no row has a label and none is answered, as nothing is wrong there; scikit-learn leaves the choice
(zero_division).
"""

import numpy as np
import polars as pl

from stepladder.predictions import marked

TASK = "multilabel"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return combine(counts(predictions).sum(axis=0))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    answered, true = marked(predictions, "answer"), marked(predictions, "target")
    return np.stack([(answered * true).sum(1), answered.sum(1), true.sum(1)], axis=1)


def combine(totals: np.ndarray) -> float:
    hits, answered, true = totals
    return float(2 * hits / (answered + true)) if answered + true > 0 else 1.0
