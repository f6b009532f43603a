"""Strict: refuse what a person typed wrongly, in params.yaml or by hand, all faults at once and without torch.

params.yaml: candidates.lora.set.method.rr: No key named 'rr'. Did you mean 'r'? Known: alora_invocation_tokens, ...
"""

import re
from collections.abc import Iterator
from pathlib import Path

from stepladder import compose, dialects, schema, shipped
from stepladder.choices import Choice, faults, words
from stepladder.errors import ConfigError, unknown

RESERVED = ("compare", "config", "data", "registered")  # names of files and folders beside those of the candidates
ROW_GROUPS = tuple(group for group in compose.GROUPS if group not in ("split", "gate", "runtime"))


def params(path: Path, *, conf: Path = compose.CONF, package: Path = schema.PACKAGE) -> dict:
    """Return params.yaml; raises ConfigError with one line for each fault in it or in conf/."""
    found = shipped.problems(conf, package)
    try:
        table = dialects.read(path)
    except ConfigError as error:
        refuse([*str(error).splitlines(), *found])
    found += _table(table, str(path), conf)
    rows = table.get("candidates")
    items = rows.items() if isinstance(rows, dict) else ()
    sound = {name: row for name, row in items if not list(_row_shape(name, row, table, str(path)))}
    if (
        isinstance(table.get("data"), str)
        and table["data"] in shipped.options(conf, "data")
        and isinstance(table.get("set", {}), dict)
    ):
        found += _composed(table | {"candidates": sound}, path, conf=conf, package=package)
    refuse(found)
    return table


def composed_file(path: Path) -> None:
    """Check that a composed file is there, is plain and names allowed targets only; raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"{path} is not there; run: dvc repro configure")
    content = dialects.read(path)
    extra = content.keys() & {"hydra", "defaults"}
    targets = [value for key, value in leaves(content) if key.endswith("_target_") and value not in schema.signatures()]
    refuse([f"{path}: {key} is refused in a composed file" for key in sorted(extra)])
    refuse([f"{path}: {unknown('_target_', value, schema.signatures())}" for value in targets])


def refuse(faults: list[str]) -> None:
    """Raise ConfigError with one line for each fault, if there is one."""
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def _table(table: dict, path: str, conf: Path) -> Iterator[str]:
    """Yield faults of params.yaml that are seen without composing anything."""
    known = shipped.options(conf, "data")
    rule = {
        "seed": schema.table()["sections"]["seed"],
        "data": "str",
        "datasets?": "any",
        "candidates": "any",
        "set?": "any",
    }
    faults = list(schema.mapping(table, rule))
    yield from (f"{path}: {key.lstrip('.')}: {text}" for key, text in faults)
    yield from _hostile(table, path)
    further, rows = table.get("datasets") or [], table.get("candidates")
    if not isinstance(further, list) or not all(isinstance(name, str) for name in further):
        yield f"{path}: datasets: {further!r} is not allowed; expected a list of data sets"
        further = []
    scored = table.get("data")
    for name in [scored] * isinstance(scored, str) + further:
        if name not in known:
            yield f"{path}: {'data' if name == scored else 'datasets'}: {unknown('data set', name, known)}"
    if scored in further:
        yield f"{path}: datasets: {scored} is the scored data set already (data:); take it off this list"
    if len(set(further)) < len(further):
        yield f"{path}: datasets: a name stands there twice; take one off"
    if not isinstance(rows, dict) or not rows:
        yield f"{path}: candidates: expected rows such as 'tfidf: {{level: baseline, model: tfidf}}'"
    elif not any(
        isinstance(row, dict) and row.get("level") == "baseline" and "data" not in row for row in rows.values()
    ):
        yield f"{path}: candidates: none has level: baseline; add 'majority: {{level: baseline, model: majority}}'"
    if table.get("set") is not None and not isinstance(table["set"], dict):
        yield f"{path}: set: {table['set']!r} is not allowed; expected nested keys"
    for name, row in rows.items() if isinstance(rows, dict) else ():
        yield from _row_name(str(name), f"{path}: candidates.{name}")
        yield from _row_shape(name, row, table, path)


def _row_name(name: str, place: str) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        yield f"{place}: {name!r} is not allowed; a name has a-z, 0-9 and _ only"
    if name in RESERVED:
        yield f"{place}: {name} is a name of our own ({', '.join(RESERVED)}); choose another"


def _row_shape(name, row, table: dict, path: str) -> Iterator[str]:
    """Yield faults of a row that are seen without composing it."""
    place = f"{path}: candidates.{name}"
    further = table.get("datasets")
    named = [table.get("data"), *(further if isinstance(further, list) else ())]
    if not isinstance(row, dict):
        yield f"{place}: {row!r} is not allowed; expected {{level: ..., model: ...}}"
        return
    for key, value in row.items():
        if key not in (*ROW_GROUPS, "corpus", "set"):
            yield f"{place}.{key}: {unknown('group', key, (*ROW_GROUPS, 'corpus', 'set'))}"
        elif key == "set" and not isinstance(value, dict):
            yield f"{place}.set: {value!r} is not allowed; expected nested keys"
        elif key != "set" and not isinstance(value, str):
            yield f"{place}.{key}: {value!r} is not allowed; expected the name of an option"
        elif key in ("data", "corpus") and value not in named:
            yield f"{place}.{key}: {value} is neither data nor in datasets; add it to datasets"
    for key in ("level", "model"):
        if key not in row:
            yield f"{place}.{key}: is missing; a candidate names its level and its model"


def _hostile(value, path: str) -> Iterator[str]:
    """Yield faults of `_target_` and of interpolation, wherever they stand."""
    for key, item in leaves(value):
        if "_target_" in key or (isinstance(item, str) and "_target_" in item):
            yield f"{path}: {key}: {item!r} is refused; conf/ alone names classes (method: lora)"
        elif "${" in f"{key}{item}":
            yield f"{path}: {key}: {item!r} is refused; values are written out, ${{...}} is not read here"


def leaves(value, key: str = "") -> Iterator[tuple[str, object]]:
    """Yield (dotted key, value) for each leaf of nested maps and lists."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from leaves(item, f"{key}.{name}".lstrip("."))
    else:
        yield key, value


def _row(name: str, table: dict, path: Path, *, conf: Path, package: Path) -> list[str]:
    row, place = table["candidates"][name], f"{path}: candidates.{name}"
    choices = [Choice(f"{path}: data", "data", table["data"])] if "data" not in row else []
    choices += [Choice(f"{place}.{key}", key, value, owner=place) for key, value in row.items() if key != "set"]
    own = [
        Choice(f"{place}.set.{key}", key, value, added, place)
        for key, value, added in compose.flat(row.get("set") or {})
        if "_target_" not in key  # told already, wherever it stands
    ]
    fitting = [choice for choice in _common_choices(table, path) if _fits(choice, choices, table, conf)]
    kept = {choice.key: choice for choice in [*fitting, *own]}
    found = faults([*choices, *kept.values()], conf=conf, package=package)
    told = "\n".join(found)
    return found + [_prepared(choice) for choice in own if _of_data_set(choice) and f"{choice.place}:" not in told]


def _of_data_set(choice: Choice) -> bool:
    return choice.section in ("gate", "split") or (choice.section == "data" and choice.key != "data.max_rows")


def _prepared(choice: Choice) -> str:
    cure = f"write it under the top-level set, or as a file in conf/{choice.section}/"
    return f"{choice.place}: {choice.section} is the same for all candidates on a data set; {cure}"


def _common_choices(table: dict, path: Path) -> list[Choice]:
    return [
        Choice(f"{path}: set.{key}", key, value, added) for key, value, added in compose.flat(table.get("set") or {})
    ]


def _fits(choice: Choice, choices: list[Choice], table: dict, conf: Path) -> bool:
    """Say whether a word of the common `set` reaches a candidate, as compose.overrides decides it."""
    groups = {item.key: item.value for item in choices}
    if choice.section in compose.OF_DATA and groups["data"] != table["data"]:
        return False
    try:
        return compose.applies(choice.key, choice.added, compose.compose(words(choices), conf=conf))
    except ConfigError:
        return False


def _composed(table: dict, path: Path, *, conf: Path, package: Path) -> list[str]:
    """Return faults seen in the composed candidates and data sets."""
    found = [fault for name in table["candidates"] for fault in _row(name, table, path, conf=conf, package=package)]
    found += _common(table, path, conf, package)
    for name in table.get("datasets") or ():
        choice = Choice(f"{path}: datasets: {name}", "data", name, owner=f"{path}: datasets: {name}")
        found += faults([choice], conf=conf, package=package, only_data=True)
    return found


def _common(table: dict, path: Path, conf: Path, package: Path) -> list[str]:
    """Return a fault for each word of the common `set` that no candidate reads."""
    found = []
    rows = [{"data": table["data"]} | row for row in table["candidates"].values()]
    chosen = [[Choice("", key, value) for key, value in row.items() if key != "set"] for row in rows]
    for choice in _common_choices(table, path):
        if any(_fits(choice, choices, table, conf) for choices in chosen):
            continue
        section, _, inner = choice.key.partition(".")
        known = section in compose.GROUPS
        texts = schema.leaf(section, inner, choice.value, package=package) if known else []
        unheard = unknown("section", section, compose.GROUPS)
        found.append(f"{choice.place}: {texts[0][1] if texts else 'no candidate reads it' if known else unheard}")
    return found
