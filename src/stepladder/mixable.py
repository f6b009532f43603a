"""Mixable: which further data sets the model of a candidate can learn from."""

from stepladder import compose, shipped
from stepladder.schema import Problem

HEADED = ("classification", "multilabel", "regression")
WRITTEN = ("classification", "generation", "language_modeling")


def problems(found: dict) -> list[Problem]:
    """Return what keeps the model of a candidate from learning from its further data sets."""
    chosen, own = compose.weights(found), found["task"]["name"]
    method, headed = found["method"] or {}, (found["objective"] or {}).get("name") == "supervised"
    fit, way = (HEADED, "a head") if headed else (WRITTEN, "a model that writes")
    fit = fit if found["prompt"] or headed else ("language_modeling",)
    way = way if found["prompt"] or headed else "a model that is asked nothing"
    if not chosen:
        return []
    if wrong := shipped.unknown_data(found["mixture"]):
        return wrong
    unfit = [f"{name} is {task['name']}" for name, task in compose.tasks(found).items() if task["name"] not in fit]
    alone = "a frozen backbone learns nothing from other data; take another method"
    rules = [
        (found["data"]["name"] in chosen, f"{found['data']['name']} is the candidate's own data; its weight is 1"),
        (unfit, f"{way} learns {' or '.join(fit)}, and {', '.join(unfit)}"),
        (method.get("name") == "frozen", alone),
        (method.get("combination"), "an adapter for each source learns from that source alone; take method: lora"),
        (own == "language_modeling" and found["model"]["kind"] == "encoder", "an encoder models no raw text"),
    ]
    return [("mixture.weights", text) for broken, text in rules if broken]
