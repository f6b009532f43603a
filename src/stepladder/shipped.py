"""Shipped: check the files of conf/ themselves, chosen or not, so that a wrong letter is found before it is used."""

from importlib.util import find_spec
from pathlib import Path

from stepladder import compose, dialects, schema, sweeps
from stepladder.errors import ConfigError, unknown
from stepladder.schema import Problem

GLOBAL = "# @package _global_"
LAUNCHERS = Path("hydra", "launcher")
EXTRAS = {"submitit_slurm": "slurm"}  # the others are called as their launchers
ROOT = {"defaults": "any", "candidate": "null", "seed": "int", "corpus": "null", "hydra": schema.table()["hydra"]}


def options(group: str) -> list[str]:
    """Return the choices of a group: its files."""
    return sorted(path.stem for path in (compose.CONF / group).glob("*.yaml"))


def problems() -> list[str]:
    """Return one line for each fault in any file of conf/."""
    return [fault for path in sorted(compose.CONF.rglob("*.yaml")) for fault in of_file(path)]


def of_file(path: Path) -> list[str]:
    """Return one line for each fault in one file of conf/."""
    try:
        content = dialects.read(path)
    except ConfigError as error:
        return str(error).splitlines()
    if path.parent == compose.CONF:
        found = schema.check(content, ROOT) + _defaults(content.get("defaults"), "")
    elif path.parent == compose.CONF / LAUNCHERS:
        found = schema.check(content, "<launcher>")
    else:
        found = _group(path.parent.name, content, path)
    return [f"{path}: {key}{': ' if key else ''}{sentence}" for key, sentence in found]


def missing_launcher(name) -> str:
    """Return what to install for a launcher of conf/hydra/launcher/; empty where it is there."""
    file = compose.CONF / LAUNCHERS / f"{name}.yaml"
    package = ".".join(dialects.read(file)["_target_"].split(".")[:2]) if file.is_file() else "hydra"
    if find_spec(package):
        return ""
    apart = " in an environment of its own (README.md, Engines)" if name == "ray" else ""
    return f"{package} is not installed: pip install -e '.[{EXTRAS.get(name, name)}]'{apart}"


def _group(group: str, content: dict, path: Path) -> list[Problem]:
    text = path.read_text(encoding="utf-8")
    marked = [line for line in text.splitlines() if "@package" in line]
    if group not in compose.GROUPS:
        return [("", unknown("group", group, compose.GROUPS))]
    if path.stem == "none":
        return [("", "a file none.yaml holds {} alone")] if content else []
    if "${" in text or marked not in ([], [GLOBAL]):
        return [("", f"${{...}} is refused: values are written out; of packages there is only {GLOBAL!r}")]
    if not marked:
        found = schema.problems(group, content, partly=_gives(content))
        told = {"mixture": unknown_data, "sweep": sweeps.problems}
        return found or (told[group](content) if group in told else [])
    found = _defaults(content.pop("defaults", []), "override /")
    found += [] if group in content else [(group, "is missing")]
    for section, value in content.items():
        if section not in compose.GROUPS:
            found.append((section, unknown("section", section, compose.GROUPS)))
        else:
            found += schema.problems(section, value, partly=section != group or _gives(value))
    return found


def unknown_data(mixture: dict) -> list[Problem]:
    """Return the data sets of a section `mixture` that conf/data/ does not have."""
    known = options("data")
    return [("mixture.weights", unknown("data set", name, known)) for name in mixture["weights"] if name not in known]


def _gives(value) -> bool:
    """Say whether the file leaves something to be given (???), so that no shape of its section fits yet."""
    return "???" in value.values() or any(map(_gives, value.values())) if isinstance(value, dict) else False


def _defaults(listed, prefix: str) -> list[Problem]:
    """Check a defaults list: each item is {"<prefix><group>": option}, in conf/config.yaml also _self_."""
    found = []
    for item in listed if isinstance(listed, list) else [listed]:
        if item == "_self_" and not prefix:
            continue
        if not isinstance(item, dict) or len(item) != 1:
            return [("defaults", f"{item!r} is not allowed; expected '{prefix}group: option'")]
        ((key, option),) = item.items()
        if not key.startswith(prefix) or key.removeprefix(prefix) not in compose.GROUPS:
            found.append((f"defaults.{key}", unknown("group", key, [prefix + group for group in compose.GROUPS])))
        elif option not in (known := options(key.removeprefix(prefix))):
            found.append((f"defaults.{key}", unknown("option", option, known)))
    return found
