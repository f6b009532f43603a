"""Significance: which of many candidates differ, how sure that is, and how many rows it would take to know.

{"a": "full", "b": "tfidf", "difference": 0.077, "low": 0.059, "high": 0.097, "p_value": 1e-16, "test": "McNemar",
 "p_holm": 4e-15, "spread": 0.43, "effect": 0.18, "detectable": 0.027, "rows_needed": 245}

McNemar 1947, exact, where a row is right or wrong, by statsmodels; swapped answers elsewhere (statistics.permutation).
Holm 1979, "A simple sequentially rejective multiple test procedure", over all pairs.
"""

import itertools
import math
import string

import numpy as np
import polars as pl

from stepladder import metrics, statistics

POWER = 0.8  # how often a true difference is found: the usual convention (Cohen 1988)


def pairs(frames: dict[str, pl.DataFrame], resampled: dict, metric: str, *, confidence: float, **options) -> list[dict]:
    """Return a row for each pair of candidates, the first one named before the second in `frames`.

    frames: predictions of the same rows, aligned; resampled: statistics.resampled of the metric for each of them;
    options: num_resamples and seed. difference, low, high, detectable: in the metric's unit, above zero where `a` is
    better; spread: the standard deviation of one row's difference; effect: the difference in spreads (Cohen's d of
    pairs); detectable: the smallest true difference that so many rows show at power .8; rows_needed: how many would
    show the measured one, None where there is none.
    """
    found, chosen = [], list(itertools.combinations(frames, 2))
    swaps = max(options["num_resamples"], math.ceil(2 * len(chosen) / (1 - confidence)))  # else Holm finds nothing
    for a, b in chosen:
        gain = resampled[a].better_than(resampled[b], greater_is_better=metrics.load(metric).GREATER_IS_BETTER)
        low, high = statistics.ends(gain, confidence)
        p_value, test = _tested((frames[a], frames[b]), metric, options | {"num_resamples": swaps})
        row = {"a": a, "b": b, "difference": float(gain.value), "low": low, "high": high}
        found.append(row | {"p_value": p_value, "test": test} | _sized(gain, len(frames[a]), 1 - confidence))
    return _corrected(found)


def groups(names: list[str], rows: list[dict], *, confidence: float) -> dict[str, str]:
    """Return letters for each name; two candidates share one exactly where they are not shown to differ after Holm.

    Insert and absorb: Piepho 2004, "An algorithm for a letter-based representation of all-pairwise comparisons".
    """
    found = [frozenset(names)]
    for row in (row for row in rows if row["p_holm"] <= 1 - confidence):
        pair = {row["a"], row["b"]}
        halves = [[group - {name} for name in sorted(pair)] if pair <= group else [group] for group in found]
        split = list(dict.fromkeys(itertools.chain(*halves)))
        found = [group for group in split if not any(group < other for other in split)]
    found.sort(key=lambda group: [names.index(name) for name in sorted(group, key=names.index)])
    marks = string.ascii_lowercase + string.ascii_uppercase
    return {name: "".join(marks[at % 52] for at, group in enumerate(found) if name in group) for name in names}


def rows_needed(difference: float, spread: float, *, alpha: float, power: float = POWER) -> int | None:
    """Return how many rows show a true difference at this power in a two-sided test; None for no difference.

    spread: the standard deviation of one row's difference, in the metric's unit. By the normal approximation, as
    statsmodels' NormalIndPower(ratio=0) solves it.
    """
    return None if difference == 0 else max(2, math.ceil((_standard(alpha, power) * spread / difference) ** 2))


def detectable(num_rows: int, spread: float, *, alpha: float, power: float = POWER) -> float:
    """Return the smallest true difference that so many rows show at this power; the inverse of rows_needed."""
    return float(_standard(alpha, power) * spread / math.sqrt(num_rows))


def _standard(alpha: float, power: float) -> float:
    from scipy.special import ndtri

    return ndtri(1 - alpha / 2) + ndtri(power)


def _tested(pair: tuple, metric: str, options: dict) -> tuple[float, str]:
    module = metrics.load(metric)
    right = [module.rows(frame) for frame in pair] if hasattr(module, "rows") else []
    if not right or not all(np.isin(values, (0, 1)).all() for values in right):
        return statistics.permutation(pair, metric, **options), "permutation"
    from statsmodels.stats.contingency_tables import mcnemar

    one, other = (values == 1 for values in right)
    table = [[int((x & y).sum()) for y in (other, ~other)] for x in (one, ~one)]
    return float(mcnemar(table, exact=True).pvalue), "McNemar"


def _sized(gain: statistics.Resampled, num_rows: int, alpha: float) -> dict:
    drawn = gain.drawn[np.isfinite(gain.drawn)]  # where a resample has no metric, as without a positive row
    if len(drawn) < 2:
        return {"effect": None, "detectable": None, "rows_needed": None}
    spread = float(drawn.std(ddof=1)) * math.sqrt(num_rows)
    return {
        "spread": spread,
        "effect": float(gain.value) / spread if spread > 0 else None,
        "detectable": detectable(num_rows, spread, alpha=alpha),
        "rows_needed": rows_needed(float(gain.value), spread, alpha=alpha),
    }


def _corrected(rows: list[dict]) -> list[dict]:
    if not rows:
        return rows
    from statsmodels.stats.multitest import multipletests

    corrected = multipletests([row["p_value"] for row in rows], method="holm")[1]
    return [row | {"p_holm": float(value)} for row, value in zip(rows, corrected, strict=True)]
