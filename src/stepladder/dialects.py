"""Dialects: read and write YAML only where DVC (ruamel, YAML 1.2) and OmegaConf (YAML 1.1) see the same values.

`lang: no` is 'no' for DVC and False for OmegaConf, `010` is 10 and 8, `12:30` is text and 750: they must be quoted.
"""

from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf._utils import get_yaml_loader

from stepladder.errors import ConfigError

MAX_BYTES = 200_000  # a params.yaml of a thousand candidates is smaller
MAX_DEPTH = 24
MAX_NODES = 50_000


def read(path: Path) -> dict:
    """Return the mapping in a YAML file.

    Raises ConfigError with one line per fault: not UTF-8, too large, too deep, anchors, tags, keys given twice,
    text that DVC and OmegaConf read differently.
    """
    try:
        data = path.read_bytes()
        text = data.decode("utf-8") if len(data) <= MAX_BYTES else None
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as UTF-8 text ({error})") from None
    if text is None:
        raise ConfigError(f"{path}: {len(data)} bytes; at most {MAX_BYTES} are read")
    return parse(text, str(path))


def parse(text: str, place: str) -> dict:
    """Return the mapping in a YAML text; `place` names it in errors (see `read`)."""
    try:
        faults = _structure(text)
        node = yaml.compose(text, Loader=yaml.CSafeLoader) if not faults else None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ConfigError(
            f"{place}{line}: not YAML ({getattr(error, 'problem', None) or str(error).splitlines()[0]})"
        ) from None
    faults = faults or _repeated(node)
    if faults:
        raise ConfigError("\n".join(f"{place}:{line}: {fault}" for line, fault in faults))
    if not isinstance(node, yaml.MappingNode | None):
        raise ConfigError(f"{place}: expected keys and values at the top")
    return _agreed(text, node, place) if node else {}


def dump(value: dict, place: str) -> str:
    """Return YAML text, the same bytes each time, that DVC and OmegaConf read back as `value`.

    Raises ConfigError naming the key whose value one of them would read differently.
    """
    text = OmegaConf.to_yaml(OmegaConf.create(value, flags={"allow_objects": False}))
    if parse(text, place) != value:
        raise ConfigError(f"{place}: a value changes when it is written as YAML")
    return text


def _structure(text: str) -> list[tuple[int, str]]:
    """Return faults seen in the stream of events alone, so that nothing is built from a hostile file."""
    depth, faults = 0, []
    for number, event in enumerate(yaml.parse(text, Loader=yaml.CSafeLoader)):
        line = event.start_mark.line + 1
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH or number > MAX_NODES:
            return [(line, f"deeper than {MAX_DEPTH} levels or longer than {MAX_NODES} values")]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            faults.append((line, "anchors and aliases (& and *) are refused; write the value out"))
        elif getattr(event, "tag", None):
            faults.append((line, f"the tag {event.tag!r} is refused; write a plain value"))
        elif isinstance(event, yaml.DocumentStartEvent) and number > 1:
            faults.append((line, "a second document (---) is refused"))
    return faults


def _repeated(node) -> list[tuple[int, str]]:
    """Return a fault for each key that is given twice, is no scalar, or merges (<<)."""
    if not isinstance(node, yaml.CollectionNode):
        return []
    pairs = node.value if isinstance(node, yaml.MappingNode) else [(None, item) for item in node.value]
    seen, faults = set(), []
    for key, item in pairs:
        name = getattr(key, "value", None)
        if key is not None and (not isinstance(name, str) or name in seen or name == "<<"):
            faults.append((key.start_mark.line + 1, f"the key {name!r} is given twice or is no plain key"))
        elif key is not None:
            seen.add(name)
        faults += _repeated(item)
    return faults


def _agreed(text: str, node: yaml.Node, place: str) -> dict:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        ours, theirs = yaml.load(text, Loader=get_yaml_loader()), YAML(typ="safe").load(text)
    except (yaml.YAMLError, YAMLError, ValueError) as error:
        raise ConfigError(f"{place}: not YAML for DVC or OmegaConf ({str(error).splitlines()[0]})") from None
    faults = _differences(ours, theirs, node, "")
    if faults:
        raise ConfigError("\n".join(f"{place}:{line}: {fault}" for line, fault in faults))
    return ours


def _differences(ours, theirs, node: yaml.Node, path: str) -> list[tuple[int, str]]:
    """Return a fault for each scalar on which the two readers differ, with the word as it was typed."""
    if isinstance(node, yaml.SequenceNode):
        trios = zip(ours, theirs, node.value, strict=True)
        return [fault for a, b, item in trios for fault in _differences(a, b, item, path)]
    if not isinstance(node, yaml.MappingNode):
        return [] if repr(ours) == repr(theirs) else [_ambiguous(ours, theirs, node, path)]
    faults = []
    for (key, a), (other, b), (key_node, item) in zip(ours.items(), theirs.items(), node.value, strict=True):
        here = f"{path}.{key_node.value}".lstrip(".")
        if repr(key) != repr(other):
            faults.append(_ambiguous(key, other, key_node, here))
        faults += _differences(a, b, item, here)
    return faults


def _ambiguous(ours, theirs, node: yaml.Node, path: str) -> tuple[int, str]:
    told = f"Hydra reads {ours!r}, DVC {theirs!r}; quote it: '{node.value}', or write the value you mean"
    return node.start_mark.line + 1, f"{path}: {node.value} is ambiguous: {told}"
