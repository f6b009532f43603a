"""Strict text: bytes become text only when they are UTF-8, and a field is kept byte for byte or refused."""

import math
from pathlib import Path

from stepladder.errors import DataError

MAX_FIELD_BYTES = 1_000_000  # one huge field stalls every later stage
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


def load(path: Path) -> str:
    """Return the text of the file at `path`; raises DataError when it is missing, a folder, empty or not UTF-8."""
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected a file")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return decode(path.read_bytes(), str(path))


def decode(data: bytes, place: str) -> str:
    """Return `data` as text, without a byte order mark; `place` names it in errors.

    Raises DataError with row and byte for anything but UTF-8, and for NUL bytes.
    """
    if data.startswith(BYTE_ORDER_MARKS):
        raise DataError(f"{place}:1: UTF-16, expected UTF-8; convert it with: iconv -f UTF-16 -t UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row, column = _position(data, error.start)
        raise DataError(
            f"{place}:{row}: byte {column} of the row is 0x{data[error.start]:02x}, not UTF-8; "
            "if the file is Latin-1, convert it with: iconv -f LATIN1 -t UTF-8"
        ) from None
    if "\0" in text:
        row, column = _position(data, data.index(b"\0"))
        raise DataError(f"{place}:{row}: byte {column} of the row is NUL; expected UTF-8 text")
    if not text.strip():
        raise DataError(f"{place}: empty file, expected records")
    return text


def field(value: str, place: str) -> str:
    """Return `value` unchanged; raises DataError when it is too long, holds NUL or cannot be written as UTF-8."""
    if "\0" in value:
        raise DataError(f"{place}: holds a NUL character")
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: lone surrogate U+{ord(value[error.start]):04X}, not a character") from None
    if size_bytes > MAX_FIELD_BYTES:
        raise DataError(f"{place}: {size_bytes:,} bytes, at most {MAX_FIELD_BYTES:,} are read; split it into rows")
    return value


def number(value: str, place: str) -> float:
    """Return `value` as a finite number; raises DataError for anything else."""
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise DataError(f"{place}: {value[:40]!r}, expected a finite number")
    return found


def _position(data: bytes, index: int) -> tuple[int, int]:
    """Return the row and the byte in that row of `index`, both counted from 1."""
    before = data[:index]
    return before.count(b"\n") + 1, index - before.rfind(b"\n")
