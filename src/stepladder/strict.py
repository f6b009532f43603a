"""Strict: refuse what a person typed wrongly, in params.yaml or by hand, all faults at once and without torch.

params.yaml: candidates.lora.set.method.rr: No key named 'rr'. Did you mean 'r'? Known: alora_invocation_tokens, ...
"""

import os
from pathlib import Path

from stepladder import compose, dialects, gate, mixable, rules, schema, shipped, spaces, sweeps
from stepladder.compose import Word
from stepladder.errors import ConfigError, unknown
from stepladder.schema import Problem

OWN_DATA = ("data.max_rows", "data.canaries")  # of the keys of data those that a candidate may set
RESERVED = ("compare", "config", "data")  # names of files and folders beside those of the candidates
TRACKED = ("data/raw/", "samples/")  # `deps` of stage prepare


def params(path: Path) -> dict:
    """Return params.yaml; raises ConfigError with one line for each fault in it or in conf/."""
    found = shipped.problems()
    try:
        table = dialects.read(path)
    except ConfigError as error:
        refuse([*str(error).splitlines(), *found])
    problems = _table(table)
    found += [f"{path}: {key}: {text}" for key, text in problems]
    places = {".".join(key.split(".")[:2]) for key, _ in problems}
    whole = {place.split(".")[0] for place in places if not place.startswith("candidates.")}
    if not whole & (schema.table()["params"].keys() - {"datasets"}):
        sound = {name: row for name, row in table["candidates"].items() if f"candidates.{name}" not in places}
        found += _composed(table | {"candidates": sound}, str(path))
    refuse(found)
    return table


def composed_file(path: Path) -> dict:
    """Return a composed file; raises ConfigError unless it is there, is plain and names allowed targets only."""
    if not path.is_file():
        raise ConfigError(f"{path} is not there; run: dvc repro configure")
    content, known = dialects.read(path), schema.targets()
    found = [f"{key} is refused in a composed file" for key in sorted(content.keys() & {"hydra", "defaults"})]
    targets = [value for key, value in leaves(content) if key.endswith("_target_") and value not in known]
    refuse([f"{path}: {fault}" for fault in [*found, *(unknown("_target_", value, known) for value in targets)]])
    return content


def faults(words: list[Word], owner: str, *, read: tuple[str, ...] = compose.GROUPS) -> list[str]:
    """Return one line for each fault of a candidate: its choices, its keys and values, what its sections demand.

    Of a stage that reads some sections alone, these are looked at; without `level` they make no candidate.
    """
    chosen, values = [word for word in words if "." not in word.key], [word for word in words if "." in word.key]
    found = [problem for word in chosen for problem in _option(word)]
    if found:  # it cannot be composed: the values may stand in whichever shape their section takes
        found += [problem for word in values for problem in schema.leaf(word.key, word.value)]
    else:
        try:
            composed = compose.compose(compose.overrides(chosen))
            found = _together(composed, values, owner, read) or _searched(composed, words)
        except ConfigError as error:
            return [f"{owner}: {error}"]
    return [_line(key, text, words, owner) for key, text in found]


def refuse(faults: list[str]) -> None:
    """Raise ConfigError with one line for each fault, if there is one."""
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))


def hostile(key: str, value: object) -> str:
    """Return why a key or value is refused wherever a person may write it; empty where it is harmless."""
    if "_target_" in f"{key}{value}":
        return f"{value!r} is refused; conf/ alone names classes (method: lora)"
    return f"{value!r} is refused; values are written out, ${{...}} is not read here" if "${" in f"{key}{value}" else ""


def leaves(value, key: str = "") -> list[tuple[str, object]]:
    """Return (dotted key, value) for each leaf of nested maps and lists."""
    if not isinstance(value, dict | list):
        return [(key, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [leaf for name, item in items for leaf in leaves(item, f"{key}.{name}".lstrip("."))]


def _table(table: dict) -> list[Problem]:
    """Return what is wrong with params.yaml as far as it is seen without composing anything."""
    found = [(key, text) for key, value in leaves(table) if (text := hostile(key, value))]
    if wrong := schema.check(table, schema.table()["params"]):
        return found + wrong
    scored, further, rows = table["data"], table["datasets"], table["candidates"]
    for key, name in [("data", scored), *(("datasets", name) for name in further)]:
        found += [(key, text) for _, text in _option(Word("", "data", name))]
    for word in compose.nested(table["set"] or {}, "set"):
        found += [(word.place, text) for _, text in _option(word)] if word.key in compose.GROUPS else []
    if len({scored, *further}) <= len(further):
        found.append(("datasets", f"a name stands twice; {scored} is the scored data set already (data:)"))
    if not any(isinstance(row, dict) and row.get("level") == "baseline" and "data" not in row for row in rows.values()):
        found.append(("candidates", "none has level: baseline; add 'majority: {level: baseline, model: majority}'"))
    return found + [problem for name, row in rows.items() for problem in _row(name, row, {scored, *further})]


def _row(name: str, row, named: set[str]) -> list[Problem]:
    """Return what is wrong with a candidate as far as it is seen without composing it."""
    place = f"candidates.{name}"
    found = schema.check(name, "name", place) + schema.check(row, schema.table()["row"], place)
    if name in RESERVED:
        found.append((place, f"{name} is a name of our own ({', '.join(RESERVED)}); choose another"))
    if not found:
        for key in row.keys() & {"data", "corpus"}:
            if row[key] not in named:
                found.append((f"{place}.{key}", f"{row[key]} is neither data nor in datasets; add it to datasets"))
        for word in compose.nested(row.get("set") or {}, f"{place}.set"):
            if word.section in ("gate", "price", "split") or (word.section == "data" and word.key not in OWN_DATA):
                cure = f"write it under the top-level set, or as a file in conf/{word.section}/"
                found.append((word.place, f"{word.section} is the same for all candidates on a data set; {cure}"))
    return found


def _composed(table: dict, path: str) -> list[str]:
    """Return the faults that are seen in the composed candidates and data sets."""
    found, heard = [], set()
    for name in table["candidates"]:
        words = compose.of_candidate(name, table, path)
        heard |= {word.place for word in words}
        found += faults(words, f"{path}: candidates.{name}") or _unprepared(words, table, f"{path}: candidates.{name}")
    for word in compose.nested(table["set"] or {}, f"{path}: set"):
        wrong = schema.leaf(word.key, word.value) if "." in word.key or word.key not in compose.GROUPS else []
        told = wrong or [("", "no candidate reads it")]
        found += [f"{word.place}: {text}" for _, text in told if word.place not in heard]
    for name in sorted(_named(table)):
        read = compose.COMPARED if name == table["data"] else compose.OF_DATA
        words = compose.of_data(name, table, sections=read, path=path)
        found += faults(words, path, read=read) or _untracked(words, path)
    return found or _unasked(table, path)


def _unasked(table: dict, path: str) -> list[str]:
    """The gate may require what a probe or a meter measures where it measures it of some candidate."""
    made = [compose.compose(compose.overrides(compose.of_candidate(name, table, path))) for name in table["candidates"]]
    words = compose.of_data(table["data"], table, sections=compose.COMPARED, path=path)
    composed = compose.compose(compose.overrides(words))
    return [_line(key, text, words, path) for key, text in gate.unasked(composed, made)]


def _unprepared(words: list[Word], table: dict, owner: str) -> list[str]:
    """A mixture and a probe read data sets that params.yaml names: these are prepared."""
    composed = compose.compose(compose.overrides(words))
    asked = {f"probe.{probe}.data": data for probe, data in compose.probed(composed, "data").items()}
    asked |= {f"mixture.weights.{name}": name for name in compose.weights(composed)}
    cure = "is neither data nor in datasets; add it to datasets"
    unknown = {key: f"{data} {cure}" for key, data in asked.items() if data not in _named(table)}
    return [_line(key, text, words, owner) for key, text in unknown.items()]


def _named(table: dict) -> set[str]:
    return {table["data"], *(table["datasets"] if isinstance(table.get("datasets"), list) else ())}


def _untracked(words: list[Word], owner: str) -> list[str]:
    """DVC tracks the folders data/raw/ and samples/: an edit of a file elsewhere would go unnoticed."""
    chosen = compose.compose(compose.overrides([word for word in words if "." not in word.key]))
    place = next((word.value for word in words if word.key == "data.path"), chosen["data"]["path"])
    if place is None or f"{os.path.normpath(place)}/".startswith(TRACKED):
        return []
    reason = f"{place!r} lies outside {' and '.join(TRACKED)}, where DVC sees an edit"
    return [_line("data.path", f"{reason}; put it into data/raw/ (a single file may be a link)", words, owner)]


def _option(word: Word) -> list[Problem]:
    """Check a word without a dot: an option of a group, the seed or the corpus."""
    if word.key in ("candidate", "seed"):
        return schema.problems(word.key, word.value)
    if word.key not in (*compose.GROUPS, "corpus"):
        return [(word.key, unknown("group", word.key, (*compose.GROUPS, "corpus", "seed")))]
    known = shipped.options("data" if word.key == "corpus" else word.key)
    chosen = word.value if isinstance(word.value, list) and word.key == "probe" else [word.value]
    return [(word.key, unknown(word.key, name, known)) for name in chosen if name not in known]


def _together(composed: dict, values: list[Word], owner: str, read: tuple[str, ...]) -> list[Problem]:
    """Put the values where Hydra will put them; return what is wrong with them, with the sections, between them."""
    told = {word.key: text for word in values if (text := compose.place(word, composed))}
    sections = [name for name in read if composed[name] is not None]
    told |= {key: text for name in sections for key, text in schema.problems(name, composed[name])}
    if composed["sweep"] and not any(key.startswith("sweep") for key in told):
        told |= dict(sweeps.problems(composed["sweep"]))
    if told or "level" not in read:
        return list(told.items()) or rules.of_data(composed) or (gate.problems(composed) if "gate" in read else [])
    own = {word.key for word in values if word.place.startswith(owner)}
    found = rules.of_data(composed) or rules.of_candidate(composed) or mixable.problems(composed)
    return found or rules.without_effect(composed, own)


def _searched(composed: dict, words: list[Word]) -> list[Problem]:
    """Return what is wrong between a candidate and its search, and with the candidates that the search makes."""
    if not composed["sweep"]:
        return []
    space = spaces.of(composed["sweep"])
    pairs = [(each, option) for each in space if each.key in compose.GROUPS for option in each.choices]
    known = {each.key: shipped.options(each.key) for each, _ in pairs}
    found = [(each.place, unknown(each.key, option, known[each.key])) for each, option in pairs
             if option not in known[each.key]]  # fmt: skip
    if found:
        return found
    whole = compose.complete(compose.overrides(words))
    found = sweeps.of_candidate(whole)
    for point in sweeps.corners(space) if not found else ():
        said = ", ".join(f"{key}={value}" for key, value in point.items())
        try:
            made = compose.trial(whole, sweeps.changes(whole, point))
        except ConfigError as error:
            return [(f"sweep.parameters ({said})", str(error))]
        made = {key: value for key, value in made.items() if key in schema.table()["sections"]}
        told = [fault for name in compose.GROUPS if made[name] for fault in schema.problems(name, made[name])]
        found += [(f"sweep.parameters ({said})", f"{key}: {text}") for key, text in told or rules.of_candidate(made)]
    return found


def _line(key: str, text: str, words: list[Word], owner: str) -> str:
    """Return the fault behind the place where a person caused it: the nearest key, else its group, else the row."""
    above = [word for word in words if f"{key}.".startswith(f"{word.key}.")]
    below = [word for word in words if word.key.startswith(f"{key}.")]
    nearest = max(above, key=lambda word: len(word.key), default=below[0] if below else None)
    place = nearest.place if nearest else owner
    if nearest and "." not in nearest.key and ": set." in place:  # chosen for all: say whom it does not suit
        text = f"{owner.split()[-1]}: {text}"
    return f"{place}: {text}" if place.endswith(key) else f"{place}: {key}: {text}"
