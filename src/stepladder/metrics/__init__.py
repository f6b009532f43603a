"""Metrics: numbers computed from saved predictions; each file of this folder is one metric, its name the file's.

A metric has TASK, GREATER_IS_BETTER and compute(predictions) -> float. It may add one of three forms that make
bootstraps fast: rows(predictions) -> (rows,) where it is their mean; counts(predictions) -> (rows, k) and
combine(totals), (..., k) -> (...), where it is a function of their sums; weighted(predictions, times), where times says
how often each row counts, (choices, rows) -> (choices,). Beside weighted, without(predictions) -> (rows,) tells it
without each row where there is a shorter way than a pass over all rows for each.
"""

import importlib
import math
import pkgutil
from functools import cache
from types import ModuleType

import polars as pl

from stepladder.errors import ConfigError, unknown


def names(task: str | None = None) -> list[str]:
    """Return the names of all metrics, or of those of one task, sorted."""
    return [name for name in _found() if task is None or task == load(name).TASK]


def load(name: str) -> ModuleType:
    """Return the metric of this name; ConfigError names the nearest one."""
    if name not in _found():
        raise ConfigError(unknown("metric", name, _found()))
    return importlib.import_module(f"{__name__}.{name}")


def evaluate(predictions: pl.DataFrame, task: str) -> dict[str, float | None]:
    """Return every metric of the task; None where it is not defined, as ROC-AUC of targets of one class."""
    values = {name: load(name).compute(predictions) for name in names(task)}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


@cache
def _found() -> tuple[str, ...]:
    """Return the names of this folder's files, listed once: each validation asks for all of them."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))
