"""Label F1: the mean over labels of each label's F1, so that rare labels count like common ones; 0 to 1.

A label that is neither answered nor true is left out, one that is never hit counts 0 (as in macro_f1).
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
    return np.hstack([answered * true, answered, true])


def combine(totals: np.ndarray) -> np.ndarray:
    hits, answered, true = np.split(totals, 3, axis=-1)
    present = answered + true > 0
    f1 = np.divide(2 * hits, answered + true, out=np.zeros_like(hits), where=present)
    return np.where(present.any(axis=-1), f1.sum(axis=-1) / present.sum(axis=-1).clip(1), 1.0)
