"""Combining: an adapter for each source of the training rows, and what is said of the combination.

The combination itself is peft's: `adapters.combine`. A candidate with adapters of three domains competes with one that
was trained on the rows of all three.
"""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl

from stepladder import records
from stepladder.errors import DataError

FACTS = "facts.json"
SUMS = ("rows_seen", "rows_cut", "num_steps", "examples_seen", "tokens_seen", "steps_skipped", "num_trained_parameters")


def sources(train: pl.DataFrame, val: pl.DataFrame) -> list[str]:
    """Return the names of the sources of train, sorted; DataError for a row without one, or none of it in val."""
    for part, frame in (("train", train), ("val", val)):
        if without := frame.filter(pl.col("source").is_null())["id"].head(3).to_list():
            cure = "method.combination trains an adapter for each; name its column, data.columns.source"
            raise DataError(f"{part}: record '{without[0]}' has no source; {cure}")
    found = sorted(set(train["source"]))
    if missing := sorted(set(found) - set(val["source"])):
        raise DataError(
            f"val: no record of source '{missing[0]}', whose adapter would stop by nothing; take split: hash"
        )
    if len(found) == 1:
        raise DataError(
            f"train: every record is of source '{found[0]}'; there is nothing to combine, take method: lora"
        )
    return found


def named(log: Callable, source: str) -> Callable:
    """Return a log that puts the source before each name."""
    return lambda name, *values: log(f"{source}/{name}", *values)


def write(facts: dict, folder: Path) -> None:
    """Write what was seen and reached by one adapter beside it."""
    records.write_json(facts, folder / FACTS)


def read(folder: Path) -> dict:
    """Return what `write` wrote."""
    return json.loads((folder / FACTS).read_text())


def facts(told: dict[str, dict]) -> dict:
    """Return the facts of a combination from those of its adapters: sums, the latest epoch, and each by its source."""
    first = next(iter(told.values()))
    shared = {key: first[key] for key in ("level", "monitor", "precision", "num_parameters")}
    sums = {key: sum(each[key] for each in told.values()) for key in SUMS}
    return {**shared, **sums, "best_epoch": max(each["best_epoch"] for each in told.values()), "adapters": told}
