"""Schema: what may stand under each key of a composed candidate, read from schema.yaml, signatures.json and sources/.

`problems("rr", {"rr": 3}, shape)` style answers are lists of (path, sentence); an empty list means that all is well.
"""

import ast
import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import yaml

from stepladder.errors import unknown

PACKAGE = Path(__file__).parent
MAX_TEXT = 20_000  # characters of one value: a prompt template is long, a pasted file is a mistake
PATTERNS = {
    "name": (r"[a-z0-9_]+", "a name of a-z, 0-9 and _"),
    "sha256": (r"[0-9a-f]{64}", "64 hexadecimal digits"),
    "commit": (r"[0-9a-f]{40}", "the 40 hexadecimal digits of a commit"),
}
Problem = tuple[str, str]


@cache
def table() -> dict:
    """Return schema.yaml."""
    return yaml.load((PACKAGE / "schema.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


@cache
def signatures() -> dict[str, dict[str, str]]:
    """Return {"peft.LoraConfig": {"r": "int", ...}, ...}, the allow-list of `_target_`."""
    return json.loads((PACKAGE / "signatures.json").read_text(encoding="utf-8"))


def files(folder: str, package: Path = PACKAGE) -> list[str]:
    """Return the names that `file <folder>` allows: its modules without a leading underscore."""
    return sorted(path.stem for path in (package / folder).glob("*.py") if not path.name.startswith("_"))


def problems(section: str, value, *, package: Path = PACKAGE, partly: bool = False) -> list[Problem]:
    """Return what is wrong with a composed section; `partly` forgives what is left out or still to be given."""
    found = list(_check(value, table()["sections"][section], section, package))
    found = [(path, text) for path, text in found if not (partly and text.startswith(("is missing", "must be given")))]
    if section == "data" and isinstance(value, dict) and isinstance(value.get("options"), dict):
        found += _options(value, package)
    if section == "sweep" and not found:
        found += _parameters(value or {}, package)
    return found


def leaf(section: str, key: str, value, *, package: Path = PACKAGE) -> list[Problem]:
    """Return what is wrong with one dotted key, whichever shape its section takes."""
    place = f"{section}.{key}" if key else section
    specs = list(_specs(table()["sections"][section], key.split(".") if key else []))
    if not specs:
        return [(place, unknown("key", key, _keys(table()["sections"][section])))]
    return min((list(_check(value, spec, place, package)) for spec in specs), key=len)


def mapping(value, rules: dict, path: str = "", package: Path = PACKAGE) -> Iterator[Problem]:
    """Yield what is wrong with a mapping under {key: rule}; a question mark behind a key lets it be left out."""
    if not isinstance(value, dict):
        yield path, f"{value!r} is not allowed; expected keys: {', '.join(rules)}"
        return
    known = {key.rstrip("?"): rule for key, rule in rules.items()}
    for key, item in value.items():
        if key not in known:
            yield f"{path}.{key}".lstrip("."), unknown("key", key, known)
        else:
            yield from _check(item, known[key], f"{path}.{key}".lstrip("."), package)
    for key, rule in rules.items():
        if not key.endswith("?") and key not in value:
            yield f"{path}.{key}".lstrip("."), f"is missing; {_words(rule, package)}"


def is_map(section: str, path: list[str]) -> bool:
    """Say whether the value under a key is one value that happens to be a map (labels, columns), not a section."""
    specs = list(_specs(table()["sections"].get(section, {}), path)) if path else []
    return any("map of" in spec or "<columns>" in spec for spec in specs if isinstance(spec, str))


def _check(value, spec, path: str, package: Path) -> Iterator[Problem]:
    if value == "???":
        yield path, f"must be given; {_words(spec, package)}"
    elif isinstance(spec, list):
        shapes = [list(_check(value, shape, path, package)) for shape in spec]
        yield from min(shapes, key=lambda found: (len(found), not _says(found)))
    elif isinstance(spec, dict):
        yield from mapping(value, spec, path, package)
    elif spec.startswith("target "):
        yield from _target(value, spec.removeprefix("target "), path, package)
    else:
        alternatives = spec.split(" | ")
        results = [list(_single(value, word, path, package)) for word in alternatives]
        if all(results):
            nested = [found for found, word in zip(results, alternatives, strict=True) if word.startswith("<")]
            deep = isinstance(value, dict) and nested
            yield from nested[0] if deep else [(path, f"{value!r} is not allowed; {_words(spec, package)}")]


def _says(found: list[Problem]) -> bool:
    return any("Did you mean" in text for _, text in found)


def _target(value, prefix: str, path: str, package: Path) -> Iterator[Problem]:
    if not isinstance(value, dict) or "_target_" not in value:
        yield path, f"{value!r} is not allowed; expected a section with _target_: {prefix}..."
        return
    targets = [name for name in signatures() if name.startswith(prefix)]
    if value["_target_"] not in targets:
        yield f"{path}._target_", unknown("_target_", value["_target_"], targets)
        return
    types = signatures()[value["_target_"]]
    ranges = table()["ranges"]
    spec = {f"{key}?": _narrow(rule, ranges.get(key)) for key, rule in types.items()}
    yield from mapping(value, {"_target_": "str", **spec}, path, package)


def _narrow(rule: str, interval: str | None) -> str:
    """Return the words of a signature with the interval of schema.yaml behind each number."""
    words = rule.split(" | ")
    return " | ".join(f"{word} {interval}" if interval and word.endswith(("int", "float")) else word for word in words)


def _single(value, word: str, path: str, package: Path) -> Iterator[Problem]:
    """Yield a problem unless the value is what one word of the table says."""
    if word.startswith("<"):
        yield from _check(value, table()["parts"][word[1:-1]], path, package)
        return
    if word.startswith(("list of ", "map of ")):
        kind, inner = word.split(" of ", 1)
        items = value if kind == "list" and isinstance(value, list) else ()
        if kind == "map" and isinstance(value, dict) and all(isinstance(key, str) for key in value):
            items = list(value.values())
        if not items or any(list(_single(item, inner, path, package)) for item in items):
            yield path, word
    elif not _fits(value, word, package):
        yield path, word


def _fits(value, word: str, package: Path) -> bool:
    if word.startswith(("int", "float")):
        return _in_range(value, word)
    text = isinstance(value, str)
    if word.startswith("="):
        return text and value == word[1:]
    if word.startswith("file "):
        return text and value in files(word[5:], package)
    if word in PATTERNS:
        return text and re.fullmatch(PATTERNS[word][0], value) is not None
    if word == "parameters":
        return isinstance(value, dict) and bool(value) and all(isinstance(v, list) and v for v in value.values())
    plain = {"null": value is None, "bool": isinstance(value, bool), "options": isinstance(value, dict), "any": True}
    return plain[word] if word != "str" else text and len(value) <= MAX_TEXT


def _in_range(value, word: str) -> bool:
    kinds = int if word.startswith("int") else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        return False
    if " " not in word:
        return True
    low, high = (float(end) for end in re.findall(r"-?[\d.]+|inf", word.split(" ", 1)[1]))
    above = value >= low if "[" in word else value > low
    return above and (value <= high if word.endswith("]") else value < high)


def _words(spec, package: Path) -> str:
    """Return "expected int [1, 4096] or null", with the names of a folder spelt out."""
    if not isinstance(spec, str):
        return "expected a section"
    words = []
    for word in spec.split(" | "):
        names = files(word[5:], package) if word.startswith("file ") else ()
        words.append(", ".join(names) if names else PATTERNS.get(word, ("", word.lstrip("=")))[1])
    return f"expected {' or '.join(words)}"


def _parameters(sweep: dict, package: Path) -> Iterator[Problem]:
    """Yield what is wrong with the keys and values of a search; whole groups are checked where they are composed."""
    for key, values in sweep.get("parameters", {}).items():
        section, dot, inner = key.partition(".")
        if section not in table()["searchable"]:
            yield f"sweep.parameters.{key}", unknown("section to search in", section, table()["searchable"])
        for value in values if dot and section in table()["searchable"] else ():
            yield from ((f"sweep.parameters.{key}", text) for _, text in leaf(section, inner, value, package=package))


def _options(data: dict, package: Path) -> Iterator[Problem]:
    types = options(data.get("source"), package)
    if types is not None:
        yield from mapping(data["options"], types, "data.options", package)


def options(source: str, package: Path = PACKAGE) -> dict[str, str] | None:
    """Return {parameter: type} of what a source's `read` takes from data.options, None without such a source."""
    if source not in files("sources", package):
        return None
    return {
        name: rule for name, rule in keywords(source, package).items() if name.rstrip("?") not in ("columns", "path")
    }


@cache
def keywords(source: str, package: Path = PACKAGE) -> dict[str, str]:
    """Return {parameter: type} of the keyword-only parameters of `read`; with a default the name ends in '?'."""
    tree = ast.parse((package / "sources" / f"{source}.py").read_text(encoding="utf-8"))
    read = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "read")
    defaults = zip(read.args.kwonlyargs, read.args.kw_defaults, strict=True)
    return {a.arg + ("?" if default else ""): spell(ast.unparse(a.annotation)) for a, default in defaults}


@cache
def labels(source: str, package: Path = PACKAGE) -> tuple[str, ...]:
    """Return the constant LABELS of a source whose labels are always the same, else nothing."""
    tree = ast.parse((package / "sources" / f"{source}.py").read_text(encoding="utf-8"))
    constants = {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    return tuple(ast.literal_eval(constants["LABELS"])) if "LABELS" in constants else ()


def spell(annotation: str) -> str:
    """Return the table's words for a Python annotation: "list[str] | None" is "list of str | null"."""
    words = {"None": "null", "NoneType": "null", "int": "int", "float": "float", "str": "str", "bool": "bool"}
    parts = []
    for part in annotation.split(" | "):
        inner = re.fullmatch(r"(list|tuple|dict)\[(?:str, )?(\w+)(?:, .*)?\]", part)
        kind = "map" if inner and inner[1] == "dict" else "list"
        parts.append(f"{kind} of {words.get(inner[2], 'any')}" if inner else words.get(part, "any"))
    return " | ".join(dict.fromkeys(parts))


def _specs(spec, path: list[str]) -> Iterator:
    """Yield every rule that some shape of a section has for a key."""
    if isinstance(spec, list):
        for shape in spec:
            yield from _specs(shape, path)
    elif isinstance(spec, str) and spec.startswith("target ") and path:
        rules = (types.get(path[0]) for name, types in signatures().items() if name.startswith(spec[7:]))
        yield from (_narrow(rule, table()["ranges"].get(path[0])) for rule in set(rules) if rule and len(path) == 1)
    elif not path:
        yield spec
    elif isinstance(spec, dict):
        known = {key.rstrip("?"): rule for key, rule in spec.items()}
        if path[0] in known:
            yield from _specs(known[path[0]], path[1:])
    elif isinstance(spec, str):
        for word in re.findall(r"<(\w+)>", spec):
            yield from _specs(table()["parts"][word], path)


def _keys(spec) -> Iterable[str]:
    if isinstance(spec, dict):
        return {key.rstrip("?") for key in spec}
    if isinstance(spec, str):
        targets = (types for name, types in signatures().items() if name.startswith(spec.removeprefix("target ")))
        return {key for types in targets for key in types}
    return {key for shape in spec for key in _keys(shape)}
