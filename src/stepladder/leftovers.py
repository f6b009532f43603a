"""Leftovers: remove what belongs to candidates and data sets that params.yaml names no more; DVC's cache keeps it."""

import shutil
from pathlib import Path

OF_CANDIDATES = (
    "build/*.yaml",
    "tuned/*.yaml",
    "assets/*.json",
    "metrics/*.json",
    "predictions/val/*.parquet",
    "predictions/test/*.parquet",
    "reports/trials/*.parquet",
    "reports/searches/*",
    "reports/probes/*.*",
    "models/*/stepladder.json",  # the whole folder: without this file it is none of ours
)
OF_DATA_SETS = ("build/data/*.yaml", "assets/data/*.json")


def remove(root: Path, *, candidates: list[str], datasets: list[str]) -> list[str]:
    """Return one line for each file or folder under `root` that was removed."""
    kinds = [(pattern, candidates) for pattern in OF_CANDIDATES] + [(pattern, datasets) for pattern in OF_DATA_SETS]
    found = [(path, names) for pattern, names in kinds for path in sorted(root.glob(pattern))]
    ours = [(path.parent if path.name == "stepladder.json" else path, names) for path, names in found]
    lost = [path for path, names in ours if path.stem not in names]
    for path in lost:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return [f"removed {path.relative_to(root)}: params.yaml names no {path.stem}" for path in lost]
