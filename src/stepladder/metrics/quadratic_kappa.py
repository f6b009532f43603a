"""Quadratic kappa: agreement beyond chance, a disagreement weighing its square; 1 is best, 0 that of a constant.

For grades at equal steps it is Cohen's weighted kappa (Cohen 1968, "Weighted kappa"); for other numbers the same
formula, 1 - sum (x - y)^2 / mean over all pairs, is the concordance of Lin 1989, "A concordance correlation coefficient
to evaluate reproducibility". 0 where all answers and targets are one number.
"""

import numpy as np
import polars as pl

TASK = "regression"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    x, y = predictions["answer"].to_numpy(), predictions["target"].to_numpy()
    return np.stack([np.ones_like(x), x, y, x * x + y * y, x * y], axis=1)


def combine(totals: np.ndarray) -> np.ndarray:
    size, x, y, squares, products = np.moveaxis(totals, -1, 0)
    by_chance = squares - 2 * x * y / size
    defined = by_chance > 1e-12 * squares
    return 1 - np.divide(squares - 2 * products, by_chance, out=np.ones_like(by_chance), where=defined)
