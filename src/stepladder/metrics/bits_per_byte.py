"""Bits per byte: the bits a model needs for a text divided by the text's UTF-8 bytes; 0 is best, 8 is no model at all.

Comparable between tokenizers, unlike perplexity per token (Gao et al. 2020, "The Pile", arXiv:2101.00027, section 3.1).
"""

import numpy as np
import polars as pl

TASK = "language_modeling"
GREATER_IS_BETTER = False


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    return predictions.select("bits", "num_bytes").to_numpy().astype(float)


def combine(totals: np.ndarray) -> np.ndarray:
    return totals[..., 0] / totals[..., 1]
