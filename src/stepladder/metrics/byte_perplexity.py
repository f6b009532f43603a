"""Byte perplexity: among how many bytes a model hesitates at each byte of a text; 1 is best, 256 is no model at all.

2 ** bits per byte, as in EleutherAI's lm-evaluation-harness: comparable between tokenizers, unlike that of a token.
"""

import numpy as np
import polars as pl

from stepladder.metrics import bits_per_byte
from stepladder.metrics.bits_per_byte import counts  # noqa: F401  (a form of this metric)

TASK = "language_modeling"
GREATER_IS_BETTER = False


def compute(predictions: pl.DataFrame) -> float:
    return float(2 ** bits_per_byte.compute(predictions))


def combine(totals: np.ndarray) -> np.ndarray:
    return 2 ** bits_per_byte.combine(totals)
