"""Shipped: check the files of conf/ themselves, chosen or not, so that a wrong letter is found before it is used."""

from functools import lru_cache
from pathlib import Path

from stepladder import dialects, schema
from stepladder.errors import ConfigError, unknown

GROUPS = tuple(name for name in schema.table()["sections"] if name not in ("candidate", "seed", "corpus"))
GLOBAL = "# @package _global_"


def options(conf: Path, group: str) -> list[str]:
    """Return the choices of a group: its files."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))


def problems(conf: Path, package: Path = schema.PACKAGE) -> list[str]:
    """Return one line for each fault in any file of conf/."""
    found = [f"{conf}/{path.name}: {unknown('group', path.name, GROUPS)}" for path in _strangers(conf)]
    for path in sorted(conf.rglob("*.yaml")):
        found += of_file(path, conf, package)
    return found


def of_file(path: Path, conf: Path, package: Path = schema.PACKAGE) -> list[str]:
    """Return one line for each fault in one file of conf/."""
    return list(_of_file(path, conf, package, path.stat().st_mtime_ns))


def _strangers(conf: Path) -> list[Path]:
    return [path for path in sorted(conf.iterdir()) if path.is_dir() and path.name not in GROUPS]


@lru_cache(maxsize=4096)
def _of_file(path: Path, conf: Path, package: Path, _stamp: int) -> tuple[str, ...]:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        content = dialects.parse(text, str(path))
    except ConfigError as error:
        return tuple(str(error).splitlines())
    if path.parent == conf:
        found = _root(content, conf) if path.name == "config.yaml" else [("", "only config.yaml stands here")]
    else:
        found = _group(content, text, path, package)
    return tuple(f"{path}: {key}{': ' if key else ''}{sentence}" for key, sentence in found)


def _root(content: dict, conf: Path) -> list[schema.Problem]:
    """The file that lists all groups, the three plain keys and what Hydra is told."""
    found = list(
        schema.mapping(
            content, {"defaults": "any", "candidate": "null", "seed": "int", "corpus": "null", "hydra": "any"}
        )
    )
    listed = [item for item in content.get("defaults") or [] if item != "_self_"]
    for item in listed:
        found += (
            _default(item, "", conf) if isinstance(item, dict) else [("defaults", f"{item!r} is not group: option")]
        )
    names = [name for item in listed if isinstance(item, dict) for name in item]
    found += [(f"defaults.{name}", "is missing") for name in GROUPS if name not in names]
    rules = {
        f"{key}?": {f"{k}?": v for k, v in rule.items()} if isinstance(rule, dict) else rule
        for key, rule in schema.table()["hydra"].items()
    }
    return found + [(f"hydra{key}", sentence) for key, sentence in schema.mapping(content.get("hydra") or {}, rules)]


def _group(content: dict, text: str, path: Path, package: Path) -> list[schema.Problem]:
    group, conf = path.parent.name, path.parent.parent
    if group not in GROUPS:
        return []
    if path.stem == "none":
        return [("", "a file none.yaml holds {} alone")] if content else []
    if "${" in text:
        return [("", "${ is refused: values are written out")]
    marked = [line for line in text.splitlines() if "@package" in line]
    if not marked:
        return schema.problems(group, content, package=package, partly=_gives(content))
    if marked != [GLOBAL]:
        return [("", f"{marked[0]!r} is not allowed; only {GLOBAL!r} is")]
    found = [fault for item in content.pop("defaults", []) for fault in _default(item, "override /", conf)]
    found += [(key, unknown("section", key, GROUPS)) for key in content if key not in GROUPS]
    found += [] if group in content else [(group, "is missing")]
    for section in content.keys() & set(GROUPS):
        partly = section != group or _gives(content[section])
        found += schema.problems(section, content[section], package=package, partly=partly)
    return found


def _gives(value) -> bool:
    """Say whether the file leaves something to be given (???), so that no shape of its section fits yet."""
    return "???" in value.values() or any(map(_gives, value.values())) if isinstance(value, dict) else False


def _default(item, prefix: str, conf: Path) -> list[schema.Problem]:
    if not isinstance(item, dict) or len(item) != 1:
        return [("defaults", f"{item!r} is not allowed; expected '{prefix}group: option'")]
    ((key, option),) = item.items()
    if not key.startswith(prefix) or key.removeprefix(prefix) not in GROUPS:
        return [(f"defaults.{key}", unknown("group", key, [prefix + group for group in GROUPS]))]
    known = options(conf, key.removeprefix(prefix))
    return [] if option in known else [(f"defaults.{key}", unknown("option", option, known))]
