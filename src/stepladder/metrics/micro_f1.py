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
    return float(combine(counts(predictions).sum(axis=0)))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    answered, true = marked(predictions, "answer"), marked(predictions, "target")
    return np.stack([(answered * true).sum(1), answered.sum(1), true.sum(1)], axis=1)


def combine(totals: np.ndarray) -> np.ndarray:
    hits, answered, true = np.moveaxis(totals, -1, 0)
    return np.divide(2 * hits, answered + true, out=np.ones_like(hits), where=answered + true > 0)
