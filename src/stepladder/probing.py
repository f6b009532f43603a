"""Probing: ask a trained candidate what its test set does not, and keep the outcome of each item.

reports/probes/<c>.json: {"retention": {"bits_per_byte": {"value": 1.2, "low": 1.1, "high": 1.3, "num_items": 200}}}
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from pathlib import Path

import polars as pl

from stepladder import candidates, levels, probes, records, runs, store, work
from stepladder.errors import DataError
from stepladder.probes import Asked

FOLDER = Path("reports", "probes")


def run(config: dict) -> None:
    """Stage probe: write reports/probes/<c>.json and .parquet; both are empty where no probe is chosen.

    What a probe found lies in state/probes/ under the hash of all that leads to it, and is not asked for again.
    """
    name, found, tables = config["candidate"], {}, []
    asked = cache(lambda: _asked(config))
    with _measured(config) if config["probe"] else nullcontext():
        for probe in config["probe"] or {}:
            folder = store.settle(store.kept("probes") / _key(config, probe), partial(_measure, asked, config, probe))
            found[probe] = json.loads((folder / "measures.json").read_text())
            tables.append(pl.read_parquet(folder / "rows.parquet").select(pl.lit(probe).alias("probe"), pl.all()))
            _tell(probe, found[probe])
    records.write_json(found, FOLDER / f"{name}.json")
    rows = pl.concat(tables, how="diagonal") if tables else pl.DataFrame(schema={"probe": pl.String})
    records.write(rows, FOLDER / f"{name}.parquet")


def _measure(asked: Callable[[], Asked], config: dict, probe: str, made: Path) -> None:
    print(f"probe {probe}", flush=True)
    measures, rows = probes.load(probe).measure(asked(), **config["probe"][probe])
    records.write_json(measures, made / "measures.json")
    records.write(rows, made / "rows.parquet")


def _measured(config: dict):
    """Return what measures the stage, under the key of the candidate that it asks; see runs.measured."""
    file = Path("runs", config["candidate"], "probe.json")
    facts = {"key": json.loads(Path("models", config["candidate"], "stepladder.json").read_text())["key"]}
    return runs.measured(file, metered=config["runtime"]["meter"], facts=facts)


def _tell(probe: str, measures: dict) -> None:
    for measure, told in measures.items():
        if told["value"] is not None:
            print(f"{probe}: {measure} {told['value']:.4f} [{told['low']:.4f}, {told['high']:.4f}]", flush=True)


def _key(config: dict, probe: str) -> str:
    """Return the hash of a probe's settings and code, of the candidate that it asks, and of what both read."""
    name, code = config["candidate"], config["code"]
    files = [Path("inputs", f"{name}.json"), *(Path(place, "probes", f"{name}.json") for place in ("inputs", "assets"))]
    content = [probe, config["probe"][probe], code["probe"][probe], code["level"], code["objective"], work.versions()]
    content += [config["seed"], config["data"], config["gate"]["confidence"], config["gate"]["num_resamples"]]
    content += [store.manifest(Path("models", name)), *(json.loads(file.read_text()) for file in files)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _asked(config: dict) -> Asked:
    name, model = config["candidate"], Path("models", config["candidate"])
    files = candidates.inputs(config)
    named = json.loads(Path("inputs", "probes", f"{name}.json").read_text())["files"]
    assets = json.loads(Path("assets", "probes", f"{name}.json").read_text())["files"]
    store.verify(model)
    level = config["level"]["name"]
    return Asked(
        level=levels.load(level).load(model),
        read=lambda part: _known(config, part, files.read(part)),
        data=candidates.Inputs(named, None, {}).read,
        archives={probe: _archive(name, asset) for probe, asset in assets.items()},
        base=files.base if level == "finetune" else None,
        canaries=config["data"]["canaries"],
        options={key: config["gate"][key] for key in ("confidence", "num_resamples")} | {"seed": config["seed"]},
    )


def _known(config: dict, part: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of a part that the candidate saw: of train perhaps a sample."""
    return candidates.sample(rows, config["data"]["max_rows"], config["seed"]) if part == "train" else rows


def _archive(name: str, asset: dict) -> Path:
    """Return the archive that was fetched; DataError where a clone has its description alone."""
    path = store.root() / (asset.get("file") or asset["folder"])
    command = "dvc repro --force --single-item fetch_probes"
    if not path.exists():
        raise DataError(f"{store.shown(path)}: missing, candidate {name} is asked from it; bring it with: {command}")
    store.require(path, asset["files"], of=f"; bring it again with: {command}")
    return path
