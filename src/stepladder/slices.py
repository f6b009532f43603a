"""Slices: how candidates do on parts of the test rows; by source, length of the input, label, and any other column.

A column of the records makes slices where it has two to twelve values, one of numbers in thirds, so that whatever
`data.columns` names as source, group, rating or under `slices` shows where a candidate is weak.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl

from stepladder import metrics, records, statistics, targets
from stepladder.errors import DataError

MAX_VALUES = 12
MIN_ROWS = 20  # below it an interval says nothing
NOT_CUT = {"id", "input", "target", "timestamp"}


def of(frames: dict[str, pl.DataFrame], rows: pl.DataFrame, board: dict, baseline: str | None) -> list[dict]:
    """Return {by, value, rows, scores: {candidate: {metric: [value, low, high]}}, differences} of each slice.

    frames: aligned test predictions; rows: the records of the test split; board: seed, task, metric, gate. By label,
    means over rows alone are told, since other metrics want all labels. differences: {candidate: [value, low, high]} to
    the baseline in the metric that decides, above zero is better.
    Raises DataError where the records are not those that were answered.
    """
    first, rows = next(iter(frames.values())), rows.sort("id")
    if not rows["id"].equals(first["id"]):
        raise DataError(f"{len(rows)} records of the test split are not the {len(first)} rows that were answered")
    found = []
    for by, value, inside in cuts(rows, board["task"]):
        if inside.sum() >= MIN_ROWS:
            parts = {name: frame.filter(inside) for name, frame in frames.items()}
            scored = _scored(parts, board, baseline, by_label=by == "label")
            found.append({"by": by, "value": value, "rows": int(inside.sum())} | scored)
    return found


def cuts(rows: pl.DataFrame, task: str) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield (by, value, which rows) of every slice of records."""
    yield from _thirds("length", rows["input"].str.count_matches(r"\S+"), " words")
    for name in (name for name in rows.columns if name not in NOT_CUT):
        column = rows[name]
        if column.dtype.is_numeric():
            yield from _thirds(name, column, "")
        elif 2 <= column.n_unique() <= MAX_VALUES:
            for value in sorted(column.drop_nulls().unique()):
                yield name, value, (column == value).fill_null(False).to_numpy()
        elif name not in records.COLUMNS:  # of a person's own table, where numbers are text
            numbers = column.cast(pl.Float64, strict=False)
            yield from _thirds(name, numbers, "") if numbers.null_count() == column.null_count() else ()
    if task in records.LABELLED:
        held = [targets.several(target) if task == "multilabel" else [target] for target in rows["target"]]
        for label in sorted(targets.counts(rows["target"], task)):
            yield "label", label, np.array([label in labels for labels in held])


def _thirds(by: str, column: pl.Series, unit: str) -> Iterator[tuple[str, str, np.ndarray]]:
    values = column.to_numpy().astype(float)
    known = np.unique(values[np.isfinite(values)])
    if len(known) < 2:
        return
    ends = np.quantile(values[np.isfinite(values)], [1 / 3, 2 / 3], method="inverted_cdf")
    for low, high in zip([-np.inf, *ends], [*ends, np.inf], strict=True):
        inside = known[(known > low) & (known <= high)]
        if len(inside):
            value = f"{inside[0]:g} to {inside[-1]:g}{unit}" if len(inside) > 1 else f"{inside[0]:g}{unit}"
            yield by, value, np.isin(values, inside)


def _scored(frames: dict[str, pl.DataFrame], board: dict, baseline: str | None, *, by_label: bool) -> dict:
    metric, confidence = board["metric"], board["gate"]["confidence"]
    names = [name for name in metrics.names(board["task"]) if not by_label or hasattr(metrics.load(name), "rows")]
    numbers = {(one, name): (name, frame) for one, frame in frames.items() for name in names}
    options = {"num_resamples": board["gate"]["num_resamples"], "seed": board["seed"]}
    found = statistics.resampled(numbers, **options)
    scores = {one: {} for one in frames}
    for (one, name), number in found.items():
        if np.isfinite(number.value):
            scores[one][name] = _told(number, confidence)
    differences = {}
    for one in frames if metric in scores.get(baseline, {}) else ():
        if one != baseline and metric in scores[one]:
            better = metrics.load(metric).GREATER_IS_BETTER
            gain = found[one, metric].better_than(found[baseline, metric], greater_is_better=better)
            differences[one] = _told(gain, confidence)
    return {"scores": scores, "differences": differences}


def _told(number: statistics.Resampled, confidence: float) -> list[float]:
    return [float(number.value), *statistics.ends(number, confidence)]
