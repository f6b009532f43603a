"""Integrity: hash again what dvc.lock, DVC's cache, the store and the models' manifests name.

DVC itself goes by size, time and a read-only mode: it does not notice an edit that keeps them, restores a damaged
object of its cache, and even puts one in the place of the good output that was just made (seen with dvc 3.67).
"""

import configparser
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

from stepladder import store
from stepladder.errors import IntegrityError

CODE = ("src", "pipelines", "conf")  # inputs too, and what changed in them is seen in git
SEALED = {  # folders with a manifest, and how they are made again
    "state/store/*/*": "rm -rf {} && dvc repro --force --single-item fetch",
    "state/*/*/result": "rm -rf {}; its stage makes it again",
    "models/*": "rm -rf {} && dvc repro",
}


class Named(NamedTuple):
    """A file or folder as dvc.lock names it; `md5` is DVC's name of its bytes, which ends in .dir for a folder."""

    stage: str
    path: str
    md5: str


def require_inputs(stage: str) -> None:
    """Raise IntegrityError with each input of a stage that is not what an earlier stage made, as dvc.lock names it."""
    needed = _declared(stage, "deps")
    made = [out for out in _locked("outs") if any(Path(out.path).is_relative_to(need) for need in needed)]
    if lines := [*filter(None, map(_altered, made))]:
        raise IntegrityError("\n".join(lines))


def drop_damaged(stage: str) -> list[str]:
    """Remove the damaged objects of DVC's cache that would take the place of what a stage made; a line for each."""
    lines = []
    for out in filter(Path.exists, map(Path, _declared(stage, "outs"))):
        for md5, path in names(out).items():
            if fault := _damage(file := _object(md5)):
                file.unlink()
                lines.append(f"{fault}; removed, so that {path} takes its place")
    return lines


def faults() -> tuple[list[str], str]:
    """Return a line for each file that is not the one that was made, with what to type, and what was looked at."""
    outs, objects = _locked("outs"), sorted(_cache().glob("??/*"))
    read = {dep.path: dep for dep in _locked("deps") if not dep.path.startswith(CODE)}
    inputs = [dep for path, dep in read.items() if not any(Path(out.path).is_relative_to(path) for out in outs)]
    archives = sorted(store.folder().glob("archives/*/*"))
    sealed = {
        file.parent: cure for place, cure in SEALED.items() for file in store.root().glob(f"{place}/manifest.json")
    }
    lines = [
        *map(_altered, outs),
        *map(_edited, inputs),
        *_damaged(objects, outs),
        *(store.difference(file, file.parent.name, store.sha256(file)) for file in archives),
    ]
    lines += [_broken(folder, cure) for folder, cure in sorted(sealed.items()) if not _told(folder, lines)]
    looked = {"outputs": outs, "inputs": inputs, "objects of DVC's cache": objects, "archives": archives}
    looked["sealed folders"] = sealed
    return [*filter(None, lines)], ", ".join(f"{len(found)} {what}" for what, found in looked.items())


def _told(folder: Path, lines: list[str | None]) -> bool:
    return any(line and line.startswith(store.shown(folder)) for line in lines)


def _altered(out: Named) -> str | None:
    """Return the line of an output that is not what its stage made, None where it is, or is not there."""
    if not Path(out.path).exists() or not (place := _differing(out)):
        return None
    path, expected, found = place
    fault = f"{path}: stage {out.stage} made md5 {expected}, found {found}"
    if not (kept := _object(expected)).is_file():
        return f"{fault}; make it again: rm -rf {out.path} && dvc repro {out.stage}"
    if _damage(kept):
        return f"{fault}; make it again: rm -rf {kept} {out.path} && dvc repro {out.stage}"
    return f"{fault}; bring it back: rm -rf {out.path} && dvc checkout {out.path}"


def _edited(dep: Named) -> str | None:
    if not Path(dep.path).exists() or not (place := _differing(dep)):
        return None
    path, expected, found = place
    fault = f"{path}: stage {dep.stage} read md5 {expected}, found {found}"
    return f"{fault}; where dvc status does not notice: find {path} -exec touch {{}} + && dvc repro {dep.stage}"


def _damaged(objects: list[Path], outs: list[Named]) -> Iterable[str]:
    """Yield the line of each damaged object of DVC's cache."""
    for file, fault in ((file, fault) for file in objects if (fault := _damage(file))):
        md5 = f"{file.parent.name}{file.name}"
        owner, path = next(((out, path) for out in outs if (path := _members(out).get(md5))), (None, None))
        if owner is None:
            yield f"{fault}; no output here is made of it: rm -f {file}"
        elif Path(path).is_file() and _md5(Path(path)) == md5:
            yield f"{fault}; {path} of stage {owner.stage} is whole: rm -f {file} && dvc commit -f {owner.stage}"
        else:
            yield f"{fault}; it is {path} of stage {owner.stage}: rm -rf {file} {path} && dvc repro {owner.stage}"


def _broken(folder: Path, cure: str) -> str | None:
    try:
        store.verify(folder)
    except IntegrityError as error:
        return f"{error}; {cure.format(store.shown(folder))}"
    return None


def _differing(named: Named) -> tuple[str, str, str] | None:
    """Return path, expected and found md5 of what differs: the first file of a folder where DVC's cache lists it."""
    found = names(Path(named.path))
    if named.md5 in found:
        return None
    expected, there = _members(named), {path: md5 for md5, path in found.items()}
    for md5, path in expected.items():
        if md5 not in found:
            return path, md5, there.get(path, "no file")
    return named.path, named.md5, there[named.path]


def _members(named: Named) -> dict[str, str]:
    """Return {md5: path} of the files of an output, those of a folder as far as DVC's cache has the list."""
    if not named.md5.endswith(".dir"):
        return {named.md5: named.path}
    listed = _object(named.md5)
    if not listed.is_file() or _damage(listed):
        return {named.md5: named.path}
    return {row["md5"]: f"{named.path}/{row['relpath']}" for row in json.loads(listed.read_text())} | {
        named.md5: named.path
    }


def names(path: Path) -> dict[str, str]:
    """Return {md5: path} of a file, or of a folder (first) and its files, as DVC names them."""
    if path.is_file():
        return {_md5(path): str(path)}
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    rows = sorted((file.relative_to(path).as_posix(), _md5(file)) for file in files)
    listed = json.dumps([{"md5": md5, "relpath": name} for name, md5 in rows], sort_keys=True)
    whole = hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest()
    return {f"{whole}.dir": str(path), **{md5: f"{path}/{name}" for name, md5 in rows}}


def _damage(file: Path) -> str | None:
    """Return what is wrong with an object of DVC's cache, whose name is the hash of its bytes."""
    expected = f"{file.parent.name}{file.name}".removesuffix(".dir")
    if not file.is_file() or (found := _md5(file)) == expected:
        return None
    return f"{store.shown(file)}: expected md5 {expected}, found {found}"


def _object(md5: str) -> Path:
    return _cache() / md5[:2] / md5[2:]


def _cache() -> Path:
    """Return the folder of DVC's objects, .dvc/cache or what `dvc cache dir` put into its config."""
    config = configparser.ConfigParser()
    config.read([".dvc/config", ".dvc/config.local"])
    return Path(".dvc", config.get("cache", "dir", fallback="cache").strip(), "files", "md5")


def _md5(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _locked(kind: str) -> list[Named]:
    """Return the `outs` or `deps` of every stage in dvc.lock, none before the first run."""
    lock = Path("dvc.lock")
    stages = yaml.load(lock.read_text(), yaml.CSafeLoader)["stages"] if lock.is_file() else {}
    rows = [(stage, entry) for stage, given in stages.items() for entry in given.get(kind, ())]
    return [Named(stage, entry["path"], entry["md5"]) for stage, entry in rows if entry.get("hash") == "md5"]


def _declared(stage: str, kind: str) -> list[str]:
    """Return the paths of a stage's `deps` or `outs`, metrics too, in dvc.yaml, none of a stage elsewhere."""
    name, _, key = stage.rpartition(":")[2].partition("@")
    given = yaml.safe_load(Path("dvc.yaml").read_text())["stages"].get(name, {})
    given = given.get("do", given)
    entries = given.get(kind, []) + (given.get("metrics", []) if kind == "outs" else [])
    paths = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
    return [path.replace("${key}", key).replace("${item}", key) for path in paths]
