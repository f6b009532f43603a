"""Gate: what the best candidate must show before it is registered; every condition is measured and written down.

{"name": "retention.gain", "value": -0.02, "by": "low", "at_least": -0.05, "at_most": None, "passed": True}
The first is the superiority over the best baseline, the others are what gate.require asks, in its order. A name is a
metric of the task on test, slices.<metric> (the worst slice of the test rows), <probe>.<measure>, or
price.<what>: training, answering and latency (seconds; of a row, asked among many and alone, its 95th percentile),
money (conf/price) and energy (kWh) before the first answer, memory and disk (bytes).
"""

import re

from stepladder import fingerprints, schema, verdict
from stepladder.errors import unknown
from stepladder.schema import Problem

ENDS = {"value": 0, "low": 1, "high": 2}
METERED = ("price.latency", "price.energy")  # by runtime.meter alone


def problems(found: dict) -> list[Problem]:
    """Return what no candidate could ever show of what a composed gate requires."""
    known = fingerprints.metrics(found["task"]["name"])
    probes = {probe: schema.constant("probes", probe, "MEASURES") for probe in schema.names("probes")}
    kinds, wrong = {"slices": known, "price": verdict.PAID, **probes}, []
    for name, bound in found["gate"]["require"].items():
        place, (first, _, rest) = f"gate.require.{name}", name.partition(".")
        if bound.get("at_least") is None and bound.get("at_most") is None:
            wrong.append((place, "it bounds nothing; give at_least or at_most"))
        if rest and first in kinds and not named(rest, kinds[first]):
            wrong.append((place, unknown(f"measure of {first}" if first in probes else first, rest, kinds[first])))
        elif first not in (kinds if rest else known):
            names = [*known, *(f"{each}.<name>" for each in kinds)]
            wrong.append((place, unknown("measure", name, names)))
        elif bound.get("by", "value") != "value" and first == "price":
            wrong.append((f"{place}.by", f"{name} has no interval; leave it out"))
    return wrong


def unasked(found: dict, candidates: list[dict]) -> list[Problem]:
    """Return the requirements of a composed gate that no composed candidate measures: they would shut it for ever."""
    wrong = []
    for name in found["gate"]["require"]:
        place, (probe, _, rest) = f"gate.require.{name}", name.partition(".")
        asked = [each for each in candidates if probe in (each["probe"] or ())]
        if name in METERED and not any(each["runtime"]["meter"] for each in candidates):
            wrong.append((place, "it is not measured without set: {runtime: {meter: true}}"))
        elif probe in schema.names("probes") and not asked:
            wrong.append((place, f"no candidate is asked by it; add probe: {probe} to a row"))
        elif asked and not named(rest, names := {told for each in asked for told in measures(probe, each)}):
            wrong.append((place, f"as it is set, the probe does not measure it. {unknown('measure', rest, names)}"))
    return wrong


def measures(probe: str, found: dict) -> list[str]:
    """Return the names of what a probe measures of a composed candidate, groups of words and labels written out."""
    groups = {line[0] for line in found["probe"][probe].get("words") or () if line}
    labels = found["task"]["labels"] or ("<label>",)
    told = [name for name, need in schema.literal("probes", probe, "MEASURES").items() if _holds(found, need)]
    names = [name.replace("<group>", group) for name in told for group in (groups if "<group>" in name else ("",))]
    return [name.replace("<label>", label) for name in names for label in (labels if "<label>" in name else ("",))]


def _holds(found: dict, need: str | None) -> bool:
    """Say whether a composed candidate has what a measure hangs on: "data.canaries" set, or "level.name=finetune"."""
    path, _, value = (need or "").partition("=")
    for key in filter(None, path.split(".")):
        found = found[key]
    return str(found) == value if value else not need or bool(found)


def named(name: str, names) -> bool:
    """Say whether a name is among the names, of which a part in angle brackets stands for any text."""
    return any(re.fullmatch(".+".join(map(re.escape, re.split(r"<\w+>", each))), name) for each in names)


def judged(board: dict, registration: dict) -> dict:
    """Return the registration with its conditions; it passes where all of them do, and says which do not.

    The first is that which the registration itself tells: the best on validation beats the best baseline.
    """
    name = registration["candidate"]
    told = registration | {"conditions": [superiority(board, name)]}
    return with_conditions(told, conditions_of(board, name))


def superiority(board: dict, name: str) -> dict:
    """Return the condition that a candidate beats the best baseline, which cannot show that of itself."""
    found, baseline = _row(board, name)["difference"], board["decision"]["best_baseline"]
    wanted = f"{board['metric']} over the best baseline, {baseline}"
    return above(wanted, found and found["low"], board["gate"]["min_difference"])


def above(name: str, low: float | None, least: float) -> dict:
    """Return the condition that the low end of an interval lies above `least`; None was not measured."""
    passed = low is not None and bool(low > least)
    return {"name": name, "value": low, "by": "low", "at_least": least, "at_most": None, "passed": passed}


def with_conditions(registration: dict, conditions: list[dict]) -> dict:
    """Return the registration with these conditions added to its own."""
    failed = [said(condition) for condition in conditions if not condition["passed"]]
    reason = "; ".join([registration["reason"], *(f"the gate is shut: {text}" for text in failed)])
    passed = registration["passed"] and not failed
    kept = [*registration.get("conditions", []), *conditions]
    return registration | {"passed": passed, "reason": reason, "conditions": kept}


def conditions_of(board: dict, name: str) -> list[dict]:
    """Return each requirement of the gate as it was measured for a candidate; what was not measured does not pass."""
    row, found = _row(board, name), []
    for key, bound in board["gate"]["require"].items():
        by = bound.get("by", "value")
        value, low, high = _measured(board, row, key, by), bound.get("at_least"), bound.get("at_most")
        passed = value is not None and (low is None or value >= low) and (high is None or value <= high)
        found.append({"name": key, "value": value, "by": by, "at_least": low, "at_most": high, "passed": passed})
    return found


def said(condition: dict) -> str:
    """Return a condition in words."""
    end = "" if condition["by"] == "value" else f" ({condition['by']})"
    touching = condition["value"] == condition["at_least"] and not condition["passed"]  # a difference that lies above
    words = {"at_least": "more than" if touching else "at least", "at_most": "at most"}
    bounds = [f"{word} {condition[key]:g}" for key, word in words.items() if condition[key] is not None]
    value = "was not measured" if condition["value"] is None else f"is {condition['value']:g}{end}"
    return f"{condition['name']} {value}, wanted {' and '.join(bounds)}"


def _row(board: dict, name: str) -> dict:
    return next(row for row in board["rows"] if row["candidate"] == name)


def _measured(board: dict, row: dict, key: str, by: str) -> float | None:
    first, _, rest = key.partition(".")
    if not rest:
        held = [row["metrics"]["test"].get(key), *row["intervals"].get(key, (None, None))]
        return held[ENDS[by]]
    if first == "price":
        return board["prices"][row["candidate"]]["paid"][rest]
    if first == "slices":
        held = [part["scores"].get(row["candidate"], {}).get(rest) for part in board["slices"]]
        values = [ends[ENDS[by]] for ends in held if ends]
        from stepladder import metrics

        worst = min if metrics.load(rest).GREATER_IS_BETTER else max
        return worst(values, default=None)
    return row["risks"].get(first, {}).get(rest, {}).get(by)
