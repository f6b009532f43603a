"""Runs: what a stage cost: seconds, memory, machine and versions, in `runs/<candidate>/<stage>.json` outside of DVC.

Only prices and tags of tracked runs are made of these; nothing that a stage puts out depends on them.
"""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import yaml

from stepladder import records

PACKAGES = ("stepladder", "torch", "transformers", "peft", "lightning", "mlflow", "dvc", "hydra-core", "polars")


@contextmanager
def measured(file: Path):
    """Yield a dict to add facts to; at the end write it to `file` with seconds, memory in bytes and versions."""
    wall, cpu, facts = time.perf_counter(), _cpu_seconds(), {}
    started = datetime.now(UTC).isoformat(timespec="seconds")
    yield facts
    facts |= {
        "stage": file.stem,
        "started": started,
        "seconds": round(time.perf_counter() - wall, 3),
        "cpu_seconds": round(_cpu_seconds() - cpu, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "host": platform.node(),
        "machine": platform.machine(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count(),
        "git_revision": revision(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    records.write_json(facts, file)


@contextmanager
def timed(facts: dict, key: str):
    """Add the seconds of the work inside under `key`, apart from what else the stage does."""
    started = time.perf_counter()
    yield
    facts[key] = round(time.perf_counter() - started, 3)


def known(root: Path, name: str) -> dict[str, dict]:
    """Return {stage: what it cost} of a trained candidate where the cost has the key of the output that lies there.

    An output that DVC restored from its cache may be older than the last run of its stage on this machine.
    """
    model, tuned = root / f"models/{name}/stepladder.json", root / f"tuned/{name}.yaml"
    trained = json.loads(model.read_text()).get("key")
    searched = yaml.safe_load(tuned.read_text()).get("key") if tuned.exists() else None
    keys = {"sweep": searched, "train": trained, "evaluate": trained}
    places = {stage: root / f"runs/{name}/{stage}.json" for stage, key in keys.items() if key}
    costs = {stage: json.loads(path.read_text()) for stage, path in places.items() if path.exists()}
    return {stage: cost for stage, cost in costs.items() if cost.get("key") == keys[stage]}


def revision() -> str | None:
    """Return the git commit that is checked out, None outside of git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
