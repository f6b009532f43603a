"""Wanted members of an archive, read into memory; nothing is written, run or imported."""

import io
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

from stepladder import archives
from stepladder.errors import DataError

MAX_MEMBER_BYTES = 64 << 20  # the largest member wanted so far has 6 MB
MAX_BYTES = 1 << 30  # unpacked, all members together


@dataclass(frozen=True)
class Nested:
    """An archive that lies inside another one, with the three things of a path that reading a tar needs."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str) -> io.BytesIO:
        """Return the bytes as a file; `mode` is always rb."""
        return io.BytesIO(self.data)

    def stat(self) -> SimpleNamespace:
        """Return the size alone."""
        return SimpleNamespace(st_size=len(self.data))


def members(archive: Path | Nested, pattern: str) -> dict[str, bytes]:
    """Return the files of an archive whose name matches `pattern`, sorted by name.

    Raises DataError when the archive is missing or hostile, a member is too large or none matches, IntegrityError when
    it is damaged.
    """
    if isinstance(archive, Path) and not archive.is_file():
        raise DataError(f"{archive}: no such archive")
    found = {}
    for member in archives.members(archive, max_bytes=MAX_BYTES):
        if fnmatchcase(member.name, pattern):
            if member.size_bytes > MAX_MEMBER_BYTES:
                raise DataError(f"{archive}: member {member.name} has {member.size_bytes:,} bytes; 64 MiB are read")
            found[member.name] = member.read()
    if not found:
        raise DataError(f"{archive}: no member matches {pattern!r}")
    return dict(sorted(found.items()))
