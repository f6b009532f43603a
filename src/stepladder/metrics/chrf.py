"""chrF of the whole corpus by sacrebleu's defaults: F2 over character n-grams up to 6; 0 to 100.

Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation".
"""

import numpy as np
import polars as pl

TASK = "generation"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    from sacrebleu.metrics import CHRF

    answers, targets = predictions["answer"].to_list(), predictions["target"].to_list()
    return np.array(CHRF()._extract_corpus_statistics(answers, [targets]))


def combine(totals: np.ndarray) -> np.ndarray:
    from sacrebleu.metrics import CHRF

    score = CHRF()._compute_score_from_stats
    return np.apply_along_axis(lambda sums: score(sums.tolist()).score, -1, totals)
