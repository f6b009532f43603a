"""Raw text: a UTF-8 file, or a folder of .txt and .md files, cut into paragraphs or lines; there is no target."""

import re
from collections.abc import Iterator
from pathlib import Path

from stepladder.errors import ConfigError, DataError, unknown
from stepladder.sources import _strict

BREAKS = {"paragraph": r"(?:\r?\n[ \t]*){2,}", "line": r"\r?\n"}
ENDINGS = (".txt", ".md")


def read(path: Path, *, unit: str, group_by_file: bool) -> Iterator[dict]:
    """Yield a record for each paragraph or line that is not blank; in a folder a file may be one group.

    Raises DataError naming file and row of the piece that cannot be read, ConfigError for another unit.
    """
    if unit not in BREAKS:
        raise ConfigError(f"data.options.unit: {unknown('unit of text', unit, BREAKS)}")
    for file in _files(path):
        name = file.relative_to(path).as_posix() if path.is_dir() else None
        text = _strict.load(file)
        for start, piece in _pieces(text, BREAKS[unit]):
            place = f"{file}:{text.count(chr(10), 0, start) + 1}"
            yield {
                "input": _strict.field(piece, place),
                "target": None,
                "source": name,
                "group": name if group_by_file else None,
            }


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file())
    if not found:
        raise DataError(f"{path}: no file in this folder ends in {', '.join(ENDINGS)}")
    return found


def _pieces(text: str, pattern: str) -> Iterator[tuple[int, str]]:
    """Yield start and text of each piece between two matches of `pattern`; blank pieces are no records."""
    start = 0
    for match in [*re.finditer(pattern, text), None]:
        piece = text[start : match.start() if match else len(text)]
        if piece.strip():
            yield start, piece.strip("\r\n")
        start = match.end() if match else start
