"""Workspaces: a folder in which a stage runs as in the repository, without touching what lies there."""

import json
import os
import subprocess
import sys
from pathlib import Path

from stepladder import store

SHARED = ("pipelines", "conf", "src", "assets", "data", "params.yaml")


def lay_out(folder: Path) -> Path:
    """Link into `folder` what stages read, and give it a store of work of its own over the repository's content."""
    for name in SHARED:
        (folder / name).symlink_to(store.root() / name)
    (folder / "state").mkdir()
    (folder / "state" / "store").symlink_to(store.folder())
    return folder


def run(folder: Path, *words: str, threads: int) -> str:
    """Run a Python module in the workspace and return what it printed; RuntimeError with its last lines if it fails."""
    own = {"OMP_NUM_THREADS": str(threads), "DVC_ROOT": str(folder), "DVC_NO_ANALYTICS": "1"}
    dropped = ("PYTHONPATH", "DVC_STAGE")
    environment = {key: value for key, value in os.environ.items() if key not in dropped} | own
    command = [sys.executable, "-m", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr or done.stdout)[-800:]}")
    return done.stdout


def assign(folder: Path, candidate: str, parts: dict[str, Path]) -> None:
    """Write which files a candidate reads, as stage assign does."""
    (folder / "inputs").mkdir(exist_ok=True)
    files = {part: {"path": str(path), "sha256": store.sha256(path)} for part, path in parts.items()}
    (folder / "inputs" / f"{candidate}.json").write_text(json.dumps({**files, "corpus": None, "mixture": {}}))
