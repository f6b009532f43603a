"""Typed: check the Hydra overrides of a command line before Hydra composes anything.

python -m pipelines.train method=lroa method.r=0     two lines, exit code 2: the option and the number
"""

import itertools
import re
from pathlib import Path

from stepladder import compose, schema, shipped, spaces, strict
from stepladder.compose import Word
from stepladder.errors import ConfigError

OF_DATA = ("seed", *compose.OF_DATA, "runtime")
NOT_TYPED = ("candidate", "sweep", "gate", "price", "probe")
READS = {  # the sections of a run by hand; the other stages want a composed file
    "fetch": ("data", "model", "runtime"),
    "prepare": OF_DATA,
    "split": OF_DATA,
    "train": tuple(name for name in schema.table()["sections"] if name not in NOT_TYPED),
}
CANDIDATE, DATA, ALL = "build -cn <candidate>", "build/data -cn <data set>", "build/compare -cn compare"
FILES = {"prepare": DATA, "split": DATA, "assign": ALL, "compare": ALL, "register": ALL}  # the others: CANDIDATE
MAX_COMPOSITIONS = 16  # of one command line with -m that are looked at
PLACE = "command line"


def check(typed: list[str], *, stage: str, many: bool = False) -> None:
    """Raise ConfigError with one line for each fault in the words typed after a stage; `many` (-m) allows sweeps."""
    if stage not in READS:
        raise ConfigError(f"{stage} reads a composed file; {_command(stage)}")
    words, found = _words(typed, many)
    found += shipped.problems()
    read = READS[stage]
    for word in (first for first, *_ in words):
        if word.section in schema.table()["sections"] and word.section not in read:
            found.append(f"{word.place}: {stage} never reads {word.section}; it reads {', '.join(read)}")
    for combination in _combinations(words):
        found += strict.faults(combination, PLACE, read=read)
    strict.refuse(found)


def check_composed(typed: list[str], file: Path, *, stage: str) -> None:
    """Raise ConfigError unless the composed file is one for the stage, and the words settings of Hydra or `runtime`."""
    content = strict.composed_file(file)
    kind = ALL if "candidates" in content else CANDIDATE if "candidate" in content else DATA
    if stage != "fetch" and kind != FILES.get(stage, CANDIDATE):
        raise ConfigError(f"{file} is not for {stage}; {_command(stage)}")
    words, found = _words(typed, False)
    for word in (first for first, *_ in words):
        composed = [("", f"{file} is composed already; edit params.yaml instead")]
        told = schema.leaf(word.key, word.value) if word.section == "runtime" else composed
        found += [f"{word.place}: {text}" for _, text in told]
    strict.refuse(found)


def _command(stage: str) -> str:
    return f"type: python -m pipelines.{stage} -cd {FILES.get(stage, CANDIDATE)}"


def _words(typed: list[str], many: bool) -> tuple[list[list[Word]], list[str]]:
    """Return what each text says, one word for each value of a sweep, and the faults of those that say nothing.

    Hydra's settings pass, except those that add folders of config, callbacks or log handlers: they run code.
    """
    words, found = [], []
    for text in typed:
        try:
            words.append(_word(text, many))
        except ConfigError as error:
            found.append(f"{PLACE}: {text}: {error}")
    settings = [first for first, *_ in words if first.section == "hydra"]
    for word in settings:
        faults = [text for _, text in schema.leaf(word.key, word.value)]
        if word.key == "hydra.launcher" and not faults:
            faults = list(filter(None, [shipped.missing_launcher(word.value)]))
        found += [f"{word.place}: {text}" for text in faults]
    return [word for word in words if word[0].section != "hydra"], found


def _word(text: str, many: bool) -> list[Word]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    if reason := strict.hostile("", text):
        raise ConfigError(reason)
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(f"not key=value ({str(error).splitlines()[0]})") from None
    key = re.sub(r"^hydra/", "hydra.", override.key_or_group)
    if override.is_delete() or override.package:
        raise ConfigError("~ and @ are refused; write group=none, or the whole value")
    if override.is_sweep_override() and not many:
        raise ConfigError("several values want -m")
    return [Word(f"{PLACE}: {key}", key, value, override.is_add()) for value in _values(override)]


def _values(override) -> list:
    """Return the values a word stands for: one, or those of a sweep; an interval by its two ends."""
    from hydra.core.override_parser.types import Glob

    value = override.value()
    if isinstance(value, Glob):
        return value.filter(shipped.options(override.key_or_group))
    if override.is_interval_sweep():
        return [value.start, value.end]
    return [spaces.plain(item) for item in (override.sweep_iterator() if override.is_sweep_override() else [value])]


def _combinations(words: list[list[Word]]) -> list[list[Word]]:
    """Return command lines without sweeps in which every combination of groups and every value occurs."""
    groups = [sweep for sweep in words if "." not in sweep[0].key]
    values = [sweep for sweep in words if "." in sweep[0].key]
    turns = range(max((len(sweep) for sweep in values), default=1))
    made = itertools.islice(itertools.product(itertools.product(*groups), turns), MAX_COMPOSITIONS)
    return [[*chosen, *(sweep[turn % len(sweep)] for sweep in values)] for chosen, turn in made]
