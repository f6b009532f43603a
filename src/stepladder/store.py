"""The content store: folders and files that are complete or absent, each re-hashed before it is used.

It lies in state/store/ and holds archives/<sha256>/<filename>, sets/<key>/ (hard links), hub/<id>-<commit>/ and
models/<name>-<key>/. A folder made by `settle` ends with manifest.json: {"files": {relative name: sha256}}; that of a
trained model also says what determined it.
"""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from stepladder import disk
from stepladder.errors import IntegrityError

MANIFEST = "manifest.json"


def root() -> Path:
    """Return the folder that every stored path is relative to: DVC's, else the repository's."""
    return Path(os.environ.get("DVC_ROOT") or Path(__file__).parents[2]).resolve()


def folder() -> Path:
    """Return the folder of the content store."""
    return root() / "state" / "store"


def kept(kind: str) -> Path:
    """Return the folder of what is made of inputs, lies under their hash and can be made again: tokens, features."""
    return root() / "state" / kind


def settle(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder` with its manifest checked; `build` fills it when it is missing or damaged.

    The work goes to a temporary folder beside it and is renamed at the end: a folder that exists is complete. One
    process builds it, others wait; what a dead one left of its work is removed.
    """
    with suppress(IntegrityError):
        verify(folder)
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            try:
                verify(folder)
                return folder
            except IntegrityError as error:
                print(f"{error}; making it again", flush=True)
        with disk.writing(folder):
            _make(folder, build)
    return folder


def _make(folder: Path, build: Callable[[Path], None]) -> None:
    prefix = f".part-{folder.name}-"
    for left in folder.parent.glob(f"{glob.escape(prefix)}*"):
        print(f"{shown(left)}: left by a process that died; removed", flush=True)
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=prefix) as part:
        made = Path(part) / "made"
        made.mkdir()
        build(made)
        seal(made)
        if folder.exists():
            os.replace(folder, Path(part) / "damaged")
        disk.rename(made, folder)


def seal(folder: Path, **facts: object) -> None:
    """End a folder with its manifest: the hash of each file and the facts that determine them; none is to be written.

    A fact `base`, {"folder", "files"}, names another folder that this one is of no use without.
    """
    content = json.dumps({"files": hashes(folder), **facts}, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(content + "\n", "utf-8")
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o444)
    disk.sync(folder)


def manifest(folder: Path) -> dict:
    """Return the manifest of a sealed folder; IntegrityError without a readable one."""
    file = folder / MANIFEST
    try:
        found = json.loads(file.read_text("utf-8"))
        dict(found["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(f"{shown(file)}: no readable list of files ({error})") from error
    return found


def verify(folder: Path) -> None:
    """Raise IntegrityError when a file of a sealed folder, or of its base, is missing, added or another one."""
    told = manifest(folder)
    require(folder, told["files"])
    if base := told.get("base"):
        require(root() / base["folder"], base["files"], of=f" for {shown(folder)}")


def require(folder: Path, expected: dict[str, str], *, of: str = "") -> None:
    """Raise IntegrityError that names the first file of a folder whose hash is not the expected one, and both."""
    found = hashes(folder)
    for name in sorted(expected.keys() | found.keys()):
        if fault := difference(folder / name, expected.get(name, "none"), found.get(name, "no file")):
            raise IntegrityError(f"{fault}{of}")


def hashes(path: Path) -> dict[str, str]:
    """Return {relative name: sha256} of a file, or of every file below a folder apart from its manifest."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    base = path if path.is_dir() else path.parent
    names = {file.relative_to(base).as_posix(): file for file in files}
    return {name: sha256(file) for name, file in names.items() if name != MANIFEST}


def sha256(file: Path) -> str:
    """Return the hash of a file's bytes in hexadecimal digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def difference(file: Path, expected: str, found: str) -> str | None:
    """Return the line that names the file and both hashes, or None when they are equal."""
    return None if expected == found else f"{shown(file)}: expected sha256 {expected}, found {found}"


def shown(path: Path) -> str:
    """Return the path as people and reports see it: relative to the root where it lies below."""
    return path.relative_to(root()).as_posix() if path.is_relative_to(root()) else path.as_posix()
