"""Archives: read members out of zip and tar(.gz) files that may be hostile; nothing is ever installed or imported.

A member is refused when unpacking it could write outside the folder or exhaust the machine: absolute paths, `..`,
links, devices, duplicates, encryption, bombs. The rules follow the `data` filter of PEP 706 and are stricter: the
whole archive is refused, also for a bad member that nobody asked for.
"""

import errno
import gzip
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from stepladder.errors import DataError, IntegrityError

MAX_BYTES = 4 << 30  # unpacked, all members together
MAX_MEMBERS = 100_000
MAX_RATIO = 200  # text packs 3 to 10 times; deflate ends at 1,032
SLACK_BYTES = 1 << 20  # small archives may pack better than MAX_RATIO
HEADER_BYTES = 4096  # of one tar member: header, extended header, padding
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Member:
    """One file of an archive; readable only until the iteration goes on to the next one."""

    name: str
    size_bytes: int
    archive: Path
    stream: BinaryIO

    def chunks(self) -> Iterator[bytes]:
        """Yield the content; raises IntegrityError when it is damaged or longer than declared."""
        num_bytes = 0
        with _damage_named(self.archive):
            while chunk := self.stream.read(CHUNK_BYTES):
                num_bytes += len(chunk)
                if num_bytes > self.size_bytes:
                    break
                yield chunk
        if num_bytes != self.size_bytes:
            raise IntegrityError(f"{self.archive}: member '{self.name}' is not {self.size_bytes:,} bytes as declared")

    def read(self) -> bytes:
        """Return the whole content."""
        return b"".join(self.chunks())


def members(archive: Path, *, max_bytes: int = MAX_BYTES, max_members: int = MAX_MEMBERS) -> Iterator[Member]:
    """Yield the regular files of a zip or tar(.gz) in their order.

    Raises DataError (named member and reason) for a hostile archive, IntegrityError for a damaged or unknown one.
    """
    guard = _Guard(archive, max_bytes, max_members)
    with _damage_named(archive):
        with archive.open("rb") as file:
            magic = file.read(4)
        # Decided by the first bytes: a tar with a zip glued to its end passes zipfile.is_zipfile.
        kind = _zip_members if magic.startswith(b"PK") else _tar_members
        yield from kind(archive, guard)


def extract(
    archive: Path,
    patterns: Sequence[str],
    folder: Path,
    *,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
) -> list[Path]:
    """Write the members that match a pattern (`*` also crosses folders) into an empty folder; return their paths.

    Raises DataError or IntegrityError as `members` does, and DataError for a pattern without a member or a target
    folder that is a link or not empty; the folder is left empty then.
    """
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise DataError(f"{folder}: must be an empty folder and no link, to unpack {archive.name}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _write_matching(members(archive, max_bytes=max_bytes, max_members=max_members), patterns, folder)
    except BaseException:
        shutil.rmtree(folder)
        folder.mkdir()
        raise


def _write_matching(found: Iterator[Member], patterns: Sequence[str], folder: Path) -> list[Path]:
    written, lacking, seen = [], set(patterns), []
    for member in found:
        seen.append(member.name)
        hits = {pattern for pattern in patterns if fnmatchcase(member.name, pattern)}
        if hits:
            written.append(_write(member, folder))
            lacking -= hits
    if lacking:
        raise DataError(f"No member matches '{min(lacking)}'; the archive has: {', '.join(sorted(seen)[:8])}, ...")
    return written


def _write(member: Member, folder: Path) -> Path:
    target = folder / member.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:  # x: neither overwrites nor follows a link
            for chunk in member.chunks():
                file.write(chunk)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataError(f"{member.archive}: member '{member.name}' collides with another one") from error
    return target


class _Guard:
    """Counts what an archive declares and refuses it as soon as a rule is broken."""

    def __init__(self, archive: Path, max_bytes: int, max_members: int) -> None:
        self.archive, self.max_members = archive, max_members
        self.limit_bytes = min(max_bytes, max(SLACK_BYTES, MAX_RATIO * archive.stat().st_size))
        self.num_bytes, self.names = 0, set()

    def admit(self, name: str, size_bytes: int, *, fault: str | None) -> str:
        """Return the member's clean relative name."""
        clean = str(PurePosixPath(name))
        self.num_bytes += size_bytes
        if fault := fault or _path_fault(name) or self._count_fault(clean):
            raise DataError(f"{self.archive}: member {name[:120]!r} refused: {fault}")
        self.names.add(clean)
        return clean

    def _count_fault(self, clean: str) -> str | None:
        if clean in self.names:
            return "duplicate"
        if len(self.names) >= self.max_members:
            return f"more than {self.max_members:,} members"
        if self.num_bytes > self.limit_bytes:
            return f"unpacks to more than {self.limit_bytes:,} bytes"
        return None


def _path_fault(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or name[1:2] == ":":
        return "absolute path or backslash"
    if ".." in path.parts:
        return "path with .."
    try:
        too_long = max((len(part.encode()) for part in path.parts), default=0) > 255 or len(name) > 1000
    except UnicodeEncodeError:
        return "name is not Unicode"
    printable = all(" " <= character != "\x7f" for character in name)
    return None if printable and not too_long else "name too long or with control characters"


def _zip_members(archive: Path, guard: _Guard) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        entries = opened.infolist()
        clean = [guard.admit(entry.orig_filename, entry.file_size, fault=_zip_fault(entry)) for entry in entries]
        for name, entry in zip(clean, entries, strict=True):
            if not entry.is_dir():
                with opened.open(entry) as stream:
                    yield Member(name, entry.file_size, archive, stream)


def _zip_fault(entry: zipfile.ZipInfo) -> str | None:
    if entry.flag_bits & 0x1:
        return "encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "packed by a method other than deflate"
    if entry.file_size > max(SLACK_BYTES, MAX_RATIO * entry.compress_size):
        return f"unpacks to more than {MAX_RATIO} times its size"
    kind = stat.S_IFMT(entry.external_attr >> 16)  # 0 where the archive was not made on Unix
    return None if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "link or device"


def _tar_members(archive: Path, guard: _Guard) -> Iterator[Member]:
    with archive.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        bounded = _Bounded(gzip.GzipFile(fileobj=file) if packed else file, guard)
        with tarfile.open(fileobj=bounded, mode="r|") as opened:
            for entry in opened:
                ordinary = (entry.isreg() or entry.isdir()) and not entry.issparse()
                name = guard.admit(entry.name, entry.size, fault=None if ordinary else "link, device or sparse file")
                if entry.isreg():
                    yield Member(name, entry.size, archive, opened.extractfile(entry))


class _Bounded:
    """A stream that ends a bomb hidden where no member declares it, such as in tar's extended headers."""

    def __init__(self, stream: BinaryIO, guard: _Guard) -> None:
        self.stream, self.guard, self.num_bytes = stream, guard, 0

    def read(self, num_bytes: int) -> bytes:
        chunk = self.stream.read(num_bytes)
        self.num_bytes += len(chunk)
        if self.num_bytes > self.guard.num_bytes + SLACK_BYTES + HEADER_BYTES * len(self.guard.names):
            raise DataError(f"{self.guard.archive}: refused: unpacks to far more than its members declare")
        return chunk


@contextmanager
def _damage_named(archive: Path) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise IntegrityError(f"{archive}: damaged, or neither zip nor tar(.gz): {error}") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # that of a member said to lie before the file's start
            raise
        raise IntegrityError(f"{archive}: damaged: a member lies outside of it") from error
