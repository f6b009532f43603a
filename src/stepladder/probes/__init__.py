"""Probes: questions to a trained candidate beyond its test set, one file each; the folder is the registry.

A probe is a function `measure(asked, *, ...) -> (measures, rows)` whose keyword-only parameters are the keys of its
file in conf/probe/. A measure is {"value", "low", "high", "num_items"}, with "p_value" where it is a difference; rows
are the outcome of each item. Where it does not suit every candidate it says so: `TASK` names the tasks, `FORM` what
answers (baseline, head, seq2seq, causal), and `BECAUSE` why. `MEASURES` maps all that it measures, a part that hangs on
settings or data as <label>, to the setting without which it is not measured, so that the gate may ask for what will be
there. What it reads beside the candidate's own records is named by its parameters: `data`, a data set of params.yaml,
of which it gets the test part, and `asset`, an archive.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl

from stepladder import statistics


@dataclass(frozen=True)
class Asked:
    """A trained candidate as it is served, the records it knows, and what it was made of.

    `read` gives the train records it saw or its test records, `data` the test part of another data set by its name;
    `archives` are the files of assets by the probe's name, `base` the folder of what was tuned, None where nothing was.
    `options` are those of the intervals: confidence, num_resamples, seed. `canaries`: how many of each kind it read.
    """

    level: object
    read: Callable[[str], pl.DataFrame]
    data: Callable[[str], pl.DataFrame]
    archives: dict[str, Path]
    base: Path | None
    options: dict
    canaries: int | None = None

    @property
    def answerer(self):
        """The language model with all it needs to answer."""
        return self.level.answerer

    def sample(self, rows: pl.DataFrame, max_rows: int) -> pl.DataFrame:
        """Return at most so many rows, chosen by the seed."""
        return rows.sample(min(max_rows, len(rows)), seed=self.options["seed"])

    def measured(self, rows: pl.DataFrame, metric: ModuleType) -> dict[str, float]:
        """Return a metric of predictions with its interval; the module, so that the probe's fingerprint covers it."""
        low, high = statistics.interval(rows, _name(metric), **self.options)
        return {"value": metric.compute(rows), "low": low, "high": high, "num_items": len(rows)}

    def gain(self, rows: pl.DataFrame, other: pl.DataFrame, metric: ModuleType) -> dict[str, float]:
        """Return by how much `rows` are better than `other` on the same items; below zero they are worse."""
        found = statistics.paired_difference((rows, other), _name(metric), **self.options)
        return {"value": found.pop("difference"), **found, "num_items": len(rows)}


def numbers(rows: pl.DataFrame, values: np.ndarray) -> pl.DataFrame:
    """Return numbers that are not negative as answers whose mean absolute error, from zero, is their mean."""
    return rows.select("id", target=pl.lit(0.0), answer=pl.Series(values))


def load(name: str) -> ModuleType:
    """Return `probes/<name>.py`; schema.yaml has no other name."""
    return importlib.import_module(f"{__name__}.{name}")


def _name(module: ModuleType) -> str:
    return module.__name__.rpartition(".")[2]
