"""Log-loss: the mean negative natural logarithm of the probability given to the target; nats, 0 is best."""

import numpy as np
import polars as pl

from stepladder.predictions import indices, matrix

TASK = "classification"
GREATER_IS_BETTER = False
FLOOR = np.finfo(np.float64).eps  # scikit-learn's: a target given probability 0 costs 36 nats, not infinity


def compute(predictions: pl.DataFrame) -> float:
    return float(rows(predictions).mean())


def rows(predictions: pl.DataFrame) -> np.ndarray:
    given = np.take_along_axis(matrix(predictions), indices(predictions, "target")[:, None], axis=1)[:, 0]
    return -np.log(np.clip(given, FLOOR, 1.0))
