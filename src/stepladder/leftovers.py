"""Leftovers: remove what belongs to candidates and data sets that params.yaml names no more; DVC's cache keeps it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

OF_CANDIDATES = (
    "build/*.yaml",
    "tuned/*.yaml",
    "assets/*.json",
    "metrics/*.json",
    "predictions/val/*.parquet",
    "predictions/test/*.parquet",
    "reports/trials/*.parquet",
    "models/*/stepladder.json",  # the whole folder: without this file it is none of ours
)
OF_DATA_SETS = ("build/data/*.yaml", "assets/data/*.json")
KEPT = ("metrics/registered.json",)


def remove(root: Path, *, candidates: list[str], datasets: list[str]) -> list[str]:
    """Return one line for each file or folder under `root` that was removed."""
    found = [*_unknown(root, OF_CANDIDATES, candidates), *_unknown(root, OF_DATA_SETS, datasets)]
    for path in found:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return [f"removed {path.relative_to(root)}: params.yaml names no {path.stem}" for path in found]


def _unknown(root: Path, patterns: tuple[str, ...], names: list[str]) -> Iterator[Path]:
    for pattern in patterns:
        for match in sorted(root.glob(pattern)):
            path = match.parent if pattern.startswith("models/") else match
            if path.stem not in names and path.relative_to(root).as_posix() not in KEPT:
                yield path
