"""Champion: a registered version is found by its address, trusted by its signature, opened, served and promoted.

python -m pipelines.predict new.csv answers.csv      python -m pipelines.serve      python -m pipelines.promote --to 3
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import mlflow
import yaml
from mlflow.exceptions import MlflowException

from stepladder import leaderboard, signing, tracking
from stepladder.errors import ConfigError, IntegrityError


def connect(name: str | None = None) -> mlflow.MlflowClient:
    """Return a client of the store that a candidate, else the first one, is told to; MLflow's functions use it too."""
    name = name or leaderboard.configured(Path())["candidates"][0]
    tracker = tracking.of(yaml.safe_load(Path("build", f"{name}.yaml").read_text())["runtime"])
    mlflow.set_tracking_uri(tracker.uri)
    return tracker.client


def trusted(address: str, name: str | None = None) -> str:
    """Return the folder of a logged model, as its key signed it where a candidate's runtime.public_key names one.

    Raises IntegrityError with the file that differs, and what to type.
    """
    sys.dont_write_bytecode = True  # code that travels with a version leaves nothing beside its signed files
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    folder = mlflow.artifacts.download_artifacts(address)
    signing.require(Path(folder), name, of=address)
    return folder


def faults() -> list[str]:
    """Return a line for each version with an alias that is not as it was signed."""
    model, lines = f"stepladder_{leaderboard.configured(Path())['data']['name']}", []
    found = connect().search_registered_models(f"name = '{model}'")
    for version in sorted({version for held in found for version in held.aliases.values()}):
        try:
            trusted(f"models:/{model}/{version}")
        except IntegrityError as error:
            lines.append(str(error))
    return lines


def promote(model: str, *, version: str | None = None) -> str:
    """Make a version the champion, the challenger where none is named, and return which; safe to repeat.

    Raises ConfigError, naming the versions there are, where there is no such version or no challenger, IntegrityError
    where it is not as it was signed.
    """
    client = connect()
    known = {str(one.version): one for one in client.search_model_versions(f"name = '{model}'")}
    listed = ", ".join(f"{one.version} ({one.tags.get('candidate')})" for one in known.values()) or "none"
    aliases = {alias: str(at) for alias, at in client.get_registered_model(model).aliases.items()} if known else {}
    chosen = version or aliases.get("challenger")
    if chosen is None:
        raise ConfigError(f"{model} has no challenger; name a version with --to. Known: {listed}")
    if chosen not in known:
        raise ConfigError(f"{model} has no version {chosen!r}. Known: {listed}")
    trusted(f"models:/{model}/{chosen}")
    client.set_registered_model_alias(model, "champion", chosen)
    if aliases.get("challenger") == chosen:
        client.delete_registered_model_alias(model, "challenger")
    return f"models:/{model}@champion is version {chosen}: {known[chosen].tags.get('candidate')}"


def opened(uri: str) -> tuple[str, Callable[[list[str]], list[dict]]]:
    """Return the address of what a model's address stands for by now, and what asks it: texts in, a dict a text out."""
    import pandas

    address = _address(uri)
    model = mlflow.pyfunc.load_model(trusted(address))
    return address, lambda texts: model.predict(pandas.DataFrame({"input": texts})).to_dict("records")


def serve(uri: str, *, host: str, port: str) -> None:
    """Become MLflow's server of a model; it answers POST /invocations and GET /health."""
    command = ["mlflow", "models", "serve", "--model-uri", trusted(_address(uri)), "--env-manager", "local"]
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]  # MLflow calls uvicorn by its name
    os.environ["PATH"] = os.pathsep.join(places)
    os.execv(sys.executable, [sys.executable, "-m", *command, "--host", host, "--port", port])


def _address(uri: str) -> str:
    """Return a model's address with its version in place of an alias; the store is that of the candidates.

    Raises ConfigError where there is no such model, version or alias.
    """
    client = connect()
    os.environ["MLFLOW_TRACKING_URI"] = mlflow.get_tracking_uri()
    name, at, alias = uri.removeprefix("models:/").partition("@")
    if not uri.startswith("models:/") or not at:
        return uri
    try:
        return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise ConfigError(f"{uri}: {error.message}; dvc repro registers a model") from None
