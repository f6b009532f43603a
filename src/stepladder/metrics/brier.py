"""Brier score: the mean square of what probabilities lack of certainty about the target; 0 is best.

Brier 1950, "Verification of forecasts expressed in terms of probability". As in scikit-learn, two labels count once
(0 to 1), of more the squares are summed (0 to 2).
"""

import numpy as np
import polars as pl

from stepladder.predictions import indices, matrix

TASK = "classification"
GREATER_IS_BETTER = False


def compute(predictions: pl.DataFrame) -> float:
    return float(rows(predictions).mean())


def rows(predictions: pl.DataFrame) -> np.ndarray:
    probabilities = matrix(predictions)
    squares = (probabilities - np.eye(probabilities.shape[1])[indices(predictions, "target")]) ** 2
    return squares[:, 1] if squares.shape[1] == 2 else squares.sum(axis=1)
