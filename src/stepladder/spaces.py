"""Spaces: what a search may choose, in Hydra's override grammar; read and checked without Optuna.

optimizer.learning_rate: tag(log, interval(1e-5, 1e-3))    method.r: int(interval(2, 64))    method: choice(lora, ia3)
A list is a choice of its values. What stands under "method=lora,dora" exists where one of these options is chosen.
Source: https://hydra.cc/docs/1.3/advanced/override_grammar/extended/
"""

import itertools
import json
from dataclasses import dataclass
from typing import NamedTuple

from stepladder.errors import ConfigError, unknown
from stepladder.schema import Problem

DIGITS = 12  # of a step's multiples, which are 0.1 + 2 * 0.1 otherwise


class Where(NamedTuple):
    """A group, and those of its options under which something exists."""

    group: str
    options: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.group}={','.join(self.options)}"


@dataclass(frozen=True)
class Parameter:
    """A key with the values that it may have: `choices`, or the numbers from `low` to `high`, both included."""

    key: str
    choices: tuple = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    where: tuple[Where, ...] = ()

    @property
    def name(self) -> str:
        """Return its name in a study, in which a key may have another space under another option."""
        return " ".join([self.key, *(f"[{each}]" for each in self.where)])

    @property
    def place(self) -> str:
        """Return where it stands in a composed candidate."""
        return ".".join(["sweep.parameters", *map(str, self.where), self.key])

    @property
    def values(self) -> tuple:
        """Return its values in their order, of an interval the ends alone."""
        if self.choices or not self.step:
            return self.choices or (self.low, self.high)
        count = round((self.high - self.low) / self.step) + 1
        return tuple(_even(self.low + number * self.step) for number in range(count))

    def exists(self, point: dict) -> bool:
        """Say whether the options of a point {key: value} have it."""
        return all(point.get(group) in options for group, options in self.where)

    def holds(self, value) -> bool:
        """Say whether a value is one of its own."""
        if self.choices or self.step:
            return any(value == own and type(value) is type(own) for own in self.values)
        number = isinstance(value, int if isinstance(self.low, int) else int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high

    def draw(self, trial):
        """Return what a trial of Optuna chooses."""
        if self.choices:
            words = list(map(word, self.choices))
            return self.choices[words.index(trial.suggest_categorical(self.name, words))]
        if isinstance(self.low, int):
            return trial.suggest_int(self.name, self.low, self.high, step=self.step or 1, log=self.log)
        found = trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)
        return _even(found) if self.step else found


def draw(space: list[Parameter], trial) -> dict:
    """Return the point {key: value} that a trial of Optuna chooses."""
    point: dict = {}
    for each in space:
        if each.exists(point):
            point[each.key] = each.draw(trial)
    return point


def named(space: list[Parameter], point: dict) -> dict:
    """Return a point, or a part of one, as Optuna keeps it."""
    found = [each for each in space if each.key in point and each.exists(point)]
    return {each.name: word(point[each.key]) if each.choices else point[each.key] for each in found}


def grid(space: list[Parameter]) -> list[dict]:
    """Return every point, the last parameter changing first."""
    points: list[dict] = [{}]
    for each in space:
        wider = [[point | {each.key: value} for value in each.values] if each.exists(point) else [point]
                 for point in points]  # fmt: skip
        points = list(itertools.chain(*wider))
    return points


def word(value) -> str:
    """Return a value of a choice as Optuna keeps it: as text, since it knows no lists."""
    return value if isinstance(value, str) else json.dumps(value)


def of(sweep: dict) -> list[Parameter]:
    """Return the parameters of a section sweep that has no fault."""
    return read(sweep["parameters"])[0]


def read(parameters: dict, where: tuple[Where, ...] = ()) -> tuple[list[Parameter], list[Problem]]:
    """Return the parameters that are said, groups before what exists under their options, and what says none."""
    space, found = [], []
    for key, said in parameters.items():
        group, equals, options = key.partition("=")
        try:
            if equals and isinstance(said, dict):
                inner, wrong = read(said, (*where, Where(group, tuple(map(str.strip, options.split(","))))))
                space, found = [*space, *inner], [*found, *wrong]
            else:
                space.append(parameter(key, said, where))
        except ConfigError as error:
            found.append((f"sweep.parameters.{key}", str(error)))
    return sorted(space, key=lambda each: len(each.where)), found


def parameter(key: str, said, where: tuple[Where, ...] = ()) -> Parameter:
    """Return the parameter of a key with the values that were said: a list, or text in Hydra's grammar.

    Raises ConfigError for what is no space.
    """
    if isinstance(said, list):
        return _choice(key, said, where)
    if not isinstance(said, str):
        raise ConfigError(f"{said!r} is no space; expected a list, choice(...), range(...) or interval(...)")
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return of_override(key, OverridesParser.create().parse_override(f"{key}={said}"), where)
    except HydraException as error:
        raise ConfigError(f"{said!r} is not in Hydra's grammar ({str(error).splitlines()[0]})") from None


def of_override(key: str, override, where: tuple[Where, ...] = ()) -> Parameter:
    """Return the parameter of an override of Hydra that sweeps; range(8, 16, 4) is 8 and 12, as in Hydra itself."""
    value = override.value()
    if odd := sorted(getattr(value, "tags", set()) - ({"log"} if override.is_interval_sweep() else set())):
        raise ConfigError(f"{unknown('tag', odd[0], ['log'])} It says how an interval is searched")
    if override.is_interval_sweep():
        log = "log" in value.tags
        if not (0 if log else float("-inf")) < value.start < value.end or (log and value.start <= 0):
            raise ConfigError(f"interval({value.start}, {value.end}): expected {'0 < ' * log}low < high")
        return Parameter(key, low=value.start, high=value.end, log=log, where=where)
    if not override.is_sweep_override():
        raise ConfigError(f"{override.input_line!r} is one value; expected a list, choice, range or interval")
    values = [plain(item) for item in override.sweep_iterator()]
    if override.is_range_sweep() and len(values) > 1:
        return Parameter(key, low=min(values), high=max(values), step=abs(_even(values[1] - values[0])), where=where)
    return _choice(key, values, where)


def _choice(key: str, values: list, where: tuple[Where, ...]) -> Parameter:
    words = list(map(word, values))
    if len({*words}) < len(words) or not words:
        raise ConfigError(f"{values}: expected at least one value, and none that is written as another")
    return Parameter(key, choices=tuple(values), where=where)


def plain(value):
    """Return a parsed value without Hydra's own types."""
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else getattr(value, "text", value)


def _even(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")
