"""Token F1: the mean over rows of the F1 of the words that answer and target share; 0 to 1.

As SQuAD scores answers: case, ASCII punctuation and English articles do not count (Rajpurkar et al. 2016, "SQuAD",
arXiv:1606.05250, section 6.1). Two texts without any word are equal.
"""

import re
import string
from collections import Counter

import numpy as np
import polars as pl

TASK = "generation"
GREATER_IS_BETTER = True
ARTICLES = re.compile(r"\b(a|an|the)\b")
WITHOUT_MARKS = str.maketrans("", "", string.punctuation)


def compute(predictions: pl.DataFrame) -> float:
    return float(rows(predictions).mean())


def rows(predictions: pl.DataFrame) -> np.ndarray:
    pairs = zip(predictions["answer"], predictions["target"], strict=True)
    return np.array([_f1(_words(answer), _words(target)) for answer, target in pairs])


def _words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(WITHOUT_MARKS)).split()


def _f1(answer: list[str], target: list[str]) -> float:
    if not answer or not target:
        return float(answer == target)
    return 2 * (Counter(answer) & Counter(target)).total() / (len(answer) + len(target))
