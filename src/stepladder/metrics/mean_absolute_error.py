"""Mean absolute error: how far answers lie from targets, in their own unit; 0 is best."""

import numpy as np
import polars as pl

TASK = "regression"
GREATER_IS_BETTER = False


def compute(predictions: pl.DataFrame) -> float:
    return float(rows(predictions).mean())


def rows(predictions: pl.DataFrame) -> np.ndarray:
    return (predictions["answer"] - predictions["target"]).abs().to_numpy()
