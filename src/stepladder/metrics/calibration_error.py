"""Expected calibration error: the mean gap of confidence and accuracy over 15 bins of equal width; 0 is best, 1 worst.

Guo et al. 2017, "On calibration of modern neural networks" (arXiv:1706.04599), equation 3; bin m holds confidences in
((m - 1) / 15, m / 15].
"""

import numpy as np
import polars as pl

from stepladder.predictions import indices, matrix

TASK = "classification"
GREATER_IS_BETTER = False
NUM_BINS = 15


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    probabilities = matrix(predictions)
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == indices(predictions, "target")) - confidence
    return np.hstack([np.eye(NUM_BINS)[bins(confidence)] * gap[:, None], np.ones((len(gap), 1))])


def combine(totals: np.ndarray) -> np.ndarray:
    return np.abs(totals[..., :-1]).sum(axis=-1) / totals[..., -1]


def bins(confidence: np.ndarray) -> np.ndarray:
    """Return the number of each row's bin, from 0."""
    return np.clip(np.ceil(confidence * NUM_BINS).astype(int) - 1, 0, NUM_BINS - 1)
