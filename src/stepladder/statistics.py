"""Statistics: how sure a number is, and whether two candidates differ, from saved predictions by resampling rows.

Bootstrap intervals: Efron 1987, "Better bootstrap confidence intervals" (BCa), by scipy.stats.bootstrap. Paired test:
swap the two answers to the same row (Fisher-Pitman permutation), by scipy.stats.permutation_test. Equal seeds give
equal numbers.
"""

import warnings
from collections.abc import Callable
from types import ModuleType

import numpy as np
import polars as pl

from stepladder import metrics
from stepladder.errors import DataError
from stepladder.predictions import labels

MAX_BCA_ROWS = 5_000  # the jackknife in BCa is quadratic in rows; its correction fades with 1 / rows
BATCH_ELEMENTS = 4_000_000  # resampled row numbers held at once: 32 MB

Values = Callable[[np.ndarray], np.ndarray]  # row numbers (..., rows) -> values of the metric (...)


def interval(
    predictions: pl.DataFrame, metric: str, *, confidence: float, num_resamples: int, seed: int
) -> tuple[float, float]:
    """Return the bootstrap interval of a metric over rows.

    BCa where the metric is made of rows or counts and there are at most 5,000 rows, percentiles otherwise.
    Raises DataError below two rows.
    """
    values, fast = _values(metrics.load(metric), [predictions])
    options = {"confidence_level": confidence, "n_resamples": num_resamples, "rng": np.random.default_rng(seed)}
    return _bootstrap(values, len(predictions), fast, options)


def paired_difference(
    pair: tuple[pl.DataFrame, pl.DataFrame], metric: str, *, confidence: float, num_resamples: int, seed: int
) -> dict[str, float]:
    """Return {difference, low, high, p_value}: by how much the first is better than the second on the same rows.

    The unit is the metric's; the sign is turned where smaller is better, so that above zero always means better.
    p_value is two-sided under the null hypothesis that the two answers to a row may change places.
    Raises DataError when ids or targets differ, or below two rows.
    """
    module, num_rows = metrics.load(metric), len(pair[0])
    values, fast = _values(module, _aligned(*pair))
    sign = 1 if module.GREATER_IS_BETTER else -1

    def difference(rows_a: np.ndarray, rows_b: np.ndarray, axis: int = -1) -> np.ndarray:
        return sign * (values(rows_a) - values(rows_b))

    rows = np.arange(num_rows)
    rng = np.random.default_rng(seed)
    options = {"confidence_level": confidence, "n_resamples": num_resamples, "rng": rng}
    low, high = _bootstrap(lambda index: difference(index, index + num_rows), num_rows, fast, options)
    p_value = _permutation(difference, rows, {"n_resamples": num_resamples, "rng": rng})
    return {"difference": float(difference(rows, rows + num_rows)), "low": low, "high": high, "p_value": p_value}


def _bootstrap(values: Values, num_rows: int, fast: bool, options: dict) -> tuple[float, float]:
    from scipy.stats import bootstrap

    if num_rows < 2:
        raise DataError(f"{num_rows} row of predictions; an interval needs at least 2")
    method = "BCa" if fast and num_rows <= MAX_BCA_ROWS else "percentile"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns where all resamples agree; the percentiles below answer that
        result = bootstrap(
            (np.arange(num_rows),), lambda index, axis=-1: values(index), vectorized=True, method=method,
            batch=max(1, BATCH_ELEMENTS // num_rows), **options,
        )  # fmt: skip
    ends = (result.confidence_interval.low, result.confidence_interval.high)
    if not np.isfinite(ends).all():
        tail = (1 - options["confidence_level"]) / 2
        ends = np.nanquantile(result.bootstrap_distribution, [tail, 1 - tail])
    return float(ends[0]), float(ends[1])


def _permutation(difference: Callable, rows: np.ndarray, options: dict) -> float:
    from scipy.stats import permutation_test

    batch = max(1, BATCH_ELEMENTS // len(rows))
    pairs = (rows, rows + len(rows))
    result = permutation_test(pairs, difference, permutation_type="samples", vectorized=True, batch=batch, **options)
    return float(result.pvalue)


def _values(module: ModuleType, frames: list[pl.DataFrame]) -> tuple[Values, bool]:
    """Return the metric as a function of numbers of rows of all frames together, and whether it is cheap."""
    if hasattr(module, "rows"):
        rows = np.concatenate([module.rows(frame) for frame in frames])
        return lambda index: rows[index].mean(axis=-1), True
    if hasattr(module, "counts"):
        counts = np.concatenate([module.counts(frame) for frame in frames])
        return lambda index: np.apply_along_axis(module.combine, -1, _totals(counts, index)), True
    together = pl.concat(frames)
    return lambda index: np.apply_along_axis(lambda chosen: module.compute(together[chosen]), -1, index), False


def _totals(counts: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Return the sums of the chosen rows, (..., k): by multiplicities, so that no (..., rows, k) array is made."""
    chosen = index.reshape(-1, index.shape[-1])
    times = np.stack([np.bincount(one, minlength=len(counts)) for one in chosen])
    return (times @ counts).reshape(*index.shape[:-1], counts.shape[1])


def _aligned(a: pl.DataFrame, b: pl.DataFrame) -> list[pl.DataFrame]:
    """Return both in the order of ids and with the columns and labels of `a`."""
    names = [name for name in a.columns if name in b.columns]
    a, b = (frame.select(names).sort("id") for frame in (a, b))
    for name in {"id", "target"} & set(names):
        if len(a) != len(b) or not a[name].equals(b[name]):
            raise DataError(f"predictions of {len(a)} and {len(b)} rows cannot be paired: their column {name} differs")
    if "probabilities" in names:
        if set(labels(a)) != set(labels(b)):
            raise DataError(f"predictions with labels {labels(a)} and {labels(b)} cannot be paired")
        b = b.with_columns(probabilities=pl.struct(pl.col("probabilities").struct.field(name) for name in labels(a)))
    return [a, b]
