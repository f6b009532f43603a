"""Latency: how long a trained candidate takes to answer one row, and how many rows a second it answers in batches.

[{"rows": 1, "calls": 41, "p50": 0.021, "p95": 0.034, "rows_per_second": 45.2}, {"rows": 4, ...}]
"""

import contextlib
import io
import itertools
import statistics
import time
from collections.abc import Callable

import polars as pl

SIZES = (1, 4, 16, 64, 256)  # rows that are asked together
CALLS = (3, 100)  # of each size: at least, at most
SECONDS = 1.5  # for the calls of a size, as far as CALLS lets them
FASTER = 1.1  # a larger batch is tried while the last one was that many times as fast,
SLOW_S = 1.0  # and while a call of it took no longer


def of(predict: Callable[[pl.DataFrame], pl.DataFrame], records: pl.DataFrame) -> list[dict]:
    """Return rows, calls, the median and 95th percentile of a call in seconds and rows a second, for growing batches.

    The first call warms up and is not counted. The last batch is the first that is not worth its size or that takes
    longer than SLOW_S, or all records.
    """
    found = []
    with contextlib.redirect_stdout(io.StringIO()):  # each call says what it does
        predict(records.head(1))
        for size in (size for size in SIZES if size <= len(records)):
            found.append(_timed(predict, records, size))
            slower = len(found) > 1 and found[-1]["rows_per_second"] < FASTER * found[-2]["rows_per_second"]
            if slower or found[-1]["p50"] > SLOW_S:
                break
    return found


def _timed(predict: Callable, records: pl.DataFrame, size: int) -> dict:
    taken, least, most = [], *CALLS
    starts = itertools.cycle(range(0, len(records) - size + 1, size))
    while len(taken) < least or (len(taken) < most and sum(taken) < SECONDS):
        rows, started = records.slice(next(starts), size), time.perf_counter()
        predict(rows)
        taken.append(time.perf_counter() - started)
    parts = statistics.quantiles(taken, n=20, method="inclusive")
    rate = size * len(taken) / sum(taken)
    return {"rows": size, "calls": len(taken)} | {
        key: round(value, 6) for key, value in (("p50", parts[9]), ("p95", parts[18]), ("rows_per_second", rate))
    }
