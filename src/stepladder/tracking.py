"""Tracking: what was measured, in MLflow: one run a candidate, found again by its key, completed from files.

Runs are told from files that the stages leave (config, history, metrics), so that a stage restored from DVC's cache and
a store that was lost both end with the same runs.
"""

import hashlib
import json
import logging
import os
import time
from dataclasses import dataclass, field

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME

from stepladder import store

KEY, DIGEST = "stepladder.key", "stepladder.digest"
BATCH = 1000  # metrics a call, MLflow's own limit


@dataclass(frozen=True)
class Entry:
    """All that a run is to hold; `history` are {"name", "value", "step"}; `data` maps a part to path and md5."""

    name: str
    key: str
    params: dict
    history: list[dict] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)  # artifact name -> content
    data: dict[str, dict] = field(default_factory=dict)
    parent: str | None = None

    def digest(self) -> str:
        """Return the hash of the whole entry: an equal one needs no second telling."""
        return hashlib.sha256(json.dumps(self.__dict__, sort_keys=True, default=str).encode()).hexdigest()


class Tracker:
    """One experiment of one store; the default store is mlflow.db in the root, also for queued DVC experiments."""

    def __init__(self, *, experiment: str, uri: str | None = None):
        root = store.root()
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
        for name in ("mlflow.store", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # the making of tables is no news
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback of what it raises as well
        (root / "state").mkdir(exist_ok=True)
        self.lock = FileLock(root / "state" / "mlflow.lock")
        with self.lock:  # a client makes the tables of a new store
            self.client = MlflowClient(self.uri)
            known = self.client.get_experiment_by_name(experiment)
            place = (root / "mlruns").as_uri() if self.uri.startswith("sqlite") else None
            self.experiment = known.experiment_id if known else self.client.create_experiment(experiment, place)

    def tell(self, entry: Entry) -> str:
        """Make or complete the run of this entry and return its id; an entry told before changes nothing."""
        with self.lock:
            run = self._found(entry.key) or self._created(entry)
            if run.data.tags.get(DIGEST) != entry.digest():
                self._complete(run, entry)
        return run.info.run_id

    def _complete(self, run, entry: Entry) -> None:
        identifier = run.info.run_id
        self._params(run, entry.params)
        self._metrics(run, entry)
        for name, text in entry.texts.items():
            self.client.log_text(identifier, text, name)
        self._data(run, entry.data)
        tags = {**entry.tags, DIGEST: entry.digest()}
        self.client.log_batch(identifier, tags=[RunTag(name, str(value)) for name, value in tags.items()])
        self.client.set_terminated(identifier, "FINISHED")

    def _found(self, key: str):
        found = self.client.search_runs([self.experiment], f"tags.`{KEY}` = '{key}'", max_results=1)
        return found[0] if found else None

    def _created(self, entry: Entry):
        tags = {KEY: entry.key, MLFLOW_RUN_NAME: entry.name, **entry.tags}
        if entry.parent:
            tags[MLFLOW_PARENT_RUN_ID] = entry.parent
        return self.client.create_run(self.experiment, tags=tags, run_name=entry.name)

    def _params(self, run, params: dict) -> None:
        """Log what is new; MLflow keeps the first value of a parameter, and cuts at 6000 characters."""
        new = [Param(name, str(value)[:6000]) for name, value in params.items() if name not in run.data.params]
        for start in range(0, len(new), 100):
            self.client.log_batch(run.info.run_id, params=new[start : start + 100])

    def _metrics(self, run, entry: Entry) -> None:
        """Log the values that the run does not hold; the last step shows the final ones, also when they changed."""
        held = [m for name in run.data.metrics for m in self.client.get_metric_history(run.info.run_id, name)]
        known = {(m.key, m.step, m.value) for m in held}
        stamp = max([int(time.time() * 1000), *(m.timestamp + 1 for m in held)])
        last = max([0, *(m["step"] + 1 for m in entry.history), *(m.step for m in held)])
        told = [(m["name"], m["step"], m["value"]) for m in entry.history]
        told = [point for point in told if point not in known]
        shown = run.data.metrics
        told += [(name, last, value) for name, value in entry.metrics.items() if shown.get(name) != value]
        made = [Metric(name, value, stamp, step) for name, step, value in told]
        for start in range(0, len(made), BATCH):
            self.client.log_batch(run.info.run_id, metrics=made[start : start + BATCH])

    def _data(self, run, data: dict[str, dict]) -> None:
        held = {known.dataset.digest for known in run.inputs.dataset_inputs}
        new = {part: file for part, file in data.items() if file["md5"] not in held}
        inputs = [
            DatasetInput(
                Dataset(file["path"], file["md5"], "local", json.dumps({"uri": file["path"]})),
                [InputTag("mlflow.data.context", part)],
            )
            for part, file in new.items()
        ]
        if inputs:
            self.client.log_inputs(run.info.run_id, inputs)


def of(runtime: dict) -> Tracker:
    """Return the tracker of the store and experiment that a section `runtime` names."""
    return Tracker(experiment=runtime["experiment"], uri=runtime["tracking_uri"])


def flat(sections: dict, prefix: str = "") -> dict[str, object]:
    """Return {"method.r": 8, ...} of nested sections, unused ones left out."""
    found = {}
    for name, value in sections.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            found[f"{prefix}{name}"] = value
    return found
