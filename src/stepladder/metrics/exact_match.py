"""Exact match: the share of rows whose answer is the target, apart from white space at both ends; 0 to 1."""

import numpy as np
import polars as pl

TASK = "generation"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(rows(predictions).mean())


def rows(predictions: pl.DataFrame) -> np.ndarray:
    answer, target = (predictions[name].str.strip_chars() for name in ("answer", "target"))
    return (answer == target).to_numpy().astype(float)
