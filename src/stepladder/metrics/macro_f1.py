"""Macro F1: the mean over labels of the harmonic mean of precision and recall; 0 to 1.

A label that is neither answered nor true is left out, one that is never hit counts 0 (scikit-learn, zero_division=0).
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
    present = answered + true > 0
    f1 = np.divide(2 * hits, answered + true, out=np.zeros_like(hits), where=present)
    return f1.sum(axis=-1) / present.sum(axis=-1)
