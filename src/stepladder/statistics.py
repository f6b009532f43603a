"""Statistics: how sure a number is, and whether two candidates differ, from saved predictions by resampling rows.

Bootstrap intervals: Efron 1987, "Better bootstrap confidence intervals" (BCa), as scipy.stats.bootstrap computes them,
but the rows are drawn once for all numbers that are asked of them. Paired test: swap the two answers to the same row
(Fisher-Pitman permutation). Equal seeds give equal numbers.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl

from stepladder import metrics
from stepladder.errors import DataError
from stepladder.predictions import labels

BATCH_ELEMENTS = 500_000  # numbers of rows held at once: 4 MB, which stay near the processor
MOST_LEFT_OUT = 2_500  # rows that are left out in turn where that takes a pass over all rows each: about a second
SWAPS = 1  # the permutation's own stream of random numbers beside that of the bootstrap

Values = Callable[[np.ndarray], np.ndarray]  # how often each row counts, (choices, rows) -> the metric, (choices,)


class Resampled(NamedTuple):
    """A number, the same of each resample of the rows, and without each row (empty where percentiles must do)."""

    value: np.ndarray  # ()
    drawn: np.ndarray  # (resamples,)
    without: np.ndarray  # (rows,) or (0,)

    def better_than(self, other: "Resampled", *, greater_is_better: bool = True) -> "Resampled":
        """Return by how much it is better, above zero, on the same rows."""
        sign = 1 if greater_is_better else -1
        return Resampled(*(sign * (one - its) for one, its in zip(self, other, strict=True)))


def interval(
    predictions: pl.DataFrame, metric: str, *, confidence: float, num_resamples: int, seed: int
) -> tuple[float, float]:
    """Return the bootstrap interval of a metric over rows.

    BCa; percentiles where a metric has no form but `compute`, or is `weighted` alone and of more than MOST_LEFT_OUT
    rows. Raises DataError below two rows.
    """
    found = resampled({metric: (metric, predictions)}, num_resamples=num_resamples, seed=seed)
    return ends(found[metric], confidence)


def paired_difference(
    pair: tuple[pl.DataFrame, pl.DataFrame], metric: str, *, confidence: float, num_resamples: int, seed: int
) -> dict[str, float]:
    """Return {difference, low, high, p_value}: by how much the first is better than the second on the same rows.

    The unit is the metric's; the sign is turned where smaller is better, so that above zero always means better.
    p_value is two-sided under the null hypothesis that the two answers to a row may change places.
    Raises DataError when ids or targets differ, or below two rows.
    """
    pair, better = aligned(pair), metrics.load(metric).GREATER_IS_BETTER
    numbers = {place: (metric, frame) for place, frame in enumerate(pair)}
    one, other = resampled(numbers, num_resamples=num_resamples, seed=seed).values()
    gain = one.better_than(other, greater_is_better=better)
    low, high = ends(gain, confidence)
    p_value = permutation(pair, metric, num_resamples=num_resamples, seed=seed)
    return {"difference": float(gain.value), "low": low, "high": high, "p_value": p_value}


def resampled(numbers: dict, *, num_resamples: int, seed: int) -> dict:
    """Return Resampled of each of {key: (metric, predictions)}; all predictions are of equally many rows.

    The same rows are drawn for all of them, so that those of two candidates may be subtracted.
    Raises DataError below two rows.
    """
    num_rows = len(next(iter(numbers.values()))[1])
    if num_rows < 2:
        raise DataError(f"{num_rows} row of predictions; an interval needs at least 2")
    forms = {key: counted(*number) for key, number in numbers.items()}
    values = {key: function for key, (function, _) in forms.items()}
    whole, drawn = _told(values, [np.ones((1, num_rows))]), _told(values, _draws(num_rows, num_resamples, seed))
    return {key: Resampled(whole[key][0], drawn[key], without()) for key, (_, without) in forms.items()}


def counted(metric: str, predictions: pl.DataFrame) -> tuple[Values, Callable[[], np.ndarray]]:
    """Return the metric as a function of how often each row counts, and a function that tells it without each row.

    The latter gives (rows,), or nothing, (0,), where that would take too long: a metric that has no form but `compute`,
    or `weighted` alone of more than MOST_LEFT_OUT rows.
    """
    module = metrics.load(metric)
    if hasattr(module, "rows"):
        rows = module.rows(predictions)
        ones = np.ones(len(rows))
        return lambda times: times @ rows / (times @ ones), lambda: (rows.sum() - rows) / max(len(rows) - 1, 1)
    if hasattr(module, "counts"):
        counts = module.counts(predictions)
        return lambda times: module.combine(times @ counts), lambda: module.combine(counts.sum(axis=0) - counts)
    if hasattr(module, "weighted"):
        weighted, num_rows = partial(module.weighted, predictions), len(predictions)
        slow = partial(_left_out, weighted, num_rows if num_rows <= MOST_LEFT_OUT else 0)
        return weighted, partial(module.without, predictions) if hasattr(module, "without") else slow
    repeated = lambda row: predictions[np.repeat(np.arange(len(row)), row.astype(int))]  # noqa: E731
    return lambda times: np.array([module.compute(repeated(row)) for row in times]), lambda: np.zeros(0)


def ends(number: Resampled, confidence: float) -> tuple[float, float]:
    """Return low and high of the interval: BCa, or percentiles where BCa is not defined or was not prepared."""
    from scipy.special import ndtr, ndtri

    tail = (1 - confidence) / 2
    shares = np.array([tail, 1 - tail])
    leaning = number.without.mean() - number.without if len(number.without) else np.zeros(1)
    near = 1e-12 * max(1.0, abs(number.value))  # rounding, as of 0.83 - 0.80 beside 0.82 - 0.79, makes no tie unequal
    below = ((number.drawn < number.value - near).mean() + (number.drawn <= number.value + near).mean()) / 2
    if 0 < below < 1 and (leaning**2).sum() > 0 and np.isfinite(number.drawn).all():
        acceleration = (leaning**3).sum() / (6 * (leaning**2).sum() ** 1.5)
        shifted = ndtri(below) + ndtri(shares)
        shares = ndtr(ndtri(below) + shifted / (1 - acceleration * shifted))
    low, high = np.nanquantile(number.drawn, shares)
    return float(low), float(high)


def permutation(pair: tuple[pl.DataFrame, pl.DataFrame], metric: str, *, num_resamples: int, seed: int) -> float:
    """Return the two-sided p-value of two candidates' difference, both aligned, when their answers change places."""
    num_rows, values = len(pair[0]), counted(metric, pl.concat(pair))[0]
    rng = np.random.default_rng([seed, SWAPS])

    def gaps(kept: np.ndarray) -> np.ndarray:
        return np.abs(values(np.hstack([kept, 1 - kept])) - values(np.hstack([1 - kept, kept])))

    measured = gaps(np.ones((1, num_rows)))[0]
    sizes = _sizes(num_resamples, 2 * num_rows)
    swapped = np.concatenate([gaps(rng.integers(0, 2, (size, num_rows)).astype(float)) for size in sizes])
    return float((1 + (~(swapped < measured * (1 - 1e-12))).sum()) / (1 + num_resamples))  # undefined: as large


def aligned(frames: tuple[pl.DataFrame, ...]) -> tuple[pl.DataFrame, ...]:
    """Return all in the order of ids and with the columns and labels of the first; DataError where they differ."""
    names = [name for name in frames[0].columns if all(name in frame.columns for frame in frames)]
    first, *others = (frame.select(names).sort("id") for frame in frames)
    return (first, *(_as(first, other) for other in others))


def _as(a: pl.DataFrame, b: pl.DataFrame) -> pl.DataFrame:
    for name in {"id", "target"} & set(a.columns):
        if len(a) != len(b) or not a[name].equals(b[name]):
            raise DataError(f"predictions of {len(a)} and {len(b)} rows cannot be paired: their column {name} differs")
    if "probabilities" not in a.columns:
        return b
    if set(labels(a)) != set(labels(b)):
        raise DataError(f"predictions with labels {labels(a)} and {labels(b)} cannot be paired")
    return b.with_columns(probabilities=pl.struct(pl.col("probabilities").struct.field(name) for name in labels(a)))


def _left_out(values: Values, num_rows: int) -> np.ndarray:
    """Return the metric without each of so many rows, (rows,)."""
    found, start = [np.zeros(0)], 0
    for size in _sizes(num_rows, num_rows):
        found.append(values(1.0 - np.eye(size, num_rows, start)))
        start += size
    return np.concatenate(found)


def _told(values: dict, choices: Iterator[np.ndarray] | list) -> dict[object, np.ndarray]:
    found = {key: [np.zeros(0)] for key in values}
    for times in choices:
        for key, function in values.items():
            found[key].append(function(times))
    return {key: np.concatenate(parts) for key, parts in found.items()}


def _draws(num_rows: int, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each row is drawn in each resample, (some resamples, rows)."""
    rng = np.random.default_rng(seed)
    for size in _sizes(num_resamples, num_rows):
        index = rng.integers(0, num_rows, (size, num_rows)) + num_rows * np.arange(size)[:, None]
        yield np.bincount(index.ravel(), minlength=index.size).reshape(index.shape).astype(float)


def _sizes(number: int, num_rows: int) -> list[int]:
    """Return how many choices of so many rows are held at once, in parts that add up to their number."""
    most = max(1, BATCH_ELEMENTS // max(num_rows, 1))
    return [min(most, number - start) for start in range(0, number, most)]
