"""ROUGE-L: the mean F1 of the longest common subsequence of words, by rouge_score without stemming; 0 to 1.

Lin 2004, "ROUGE: a package for automatic evaluation of summaries".
"""

import numpy as np
import polars as pl

TASK = "generation"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    return float(rows(predictions).mean())


def rows(predictions: pl.DataFrame) -> np.ndarray:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    pairs = zip(predictions["target"], predictions["answer"], strict=True)
    return np.array([scorer.score(target, answer)["rougeL"].fmeasure for target, answer in pairs])
