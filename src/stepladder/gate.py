"""Gate: what the best candidate must show before it is registered; every condition is measured and written down.

{"name": "retention.gain", "value": -0.02, "by": "low", "at_least": -0.05, "at_most": None, "passed": True}
A name is a metric of the task on test, slices.<metric> (the worst slice of the test rows), <probe>.<measure>, or
price.<what>: training, answering and latency (seconds; of a row, asked among many and alone, its 95th percentile),
money (conf/price) and energy (kWh) before the first answer, memory and disk (bytes).
"""

from stepladder import fingerprints, schema, verdict
from stepladder.errors import unknown
from stepladder.schema import Problem

ENDS = {"value": 0, "low": 1, "high": 2}


def problems(found: dict) -> list[Problem]:
    """Return what no candidate could ever show of what a composed gate requires."""
    known = fingerprints.metrics(found["task"]["name"])
    asked = sorted(file.stem for file in (schema.PACKAGE / "probes").glob("[a-z]*.py"))
    wrong = []
    for name, bound in found["gate"]["require"].items():
        place, (first, _, rest) = f"gate.require.{name}", name.partition(".")
        kinds = {"slices": known, "price": verdict.PAID}
        if bound.get("at_least") is None and bound.get("at_most") is None:
            wrong.append((place, "it bounds nothing; give at_least or at_most"))
        if rest and first in kinds and rest not in kinds[first]:
            wrong.append((place, unknown(first, rest, kinds[first])))
        elif first not in ({*kinds, *asked} if rest else known):
            names = [*known, *(f"{each}.<name>" for each in (*kinds, *asked))]
            wrong.append((place, unknown("measure", name, names)))
        elif bound.get("by", "value") != "value" and (
            first == "price" or (not rest and name != found["task"]["metric"])
        ):
            wrong.append((f"{place}.by", f"{name} has no interval; leave it out"))
    return wrong


def unasked(found: dict, asked: set[str]) -> list[Problem]:
    """Return the requirements of probes that no candidate names, which would shut the gate for ever."""
    probes = {name.partition(".")[0]: name for name in found["gate"]["require"] if name.partition(".")[2]}
    cure = "no candidate is asked by it; add probe: {} to a row"
    others = ("slices", "price", *asked)
    return [(f"gate.require.{probes[each]}", cure.format(each)) for each in probes if each not in others]


def judged(board: dict, registration: dict) -> dict:
    """Return the registration with its conditions; it passes where all of them do, and says which do not."""
    conditions = conditions_of(board, registration["candidate"])
    return with_conditions(registration, conditions)


def with_conditions(registration: dict, conditions: list[dict]) -> dict:
    """Return the registration with these conditions added to its own."""
    failed = [said(condition) for condition in conditions if not condition["passed"]]
    reason = "; ".join([registration["reason"], *(f"the gate is shut: {text}" for text in failed)])
    passed = registration["passed"] and not failed
    kept = [*registration.get("conditions", []), *conditions]
    return registration | {"passed": passed, "reason": reason, "conditions": kept}


def conditions_of(board: dict, name: str) -> list[dict]:
    """Return each requirement of the gate as it was measured for a candidate; what was not measured does not pass."""
    row = next(row for row in board["rows"] if row["candidate"] == name)
    found = []
    for key, bound in board["gate"]["require"].items():
        by = bound.get("by", "value")
        value, low, high = _measured(board, row, key, by), bound.get("at_least"), bound.get("at_most")
        passed = value is not None and (low is None or value >= low) and (high is None or value <= high)
        found.append({"name": key, "value": value, "by": by, "at_least": low, "at_most": high, "passed": passed})
    return found


def said(condition: dict) -> str:
    """Return a condition in words."""
    end = "" if condition["by"] == "value" else f" ({condition['by']})"
    bounds = [f"{word} {condition[key]:g}" for word, key in (("at least", "at_least"), ("at most", "at_most"))
              if condition[key] is not None]  # fmt: skip
    value = "was not measured" if condition["value"] is None else f"is {condition['value']:g}{end}"
    return f"{condition['name']} {value}, wanted {' and '.join(bounds)}"


def _measured(board: dict, row: dict, key: str, by: str) -> float | None:
    first, _, rest = key.partition(".")
    if not rest:
        return row["metrics"]["test"].get(key) if by == "value" else row["score"][by]
    if first == "price":
        return board["prices"][row["candidate"]]["paid"][rest]
    if first == "slices":
        held = [part["scores"].get(row["candidate"], {}).get(rest) for part in board["slices"]]
        values = [ends[ENDS[by]] for ends in held if ends]
        from stepladder import metrics

        worst = min if metrics.load(rest).GREATER_IS_BETTER else max
        return worst(values, default=None)
    return row["risks"].get(first, {}).get(rest, {}).get(by)
