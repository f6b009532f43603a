"""Compose: a row of params.yaml becomes the complete, plain config of one candidate.

candidate("lora", params)["method"] == {"_target_": "peft.LoraConfig", "r": 16, ...}; sections without a use are None.
Sources: https://hydra.cc/docs/1.3/advanced/compose_api/ and https://hydra.cc/docs/1.3/advanced/override_grammar/basic/
"""

import copy
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from stepladder import dialects, fingerprints, schema
from stepladder.errors import ConfigError

CONF = schema.PACKAGE.parents[1] / "conf"
GROUPS = tuple(name for name in schema.table()["sections"] if name not in ("candidate", "seed", "corpus"))
OF_DATA = ("data", "split", "task")  # sections that belong to a data set, whoever reads it
COMPARED = (*OF_DATA, "gate")


def candidate(name: str, params: dict, *, conf: Path = CONF, package: Path = schema.PACKAGE) -> dict:
    """Return the composed candidate with its overrides, the options of its sweep and the fingerprints of its code.

    Raises ConfigError with Hydra's reason where the row cannot be composed.
    """
    found = _complete(overrides(name, params, conf=conf), conf, package)
    return found | {"options": _options(found, conf, package)}


def trial(composed: dict, changes: list[str], *, conf: Path = CONF, package: Path = schema.PACKAGE) -> dict:
    """Return the candidate composed again with Hydra overrides on top; another option of a group starts from its file.

    Raises ConfigError with Hydra's reason where they cannot be composed.
    """
    chosen = {change.split("=")[0] for change in changes if change not in composed["overrides"]} & set(GROUPS)
    kept = [own for own in composed["overrides"] if not ("." in (key := own.split("=")[0]) and _section(key) in chosen)]
    return _complete([*kept, *changes], conf, package) | {"options": composed["options"]}


def dataset(name: str, params: dict, *, conf: Path = CONF, package: Path = schema.PACKAGE) -> dict:
    """Return {seed, data, split, task, overrides, code} of a data set; the common `set` is for the scored one."""
    made = _with_common(
        [f"seed={params['seed']}", f"data={name}"], params, OF_DATA if name == params["data"] else (), conf
    )
    found = compose(made, conf=conf)
    code = {"source": fingerprints.plugin("sources", found["data"]["source"], package)}
    return {key: found[key] for key in ("seed", *OF_DATA)} | {"overrides": made, "code": code}


def comparison(params: dict, *, conf: Path = CONF, package: Path = schema.PACKAGE) -> dict:
    """Return {seed, data, split, task, gate, candidates, overrides, code}: what the leaderboard is about."""
    made = _with_common([f"seed={params['seed']}", f"data={params['data']}"], params, COMPARED, conf)
    found = compose(made, conf=conf)
    code = {"metrics": fingerprints.metrics(found["task"]["name"], package)}
    names = {"candidates": list(params["candidates"]), "overrides": made, "code": code}
    return {key: found[key] for key in ("seed", *COMPARED)} | names


def write(folder: Path, params: dict, *, conf: Path = CONF, package: Path = schema.PACKAGE) -> list[Path]:
    """Write <c>.yaml, data/<d>.yaml and compare/compare.yaml: equal bytes for equal input, read alike by DVC and Hydra.

    Raises ConfigError before anything is written.
    """
    found = {f"{name}.yaml": candidate(name, params, conf=conf, package=package) for name in params["candidates"]}
    for name in (params["data"], *(params.get("datasets") or ())):
        found[f"data/{name}.yaml"] = dataset(name, params, conf=conf, package=package)
    found["compare/compare.yaml"] = comparison(params, conf=conf, package=package)
    texts = {folder / name: dialects.dump(value, f"{folder}/{name}") for name, value in found.items()}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(texts)


def overrides(name: str, params: dict, *, conf: Path = CONF) -> list[str]:
    """Return the Hydra overrides that make a candidate: choices first, then the common `set`, then its own."""
    row = params["candidates"][name]
    choices = {"candidate": name, "seed": params["seed"], "data": params["data"]} | row
    made = [f"{key}={value}" for key, value in choices.items() if key != "set"]
    own = tuple(group for group in GROUPS if group not in OF_DATA or choices["data"] == params["data"])
    return _with_common(made, params, own, conf) + _assignments(row.get("set") or {})


def flat(nested: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object, bool]]:
    """Yield (dotted key, value, whether a + adds it) for each leaf of a nested `set`."""
    for key, value in nested.items():
        here = (*path, str(key))
        names = [part.lstrip("+") for part in here]
        if isinstance(value, dict) and value and not schema.is_map(names[0], names[1:]):
            yield from flat(value, here)
        else:
            yield ".".join(names), value, any(part.startswith("+") for part in here)


def applies(key: str, added: bool, base: dict) -> bool:
    """Say whether a composed candidate has the key (or, for an added one, the section) that a common `set` names."""
    *parents, last = key.split(".")
    for part in parents:
        base = base.get(part) if isinstance(base, dict) else None
    return isinstance(base, dict) and (added or last in base)


def compose(made: list[str], *, conf: Path = CONF) -> dict:
    """Return all sections, plain and resolved, for a list of Hydra overrides; ConfigError with Hydra's reason."""
    stamp = sum(path.stat().st_mtime_ns for path in conf.rglob("*.yaml"))
    return copy.deepcopy(_composed(tuple(made), conf, stamp))


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
        escaped = re.sub(r"(\\+)('|$)", r"\1\1\2", value).replace("'", "\\'")
        return f"'{escaped}'"
    if isinstance(value, list):
        return f"[{','.join(map(literal, value))}]"
    if isinstance(value, dict):
        odd = [key for key in value if not re.fullmatch(r"\w[\w .-]*(?<! )", str(key), re.ASCII)]
        if odd:
            raise ConfigError(f"the key {odd[0]!r} cannot stand in `set`; write the section as a file in conf/")
        return "{" + ",".join(f"{key}: {literal(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


@lru_cache(maxsize=512)
def _composed(made: tuple[str, ...], conf: Path, stamp: int) -> dict:
    """Do what hydra.compose does, with Hydra's own parts, but without composing Hydra's settings each time (5x)."""
    from hydra._internal.defaults_list import create_defaults_list
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        loader, repository = _loader(conf, stamp)
        words = OverridesParser.create().parse_overrides(list(made))
        listed = create_defaults_list(repository, "config", words, prepend_hydra=False, skip_missing=False)
        config = copy.deepcopy(loader._compose_config_from_defaults_list(listed.defaults, repository))
        config.pop("hydra", None)  # its interpolations hold only inside a running job
        OmegaConf.set_struct(config, True)
        loader._apply_overrides_to_config(listed.config_overrides, config)
        return plain(config)
    except (HydraException, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{' '.join(made)}: Hydra cannot compose this ({reason})") from None


@lru_cache(maxsize=8)
def _loader(conf: Path, _stamp: int):
    """Return Hydra's loader of a folder and its cache of files."""
    from hydra import version
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.config_repository import CachingConfigRepository
    from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
    from hydra.core.plugins import Plugins

    Plugins.instance()  # registers the readers of config files
    version.setbase("1.3")
    search = ConfigSearchPathImpl()
    search.append("main", f"file://{conf.resolve()}")
    search.append("schema", "structured://")
    loader = ConfigLoaderImpl(search)
    return loader, CachingConfigRepository(loader.repository)


def _complete(made: list[str], conf: Path, package: Path) -> dict:
    found = compose(made, conf=conf)
    objective, monitor = (found["objective"] or {}).get("name"), (found["trainer"] or {}).get("monitor")
    code = {
        "level": fingerprints.plugin("levels", found["level"]["name"], package),
        "source": fingerprints.plugin("sources", found["data"]["source"], package),
        "objective": fingerprints.plugin("objectives", objective, package),
        "monitor": fingerprints.plugin("metrics", None if monitor == "loss" else monitor, package),
        "metrics": fingerprints.metrics(found["task"]["name"], package),
    }
    return found | {"overrides": made, "options": {}, "code": code}


def _section(key: str) -> str:
    return key.lstrip("+").split(".")[0]


def _options(composed: dict, conf: Path, package: Path) -> dict:
    """Return {group: {option: section}} for each group in the sweep; a section that the choice switches along is
    kept under its own group as "<group>=<option>"."""
    found: dict = {}
    for group, values in ((composed["sweep"] or {}).get("parameters") or {}).items():
        for option in values if group in GROUPS else ():
            other = trial(composed, [f"{group}={option}"], conf=conf, package=package)
            for section in GROUPS:
                if section == group:
                    found.setdefault(section, {})[option] = other[section]
                elif other[section] != composed[section]:
                    found.setdefault(section, {})[f"{group}={option}"] = other[section]
    return found


def _with_common(made: list[str], params: dict, sections: tuple[str, ...], conf: Path) -> list[str]:
    """Return the overrides with those of the common `set` that the sections so composed have a place for."""
    common = list(flat(params.get("set") or {}))
    base = compose(made, conf=conf) if common else {}
    fitting = [item for item in common if item[0].split(".")[0] in sections and applies(item[0], item[2], base)]
    return made + [text for item in fitting for text in _assignment(*item)]


def _assignments(nested: dict) -> list[str]:
    return [text for item in flat(nested) for text in _assignment(*item)]


def _assignment(key: str, value, added: bool) -> list[str]:
    """Return the override; a map is emptied first, since Hydra would merge it into the one that is there."""
    emptied = [f"{key}=null"] if isinstance(value, dict) and not added else []
    return [*emptied, f"{'+' * added}{key}={literal(value)}"]


def _text_keys(value):
    if isinstance(value, dict):
        return {str(key): _text_keys(item) for key, item in value.items()}
    return [_text_keys(item) for item in value] if isinstance(value, list) else value
