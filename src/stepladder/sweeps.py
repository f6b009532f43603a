"""Sweeps: whether a section `sweep` can be searched as it says, and where in its space the candidate itself lies.

The sections must be well formed by themselves (schema.problems); nothing here imports Optuna.
"""

import itertools
from collections.abc import Callable
from functools import partial

from stepladder import schema, spaces
from stepladder.errors import unknown
from stepladder.schema import Problem
from stepladder.spaces import Parameter, Where

NUMERIC = ("cmaes", "qmc")  # samplers of numbers
UNBRANCHED = ("gp", *NUMERIC)  # samplers of spaces in which every parameter always exists
FETCHED = "a model that is fetched is no baseline, whose values alone can be searched; leave it out"
ONE_CHECK = "a trial here validates once; raise trainer.checks_per_epoch, or prune none"
MAX_CORNERS = 16  # of a space that are looked at before anything runs


def problems(sweep: dict) -> list[Problem]:
    """Return what is wrong with a section sweep by itself, beyond its keys and their types."""
    space, found = spaces.read(sweep["parameters"])
    sections, values = (schema.table()[name] for name in ("searchable", "searchable_values"))
    for each in space:
        place, (section, dot, _) = each.place, each.key.partition(".")
        if section not in (known := [*sections, *(values if dot else ())]):
            found.append((place, unknown("section to search in", section, known)))
        elif dot:
            found += [(place, text) for value in each.values for _, text in schema.leaf(each.key, value)]
    return found or faults(space, sweep) + _enqueued(space, sweep)


def faults(space: list[Parameter], plan: dict) -> list[Problem]:
    """Return what is wrong between parameters and the sampler that is to choose among them."""
    sampler, known = plan.get("sampler", "grid"), {each.key for each in space}
    rules = []
    for i, each in enumerate(space):
        options = {value for other in space for value in other.choices if other.key in dict(each.where)}
        twin = [other for other in space[:i] if other.key == each.key and _together(other.where, each.where)]
        endless = not (each.choices or each.step) and sampler == "grid"
        rules += [
            (twin, each, "it stands there twice"),
            (endless, each, "a grid wants values: a list, choice(...) or range(...); or take sampler: tpe"),
            (each.choices and sampler in NUMERIC, each, f"{sampler} searches numbers; take sampler: tpe"),
            (each.where and sampler in UNBRANCHED, each, f"{sampler} wants keys that always exist; take sampler: tpe"),
            *((group not in known, each, unknown("searched group", group, known)) for group, _ in each.where),
            *(
                (option not in options and group in known, each, unknown("searched option", option, options))
                for group, names in each.where
                for option in names
            ),
        ]
    found = [(each.place, text) for broken, each, text in rules if broken]
    if sampler != "grid" and plan.get("n_trials") is None:
        found.append(("sweep.n_trials", f"sampler {sampler} never ends by itself; say how many trials it has"))
    return found


def of_candidate(found: dict) -> list[Problem]:
    """Return what is wrong between a search and its candidate, with the `overrides` and `options` it is composed of."""
    sweep, task, trainer = found["sweep"], found["task"]["name"], found["trainer"] or {}
    pruned, space = sweep.get("pruner", "none") != "none", spaces.of(sweep)
    problems = []
    for each in space:
        section, dot, inner = each.key.partition(".")
        if dot and not each.where and inner.split(".")[0] not in (found[section] or {}):
            problems.append((each.place, unknown("key of this candidate", inner, found[section] or ())))
        elif section in schema.table()["searchable_values"] and found[section]["kind"] != "baseline":
            problems.append((each.place, FETCHED))
    if sweep["max_epochs"] and "max_epochs" not in trainer:
        problems.append(("sweep.max_epochs", f"level {found['level']['name']} trains nothing; leave it null"))
    if pruned and num_checks(found) < 2:
        problems.append(("sweep.pruner", ONE_CHECK))
    if pruned and task == "generation" and trainer.get("monitor") == "loss":
        cure = f"trainer.monitor: {found['task']['metric']}"
        problems.append(("sweep.pruner", f"it goes by what validations answer, which here is only their loss; {cure}"))
    if not problems and sweep.get("sampler", "grid") != "grid":
        point, outside = start(space, partial(own, found))
        cure = "the first trial is with it; let the space hold it, or set it to what lies inside"
        problems += [(each.place, f"the candidate's own {point[each.key]!r} lies outside; {cure}") for each in outside]
    return problems


def start(space: list[Parameter], own: Callable[[str], object]) -> tuple[dict, list[Parameter]]:
    """Return the point of a config's own values, `own(key)`, and those parameters that do not hold them."""
    point: dict = {}
    for each in space:
        if each.exists(point):
            point[each.key] = own(each.key)
    return point, [
        each for each in space if each.key in point and each.exists(point) and not each.holds(point[each.key])
    ]


def own(config: dict, key: str):
    """Return the candidate's own value of a key, or its option of a group; None where it has none."""
    section, dot, _ = key.partition(".")
    if dot:
        found = config
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found
    said = [word.removeprefix(f"{key}=") for word in config["overrides"] if word.startswith(f"{key}=")]
    same = [option for option, made in config["options"].get(key, {}).items() if made == config[section]]
    return next(iter([*said[-1:], *same]), None)


def changes(config: dict, point: dict) -> dict:
    """Return what a point says beyond the candidate's own options, which keep what is set for them."""
    return {key: value for key, value in point.items() if "." in key or value != own(config, key)}


def num_checks(config: dict) -> int:
    """Return how often a trial validates at most."""
    trainer = config["trainer"] or {}
    epochs = (config["sweep"] or {}).get("max_epochs") or trainer.get("max_epochs", 1)
    return epochs * trainer.get("checks_per_epoch", 1)


def corners(space: list[Parameter]) -> list[dict]:
    """Return points in which each option and each end of the numbers occurs, at most MAX_CORNERS."""
    groups = [each for each in space if "." not in each.key]
    turns = max((len(each.values) for each in space if each not in groups), default=1)
    made = itertools.islice(itertools.product(spaces.grid(groups), range(turns)), MAX_CORNERS)
    found = []
    for chosen, turn in made:
        point = dict(chosen)
        for each in space:
            if each not in groups and each.exists(point):
                point[each.key] = each.values[turn % len(each.values)]
        found.append(point)
    return found


def _enqueued(space: list[Parameter], sweep: dict) -> list[Problem]:
    found = []
    for number, point in enumerate(sweep.get("enqueue", ())):
        for key, value in point.items():
            own = [each for each in space if each.key == key]
            if not own:
                found.append((f"sweep.enqueue.{number}.{key}", unknown("searched key", key, {p.key for p in space})))
            elif not any(each.holds(value) and each.exists(point) for each in own):
                found.append(
                    (f"sweep.enqueue.{number}.{key}", f"{value!r} lies outside of what is searched at such a point")
                )
    return found


def _together(one: tuple[Where, ...], other: tuple[Where, ...]) -> bool:
    """Say whether there may be a point that has both."""
    return not any(a == b and not {*these} & {*those} for a, these in one for b, those in other)
