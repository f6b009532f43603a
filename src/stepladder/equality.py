"""Equality: does a served model answer as it was measured, as closely as its precision lets it?

float32   the shares of all labels within 1e-4, numbers too; of written texts 99.5 % (two tokens may be as likely)
bf16      99.5 % of the answers (numbers within 0.03), the shares within .01 on average over the rows, and the metric
          within half a point, or half a hundredth of it where it is above one: logits move with the batch, so that
          a row's share moves by up to .06 in a model of 135 M weights, by .004 on average. Rows whose two likeliest
          labels were measured within .03 of each other may fall to either: of 60 rows one is more than half a point
What differs is told by the ids of its rows.
"""

import numpy as np
import polars as pl

from stepladder import metrics
from stepladder.predictions import labels, matrix

EXACT, MOVED = 1e-4, 0.03  # by which a share or number may differ in float32, a number in bf16
MEAN_MOVED = 0.01  # by which the shares of a row may differ in bf16, on average over the rows
SHARE_EQUAL = 0.995  # of rows, where not all are to be equal
METRIC_MOVED = 0.005
SHOWN = 5  # ids that a line names


def difference(measured: pl.DataFrame, served: pl.DataFrame, *, metric: str, precision: str) -> tuple[str | None, list]:
    """Return why two predictions of the same rows are not of one model, None where they are, and the ids that differ.

    measured, served: predictions of the same rows in the same order. metric: one of their task, by which the two may
    not differ. precision: as the model was saved with, 32-true or one with bf16 in it.
    """
    exact = "bf16" not in precision
    same = _alike(measured, served, exact=exact)
    firm = np.ones(len(same), bool) if exact else ~_tied(measured, MOVED)
    differing = measured["id"].filter(pl.Series(~same)).to_list()
    wanted = 1.0 if exact and not _written(measured) else SHARE_EQUAL
    if (share := (same | ~firm).mean()) < wanted:
        names = ", ".join(differing[:SHOWN])
        return f"only {share:.1%} of {len(same)} answers equal those measured (not {names})", differing
    if not exact and "probabilities" in measured.columns and (mean := _gaps(measured, served).mean()) > MEAN_MOVED:
        return f"shares differ by {mean:.3f} on average from those measured, at most {MEAN_MOVED} may", differing
    if not firm.any():
        return None, differing
    before, after = (metrics.load(metric).compute(each.filter(pl.Series(firm))) for each in (measured, served))
    if not exact and None not in (before, after) and abs(before - after) > METRIC_MOVED * max(1.0, abs(before)):
        return f"{metric} is {after:.4f}, measured was {before:.4f}", differing
    return None, differing


def _gaps(measured: pl.DataFrame, served: pl.DataFrame) -> np.ndarray:
    """Return by how much the shares of each row differ at most, (rows,)."""
    return abs(matrix(measured) - matrix(served)).max(axis=1)


def _alike(measured: pl.DataFrame, served: pl.DataFrame, *, exact: bool) -> np.ndarray:
    """Return which rows are answered alike, (rows,): in float32 by the shares of labels where there are such."""
    if measured["answer"].dtype.is_numeric():
        near = EXACT if exact else MOVED
        return np.isclose(served["answer"].to_numpy(), measured["answer"].to_numpy(), rtol=near, atol=near)
    same = (measured["answer"] == served["answer"]).to_numpy()
    if exact and "probabilities" in measured.columns:
        return (same | _tied(measured, EXACT)) & (_gaps(measured, served) <= EXACT)
    return same


def _tied(measured: pl.DataFrame, near: float) -> np.ndarray:
    """Return of which rows either of two labels may come first, (rows,): none where an answer is no single label."""
    if "probabilities" not in measured.columns or not measured["answer"].is_in(labels(measured)).all():
        return np.zeros(len(measured), bool)
    return np.ptp(np.sort(matrix(measured), axis=1)[:, -2:], axis=1) <= near


def _written(measured: pl.DataFrame) -> bool:
    return "probabilities" not in measured.columns and measured["answer"].dtype == pl.String
