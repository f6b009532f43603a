"""Balanced accuracy: the mean over the labels among the targets of the share of their rows that is answered; 0 to 1.

Brodersen et al. 2010, "The balanced accuracy and its posterior distribution"; that of a constant answer is 1 / labels.
"""

import numpy as np
import polars as pl

from stepladder.predictions import tallies as counts

TASK = "classification"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def combine(totals: np.ndarray) -> np.ndarray:
    hits, _, true = np.split(totals, 3, axis=-1)
    recall = np.divide(hits, true, out=np.zeros_like(hits), where=true > 0)
    return recall.sum(axis=-1) / (true > 0).sum(axis=-1)
