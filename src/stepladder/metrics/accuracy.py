"""Accuracy: the share of rows whose answer is the target; 0 to 1."""

import numpy as np
import polars as pl

TASK = "classification"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(rows(predictions).mean())


def rows(predictions: pl.DataFrame) -> np.ndarray:
    return (predictions["answer"] == predictions["target"]).fill_null(False).to_numpy().astype(float)
