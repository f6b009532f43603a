"""Registry: a winner that passes the gate becomes a self-contained version of a registered model.

The first version is aliased `champion`, later ones `challenger`; a version that does not answer as it was measured is
not registered.
"""

import json
import math
import subprocess
import sys
import tempfile
from itertools import starmap
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
import polars as pl
import yaml
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from mlflow.types.schema import Array

from stepladder import disk, records, speech, store, targets, tracking
from stepladder.errors import IntegrityError
from stepladder.tracking import KEY

NUM_CHECKED = 256  # test rows that are asked again
MOVED = 0.03  # by which a number may differ: so much bf16 logits move with the batch
SHARE_EQUAL = 0.995  # of answers; bf16 logits move with the batch
CODE = ("bottleneck.py", "virtual.py")  # that a model served beside its adapter runs
PACKAGES = ("mlflow", "torch", "transformers", "safetensors", "pandas")
ASK = """
import sys
sys.modules["stepladder"] = None  # served without it
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(pandas.read_json(sys.argv[2], dtype=str)).to_json(sys.argv[3])
"""


def register(runs: dict[str, str], *, model: str) -> dict:
    """Register what reports/leaderboard.json lets pass and return {"candidate", "passed", "reason", "model"}.

    `runs` maps candidates to the ids of their tracked runs. A version of the same key is not made twice.
    Interrupted, it is safe to repeat. Raises IntegrityError when the reloaded model answers otherwise than it did on
    the test split.
    """
    board = json.loads(Path("reports", "leaderboard.json").read_text())
    outcome = {key: board["registration"][key] for key in ("candidate", "passed", "reason")} | {"model": model}
    if not outcome["passed"]:
        return outcome
    name = outcome["candidate"]
    if board["task"] == "language_modeling":
        reason = f"{name} models raw text and answers nothing; there is nothing to serve"
        return outcome | {"passed": False, "reason": reason}
    client = _client(name)
    key, version = _held(client, runs[name], model)
    if version is None:
        with speech.during(f"exporting, logging and asking again: {name}"):
            uri = _log(name, runs[name])
            _check(uri, name)
            _keep(client, uri)
        version = mlflow.register_model(uri, model, tags={KEY: key, "candidate": name}).version
    if not client.get_model_version(model, version).aliases:
        alias = "challenger" if "champion" in client.get_registered_model(model).aliases else "champion"
        client.set_registered_model_alias(model, alias, version)
        print(f"registered models:/{model}@{alias} (version {version}): {name}", flush=True)
    return outcome


def lost(runs: dict[str, str]) -> str | None:
    """Return the line that says how to register again what reports/registered.json names and the registry lacks."""
    file = Path("reports", "registered.json")
    outcome = json.loads(file.read_text()) if file.is_file() else {"candidate": None, "passed": False}
    name = outcome["candidate"]
    if not outcome["passed"] or name not in runs or _held(_client(name), runs[name], outcome["model"])[1]:
        return None
    return f"{outcome['model']} has no version of {name}; to register it again: dvc repro -f -s register"


def _held(client: mlflow.MlflowClient, run: str, model: str) -> tuple[str, str | None]:
    """Return the key of a run and the version of the model that has the same key, None without one."""
    key = client.get_run(run).data.tags[KEY]
    known = client.search_model_versions(f"name = '{model}'")
    return key, next((version.version for version in known if version.tags.get(KEY) == key), None)


def _client(name: str) -> mlflow.MlflowClient:
    """Return a client of the store that the candidate is told to, and let MLflow's own functions use that store."""
    tracker = tracking.of(yaml.safe_load(Path("build", f"{name}.yaml").read_text())["runtime"])
    mlflow.set_tracking_uri(tracker.uri)
    return tracker.client


def _log(name: str, run: str) -> str:
    """Log the candidate in its run as an MLflow model from code and return its address.

    Raises IntegrityError where a file does not come back as it was sent.
    """
    from stepladder import answering  # torch, only where something is registered

    store.verify(Path("models", name))
    answerer = answering.load(Path("models", name))
    labels = answerer.description["labels"] or []
    kind = {"multilabel": Array("string"), "regression": "double"}.get(answerer.description["task"], "string")
    outputs = [ColSpec(kind, "answer"), *(ColSpec("double", label) for label in labels)]
    example = records.read(json.loads(Path("inputs", f"{name}.json").read_text())["train"]["path"]).head(2)
    with mlflow.start_run(run_id=run), tempfile.TemporaryDirectory() as folder:
        answerer.export(Path(folder))
        beside = (Path(folder) / answering.ADAPTER).is_dir()
        logged = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(Path(__file__).with_name("serving.py")),
            artifacts={"model": folder},
            signature=ModelSignature(Schema([ColSpec("string", "input")]), Schema(outputs)),
            input_example=example.select("input").to_dicts()[0],
            code_paths=[str(Path(__file__).with_name(name)) for name in CODE] if beside else None,
            pip_requirements=[f"{package}=={_version(package)}" for package in (*PACKAGES, *["peft"] * beside)],
        )
        held = Path(mlflow.artifacts.download_artifacts(logged.model_uri), "artifacts", Path(folder).name)
        sent, kept = store.hashes(Path(folder)), store.hashes(held)
        for file in sent:
            if fault := store.difference(held / file, sent[file], kept.get(file, "no file")):
                raise IntegrityError(fault)
    return logged.model_uri


def _keep(client: mlflow.MlflowClient, uri: str) -> None:
    """Bring a logged model that lies on this machine to the disk, before a version names it."""
    place = urlparse(client.get_logged_model(uri.removeprefix("models:/")).artifact_location)
    if place.scheme in ("", "file"):
        disk.sync(Path(unquote(place.path)))


def _check(uri: str, name: str) -> None:
    """Ask the logged model again in a fresh process; IntegrityError when its answers differ from the measured ones."""
    chosen = json.loads(Path("inputs", f"{name}.json").read_text())
    asked = records.read(chosen["test"]["path"]).head(NUM_CHECKED)
    measured = pl.read_parquet(Path("predictions", "test", f"{name}.parquet")).head(NUM_CHECKED)
    with tempfile.TemporaryDirectory() as folder:
        question, reply = Path(folder, "question.json"), Path(folder, "reply.json")
        question.write_text(json.dumps(asked.select("input").to_dicts()))
        command = [sys.executable, "-c", ASK, uri, question, reply]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            fault = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise IntegrityError(f"{uri}: cannot be opened again ({fault}); not registered")
        answers = list(json.loads(reply.read_text())["answer"].values())
    equal = sum(starmap(_equal, zip(answers, measured["answer"], strict=True))) / len(answers)
    if equal < SHARE_EQUAL:
        raise IntegrityError(f"{uri}: only {equal:.1%} of {len(answers)} answers equal those measured; not registered")


def _equal(served: str | list[str] | float, measured: str | float) -> bool:
    """Say whether a served answer is the measured one, of which several labels are kept as one text."""
    if isinstance(measured, float):
        return math.isclose(served, measured, rel_tol=MOVED, abs_tol=MOVED)
    return (targets.written(served) if isinstance(served, list) else served) == measured


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package).split("+")[0]
