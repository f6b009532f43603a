"""ROC-AUC: how probably a row of a label gets a higher probability for it than a row of another label; 0 to 1.

With two labels the second one is the positive; with more, the mean over labels of one against the rest. Not defined
(nan) when a label is missing among the targets. By ranks: Hanley and McNeil 1982, "The meaning and use of the area
under a receiver operating characteristic (ROC) curve".
"""

import numpy as np
import polars as pl

from stepladder.predictions import indices, matrix

TASK = "classification"
GREATER_IS_BETTER = True


def compute(predictions: pl.DataFrame) -> float:
    probabilities, true = matrix(predictions), indices(predictions, "target")
    num_labels = probabilities.shape[1]
    positives = range(num_labels) if num_labels > 2 else [num_labels - 1]
    return float(np.mean([_area(probabilities[:, label], true == label) for label in positives]))


def _area(scores: np.ndarray, positive: np.ndarray) -> float:
    from scipy.stats import rankdata

    num_positive, num_negative = positive.sum(), (~positive).sum()
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    return (rankdata(scores)[positive].sum() - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)
