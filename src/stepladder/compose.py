"""Compose: a row of params.yaml becomes the complete, plain config of one candidate.

candidate("lora", params)["method"] == {"_target_": "peft.LoraConfig", "r": 16, ...}; sections without a use are None.
Sources: https://hydra.cc/docs/1.3/advanced/compose_api/ and https://hydra.cc/docs/1.3/advanced/override_grammar/basic/
"""

import copy
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stepladder import dialects, fingerprints, schema, spaces
from stepladder.errors import ConfigError, unknown

CONF = schema.PACKAGE.parents[1] / "conf"
GROUPS = tuple(name for name in schema.table()["sections"] if name not in ("candidate", "seed", "corpus"))
OF_DATA = ("data", "split", "task")  # sections that belong to a data set, whoever reads it
NAMING = ("name", "monitor", "source")  # keys whose value is a plug-in, whose code is a part of a candidate
COMPARED = (*OF_DATA, "gate", "price")


@dataclass(frozen=True)
class Word:
    """What a person says in one place: method=lora (an option of a group), seed=7, or method.r=16 (a value in it)."""

    place: str  # params.yaml: candidates.lora.set.method.r
    key: str
    value: object
    added: bool = False  # with a +: the key is not there yet

    @property
    def section(self) -> str:
        return self.key.split(".")[0]

    def overrides(self) -> list[str]:
        """Return it in Hydra's grammar; a map is emptied first, since Hydra would merge it into the one there is."""
        if "." not in self.key:
            return [f"{self.key}={literal(self.value) if isinstance(self.value, list) else self.value}"]
        emptied = [f"{self.key}=null"] if isinstance(self.value, dict) and not self.added else []
        return [*emptied, f"{'+' * self.added}{self.key}={literal(self.value)}"]


def write(folder: Path, params: dict) -> list[Path]:
    """Write <c>.yaml, data/<d>.yaml and compare/compare.yaml: equal bytes for equal input, read alike by DVC and Hydra.

    Raises ConfigError before anything is written.
    """
    found = {f"{name}.yaml": candidate(name, params) for name in params["candidates"]}
    found |= {f"data/{name}.yaml": dataset(name, params) for name in (params["data"], *params["datasets"])}
    found["compare/compare.yaml"] = comparison(params)
    texts = {folder / name: dialects.dump(value, f"{folder}/{name}") for name, value in found.items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def candidate(name: str, params: dict) -> dict:
    """Return the composed candidate with its overrides, the options of its sweep and the fingerprints of its code.

    Raises ConfigError with Hydra's reason where the row cannot be composed.
    """
    return complete(overrides(of_candidate(name, params)))


def complete(made: list[str]) -> dict:
    """Return what a list of overrides composes to, with the options of its sweep and the fingerprints of its code."""
    found = _complete(made)
    return found | {"options": _options(found)}


def trial(composed: dict, changes: dict) -> dict:
    """Return the candidate composed again with {key: value} on top; another option of a group starts from its file.

    Values alone are put where Hydra would put them (conf/ has no interpolation), in 1 ms instead of 160, for trials of
    a second. Raises ConfigError with Hydra's reason where they cannot be composed.
    """
    said = overrides([Word("sweep", key, value) for key, value in changes.items()])
    if (found := _put(composed, changes)) is not None:
        return found | {"overrides": [*composed["overrides"], *said]}
    chosen = {key for key in changes if key in GROUPS and f"{key}={changes[key]}" not in composed["overrides"]}
    kept = [own for own in composed["overrides"] if not own.lstrip("+").startswith(tuple(f"{key}." for key in chosen))]
    return _complete([*kept, *said]) | {"options": composed["options"]}


def _put(composed: dict, changes: dict) -> dict | None:
    """Return a copy with values put in; None where a group, a plug-in's name or a key that is not there is changed."""
    found = copy.deepcopy(composed)
    for key, value in changes.items():
        *parents, last = key.split(".")
        inner = found
        for part in parents:
            inner = inner.get(part) if isinstance(inner, dict) else None
        if not (parents and isinstance(inner, dict) and last in inner) or last in NAMING:
            return None
        inner[last] = _text_keys(value)
    return found


def dataset(name: str, params: dict) -> dict:
    """Return {seed, data, split, task, overrides, code} of a data set; the common `set` is for the scored one."""
    made = overrides(of_data(name, params))
    found = compose(made)
    code = {"source": fingerprints.plugin("sources", found["data"]["source"])}
    return {key: found[key] for key in ("seed", *OF_DATA)} | {"overrides": made, "code": code}


def comparison(params: dict) -> dict:
    """Return {seed, data, split, task, gate, price, candidates, probes, overrides, code}: what is compared, and how.

    `probes` holds the archives {candidate: {probe: asset}} that probes read.
    """
    made = overrides(of_data(params["data"], params, sections=COMPARED))
    found = compose(made) | {"candidates": list(params["candidates"])}
    found["probes"] = {name: probed(candidate(name, params), "asset") for name in params["candidates"]}
    code = {"metrics": fingerprints.metrics(found["task"]["name"])}
    return {key: found[key] for key in ("seed", *COMPARED, "candidates", "probes")} | {"overrides": made, "code": code}


def probed(composed: dict, key: str) -> dict:
    """Return {probe: value} of what the probes of a composed candidate say under a key, `data` or `asset`."""
    return {probe: given[key] for probe, given in (composed["probe"] or {}).items() if key in given}


def of_candidate(name: str, params: dict, path: str = "params.yaml") -> list[Word]:
    """Return the words that make a candidate: choices first, then the common `set`, then its own."""
    row, place = params["candidates"][name], f"{path}: candidates.{name}"
    made = [Word(f"{path}: candidate", "candidate", name)]
    made += [Word(f"{path}: {key}", key, params[key]) for key in ("seed", "data") if key not in row]
    made += [Word(f"{place}.{key}", key, value) for key, value in row.items() if key != "set"]
    scored = row.get("data", params["data"]) == params["data"]
    common = _common(made, params, path, GROUPS if scored else set(GROUPS) - set(OF_DATA))
    return made + common + nested(row.get("set") or {}, f"{place}.set")


def of_data(name: str, params: dict, *, sections=OF_DATA, path: str = "params.yaml") -> list[Word]:
    """Return the words that make a data set or the comparison; the common `set` is for the scored data set."""
    place = "data" if name == params["data"] else f"datasets.{name}"
    made = [Word(f"{path}: seed", "seed", params["seed"]), Word(f"{path}: {place}", "data", name)]
    return made + (_common(made, params, path, sections) if name == params["data"] else [])


def weights(found: dict) -> dict[str, float]:
    """Return {data set: its weight} of a candidate's mixture, empty without one."""
    return (found["mixture"] or {"weights": {}})["weights"]


def tasks(found: dict) -> dict[str, dict]:
    """Return {data set: its composed task} of a candidate's mixture."""
    return {name: compose([f"data={name}"])["task"] for name in weights(found)}


def overrides(words: list[Word]) -> list[str]:
    """Return the words in Hydra's grammar."""
    return [text for word in words for text in word.overrides()]


def nested(tree: dict, place: str, path: tuple[str, ...] = ()) -> list[Word]:
    """Return a word for each value of a nested `set`; a + before a key adds it."""
    found = []
    for key, value in tree.items():
        here = (*path, str(key))
        name = ".".join(part.lstrip("+") for part in here)
        if isinstance(value, dict) and value and not schema.is_map(name):
            found += nested(value, place, here)
        else:
            found.append(Word(f"{place}.{name}", name, value, any(part.startswith("+") for part in here)))
    return found


def place(word: Word, composed: dict) -> str:
    """Put a value where Hydra would put it; return why Hydra or nobody would read it there, empty where all is well."""
    *parents, last = word.key.split(".")
    inner = composed
    for part in parents:
        inner = inner.get(part) if isinstance(inner, dict) else None
    if word.section not in GROUPS:
        return unknown("section", word.section, GROUPS)
    if not isinstance(inner, dict) or composed[word.section] is None:
        reader = f"level {composed['level']['name']} with model {composed['model']['name']}"
        return f"{reader} never reads {word.key}; leave it out"
    there = last in inner
    inner[last] = _text_keys(word.value)
    if there and word.added:
        return f"it is there already; write {last} without the +"
    return "" if there or word.added else f"it is not there yet; write +{last}"


def _common(made: list[Word], params: dict, path: str, sections) -> list[Word]:
    """Return those words of the common `set` that the sections so made have a place for; a row's own choice stands."""
    found = [word for word in nested(params["set"] or {}, f"{path}: set") if word.section in sections]
    base, taken = compose(overrides(made)) if found else {}, {word.key for word in made}
    chosen = [word for word in found if "." not in word.key and word.key not in taken and base.get(word.key)]
    base = compose(overrides([*made, *chosen])) if chosen else base
    return chosen + [word for word in found if "." in word.key and not place(word, copy.deepcopy(base))]


def compose(made: list[str]) -> dict:
    """Return all sections, plain and resolved, for a list of Hydra overrides; ConfigError with Hydra's reason."""
    return copy.deepcopy(_composed(tuple(made), CONF))


@cache
def _composed(made: tuple[str, ...], conf: Path) -> dict:
    """Do what hydra.compose does, with Hydra's own parts, but without composing Hydra's settings each time (3x)."""
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        loader, files = _loader(conf)
        words = OverridesParser.create().parse_overrides(list(made))
        listed = create_defaults_list(files, "config", words, prepend_hydra=False, skip_missing=False)
        config = copy.deepcopy(loader._compose_config_from_defaults_list(listed.defaults, files))
        config.pop("hydra", None)  # its interpolations hold only inside a running job
        OmegaConf.set_struct(config, True)
        loader._apply_overrides_to_config(listed.config_overrides, config)
        return plain(config)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{' '.join(made)}: Hydra cannot compose this ({reason})") from None


@cache
def _loader(conf: Path):
    """Return Hydra's loader of a folder and its cache of files; a running Hydra application is left as it is."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra._internal.utils import create_config_search_path
    from hydra.core.plugins import Plugins

    version.setbase("1.3")
    Plugins.instance()  # registers the schemas of Hydra's own settings
    loader = ConfigLoaderImpl(create_config_search_path(str(conf.resolve())))
    return loader, CachingConfigRepository(loader.repository)


def plain(config) -> dict:
    """Return a Hydra config as a plain dict with every top-level key; a section of `{}` is None, map keys are text."""
    from omegaconf import OmegaConf

    found = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    sections = {key: found.get(key) for key in schema.table()["sections"]}
    rest = {key: value for key, value in found.items() if key not in sections and key != "hydra"}
    return {key: None if value == {} else _text_keys(value) for key, value in sections.items()} | rest


def literal(value) -> str:
    """Return a value in Hydra's override grammar; ConfigError for what that grammar cannot say."""
    if isinstance(value, str):
        escaped = re.sub(r"(\\+)('|\Z)", r"\1\1\2", value).replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, dict):
        odd = [key for key in value if not re.fullmatch(r"\w[\w .-]*(?<! )", str(key), re.ASCII)]
        if odd:
            raise ConfigError(f"the key {odd[0]!r} cannot stand in `set`; write the section as a file in conf/")
        return "{" + ",".join(f"{key}: {literal(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


def _complete(made: list[str]) -> dict:
    found = compose(made)
    monitor = (found["trainer"] or {}).get("monitor")
    code = {
        "level": fingerprints.plugin("levels", found["level"]["name"]),
        "source": fingerprints.plugin("sources", found["data"]["source"]),
        "objective": fingerprints.plugin("objectives", (found["objective"] or {}).get("name")),
        "monitor": fingerprints.plugin("metrics", None if monitor == "loss" else monitor),
        "metrics": fingerprints.metrics(found["task"]["name"]),
        "probe": {probe: fingerprints.plugin("probes", probe) for probe in found["probe"] or {}},
    }
    return found | {"overrides": made, "options": {}, "tasks": tasks(found), "code": code}


def _options(composed: dict) -> dict:
    """Return {group: {option: section}} for each group in the sweep; a section that the choice switches along is
    kept under its own group as "<group>=<option>"."""
    found: dict = {}
    space = spaces.of(composed["sweep"]) if composed["sweep"] else []
    for each in (each for each in space if each.key in GROUPS):
        for option in each.choices:
            under = {group: options[0] for group, options in each.where}
            other = trial(composed, under | {each.key: option})
            for section in GROUPS:
                if section == each.key or other[section] != composed[section]:
                    name = option if section == each.key else f"{each.key}={option}"
                    found.setdefault(section, {})[name] = other[section]
    return found


def _text_keys(value):
    if isinstance(value, dict):
        return {str(key): _text_keys(item) for key, item in value.items()}
    return [_text_keys(item) for item in value] if isinstance(value, list) else value
