"""Work: what a stage has in hand, in state/<stage>/<name>-<key>/, until it is finished and published as a copy.

The key is the hash of all that the work depends on, so a stopped stage goes on with the same command and another
config, code or data begins anew, and says in a line what differs from the newest work of that name. One process at a
time works in a folder. A finished result stays until a later `compare` finds it in dvc.lock: DVC that died before it
wrote its lock file repeats nothing. STEPLADDER_FRESH=1 begins anew. Source: DVC deletes the outputs of a stage before
it runs it.

train@lora begins anew: optimizer.learning_rate 0.0001 -> 0.0003; inputs.train.sha256 1a2b3c -> 4d5e6f
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from stepladder import disk, records, store
from stepladder.errors import BusyError, IntegrityError

PACKAGES = ("torch", "transformers", "peft", "lightning")  # another version may round otherwise
OUTPUTS = {"train": "predictions/val/{}.parquet"}  # of what is done once; a study is small, and may be gone on with
BASIS = "basis.json"  # what the key is the hash of
SHOWN, DIGITS = 8, 6  # differences that a line names; of a hash
PATIENCE_S = 20.0  # for another process, such as a terminated one that writes its last checkpoint


@contextmanager
def at(stage: str, name: str, key: str, *, basis: dict) -> Iterator[Path]:
    """Yield the folder of this work, locked and with what earlier attempts left in it.

    `basis` is what `key` is the hash of, as plain values. Raises BusyError when another process works in it,
    IntegrityError when it is of other versions.
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
        _begin(folder, f"{stage}@{name}", basis)
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


def changes(before: dict, after: dict) -> str:
    """Return `key old -> new; ...` of what differs between two nested dicts; hashes are cut to their first digits."""
    old, new = _flat(before), _flat(after)
    keys = [key for key in {**old, **new} if old.get(key, "nothing") != new.get(key, "nothing")]
    told = [
        f"{key.removeprefix('settings.')} {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}"
        for key in keys[:SHOWN]
    ]
    return "; ".join([*told, *([f"and {len(keys) - SHOWN} more"] if len(keys) > SHOWN else [])])


def _begin(folder: Path, place: str, basis: dict) -> None:
    """Keep what the work depends on, and say what of it differs from the newest other work of its name."""
    if (folder / BASIS).is_file():
        return
    others = folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*/{BASIS}")
    newest = max(others, key=lambda file: file.stat().st_mtime_ns, default=None)
    if newest and (told := changes(json.loads(newest.read_text()), basis)):
        print(f"{place} begins anew: {told}", flush=True)
    records.write_text(json.dumps(basis), folder / BASIS)


def _flat(values: dict, above: str = "") -> dict[str, str]:
    """Return {"optimizer.learning_rate": "0.0001", ...} of a nested dict."""
    found = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{above}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found[f"{above}{key}"] = text[:DIGITS] if re.fullmatch("[0-9a-f]{32,}", text) else text
    return found


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
