"""Tracking: what was measured, in MLflow: one run a candidate, found again by its key, completed from files.

Runs are told from files that the stages leave (config, history, metrics), so that a stage restored from DVC's cache and
a store that was lost both end with the same runs. Telling is safe to repeat: a run is sent what it does not hold.
"""

import hashlib
import json
import logging
import os
import posixpath
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from requests import RequestException

from stepladder import store
from stepladder.errors import RemoteError

KEY, DIGEST, OUTPUT = "stepladder.key", "stepladder.digest", "stepladder.output"
BATCH = 1000  # metrics a call, MLflow's own limit
MAX_NAME = 250  # characters, MLflow's own limit


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
        self.num_told = 0
        with self.lock, self._answering():  # a client makes the tables of a new store
            self.client = MlflowClient(self.uri)
            known = self.client.get_experiment_by_name(experiment)
            place = (root / "mlruns").as_uri() if self.uri.startswith("sqlite") else None
            self.experiment = known.experiment_id if known else self._new(experiment, place)

    def tell(self, entry: Entry, *, status: str = "FINISHED") -> str:
        """Make or complete the run of this entry and return its id; an entry told before changes nothing.

        A run that is not FINISHED gets no files yet. Raises RemoteError where the store does not answer or keeps
        something else.
        """
        with self.lock, self._answering():
            run = self._found(entry.key) or self._created(entry)
            if (run.data.tags.get(DIGEST), run.info.status) == (entry.digest(), status):
                return run.info.run_id
            self._params(run, entry.params)
            self._metrics(run, entry)
            tags = {**entry.tags, DIGEST: entry.digest() if status == "FINISHED" else ""}
            if status == "FINISHED":
                self._texts(run, entry.texts)
                self._data(run, entry.data)
            self.client.log_batch(run.info.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])
            if status == "RUNNING":
                self.client.update_run(run.info.run_id, status)
            else:
                self.client.set_terminated(run.info.run_id, status)
        return run.info.run_id

    def running(self, tags: dict[str, str]) -> list[Entry]:
        """Return name and key of the runs with these tags that nobody has ended."""
        words = [f"tags.`{name}` = '{value}'" for name, value in tags.items()]
        with self._answering():
            found = self.client.search_runs([self.experiment], " and ".join(["attributes.status = 'RUNNING'", *words]))
        return [Entry(run.info.run_name, run.data.tags[KEY], {}) for run in found if KEY in run.data.tags]

    def adopt(self, parent: str, outputs: list[str]) -> None:
        """Make the runs that were typed into these folders children of a run."""
        with self.lock, self._answering():
            for output in outputs:
                for run in self.client.search_runs([self.experiment], f"tags.`{OUTPUT}` = '{output}'"):
                    self.client.set_tag(run.info.run_id, MLFLOW_PARENT_RUN_ID, parent)

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except (MlflowException, RequestException) as error:
            raise RemoteError(f"{self.uri}: {' '.join(str(error).split())}") from error

    def _new(self, experiment: str, place: str | None) -> str:
        """Make an experiment, unless a process on another machine, which holds another lock, made it meanwhile."""
        try:
            return self.client.create_experiment(experiment, place)
        except MlflowException:
            if known := self.client.get_experiment_by_name(experiment):
                return known.experiment_id
            raise

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
        named = {_name(name): str(value)[:6000] for name, value in params.items()}
        new = [Param(name, value) for name, value in named.items() if name not in run.data.params]
        for start in range(0, len(new), 100):
            self.client.log_batch(run.info.run_id, params=new[start : start + 100])

    def _metrics(self, run, entry: Entry) -> None:
        """Log the values that the run does not hold; the last step shows the final ones, also when they changed."""
        held = [m for name in run.data.metrics for m in self.client.get_metric_history(run.info.run_id, name)]
        known = {(m.key, m.step, _kept(m.value)) for m in held}
        stamp = max([int(time.time() * 1000), *(m.timestamp + 1 for m in held)])
        last = max([0, *(m["step"] + 1 for m in entry.history), *(m.step for m in held)])
        told = [(_name(m["name"]), m["step"], m["value"]) for m in entry.history]
        told = [(name, step, value) for name, step, value in told if (name, step, _kept(value)) not in known]
        shown = {name: _kept(value) for name, value in run.data.metrics.items()}
        final = [(_name(name), last, value) for name, value in entry.metrics.items()]
        told += [point for point in final if shown.get(point[0]) != _kept(point[2])]
        made = [Metric(name, value, stamp, step) for name, step, value in told]
        for start in range(0, len(made), BATCH):
            self.client.log_batch(run.info.run_id, metrics=made[start : start + BATCH])
            self.num_told += len(made[start : start + BATCH])

    def _texts(self, run, texts: dict[str, str]) -> None:
        """Keep texts as files of the run; RemoteError where one comes back otherwise, as half of it after a cut."""
        for name, text in texts.items():
            self.client.log_text(run.info.run_id, text, name)
            with tempfile.TemporaryDirectory() as folder:
                held = Path(self.client.download_artifacts(run.info.run_id, name, folder)).read_bytes()
            if hashlib.sha256(held).digest() != hashlib.sha256(text.encode()).digest():
                raise RemoteError(f"{self.uri}: keeps {len(held)} of the {len(text.encode())} bytes of {name}")

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


def _name(name: str) -> str:
    """Return a name as MLflow takes it: `_x23_` for a character that it refuses, cut with a hash where it is long."""
    taken = re.sub(r"[^/\w.\- :]", lambda found: f"_x{ord(found[0]):x}_", name)
    if posixpath.normpath(taken) != taken or taken.startswith(("/", ".")):  # it must not be another path
        taken = "_" + taken.replace("/", "_x2f_")
    return (
        taken if len(taken) <= MAX_NAME else f"{taken[: MAX_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    )


def _kept(value: float) -> float | str:
    """Return what MLflow keeps of a value, for comparing: the largest number for infinity; nothing equals NaN."""
    return "nan" if value != value else max(-sys.float_info.max, min(sys.float_info.max, value))
