"""Calibration: may the probabilities of a classifier be believed, and what does leaving out unsure answers buy?

One temperature, fitted on val, that softens or sharpens all probabilities and changes no answer: Guo et al. 2017, "On
calibration of modern neural networks" (arXiv:1706.04599), section 4.2. Abstention: El-Yaniv and Wiener 2010, "On the
foundations of noise-free selective classification".
"""

import numpy as np
import polars as pl

from stepladder import metrics
from stepladder.metrics.calibration_error import NUM_BINS, bins
from stepladder.predictions import indices, labels, matrix

FLOOR = np.finfo(np.float64).eps  # scikit-learn's, of a probability before its logarithm
JUDGED = ("calibration_error", "log_loss", "brier")  # what a temperature changes
COVERAGES = tuple(share / 20 for share in range(1, 21))


def of(val: pl.DataFrame, test: pl.DataFrame) -> dict:
    """Return what calibration a candidate has on test, before and after the temperature that fits its val.

    {temperature, before, after: {calibration_error, log_loss, brier}, reliability, reliability_after, abstention}
    """
    fitted = temperature(val)
    scaled = tempered(test, fitted)
    scores = [{name: metrics.load(name).compute(frame) for name in JUDGED} for frame in (test, scaled)]
    found = {"temperature": fitted, "before": scores[0], "after": scores[1]}
    return found | {
        "reliability": reliability(test),
        "reliability_after": reliability(scaled),
        "abstention": abstention(test),
    }


def temperature(val: pl.DataFrame) -> float:
    """Return the temperature of least log-loss: above 1 where a candidate is too sure, below where not enough."""
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits, true = np.log(matrix(val) + FLOOR), indices(val, "target")

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits * np.exp(-log_temperature), axis=1)[np.arange(len(true)), true].mean()

    return float(np.exp(minimize_scalar(loss, bounds=(-10, 10), options={"xatol": 1e-9}).x))


def tempered(predictions: pl.DataFrame, temperature: float) -> pl.DataFrame:
    """Return the predictions with probabilities p ** (1 / temperature), scaled to sum to 1."""
    from scipy.special import softmax

    values = softmax(np.log(matrix(predictions) + FLOOR) / temperature, axis=1)
    columns = [pl.Series(label, values[:, place]) for place, label in enumerate(labels(predictions))]
    return predictions.with_columns(pl.struct(columns).alias("probabilities"))


def reliability(predictions: pl.DataFrame) -> list[dict]:
    """Return {low, high, rows, confidence, accuracy} of each bin of confidence that has rows."""
    confidence, right = _confidence(predictions)
    found = []
    for number in np.unique(place := bins(confidence)).tolist():
        inside = place == number
        means = {"confidence": float(confidence[inside].mean()), "accuracy": float(right[inside].mean())}
        ends = {"low": number / NUM_BINS, "high": (number + 1) / NUM_BINS}
        found.append(ends | {"rows": int(inside.sum())} | means)
    return found


def abstention(predictions: pl.DataFrame) -> list[dict]:
    """Return {coverage, threshold, accuracy}: how many answers are right when only the surest share is given.

    threshold: the least probability at which an answer is given. Rows as sure as the last one count as a part.
    """
    confidence, right = _confidence(predictions)
    found = []
    for coverage in COVERAGES:
        given = max(1, round(coverage * len(right)))
        threshold = np.sort(confidence)[-given]
        above, level = confidence > threshold, confidence == threshold
        hits = right[above].sum() + right[level].mean() * (given - above.sum())
        found.append({"coverage": coverage, "threshold": float(threshold), "accuracy": float(hits / given)})
    return found


def _confidence(predictions: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's greatest probability and whether the label that has it is the target."""
    probabilities = matrix(predictions)
    return probabilities.max(axis=1), (probabilities.argmax(axis=1) == indices(predictions, "target")).astype(float)
