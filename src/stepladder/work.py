"""Work: what a stage has in hand, in state/<stage>/<name>-<key>/, until it is finished and published as a copy.

The key is the hash of all that the work depends on, so a stopped stage goes on with the same command and another
config, code or data begins anew. One process at a time works in a folder. A finished result stays until a later
`compare` finds it in dvc.lock: DVC that died before it wrote its lock file repeats nothing.
STEPLADDER_FRESH=1 begins anew. Source: DVC deletes the outputs of a stage before it runs it.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from stepladder import disk, records, store
from stepladder.errors import BusyError, IntegrityError

PACKAGES = ("torch", "transformers", "peft", "lightning")  # another version may round otherwise
OUTPUTS = {"sweep": "tuned/{}.yaml", "train": "predictions/val/{}.parquet"}  # of the stages that work here
PATIENCE_S = 20.0  # for another process, such as a terminated one that writes its last checkpoint


@contextmanager
def at(stage: str, name: str, key: str) -> Iterator[Path]:
    """Yield the folder of this work, locked and with what earlier attempts left in it.

    Raises BusyError when another process works in it, IntegrityError when it is of other versions.
    """
    folder = store.root() / "state" / stage / f"{name}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock, pid = FileLock(f"{folder}.lock"), Path(f"{folder}.pid")
    try:
        lock.acquire(timeout=PATIENCE_S)
    except Timeout:
        owner = pid.read_text() if pid.is_file() else "unknown"
        raise BusyError(f"{store.shown(folder)}: process {owner} is at it; wait for it, or end it") from None
    try:
        if pid.is_file():
            print(f"{folder.name}: process {pid.read_text()} died at it; going on with what it kept", flush=True)
        pid.write_text(f"{os.getpid()} on {platform.node()}")
        if os.environ.get("STEPLADDER_FRESH", "0") not in ("", "0"):
            shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        _require_versions(folder)
        yield folder
    finally:
        pid.unlink(missing_ok=True)
        lock.release()


def publish(made: Path, target: Path) -> None:
    """Put a copy of a finished file or folder at `target`, whole or not at all, in the place of what lay there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if made.is_file():
        return disk.publish(target, lambda file: file.write(made.read_bytes()))
    part = target.with_name(f".{target.name}.part")
    with disk.writing(target):
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(made, part, copy_function=shutil.copyfile)
        disk.sync(part)
        shutil.rmtree(target, ignore_errors=True)
        return disk.rename(part, target)


def seconds(folder: Path) -> float:
    """Return how long earlier attempts worked until their last checkpoints."""
    return sum(float(file.read_text()) for file in folder.rglob("seconds"))


def versions() -> dict[str, str]:
    """Return {package: version} of what may round otherwise in another version."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def clear() -> None:
    """Remove the work of every stage whose output lies there as dvc.lock knows it: nothing will ask for it again."""
    lock = store.root() / "dvc.lock"
    stages = yaml.safe_load(lock.read_text())["stages"] if lock.is_file() else {}
    known = {out["path"]: out.get("md5") for entry in stages.values() for out in entry.get("outs", ())}
    for stage, output in OUTPUTS.items():
        for left in sorted((store.root() / "state" / stage).glob("*-*")):
            path = output.format(left.name.rpartition("-")[0])
            made = store.root() / path
            if made.is_file() and known.get(path) == hashlib.md5(made.read_bytes(), usedforsecurity=False).hexdigest():
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _require_versions(folder: Path) -> None:
    """Note the versions that this work is done with, and refuse to go on with others."""
    file, here = folder / "versions.json", versions()
    if not file.is_file():
        return records.write_json(here, file)
    before = json.loads(file.read_text())
    changed = [f"{name} {before.get(name)} -> {here.get(name)}" for name in here if before.get(name) != here.get(name)]
    if changed:
        raise IntegrityError(
            f"{store.shown(folder)}: begun with other versions ({', '.join(changed)}); "
            "STEPLADDER_FRESH=1 begins anew, the old versions go on"
        )
    return None
