"""Choices: the words a person chose for one candidate, checked key by key against schema.yaml and then together.

Choice("params.yaml: candidates.lora.set.method.r", "method.r", 16) puts 16 where Hydra will put it.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

from stepladder import compose, rules, schema, shipped
from stepladder.errors import ConfigError, unknown

PLAIN_KEYS = ("corpus", "seed")


@dataclass(frozen=True)
class Choice:
    """One word of a person: method=lora (a group) or method.r=16 (a leaf), and the place where it stands."""

    place: str
    key: str
    value: object
    added: bool = False  # written with a +
    owner: str = ""  # the place of the whole candidate; empty for a word that many candidates share

    @property
    def section(self) -> str:
        return self.key.split(".")[0]


def words(choices: list[Choice]) -> list[str]:
    return [f"{choice.key}={choice.value}" for choice in choices if "." not in choice.key]


def faults(choices: list[Choice], *, conf: Path, package: Path, only_data: bool = False) -> list[str]:
    """Return one line for each fault of a candidate: its choices, its keys and values, what its sections demand."""
    found = [fault for choice in choices if "." not in choice.key for fault in _group(choice, conf, package)]
    if found:
        return found + [fault for choice in choices if "." in choice.key for fault in _loosely(choice, package)]
    try:
        composed = compose.compose(words(choices), conf=conf)
    except ConfigError as error:
        return [f"{next(choice.owner for choice in choices if choice.owner)}: {error}"]
    leaves = [choice for choice in choices if "." in choice.key]
    found = [fault for choice in leaves for fault in _leaf(choice, composed, package)]
    sections = compose.OF_DATA if only_data else [name for name in compose.GROUPS if composed[name] is not None]
    problems = [problem for name in sections for problem in schema.problems(name, composed[name], package=package)]
    if not problems and not found:
        problems = rules.of_data(composed, package)
        problems += [] if only_data else rules.of_candidate(composed, package) or _without_effect(leaves, composed)
    return found + [_line(key, text, choices) for key, text in problems]


def _group(choice: Choice, conf: Path, package: Path) -> list[str]:
    if choice.key in PLAIN_KEYS:
        found = schema.problems(choice.key, choice.value, package=package)
        corpora = shipped.options(conf, "data")
        if choice.key == "corpus" and choice.value is not None and choice.value not in corpora:
            found = [("", unknown("data set", choice.value, corpora))]
        return [f"{choice.place}: {text}" for _, text in found]
    if choice.key not in compose.GROUPS:
        return [f"{choice.place}: {unknown('group', choice.key, (*compose.GROUPS, *PLAIN_KEYS))}"]
    known = shipped.options(conf, choice.key)
    return [] if choice.value in known else [f"{choice.place}: {unknown(choice.key, str(choice.value), known)}"]


def _loosely(choice: Choice, package: Path) -> list[str]:
    """Return the fault of a leaf that no shape of its section allows, where the sections cannot be composed."""
    section, _, key = choice.key.partition(".")
    if section not in compose.GROUPS:
        return [f"{choice.place}: {unknown('section', section, compose.GROUPS)}"]
    return [f"{choice.place}: {text}" for _, text in schema.leaf(section, key, choice.value, package=package)]


def _leaf(choice: Choice, found: dict, package: Path) -> list[str]:
    """Put a leaf into the composed candidate, as Hydra will; return the fault where it has no place there."""
    section, *path = choice.key.split(".")
    if section not in compose.GROUPS:
        return [f"{choice.place}: {unknown('section', section, compose.GROUPS)}"]
    if found[section] is None:
        reader = f"level {found['level']['name']} with model {found['model']['name']}"
        return [f"{choice.place}: {reader} never reads {section}; leave it out"]
    inner = found[section]
    for part in path[:-1]:
        inner = inner.get(part) if isinstance(inner, dict) else None
    if not isinstance(inner, dict):
        return [f"{choice.place}: {section} has no keys under {'.'.join(path[:-1])} here; leave it out"]
    present = path[-1] in inner
    inner[path[-1]] = copy.deepcopy(choice.value)
    if present and choice.added:
        return [f"{choice.place}: it is there already; write {path[-1]} without the +"]
    unheard = any(
        key == choice.key and "No key" in text
        for key, text in schema.problems(section, found[section], package=package)
    )
    return [] if present or choice.added or unheard else [f"{choice.place}: it is not there yet; write +{path[-1]}"]


def _without_effect(leaves: list[Choice], found: dict) -> list[schema.Problem]:
    """Return the keys a person set for this candidate although nothing reads them here."""
    faults, keys = [], {choice.key for choice in leaves if choice.owner}
    faults += [
        (key, "the sweep chooses it; take it off here or off the sweep")
        for key in (found["sweep"] or {}).get("parameters", {})
        if key in keys
    ]
    shots = (found["prompt"] or {}).get("num_shots", 0)
    if "prompt.separator" in keys and not shots:
        faults.append(("prompt.separator", "it stands between examples, and num_shots is 0"))
    if "data.max_rows" in keys and found["level"]["name"] == "prompt" and not shots:
        faults.append(("data.max_rows", "level prompt without examples never reads a train row"))
    if "split.column" in keys and found["split"]["name"] != "column":
        faults.append(("split.column", f"split {found['split']['name']} never reads a column"))
    return faults


def _line(key: str, text: str, choices: list[Choice]) -> str:
    """Return the fault behind the place where a person caused it: the nearest key, else its group, else the row."""
    above = [choice for choice in choices if key == choice.key or key.startswith(f"{choice.key}.")]
    below = [choice for choice in choices if choice.key.startswith(f"{key}.")]
    nearest = max(above, key=lambda choice: len(choice.key), default=below[0] if below else None)
    place = nearest.place if nearest else next(choice.owner for choice in choices if choice.owner)
    return f"{place}: {text}" if place.endswith(key) else f"{place}: {key}: {text}"
