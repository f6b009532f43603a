"""R2, the coefficient of determination: the share of the targets' variance that answers explain; 1 is best.

0 is the mean of these targets answered to each row, below is worse. Not defined (nan) where all targets are equal.
"""

import numpy as np
import polars as pl

TASK = "regression"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    target, left = predictions["target"].to_numpy(), (predictions["answer"] - predictions["target"]).to_numpy()
    return np.stack([np.ones_like(target), target, target**2, left**2], axis=1)


def combine(totals: np.ndarray) -> np.ndarray:
    size, target, squares, left = np.moveaxis(totals, -1, 0)
    spread = squares - target**2 / size
    defined = spread > 1e-12 * squares
    return 1 - np.divide(left, spread, out=np.full(spread.shape, np.nan), where=defined)
