"""Registry: a winner that passes the gate becomes a self-contained version of a registered model.

The first version is aliased `champion`, later ones `challenger`, until `promote` makes one of them the champion; a
version that does not answer as it was measured is not registered.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
import polars as pl
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import Array

from stepladder import (
    champion,
    disk,
    equality,
    gate,
    materials,
    predictions,
    provenance,
    records,
    signing,
    speech,
    statistics,
    store,
)
from stepladder.errors import IntegrityError
from stepladder.report import card
from stepladder.tracking import KEY

CARD = "README.md"
MAX_DESCRIPTION = 5000  # characters of a version, MLflow's own limit
CONDITIONS = "stepladder.conditions"  # tag of a version: what the gate asked and found
MOVED_ROWS = "stepladder.moved_rows"  # tag of a version: ids of test rows that it answers otherwise than it did
NUM_CHECKED = 256  # test rows that are asked again
CODE = ("bottleneck.py", "conversations.py", "virtual.py")  # that a served model may run
PACKAGES = ("mlflow", "torch", "transformers", "safetensors", "pandas")
SAMPLING = (("temperature", "double", 0.0), ("top_k", "long", 0), ("top_p", "double", 1.0), ("seed", "long", 0))
ASK = """
import sys
sys.modules["stepladder"] = None  # served without it
import mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
model.predict(pandas.read_json(sys.argv[2], dtype=str)).to_json(sys.argv[3])
"""


def register(runs: dict[str, str], *, model: str) -> dict:
    """Register what the leaderboard lets pass; return {"candidate", "passed", "reason", "conditions", "model"}.

    Where there is a champion already it is asked the same test rows, whatever else has failed, and the gate says how
    far behind is too far.
    `runs` maps candidates to the ids of their tracked runs. A version of the same key is not made twice.
    Interrupted, it is safe to repeat. Raises IntegrityError when the reloaded model answers otherwise than it did on
    the test split.
    """
    board = json.loads(Path("reports", "leaderboard.json").read_text())
    outcome = board["registration"] | {"model": model}
    name = outcome["candidate"]
    client = champion.connect(name)
    key, version = _held(client, runs[name], model)
    if reason := _unservable(name, board["task"]):
        outcome |= {"passed": False, "reason": f"{reason}; {outcome['reason']}"}
    private = signing.private_key(name) if outcome["passed"] and version is None else None
    outcome = _against_champion(client, outcome, board, own=version)
    if not outcome["passed"]:
        return outcome
    if version is None:
        with speech.during(f"exporting, logging and asking again: {name}"):
            uri = _log(name, runs[name], provenance.of(name, model, outcome["conditions"]))
            moved = _check(uri, name, board)
            if private:
                _sign(client, uri, private)
            _keep(client, uri)
        tags = {KEY: key, "candidate": name, CONDITIONS: json.dumps(outcome["conditions"])}
        tags |= {MOVED_ROWS: json.dumps(moved)} if moved else {}
        version = mlflow.register_model(uri, model, tags=tags).version
    if not client.get_model_version(model, version).aliases:
        _describe(client, model, version)
        alias = "challenger" if "champion" in client.get_registered_model(model).aliases else "champion"
        client.set_registered_model_alias(model, alias, version)
        print(f"registered models:/{model}@{alias} (version {version}): {name}", flush=True)
    return outcome


def lost(runs: dict[str, str]) -> str | None:
    """Return the line that says how to register again what reports/registered.json names and the registry lacks."""
    file = Path("reports", "registered.json")
    outcome = json.loads(file.read_text()) if file.is_file() else {"candidate": None, "passed": False}
    name = outcome["candidate"]
    if not outcome["passed"] or name not in runs or _held(champion.connect(name), runs[name], outcome["model"])[1]:
        return None
    return f"{outcome['model']} has no version of {name}; to register it again: dvc repro -f -s register"


def _unservable(name: str, task: str) -> str | None:
    """Return why there is nothing of a candidate to register, None where there is."""
    if task == "language_modeling":
        return f"{name} models raw text and answers nothing; there is nothing to serve"
    told = json.loads(Path("models", name, "stepladder.json").read_text())
    if told.get("form") == "remote":
        return f"{name} stands behind an API, whose model is not ours to keep; ask it there"
    if "gguf" in (told.get("decoding") or {}):
        return f"{name} writes by llama.cpp, whose GGUF file no version holds; serve the file by it"
    return None


def _held(client: mlflow.MlflowClient, run: str, model: str) -> tuple[str, str | None]:
    """Return the key of a run and the version of the model that has the same key, None without one."""
    key = client.get_run(run).data.tags[KEY]
    known = client.search_model_versions(f"name = '{model}'")
    return key, next((version.version for version in known if version.tags.get(KEY) == key), None)


def _against_champion(client: mlflow.MlflowClient, outcome: dict, board: dict, *, own: str | None) -> dict:
    """Return the outcome with the condition that compares the candidate with the champion, where that is another.

    `own` is the version that the candidate has already. A champion that answers other labels cannot be compared.
    """
    model, rule, name = outcome["model"], board["gate"]["champion"], outcome["candidate"]
    known = client.search_registered_models(f"name = '{model}'")
    version = known[0].aliases.get("champion") if known and rule else None
    if version is None or str(version) == str(own):
        return outcome
    ours = pl.read_parquet(Path("predictions", "test", f"{name}.parquet"))
    rows = records.read(json.loads(Path("inputs", f"{name}.json").read_text())["test"]["path"])
    with speech.during(f"asking the champion, version {version}, the same {len(rows):,} test rows"):
        answers = _asked(champion.trusted(f"models:/{model}/{version}", name), rows)
    theirs, low = predictions.served(rows, answers, board["task"]), None
    if set(ours.schema.items()) == set(theirs.schema.items()):
        options = {key: board["gate"][key] for key in ("confidence", "num_resamples")} | {"seed": board["seed"]}
        low = statistics.paired_difference((ours.sort("id"), theirs.sort("id")), board["metric"], **options)["low"]
    else:
        cure = f"version {version} answers other labels than {name}: set gate.champion: null, and promote by hand"
        outcome = outcome | {"reason": f"{outcome['reason']}; {cure}"}
    least = board["gate"]["min_difference"] if rule == "superior" else -board["gate"]["margin"]
    condition = gate.above(f"{board['metric']} over the champion, version {version}", low, least)
    return gate.with_conditions(outcome, [condition])


def _log(name: str, run: str, known: dict) -> str:
    """Log the candidate in its run as an MLflow model from code, with card and bill, and return its address.

    Raises IntegrityError where a file does not come back as it was sent.
    """
    from stepladder import answering  # torch, only where something is registered

    store.verify(Path("models", name))
    answerer = answering.load(Path("models", name))
    example = records.read(json.loads(Path("inputs", f"{name}.json").read_text())["train"]["path"])["input"][0]
    with mlflow.start_run(run_id=run), tempfile.TemporaryDirectory() as place:
        answerer.export(folder := Path(place, "model"))
        packed = package(folder, answerer.description, example=example)
        _document(folder, known, packed["pip_requirements"])
        logged = mlflow.pyfunc.log_model(name=name, **packed)
        held = Path(mlflow.artifacts.download_artifacts(logged.model_uri), "artifacts", folder.name)
        sent, kept = store.hashes(folder), store.hashes(held)
        for file in sent:
            if fault := store.difference(held / file, sent[file], kept.get(file, "no file")):
                raise IntegrityError(fault)
    return logged.model_uri


def package(folder: Path, description: dict, *, example: str) -> dict:
    """Return what mlflow.pyfunc.log_model and save_model want to know of an exported model, code and signature too.

    A model that writes takes the parameters of its decoding; without them it writes as it was measured.
    """
    labels, decoding = description["labels"] or [], description["decoding"] or {}
    kind = {"multilabel": Array("string"), "regression": "double"}.get(description["task"], "string")
    outputs = [ColSpec(kind, "answer"), *(ColSpec("double", label) for label in labels)]
    most = decoding.get("max_new_tokens")
    given = [ParamSpec(*each) for each in (*SAMPLING, ("max_new_tokens", "long", most))] if most else []
    turns, beside = (description["prompt"] or {}).get("turns"), (folder / "adapter").is_dir()
    return {
        "python_model": str(Path(__file__).with_name("serving.py")),
        "artifacts": {"model": str(folder)},
        "signature": ModelSignature(
            Schema([ColSpec("string", "input")]), Schema(outputs), ParamSchema(given) if given else None
        ),
        "input_example": {"input": example},
        "code_paths": [str(Path(__file__).with_name(name)) for name in CODE] if beside or turns else None,
        "pip_requirements": [f"{each}=={_version(each)}" for each in (*PACKAGES, *["peft"] * beside)],
    }


def _document(folder: Path, known: dict, packages: list[str]) -> None:
    """Put the card and the bill of materials among the sealed files of an exported model."""
    (folder / store.MANIFEST).unlink()
    (folder / "bom.json").write_text(materials.bill(known, folder, packages), "utf-8")
    (folder / CARD).write_text(card.markdown(known), "utf-8")
    store.seal(folder)


def _sign(client: mlflow.MlflowClient, uri: str, private: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        signature = Path(place, signing.SIGNATURE)
        signing.sign(Path(mlflow.artifacts.download_artifacts(uri)), signature, private=private)
        client.log_model_artifact(uri.removeprefix("models:/"), str(signature))


def _describe(client: mlflow.MlflowClient, model: str, version: str) -> None:
    """Let MLflow's page of a version show its card, as much of it as a description may hold."""
    told = mlflow.artifacts.load_text(f"models:/{model}/{version}/artifacts/model/{CARD}")
    _, _, text = told.removeprefix("---\n").partition("\n---\n")
    client.update_model_version(model, version, text.strip()[:MAX_DESCRIPTION].rpartition("\n## ")[0].strip())


def _keep(client: mlflow.MlflowClient, uri: str) -> None:
    """Bring a logged model that lies on this machine to the disk, before a version names it."""
    place = urlparse(client.get_logged_model(uri.removeprefix("models:/")).artifact_location)
    if place.scheme in ("", "file"):
        disk.sync(Path(unquote(place.path)))


def _check(uri: str, name: str, board: dict) -> list[str]:
    """Ask the logged model again in a fresh process; return the ids of the rows that it answers otherwise.

    Raises IntegrityError where it is not as equal as its precision lets it be, see equality.py.
    """
    chosen = json.loads(Path("inputs", f"{name}.json").read_text())
    asked = records.read(chosen["test"]["path"]).head(NUM_CHECKED)
    measured = pl.read_parquet(Path("predictions", "test", f"{name}.parquet")).head(NUM_CHECKED)
    served = predictions.served(asked, _asked(uri, asked), board["task"])
    precision = json.loads(Path("models", name, "stepladder.json").read_text())["inference"]["precision"]
    fault, moved = equality.difference(measured, served, metric=board["metric"], precision=precision)
    if fault:
        raise IntegrityError(f"{uri}: {fault}; not registered")
    if moved:
        print(f"{uri}: {len(moved)} of {len(asked)} rows are answered otherwise than measured: {', '.join(moved)}")
    return moved


def _asked(uri: str, rows: pl.DataFrame) -> dict[str, list]:
    """Return the columns that a logged model answers to records, asked in a fresh process that has no Stepladder."""
    with tempfile.TemporaryDirectory() as folder:
        question, reply = Path(folder, "question.json"), Path(folder, "reply.json")
        question.write_text(json.dumps(rows.select("input").to_dicts()))
        command = [sys.executable, "-B", "-c", ASK, uri, question, reply]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            fault = (done.stderr.strip().splitlines() or ["no word"])[-1]
            raise IntegrityError(f"{uri}: cannot be opened again ({fault}); not registered")
        columns = json.loads(reply.read_text())
    return {column: list(values.values()) for column, values in columns.items()}


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package).split("+")[0]
