"""Typed: check the Hydra overrides of a command line before Hydra composes anything.

python -m pipelines.train method=lroa method.r=0     two lines, exit code 2: the option and the number
"""

import itertools
import re
from pathlib import Path

from stepladder import compose, schema, shipped
from stepladder.choices import Choice, faults
from stepladder.errors import ConfigError, unknown
from stepladder.strict import refuse

READS = dict.fromkeys(("prepare", "split"), compose.OF_DATA)  # the other stages read all sections
MAX_COMPOSITIONS = 64  # of one command line with -m that are looked at
PLACE = "command line"


def check(
    words: list[str], *, stage: str, many: bool = False, conf: Path = compose.CONF, package: Path = schema.PACKAGE
) -> None:
    """Raise ConfigError with one line for each fault in the words typed after a stage; `many` (-m) allows sweeps."""
    found, typed, read = shipped.problems(conf, package), [], READS.get(stage)
    for word in words:
        try:
            typed += [choices] if (choices := _choices(word, many, conf)) else []
        except ConfigError as error:
            found.append(str(error))
    for choices in typed:
        section = choices[0].section
        if read and section in compose.GROUPS and section not in (*read, "runtime"):
            found.append(f"{choices[0].place}: {stage} never reads {section}; it reads {', '.join(read)}")
    for combination in _combinations(typed):
        found += faults(combination, conf=conf, package=package, only_data=bool(read))
    refuse(found)


def check_composed(words: list[str], name: str, *, many: bool = False) -> None:
    """Raise ConfigError unless the words behind a composed file are Hydra's settings or `runtime` alone."""
    found = [f"{PLACE}: -m: build/{name}.yaml is one candidate; a grid is typed without -cd and -cn"] if many else []
    for word in words:
        try:
            choices = _choices(word, False, compose.CONF)
        except ConfigError as error:
            found.append(str(error))
            continue
        for choice in choices:
            section, _, key = choice.key.partition(".")
            if section != "runtime":
                found.append(f"{choice.place}: build/{name}.yaml is composed already; edit params.yaml instead")
            else:
                found += [f"{choice.place}: {text}" for _, text in schema.leaf(section, key, choice.value)]
    refuse(found)


def _choices(word: str, many: bool, conf: Path) -> list[Choice]:
    """Return one choice for each value of a word such as method=lora,full; none for Hydra's own settings."""
    place = f"{PLACE}: {word}"
    if "_target_" in word:
        raise ConfigError(f"{place}: _target_ is refused; conf/ alone names classes (method=lora)")
    if "${" in word:
        raise ConfigError(f"{place}: ${{...}} is refused; write the value out")
    override = _parsed(word, place)
    key = override.key_or_group
    if key.split(".")[0].split("/")[0] == "hydra":
        return _of_hydra(key, place)
    if override.is_delete() or override.package:
        raise ConfigError(f"{place}: ~ and @ are refused; write group=none, or the whole value")
    if override.is_sweep_override() and not many:
        raise ConfigError(f"{place}: several values want -m")
    return [Choice(f"{PLACE}: {key}", key, value, override.is_add(), PLACE) for value in _values(override, conf)]


def _parsed(word: str, place: str):
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigError(f"{place}: not key=value ({str(error).splitlines()[0]})") from None


def _of_hydra(key: str, place: str) -> list[Choice]:
    """Hydra's settings pass, except those that add folders of config, callbacks or log handlers (they can run code)."""
    table = {name: rule for name, rule in schema.table()["hydra"].items() if name != "help"}
    closed = {f"hydra.{name}.{inner}" for name, rule in table.items() if isinstance(rule, dict) for inner in rule}
    allowed = closed | {f"hydra.{name}" for name, rule in table.items() if not isinstance(rule, dict)}
    open_ = re.fullmatch(r"hydra[./](launcher|sweeper)(\.\w+)*", key)  # numbers and words of a launcher's own
    if key not in allowed and not open_:
        raise ConfigError(f"{place}: {unknown('setting of hydra', key, allowed)}")
    return []


def _values(override, conf: Path) -> list:
    """Return the values a word stands for: one, or those of a sweep; an interval by its two ends."""
    from hydra.core.override_parser.types import Glob

    value = override.value()
    if isinstance(value, Glob):
        return value.filter(shipped.options(conf, override.key_or_group))
    if override.is_interval_sweep():
        return [value.start, value.end]
    return [_plain(item) for item in (override.sweep_iterator() if override.is_sweep_override() else [value])]


def _plain(value):
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _combinations(typed: list[list[Choice]]) -> list[list[Choice]]:
    """Return command lines without sweeps in which every combination of groups and every value occurs."""
    groups = [choices for choices in typed if "." not in choices[0].key]
    leaves = [choices for choices in typed if "." in choices[0].key]
    turns = range(max((len(choices) for choices in leaves), default=1))
    made = itertools.product(itertools.product(*groups), turns)
    return [[*chosen, *(c[turn % len(c)] for c in leaves)] for chosen, turn in itertools.islice(made, MAX_COMPOSITIONS)]
