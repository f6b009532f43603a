"""BLEU of the whole corpus by sacrebleu's defaults (13a tokens, exponential smoothing); 0 to 100.

Papineni et al. 2002; Post 2018, "A call for clarity in reporting BLEU scores" (arXiv:1804.08771).
"""

import numpy as np
import polars as pl

TASK = "generation"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(combine(counts(predictions).sum(axis=0)))


def counts(predictions: pl.DataFrame) -> np.ndarray:
    from sacrebleu.metrics import BLEU

    answers, targets = predictions["answer"].to_list(), predictions["target"].to_list()
    return np.array(BLEU()._extract_corpus_statistics(answers, [targets]))


def combine(totals: np.ndarray) -> np.ndarray:
    from sacrebleu.metrics import BLEU

    score = BLEU()._compute_score_from_stats
    return np.apply_along_axis(lambda sums: score(sums.tolist()).score, -1, totals)
