"""Disk: what is written is whole or absent, also after a loss of power; a full or read-only disk is said in one line.

A file or folder is made beside its target, brought to the disk, renamed, and then its new name is brought there:
a rename is atomic, and only fsync makes it outlive the power (rename(2), fsync(2)).
"""

import errno
import glob
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stepladder.errors import MachineError, StepladderError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FAULTS = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOMEM, errno.EIO)
CURES = {errno.EIO: "look after the disk", errno.ENOMEM: "free some memory"}
IN_WORDS = {  # as libraries that are not Python's say it: Rust (safetensors, polars), SQLite
    r"\(os error (\d+)\)": None,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "disk I/O error": errno.EIO,
}


def publish(path: Path, fill: Callable) -> None:
    """Let `fill` write a temporary file beside `path`, then rename it: `path` is never half a file.

    What dead processes left of theirs is removed. Raises MachineError where the disk is full or read-only.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("wb") as file:
                fill(file)
            sync(temporary)
            rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def rename(path: Path, target: Path) -> None:
    """Rename what is on the disk already, and bring its new name there: atomic within one file system."""
    os.replace(path, target)
    _fsync(target.parent)


def sync(path: Path) -> None:
    """Bring a file, or a folder with all below it, to the disk."""
    for each in [*path.rglob("*"), path] if path.is_dir() else [path]:
        _fsync(each)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise MachineError that names `path` where the disk is at fault; what else goes wrong passes."""
    try:
        yield
    except MachineError:
        raise
    except Exception as error:  # each library has its own for the same fault
        if said := fault(error, path):
            raise said from error
        raise


def fault(error: BaseException, path: Path | None = None) -> MachineError | None:
    """Return what the disk has to say of an error that it caused, None where it did not: path, reason, free bytes."""
    if isinstance(error, StepladderError):
        return error if isinstance(error, MachineError) else None
    found = next(filter(None, map(_number, _chain(error))), None)
    if found is None:
        return None
    number, named = found
    place = Path(named or path or ".")
    said = f"{_shown(place)}: {os.strerror(number).lower()}"
    if number not in FULL:
        return MachineError(f"{said}; {CURES.get(number, 'make it writable')} and repeat the command")
    limit = "a limit on the size of files (ulimit -f)" if number == errno.EFBIG else "the disk"
    room = f"{limit} stops it, {_free(place):,} bytes are free"
    return MachineError(f"{said}; {room}; make room and repeat the command, which goes on with what is kept")


def require_writable(*folders: Path) -> None:
    """Raise MachineError with every folder that is there and takes no files, before anything is computed."""
    shut = [_shown(folder) for folder in folders if folder.is_dir() and not os.access(folder, os.W_OK | os.X_OK)]
    if shut:
        raise MachineError(f"{', '.join(shut)}: not writable by this user; make it so and repeat the command")


def require_room(folder: Path, needed: int, *, purpose: str) -> None:
    """Raise MachineError where fewer than `needed` bytes are free for `folder`, before anything is computed."""
    free = _free(folder)
    if free < needed:
        raise MachineError(
            f"{_shown(folder)}: {purpose} needs {needed:,} bytes, {free:,} are free; make room and repeat the command"
        )


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path) if path != here else str(here)


def _free(path: Path) -> int:
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _fsync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _clear(path: Path) -> None:
    """Remove the temporary files of processes that died while they wrote `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        number = left.name.removesuffix(".tmp").rpartition(".")[2]
        if number.isdecimal() and not _alive(int(number)):
            left.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _number(error: BaseException) -> tuple[int, str | None] | None:
    """Return the number of a fault of the disk and the path that the error names."""
    if isinstance(error, OSError):
        return (error.errno, error.filename) if error.errno in FAULTS else None
    for words, number in IN_WORDS.items():
        if (said := re.search(words, str(error))) and (number or int(said[1])) in FAULTS:
            return number or int(said[1]), None
    return None
