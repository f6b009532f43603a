"""Ledger: what a candidate cost stage by stage, in time, energy and money, from what runs/ holds of it.

{"train": {"seconds": 41.2, "cpu_hours": 0.02, "gpu_hours": 0.0, "tokens": 189512, "energy_kwh": 0.0002,
           "money": 0.001, ...}, ..., "total": {...}}
"""

import os
from pathlib import Path

from stepladder import runs

STAGES = ("fetch", "sweep", "train", "evaluate", "probe")
MADE_BY = ("fetch", "sweep", "train")  # what is paid before a first answer
SUMS = ("seconds", "cpu_hours", "gpu_hours", "tokens", "energy_kwh", "money")
HOUR, MILLION = 3600, 1_000_000
KINDS = ("input", "output")  # of an API's tokens


def of(costs: dict[str, dict], price: dict) -> dict[str, dict]:
    """Return {stage: entry, "total": entry} of the stages that were measured, see runs.known; none without any.

    An entry: seconds (with those of attempts that were stopped, up to their last checkpoint), cpu_hours, gpu_hours and
    energy_kwh (of the process that finished; None where it was not metered), tokens (read; of an API written ones too),
    money (of `price`, see conf/price; None where an API's tokens have none), peak_memory_bytes.
    """
    found = {stage: _entry(costs[stage], price) for stage in STAGES if stage in costs}
    return found | {"total": _total(list(found.values()))} if found else {}


def price(root: Path, row: dict, prices: dict) -> dict:
    """Return what the candidate of a row cost, by stage and in sums, and lies on the disk; None where it is not known.

    prices: see `of`. made: the sums of what is paid before a first answer; latency: see latency.of.
    """
    costs = runs.known(root, row["candidate"])
    found, answering = of(costs, prices), costs.get("evaluate", {})
    memory = [cost["peak_memory_bytes"] for cost in costs.values() if "peak_memory_bytes" in cost]
    return {
        "ledger": found,
        "made": _made(found),
        "sweep_seconds": costs.get("sweep", {}).get("trial_seconds"),
        "train_seconds": costs.get("train", {}).get("fit_seconds"),
        "examples_per_second": answering.get("examples_per_second"),
        "latency": answering.get("latency"),
        "peak_memory_bytes": max(memory, default=None),
        "model_bytes": _size(root / "models" / row["candidate"]),
        "base_bytes": _size(Path(os.environ.get("DVC_ROOT") or root) / row["base"]) if _elsewhere(row["base"]) else 0,
    }


def fastest(latency: list[dict]) -> dict:
    """Return the batch that answers most rows a second, of what latency.of found."""
    return max(latency, key=lambda batch: batch["rows_per_second"])


def _made(found: dict[str, dict]) -> dict | None:
    made = [found[stage] for stage in MADE_BY if stage in found]
    return _total(made) if "train" in found else None


def _entry(cost: dict, price: dict) -> dict:
    seconds = cost["seconds"] + cost.get("earlier_seconds", 0.0)
    gpu_hours, energy = cost.get("gpu_seconds", 0.0) / HOUR, cost.get("energy_kwh")
    money = price["machine_hour"] * seconds / HOUR + price["gpu_hour"] * gpu_hours + price["kwh"] * (energy or 0.0)
    asked = cost.get("api") or {}
    bill = _bill(asked, price["tokens"])
    return {
        "seconds": seconds,
        "cpu_hours": cost["cpu_seconds"] / HOUR,
        "gpu_hours": gpu_hours,
        "tokens": sum(map(_tokens, asked.values())) if asked else cost.get("tokens", 0),
        "energy_kwh": energy,
        "money": None if bill is None else money + bill,
        "peak_memory_bytes": cost["peak_memory_bytes"],
    }


def _tokens(used: dict) -> int:
    return used["input_tokens"] + used["output_tokens"]


def _bill(asked: dict[str, dict], prices: list[dict]) -> float | None:
    """Return what an API takes for the tokens of each model, None where one of them has no price."""
    known = {each["model"]: each for each in prices}
    if missing := asked.keys() - known.keys():
        print(f"price.tokens: no price of {', '.join(sorted(missing))}, so its money is not told", flush=True)
        return None
    parts = [known[model][kind] * used[f"{kind}_tokens"] for model, used in asked.items() for kind in KINDS]
    return sum(parts) / MILLION


def _total(entries: list[dict]) -> dict:
    """Return the sums of the entries, None where one of them lacks the number, and the highest memory."""
    parts = {key: [entry[key] for entry in entries] for key in SUMS}
    sums = {key: None if None in values else sum(values) for key, values in parts.items()}
    return sums | {"peak_memory_bytes": max(entry["peak_memory_bytes"] for entry in entries)}


def _elsewhere(base: str | None) -> bool:
    """Say whether a model's base lies outside its own folder."""
    return bool(base) and not base.startswith("./")


def _size(path: Path) -> int | None:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) if files else None
