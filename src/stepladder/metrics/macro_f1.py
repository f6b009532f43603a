"""Macro F1: the mean over labels of the harmonic mean of precision and recall; 0 to 1.

A label that is neither answered nor true is left out, one that is never hit counts 0 (scikit-learn, zero_division=0).
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
    present = answered + true > 0
    return float(np.mean(2 * hits[present] / (answered + true)[present]))
