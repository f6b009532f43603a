"""Provenance: what a candidate is made of and how it did, from the files of a finished run, each with its hash.

{"model": "stepladder_reviews", "row": {...}, "board": {...}, "config": {...}, "base": {"licence": "MIT", ...},
 "data": [{"name": "reviews", "role": "task", "parts": {"train": {"path": ..., "sha256": ...}}, "report": {...}}],
 "hashes": {"models/lora": "6adc...dir"}, "revision": "8d75...", "changed": ["conf/method/lora.yaml"]}
"""

import json
import re
import subprocess
from pathlib import Path

import yaml

from stepladder import integrity, runs, store

CODE = ("src", "pipelines", "conf", "params.yaml", "dvc.yaml", "requirements.lock")  # what a revision stands for
MADE = ("build/{}.yaml", "inputs/{}.json", "tuned/{}.yaml", "models/{}", "predictions/test/{}.parquet")
BOARD = "reports/leaderboard.json"


def of(name: str, model: str, conditions: list[dict]) -> dict:
    """Return all that is known of a candidate that becomes a version of `model`; `conditions` are what the gate found.

    The same files and the same git revision give the same facts; nothing else of the machine or the clock is in them.
    """
    board, config = _json(BOARD), yaml.safe_load(Path(f"build/{name}.yaml").read_text("utf-8"))
    tuned, chosen = yaml.safe_load(Path(f"tuned/{name}.yaml").read_text("utf-8")), _json(f"inputs/{name}.json")
    data = [_data(*each) for each in _roles(chosen)]
    files = [path.format(name) for path in MADE] + [file["path"] for each in data for file in each["parts"].values()]
    return {
        "model": model,
        "candidate": name,
        "board": board,
        "row": next(row for row in board["rows"] if row["candidate"] == name),
        "conditions": conditions,
        "config": config | tuned["sections"],
        "description": _json(f"models/{name}/stepladder.json"),
        "versions": store.manifest(Path("models", name))["versions"],
        "base": _base(name, config["model"]),
        "data": data,
        "hashes": {path: next(iter(integrity.names(Path(path)))) for path in [*files, BOARD]},
        "revision": runs.revision(),
        "changed": _changed(),
    }


def licence(known: dict) -> str | None:
    """Return the licence of the base's weights, None where the weights are all one's own or nobody has said.

    A package and the weights in it may have two: "MIT (package), Apache-2.0 (weights)".
    """
    told = (known["base"] or {}).get("licence")
    of_weights = re.search(r"(\S+) \(weights\)", told or "")
    return of_weights[1] if of_weights else told


def _base(name: str, model: dict) -> dict | None:
    """Return {name, kind, assets, licence, files} of the weights that a candidate begins with, None without any."""
    fetched = _json(f"assets/{name}.json")
    if not fetched["files"]:
        return None
    return {"name": model["name"], "kind": model["kind"], "assets": _assets(model), **_held(fetched)}


def _roles(chosen: dict) -> list[tuple[str, str, dict]]:
    """Return (data set, what it is for, {part: {path, sha256}}) of all that a candidate reads."""
    own = {part: chosen[part] for part in ("train", "val", "test")}
    found = [(chosen["data"], "task", own)]
    found += [(name, "mixture", parts) for name, parts in chosen["mixture"].items()]
    if corpus := chosen["corpus"]:
        found.append((Path(corpus["train"]["path"]).parent.name, "corpus", corpus))
    return found


def _data(name: str, role: str, parts: dict) -> dict:
    config = yaml.safe_load(Path(f"build/data/{name}.yaml").read_text("utf-8"))
    reports = {"report": _json(f"reports/data/{name}.json"), "split": _json(f"reports/data/{name}_split.json")}
    fetched = _held(_json(f"assets/data/{name}.json"))
    return {"name": name, "role": role, "parts": parts, "assets": _assets(config["data"]), **fetched, **reports}


def _held(fetched: dict) -> dict:
    return {"licence": fetched.get("licence"), "files": fetched["files"]}


def _assets(section: dict) -> list[dict]:
    asset = section["asset"] or []
    return asset if isinstance(asset, list) else [asset]


def _changed() -> list[str]:
    """Return the files that git would commit before the revision is the code that ran; none outside of git."""
    command = ["git", "status", "--porcelain", "--", *CODE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [line[3:] for line in done.stdout.splitlines()]


def _json(path: str) -> dict:
    return json.loads(Path(path).read_text("utf-8"))
