"""Schema: what may stand under each key of a composed candidate, read from schema.yaml, signatures.json and sources/.

problems("split", {"val": 2, ...}) == [("split.val", "2 is not allowed; expected float (0, 1)")]; [] when all is well.
"""

import ast
import json
import math
import re
from functools import cache
from pathlib import Path

import yaml

from stepladder.errors import unknown

PACKAGE = Path(__file__).parent
PATTERNS = {
    "name": (r"[a-z0-9_]+", "a name of a-z, 0-9 and _"),
    "option": (r"\w+", "the name of an option"),
    "sha256": (r"[0-9a-f]{64}", "64 hexadecimal digits"),
    "commit": (r"[0-9a-f]{40}", "the 40 hexadecimal digits of a commit"),
    "variable": (r"[A-Z][A-Z0-9_]*", "the name of a variable of the environment, never what it holds"),
}
EMPTY = {"[]": [], "{}": {}}
PLAIN = {"null": type(None), "bool": bool, "str": str, "keys": dict, "any": object}
ANNOTATIONS = {
    "int": "int",
    "float": "float",
    "str": "str",
    "bool": "bool",
    "None": "null",
    "NoneType": "null",
}  # of Python
Problem = tuple[str, str]  # dotted key, sentence


@cache
def table() -> dict:
    """Return schema.yaml, and under `parts` what each file of probes/ takes."""
    found = yaml.load((PACKAGE / "schema.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    taken = {name: _ranged(keywords("probes", name, "measure"), found["ranges"]) for name in names("probes")}
    found["parts"]["probes"] = {
        f"{name}?": keys | ({"asset": "<asset>"} if "asset" in keys else {}) for name, keys in taken.items()
    }
    return found


@cache
def targets() -> dict[str, dict[str, str]]:
    """Return {"peft.LoraConfig": {"r": "int", ...}, ...} as committed: the allow-list of `_target_`."""
    return json.loads((PACKAGE / "signatures.json").read_text(encoding="utf-8"))


def problems(section: str, value, *, partly: bool = False) -> list[Problem]:
    """Return what is wrong with a composed section; `partly` forgives what is left out or still to be given."""
    rule = table()["sections"][section]
    if section == "data" and isinstance(value, dict) and value.get("source") in names("sources"):
        rule = rule | {"options": options(value["source"])}
    found = check(value, rule, section)
    return [(key, text) for key, text in found if not (partly and text.startswith(("is missing", "must be given")))]


def leaf(key: str, value) -> list[Problem]:
    """Return what is wrong with one dotted key such as method.r, whichever shape its section takes."""
    (section, *path), sections = key.split("."), table()["sections"] | {"hydra": table()["hydra"]}
    if section not in sections:
        return [(key, unknown("section", section, table()["sections"]))]
    if tries := [check(value, rule, key) for rule in _rules(sections[section], path)]:
        return min(tries, key=len)
    depth = next((i for i in range(len(path)) if not _rules(sections[section], path[: i + 1])), 0)
    above = _rules(sections[section], path[:depth])
    known = {name.rstrip("?") for rule in above for shape in _shapes(rule) for name in shape}
    return [(key, unknown("key", ".".join(path[depth : depth + 1]), known))]


def is_map(key: str) -> bool:
    """Say whether the value of a dotted key is one value that happens to be a map (task.labels), not a section."""
    section, *path = key.split(".")
    rules = _rules(table()["sections"].get(section, {}), path) if path else []
    return any(word in rule for rule in rules for word in ("map of", "<columns>", "<scale>"))


def options(source: str) -> dict[str, str]:
    """Return {parameter: type} of what a source's `read` takes from data.options."""
    taken = of_source(source)
    return {name: rule for name, rule in taken.items() if name.rstrip("?") not in ("columns", "path")}


def check(value, rule, path: str = "") -> list[Problem]:
    """Return what is wrong with a value under a rule of the table: {key: rule}, [shapes] or "word | word".

    Where several shapes are allowed, those of the shape that comes nearest are told.
    """
    if value == "???":
        return [(path, f"must be given; {_expected(rule)}")]
    if any(_fits(value, word) for word in _words(rule)):
        return []
    tries = [found for word in _words(rule) if " of " in word and (found := _items(value, word, path)) is not None]
    if isinstance(value, dict) and (shapes := _shapes(rule)):
        targets = {shape.get("_target_", "")[1:]: shape for shape in shapes}
        if (target := value.get("_target_", "")) not in targets:
            return [(f"{path}._target_".lstrip("."), unknown("_target_", target, targets.keys() - {""}))]
        tries += [_keys(value, shape, path) for shape in ([targets[target]] if target else shapes)]
    if not tries:
        shown = "what stands there" if "variable" in _words(rule) else repr(value)  # it may be the key itself
        return [(path, f"{shown} is not allowed; {_expected(rule)}")]
    return min(tries, key=lambda found: (len(found), "Did you mean" not in str(found)))


def _keys(value: dict, shape: dict, path: str) -> list[Problem]:
    """Check a mapping; a question mark behind a key of the shape lets it be left out."""
    known, found = {key.rstrip("?"): rule for key, rule in shape.items()}, []
    for key, item in value.items():
        here = f"{path}.{key}".lstrip(".")
        found += check(item, known[key], here) if key in known else [(here, unknown("key", key, known))]
    missing = [key for key in shape if not key.endswith("?") and key not in value]
    return found + [(f"{path}.{key}".lstrip("."), f"is missing; {_expected(shape[key])}") for key in missing]


def _items(value, word: str, path: str) -> list[Problem] | None:
    """Check "list of X" or "map of X" item by item; None for a value of another kind, or for an empty one."""
    kind, inner = word.split(" of ", 1)
    if not value or not isinstance(value, {"list": list, "map": dict}[kind]):
        return None
    items = value.items() if kind == "map" else enumerate(value)
    return [problem for name, item in items for problem in check(item, inner, f"{path}.{name}")]


def _shapes(rule) -> list[dict]:
    """Return the mappings that a rule allows, parts and targets written out."""
    if isinstance(rule, dict):
        return [rule]
    if isinstance(rule, list):
        return [shape for each in rule for shape in _shapes(each)]
    if rule.startswith("target "):
        named = {name: keys for name, keys in targets().items() if name.startswith(rule.split()[1])}
        extra = table()["extra"]
        return [{"_target_": f"={name}"} | _narrowed(keys | extra.get(name, {})) for name, keys in named.items()]
    return [shape for word in _words(rule) if word.startswith("<") for shape in _shapes(table()["parts"][word[1:-1]])]


def _narrowed(keys: dict[str, str]) -> dict[str, str]:
    """Return a signature, all keys optional, with the interval of schema.yaml behind its numbers."""
    return {f"{key}?": rule for key, rule in _ranged(keys, table()["ranges"]).items()}


def _ranged(keys: dict[str, str], ranges: dict[str, str]) -> dict[str, str]:
    intervals = {key: f" {ranges[key]}" if key in ranges else "" for key in keys}
    return {key: re.sub(r"\b(int|float)\b", rf"\1{intervals[key]}", rule) for key, rule in keys.items()}


def _rules(rule, path: list[str]) -> list:
    """Return every rule that some shape has for a key."""
    if not path or rule in ("any", "keys"):
        return ["any" if path else rule]
    inner = [shape[key] for shape in _shapes(rule) for key in (path[0], f"{path[0]}?") if key in shape]
    return [found for each in inner for found in _rules(each, path[1:])]


def _words(rule) -> list[str]:
    rules = rule if isinstance(rule, list) else [rule]
    return [word for each in rules if isinstance(each, str) for word in each.split(" | ")]


def _fits(value, word: str) -> bool:
    if word.startswith(("int", "float")):
        return _in_range(value, word)
    if word in EMPTY:
        return value == EMPTY[word]
    if word in PLAIN:
        return isinstance(value, PLAIN[word])
    if word in PATTERNS:
        return isinstance(value, str) and re.fullmatch(PATTERNS[word][0], value) is not None
    if word.startswith("file "):
        return value in names(word[5:])
    return word.startswith("=") and value == word[1:]


def _in_range(value, word: str) -> bool:
    """Say whether a value is what "int [1, inf]" or "float (0, 1)" says; ( and ) leave the end out."""
    kind, _, interval = word.partition(" ")
    kinds = int if kind == "int" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        return False
    low, high = map(float, interval[1:-1].split(", ")) if interval else (-math.inf, math.inf)
    return low <= value <= high and not (value == low and "(" in interval) and not (value == high and ")" in interval)


def _expected(rule) -> str:
    """Return "expected int [1, 4096] or null", with the names of a folder spelt out."""
    words = [", ".join(names(word[5:])) if word.startswith("file ") else word for word in _words(rule)]
    if words:
        return f"expected {' or '.join(PATTERNS.get(word, ('', word.lstrip('=')))[1] for word in words)}"
    return f"expected keys: {', '.join(_shapes(rule)[0])}"


def names(folder: str, package: Path = PACKAGE) -> list[str]:
    """Return the plug-ins of a folder: its modules without a leading underscore."""
    return sorted(path.stem for path in (package / folder).glob("*.py") if not path.name.startswith("_"))


def constant(folder: str, name: str, which: str, package: Path = PACKAGE) -> tuple[str, ...]:
    """Return the text or texts of a plug-in's constant such as TASK or LABELS, () where it has none."""
    value = literal(folder, name, which, package)
    return (value,) if isinstance(value, str) else tuple(value or ())


def literal(folder: str, name: str, which: str, package: Path = PACKAGE):
    """Return a plug-in's constant as it is written, None where it has none."""
    for node in parsed((package / folder / f"{name}.py").read_bytes()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == which:
            return ast.literal_eval(node.value)
    return None


def of_source(source: str) -> dict[str, str]:
    """Return {parameter: type} of the keyword-only parameters of a source's `read`; a default adds a '?'."""
    return keywords("sources", source, "read")


def keywords(folder: str, name: str, function: str) -> dict[str, str]:
    """Return {parameter: type} of the keyword-only parameters of a plug-in's function; a default adds a '?'."""
    tree = parsed((PACKAGE / folder / f"{name}.py").read_bytes())
    read = next(node.args for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    pairs = zip(read.kwonlyargs, read.kw_defaults, strict=True)
    return {each.arg + "?" * (default is not None): spell(each.annotation) or "any" for each, default in pairs}


def spell(annotation: ast.expr) -> str:
    """Return "list of str | null" for `list[str] | None` or Optional[list[str]]; empty where YAML cannot say it."""
    words = sorted(set(_spelt(annotation)))
    return " | ".join(words) if words != ["null"] else ""


def _spelt(node: ast.expr) -> list[str]:
    if isinstance(node, ast.BinOp):
        return _spelt(node.left) + _spelt(node.right)
    if not isinstance(node, ast.Subscript):
        name = ast.unparse(node).removeprefix("builtins.")
        return [ANNOTATIONS[name]] if name in ANNOTATIONS else []
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    match ast.unparse(node.value).removeprefix("typing."):
        case "Union" | "Optional" as kind:
            return [word for part in inner for word in _spelt(part)] + ["null"] * (kind == "Optional")
        case "Literal":
            values = [part.value for part in inner]
            texts = [f"={value}" for value in values if isinstance(value, str)]
            return texts + sorted({ANNOTATIONS[type(value).__name__] for value in values if not isinstance(value, str)})
        case "list" | "List" | "tuple" | "Tuple" | "dict" | "Dict" as kind:
            item = spell(inner[1 if kind in ("dict", "Dict") else 0]).split(" | ")[0]
            return [f"{'map' if kind in ('dict', 'Dict') else 'list'} of {item}"] if item else []
    return []


@cache
def parsed(code: bytes) -> ast.Module:
    """Return the syntax tree of a module, which is never imported here."""
    return ast.parse(code)
