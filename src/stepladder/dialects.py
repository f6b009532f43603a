"""Dialects: read and write YAML only where DVC (ruamel, YAML 1.2) and OmegaConf (YAML 1.1) see the same values.

`lang: no` is 'no' for DVC and False for OmegaConf, `010` is 10 and 8, `12:30` is text and 750: they must be quoted.
"""

from functools import cache
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from stepladder.errors import ConfigError

MAX_BYTES = 200_000  # a params.yaml of a thousand candidates is smaller
MAX_DEPTH = 24
Faults = list[tuple[int, str]]  # line, sentence


def read(path: Path) -> dict:
    """Return the mapping in a YAML file.

    Raises ConfigError with one line per fault: not UTF-8, too large, too deep, anchors, tags, keys given twice,
    text that DVC and OmegaConf read differently.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: {len(data)} bytes; at most {MAX_BYTES} are read")
    return parse(text, str(path))


def parse(text: str, place: str) -> dict:
    """Return the mapping in a YAML text; `place` names it in errors (see `read`)."""
    try:
        faults = _structure(text)
        node = None if faults else yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}{f':{mark.line + 1}' if mark else ''}: not YAML ({reason})") from None
    value = _value(node, faults, "") if node else {}
    if faults:
        raise ConfigError("\n".join(f"{place}:{line}: {fault}" for line, fault in faults))
    if not isinstance(value, dict):
        raise ConfigError(f"{place}: expected keys and values at the top")
    return value


def dump(value: dict, place: str) -> str:
    """Return YAML text, the same bytes each time, that DVC and OmegaConf read back as `value`.

    Raises ConfigError naming the key whose value one of them would read differently.
    """
    text = OmegaConf.to_yaml(OmegaConf.create(value))
    if parse(text, place) != value:
        raise ConfigError(f"{place}: a value changes when it is written as YAML")
    return text


def _structure(text: str) -> Faults:
    """Return faults seen in the stream of events alone, so that nothing is built from a hostile file."""
    depth, faults = 0, []
    for number, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            return [(line, f"deeper than {MAX_DEPTH} levels")]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            faults.append((line, "anchors and aliases (& and *) are refused; write the value out"))
        elif getattr(event, "tag", None):
            faults.append((line, f"the tag {event.tag!r} is refused; write a plain value"))
        elif isinstance(event, yaml.DocumentStartEvent) and number > 1:
            faults.append((line, "a second document (---) is refused"))
    return faults


def _value(node: yaml.Node, faults: Faults, path: str):
    """Return what a node holds; note keys that are given twice and words that the two readers see differently."""
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, faults, path) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, faults, path)
    found = {}
    for key, item in node.value:
        here = f"{path}.{key.value}".lstrip(".")
        plain = isinstance(key, yaml.ScalarNode) and key.value != "<<"
        name = _scalar(key, faults, here) if plain else None
        if name is None or name in found:
            faults.append((key.start_mark.line + 1, f"the key {key.value!r} is given twice or is no plain key"))
        found[name] = _value(item, faults, here)
    return found


def _scalar(node: yaml.ScalarNode, faults: Faults, path: str):
    if node.style or (node.value[:1].isalpha() and len(node.value) > len("false")):  # quoted, or no bool or null
        return node.value
    ours, theirs = _readings(node.value)
    if repr(ours) != repr(theirs):
        told = f"Hydra reads {ours!r}, DVC {theirs!r}; quote it: '{node.value}', or write the value you mean"
        faults.append((node.start_mark.line + 1, f"{path}: {node.value} is ambiguous: {told}"))
    return ours


@cache
def _readings(word: str) -> list:
    """Return what OmegaConf and DVC read where a plain word stands; an error stands for a word that one refuses."""
    from ruamel.yaml import YAML

    found = []
    for reader in (lambda text: OmegaConf.to_container(OmegaConf.create(text)), YAML(typ="safe").load):
        try:
            found.append(reader(f"x: {word}")["x"])
        except Exception as error:
            found.append(error)
    return found
