"""Subset accuracy: the share of rows all of whose labels are answered and no other; 0 to 1."""

import numpy as np
import polars as pl

from stepladder.predictions import marked

TASK = "multilabel"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(rows(predictions).mean())


def rows(predictions: pl.DataFrame) -> np.ndarray:
    return (marked(predictions, "answer") == marked(predictions, "target")).all(axis=1).astype(float)
