"""Length error: by what share all answers together are longer or shorter than the targets; 0 is best.

|answers / targets - 1| in words and marks as BLEU's brevity penalty counts them (sacrebleu, 13a tokens). Not defined
(nan) where no target has a word.
"""

import numpy as np
import polars as pl

from stepladder.metrics import bleu

TASK = "generation"
GREATER_IS_BETTER = False


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    return bleu.counts(predictions)[:, :2]  # words of the answer, of the target


def combine(totals: np.ndarray) -> np.ndarray:
    answered, true = totals[..., 0], totals[..., 1]
    return np.abs(np.divide(answered, true, out=np.full(true.shape, np.nan), where=true > 0) - 1)
