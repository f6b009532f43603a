"""Comparison: what the predictions of all candidates say together.

Candidates answer the same rows, which are drawn once for all of them (statistics.resampled).
"""

import statistics as numbers
from collections import defaultdict

import polars as pl

from stepladder import significance, slices, statistics

PRICES = {  # what is paid -> how it follows from a row of `prices`; None where it was not measured
    "training": lambda price: _sum(price["sweep_seconds"] or 0, price["train_seconds"]),
    "answering": lambda price: 1 / price["examples_per_second"] if price["examples_per_second"] else None,
    "latency": lambda price: price["latency"][0]["p95"] if price["latency"] else None,
    "money": lambda price: price["made"] and price["made"]["money"],
    "energy": lambda price: price["made"] and price["made"]["energy_kwh"],
    "memory": lambda price: price["peak_memory_bytes"],
    "disk": lambda price: _sum(price["model_bytes"], price["base_bytes"]),
}


def of(rows: list[dict], frames: dict[str, pl.DataFrame], *, board: dict, records: pl.DataFrame) -> dict:
    """Return {pairs, seeds, slices} and put rank, group, intervals, difference and the score's ends into ranked rows.

    frames: test predictions of each candidate; records: the test split; board: seed, task, metric, gate. difference:
    the row of `pairs` about a candidate and the best baseline, None where there is no other.
    """
    if not rows:
        return {"pairs": [], "seeds": [], "slices": []}
    metric, confidence = board["metric"], board["gate"]["confidence"]
    options = {"num_resamples": board["gate"]["num_resamples"], "seed": board["seed"]}
    names = [row["candidate"] for row in rows]
    frames = dict(zip(names, statistics.aligned([frames[name] for name in names]), strict=True))
    found = {name: {} for name in names}
    wanted = {(name, key): (key, frames[name]) for name, key in _defined(rows)}
    for (name, key), number in statistics.resampled(wanted, **options).items():
        found[name][key] = number
    decisive = {name: found[name][metric] for name in names}
    pairs = significance.pairs(frames, decisive, metric, confidence=confidence, **options)
    groups = significance.groups(names, pairs, confidence=confidence)
    baseline = next((row["candidate"] for row in rows if row["level"] == "baseline"), None)
    for rank, row in enumerate(rows, start=1):
        name = row["candidate"]
        ends = {key: statistics.ends(number, confidence) for key, number in found[name].items()}
        row |= {"rank": rank, "group": groups[name], "intervals": ends}
        row["difference"] = None if baseline in (None, name) else between(pairs, name, baseline)
        row["score"] |= dict(zip(("low", "high"), ends[metric], strict=True))
    return {"pairs": pairs, "seeds": seeds(rows), "slices": slices.of(frames, records, board, baseline)}


def between(pairs: list[dict], a: str, b: str) -> dict:
    """Return the row of `pairs` about two candidates, seen from `a`: above zero where it is better."""
    row = next(row for row in pairs if {row["a"], row["b"]} == {a, b})
    if row["a"] == a:
        return row
    turned = {"difference": 0 - row["difference"], "low": 0 - row["high"], "high": 0 - row["low"]}  # no negative zero
    return row | {"a": a, "b": b, "effect": None if row["effect"] is None else 0 - row["effect"]} | turned


def seeds(rows: list[dict]) -> list[dict]:
    """Return {candidates, seeds, val, test} of rows that differ in `seed` alone; val and test: {mean, deviation}.

    deviation: of the sample (n - 1), in the unit of the metric that decides.
    """
    alike = defaultdict(list)
    for row in rows:
        alike[row["settings"]].append(row)
    return [
        {"candidates": [row["candidate"] for row in same], "seeds": [row["seed"] for row in same]}
        | {part: _spread([row["score"][part] for row in same]) for part in ("val", "test")}
        for same in alike.values() if len(same) > 1
    ]  # fmt: skip


def worth(board: dict) -> dict[str, dict]:
    """Return {paid: {price: cost}, best_at_price_of: prices} of each candidate, from the rows and prices of a board.

    It is best at a price where none is better for as little, nor as good for less (Pareto).
    """
    sign, rows = 1 if board["greater_is_better"] else -1, {row["candidate"]: row for row in board["rows"]}
    found = {name: {"paid": {}, "best_at_price_of": []} for name in rows}
    for kind, price in PRICES.items():
        for name in rows:
            found[name]["paid"][kind] = price(board["prices"][name])
        paid = {name: found[name]["paid"][kind] for name in rows if found[name]["paid"][kind] is not None}
        points = {name: (cost, -sign * rows[name]["score"]["test"]) for name, cost in paid.items()}
        for name, point in points.items():
            beaten = any(at != point and at[0] <= point[0] and at[1] <= point[1] for at in points.values())
            found[name]["best_at_price_of"] += [] if beaten else [kind]
    return found


def _defined(rows: list[dict]) -> list[tuple[str, str]]:
    """Return candidate and metric of each test score that there is."""
    return [
        (row["candidate"], key) for row in rows for key, value in row["metrics"]["test"].items() if value is not None
    ]


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": numbers.fmean(values), "deviation": numbers.stdev(values)}


def _sum(*parts: float | None) -> float | None:
    return None if None in parts else sum(parts)
