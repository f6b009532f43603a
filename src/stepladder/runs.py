"""Runs: what a stage cost: time, energy, memory, machine and versions, in `runs/<candidate>/<stage>.json` beside DVC.

Only prices and tags of tracked runs are made of these; nothing that a stage puts out depends on them.
"""

import importlib.metadata
import json
import logging
import os
import platform
import resource
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path

import psutil
import yaml

from stepladder import records, store

PACKAGES = ("stepladder", "torch", "transformers", "peft", "lightning", "mlflow", "dvc", "hydra-core", "polars")
_counted = [0.0, 0.0]  # when the work that was measured last ended; CPU-seconds of this process up to then


@contextmanager
def measured(file: Path, *, metered: bool = False, facts: dict | None = None):
    """Yield `facts` to add to; at the end write them to `file` with seconds, memory in bytes and versions.

    The first work of a process has begun with the process. metered: energy_kwh as codecarbon estimates it. With
    `again` among the facts nothing was computed, and what the file says of the same key stays.
    """
    facts, started = dict(facts or {}), datetime.now(UTC).isoformat(timespec="seconds")
    wall = time.time() if _counted[0] else _began()
    with _energy(facts) if metered else nullcontext():
        yield facts
    if facts.pop("again", False) and file.is_file() and json.loads(file.read_text()).get("key") == facts["key"]:
        return
    facts |= {
        "stage": file.stem,
        "started": started,
        "host": platform.node(),
        "machine": platform.machine(),
        "threads": int(os.environ.get("OMP_NUM_THREADS", 0)) or os.cpu_count(),
        "git_revision": revision(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    seconds, cpu = round(time.time() - wall, 3), _cpu_seconds()
    facts |= {
        "seconds": seconds,
        "cpu_seconds": round(cpu - _counted[1], 3),
        "gpu_seconds": seconds * _num_gpus(),
        "api": _asked(),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }
    _counted[:] = time.time(), cpu
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
    model, tuned, asset = root / f"models/{name}/stepladder.json", root / f"tuned/{name}.yaml", fetched(root, name)
    trained = json.loads(model.read_text()).get("key")
    searched = yaml.safe_load(tuned.read_text()).get("key") if tuned.exists() else None
    keys = {"fetch": asset, "sweep": searched, "train": trained, "probe": trained, "evaluate": trained}
    places = {stage: root / f"runs/{name}/{stage}.json" for stage, key in keys.items() if key}
    costs = {stage: json.loads(path.read_text()) for stage, path in places.items() if path.exists()}
    return {stage: cost for stage, cost in costs.items() if cost.get("key") == keys[stage]}


def fetched(root: Path, name: str) -> str | None:
    """Return the key of what was fetched for a candidate: of its description, None before there is one."""
    description = root / f"assets/{name}.json"
    return store.sha256(description)[:16] if description.is_file() else None


def revision() -> str | None:
    """Return the git commit that is checked out, None outside of git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def _began() -> float:
    """Return when this process began; on Linux not by psutil, whose clock is a second that the machine began in."""
    if not sys.platform.startswith("linux"):
        return psutil.Process().create_time()
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])  # since the boot: proc(5), field 22
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def _energy(facts: dict):
    """Add the kWh that this process draws in the work inside: by RAPL and NVML where there are such, else by its load.

    Source: https://docs.codecarbon.io, offline; the country, which decides CO2 alone, is any. It raises nothing: where
    it fails, the energy is None and the work goes on.
    """
    import codecarbon  # takes 0.2 CPU-s, and 0.7 where it has to look for the processor in its list

    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it speaks before it hears log_level
    options = {"output_methods": [], "log_level": "critical", "allow_multiple_runs": True, "tracking_mode": "process"}
    with codecarbon.OfflineEmissionsTracker(country_iso_code="USA", **options) as tracker:
        yield
    told = getattr(tracker, "final_emissions_data", None)
    facts["energy_kwh"] = told and told.energy_consumed


def _num_gpus() -> int:
    """Return on how many devices this process has computed, without importing torch for it."""
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized()
    return sum(torch.cuda.max_memory_reserved(device) > 0 for device in range(torch.cuda.device_count())) if used else 0


def _asked() -> dict[str, dict]:
    """Return what this process has used of models behind an API, see remote.used, without importing it for that."""
    remote = sys.modules.get("stepladder.remote")
    return remote.used() if remote else {}


def _cpu_seconds() -> float:
    """Return what this process and those it has waited for so far have used, such as loaders.

    The exporter to MLflow ends later, as it tells what stands in the file that is written here.
    """
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(used.ru_utime + used.ru_stime for used in map(resource.getrusage, kinds))
