"""Spearman: the correlation of the ranks of answers and targets, equal ones sharing their mean rank; -1 to 1.

Not defined (nan) where all answers, or all targets, are equal. Spearman 1904, "The proof and measurement of association
between two things".
"""

import numpy as np
import polars as pl

TASK = "regression"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    ranks = predictions.select(pl.col("answer", "target").rank("average")).to_numpy().T  # (2, rows)
    return float(np.corrcoef(ranks)[0, 1]) if (ranks.std(axis=1) > 0).all() else float("nan")
