"""The content store: folders and files that are complete or absent, each re-hashed before it is used.

It lies in state/store/ and holds archives/<sha256>/<filename>, sets/<key>/ (hard links), hub/<id>-<commit>/ and
models/<name>-<key>/. A folder made by `settle` ends with files.json: {relative name: sha256}.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from stepladder.errors import IntegrityError

MANIFEST = "files.json"


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
    """Return `folder` with its manifest of hashes checked; `build` fills it when it is missing or damaged.

    The work goes to a temporary folder beside it and is renamed at the end: a folder that exists is complete.
    """
    if folder.exists():
        try:
            verify(folder)
            return folder
        except IntegrityError as error:
            print(f"{error}; making it again", flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as part:
        made = Path(part) / "made"
        made.mkdir()
        build(made)
        content = json.dumps(hashes(made), indent=2, sort_keys=True)
        (made / MANIFEST).write_text(content + "\n", "utf-8")
        _protect(made)
        if folder.exists():
            os.replace(folder, Path(part) / "damaged")
        os.replace(made, folder)
    return folder


def verify(folder: Path) -> None:
    """Raise IntegrityError when a file of a settled folder is missing, added or not the one its manifest names."""
    manifest = folder / MANIFEST
    try:
        expected = dict(json.loads(manifest.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise IntegrityError(f"{shown(manifest)}: no readable list of files ({error})") from error
    found = hashes(folder)
    for name in sorted(expected.keys() | found.keys()):
        if fault := difference(folder / name, expected.get(name, "none"), found.get(name, "no file")):
            raise IntegrityError(fault)


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


def _protect(folder: Path) -> None:
    """Bring every file to the disk, readable by all and writable by none."""
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
            file.chmod(0o444)
