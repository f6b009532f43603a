"""Tracking: a run is told once, completed when files change, found by filters, and survives a race and a lost store."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stepladder import records, splits
from stepladder.errors import ConfigError
from tests.conftest import sentences

# MLflow 3.17 uses a loader of SQLAlchemy that is about to go
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")]


@pytest.fixture
def place(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def entry(**changes):
    from stepladder.tracking import Entry

    data = {"train": {"path": "data/films/train.parquet", "md5": "a" * 32}}
    history = [{"name": "val/loss", "value": 1.0 / (step + 1), "step": step, "epoch": 0} for step in range(3)]
    facts = {"name": "lora", "key": "lora-1", "params": {"method.r": 8}, "metrics": {"test/accuracy": 0.75}}
    return Entry(**{**facts, "history": history, "data": data, "texts": {"config.yaml": "seed: 1\n"}, **changes})


def tracker():
    from stepladder.tracking import Tracker

    return Tracker(experiment="tiny")


def held(one, run: str) -> dict:
    """Return everything that the store holds of a run."""
    found = one.client.get_run(run)
    series = {name: one.client.get_metric_history(run, name) for name in found.data.metrics}
    return {
        "metrics": found.data.metrics, "params": found.data.params, "tags": found.data.tags,
        "inputs": [(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in found.inputs.dataset_inputs],
        "history": {name: [(m.step, m.value) for m in values] for name, values in series.items()},
        "status": found.info.status, "end": found.info.end_time,
    }  # fmt: skip


@pytest.mark.capability(31)
def test_telling_twice_changes_nothing(place):
    one = tracker()
    run = one.tell(entry())
    before = held(one, run)
    assert tracker().tell(entry()) == run
    assert held(one, run) == before
    assert before["status"] == "FINISHED"
    assert before["params"] == {"method.r": "8"}
    assert before["inputs"] == [("data/films/train.parquet", "a" * 32, "train")]
    assert len(one.client.search_runs([one.experiment])) == 1
    assert Path("mlruns", run, "artifacts", "config.yaml").read_text() == "seed: 1\n"


@pytest.mark.parametrize("value", [0.9, 0.6])
def test_a_changed_metric_completes_the_run_and_the_new_value_is_shown(place, value):
    one = tracker()
    run = one.tell(entry())
    again = entry(metrics={"test/accuracy": value, "test/mcc": 0.5}, params={"method.r": 8, "seed": 1})
    assert one.tell(again) == run
    after = held(one, run)
    assert after["metrics"] == {"val/loss": pytest.approx(1 / 3), "test/accuracy": value, "test/mcc": 0.5}
    assert len(after["history"]["val/loss"]) == 3
    assert after["params"] == {"method.r": "8", "seed": "1"}


def test_long_parameters_and_histories_arrive(place):
    history = [{"name": "train/loss", "value": float(step), "step": step, "epoch": 0} for step in range(2500)]
    one = tracker()
    run = one.tell(entry(params={"prompt.template": "x" * 7000, "empty": ""}, history=history))
    found = held(one, run)
    assert found["params"]["prompt.template"] == "x" * 6000
    assert found["history"]["train/loss"] == [(step, float(step)) for step in range(2500)]
    assert found["history"]["test/accuracy"] == [(2500, 0.75)]


@pytest.mark.capability(31)
def test_filters_on_metrics_params_and_tags_find_the_run(place):
    one = tracker()
    run, other = one.tell(entry(tags={"level": "finetune"})), one.tell(entry(key="b", metrics={"test/accuracy": 0.4}))
    for text in ('metrics."test/accuracy" > 0.5', "tags.`stepladder.key` = 'lora-1'", "tags.level = 'finetune'"):
        assert [r.info.run_id for r in one.client.search_runs([one.experiment], text)] == [run]
    assert len(one.client.search_runs([one.experiment], 'params."method.r" = "8"')) == 2
    assert other != run


RACE = """
import sys
from stepladder.tracking import Entry, Tracker
Tracker(experiment="tiny").tell(Entry(name=sys.argv[1], key=sys.argv[1], params={"a": 1}, metrics={"val/loss": 0.5}))
"""


def test_two_processes_that_tell_a_new_store_end_with_two_runs_in_their_experiment(place):
    Path("mlflow.db").unlink()
    caught = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen([sys.executable, "-c", RACE, name], **caught) for name in ("one", "two")]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert said == ["", ""]
    one = tracker()
    found = one.client.search_runs([one.experiment])
    assert sorted(run.info.run_name for run in found) == ["one", "two"]
    assert one.client.search_runs(["0"]) == []
    assert sorted(e.name for e in one.client.search_experiments()) == ["Default", "tiny"]


@pytest.fixture
def candidate(place, choose) -> Path:
    """What the stages leave of one candidate."""
    for seed, part in enumerate(("train", "val", "test")):
        records.write(sentences(4, seed=seed), Path("data", "films", f"{part}.parquet"))
    records.write_json(splits.assign("films", None), Path("inputs", "lora.json"))
    sections = {**choose("finetune", "bert"), "candidate": "lora"}
    records.write_text(yaml.safe_dump(sections, sort_keys=False), Path("build", "lora.yaml"))
    facts = {"level": "finetune", "num_parameters": 7, "num_trained_parameters": 3}
    records.write_json(facts, Path("models", "lora", "stepladder.json"))
    line = {"name": "val/loss", "value": 0.5, "step": 3, "epoch": 0}
    records.write_text(json.dumps(line) + "\n", Path("models", "lora", "history.jsonl"))
    for piece in ("assets/lora.json", "tuned/lora.yaml", "predictions/val/lora.parquet"):
        records.write_text('{"sections": {}, "files": {}}\n', Path(piece))
    records.write_text(yaml.safe_dump({"candidates": ["lora", "not_trained_yet"]}), Path("build/compare/compare.yaml"))
    return place


def scored(**test: float) -> None:
    """Leave what evaluate and score leave."""
    records.write_text("rows", Path("predictions", "test", "lora.parquet"))
    records.write_json({"val": {"accuracy": 0.8}, "test": {**test, "mcc": None}}, Path("metrics", "lora.json"))


def test_files_are_told_after_training_after_scoring_and_again_to_a_new_store(candidate, monkeypatch):
    from stepladder import sync

    first = sync.tell(["lora", "not_trained_yet"])
    assert list(first) == ["lora"]
    scored(accuracy=0.7)
    assert sync.tell(["lora"]) == first
    before = held(tracker(), first["lora"])
    assert before["metrics"] == {
        "val/accuracy": 0.8, "test/accuracy": 0.7, "val/loss": 0.5, "num_parameters": 7, "num_trained_parameters": 3,
    }  # fmt: skip
    md5 = splits_md5(Path("data", "films", "test.parquet"))
    assert ("data/films/test.parquet", md5, "test") in before["inputs"]
    assert len(before["inputs"]) == 3
    assert before["params"]["method.name"] == "full"
    assert (before["tags"]["level"], before["tags"]["method"], before["tags"]["data"]) == ("finetune", "full", "films")
    lost(monkeypatch)
    second = sync.tell(["lora"])
    assert second != first
    after = held(tracker(), second["lora"])
    for name in ("metrics", "params", "inputs", "history"):
        assert after[name] == before[name]


def test_what_probes_measured_is_told_and_what_they_could_not_is_not(candidate):
    from stepladder import sync

    scored(accuracy=0.7)
    risks = {"retention": {"gain": {"value": -0.1}}, "swaps": {"origin_flips": {"value": None}}}
    records.write_json(risks, Path("reports", "probes", "lora.json"))
    told = sync.entry("lora").metrics
    assert told["retention/gain"] == -0.1 and told["test/accuracy"] == 0.7 and "swaps/origin_flips" not in told


def splits_md5(file: Path) -> str:
    import hashlib

    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the store where there is none."""
    Path("elsewhere").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(Path("elsewhere").resolve()))


def test_a_tracking_store_that_fails_after_training_costs_a_line_and_not_the_training(candidate, monkeypatch, capsys):
    from pipelines import train
    from stepladder import by_hand, candidates, conversions

    monkeypatch.setattr(candidates, "fit_into", lambda *_, **given: {"accuracy": 0.8})
    monkeypatch.setattr(candidates, "inputs", lambda config: candidates.Inputs(splits.assign("films", None), None, {}))
    monkeypatch.setattr(conversions, "provide", lambda model: {"files": {}})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://listens")
    config = yaml.safe_load(Path("build", "lora.yaml").read_text())
    assert train.main.__wrapped__(config) == 0.8
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 1 values in the journal are not tracked (nothing://listens: ")
    assert line.endswith("; what was trained is kept; to track it: python -m pipelines.sync")
    records.write_json({}, Path("outputs", "model", "stepladder.json"))
    typed = {**config, "candidate": None, "runtime": config["runtime"] | {"meter": True}}
    assert by_hand.train(typed, Path("outputs")) == {"accuracy": 0.8}
    assert json.loads(Path("outputs", "train.json").read_text())["energy_kwh"] > 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 0 values in the journal are not tracked (nothing://listens: ")


def test_a_run_carries_the_commit_of_its_training_and_none_where_another_training_was_the_last(candidate):
    from stepladder import sync

    facts = json.loads(Path("models", "lora", "stepladder.json").read_text())
    records.write_json(facts | {"key": "r=8"}, Path("models", "lora", "stepladder.json"))
    for key, tags in {"r=8": {"mlflow.source.git.commit": "c0ffee"}, "r=16": {}}.items():
        records.write_json({"key": key, "git_revision": "c0ffee"}, Path("runs", "lora", "train.json"))
        told = sync.entry("lora").tags
        assert {name: value for name, value in told.items() if name.startswith("mlflow")} == tags


@pytest.mark.capability(47)
def test_the_config_of_a_run_is_the_one_that_was_trained(candidate):
    from stepladder import sync

    records.write_text("sections: {optimizer: {learning_rate: 0.5}}\n", Path("tuned", "lora.yaml"))
    told = sync.entry("lora")
    assert yaml.safe_load(told.texts["config.yaml"])["optimizer"] == {"learning_rate": 0.5}
    assert told.params["optimizer.learning_rate"] == 0.5


def test_each_candidate_is_told_to_its_own_store_and_experiment(candidate):
    from stepladder import sync, tracking

    sections = yaml.safe_load(Path("build", "lora.yaml").read_text())
    for piece in ("inputs/{}.json", "assets/{}.json", "tuned/{}.yaml", "predictions/val/{}.parquet", "models/{}"):
        copy = shutil.copytree if piece == "models/{}" else shutil.copy
        copy(piece.format("lora"), piece.format("apart"))
    own = {"experiment": "elsewhere", "tracking_uri": f"sqlite:///{candidate / 'own.db'}"}
    records.write_text(yaml.safe_dump({**sections, "candidate": "apart", "runtime": own}), Path("build", "apart.yaml"))
    found = sync.tell(["apart", "not_there", "lora"])
    for name, runtime in {"lora": sections["runtime"], "apart": own}.items():
        one = tracking.of(runtime)
        assert [run.info.run_id for run in one.client.search_runs([one.experiment])] == [found[name]]


@pytest.mark.capability(31)
def test_a_run_by_hand_is_told_with_config_facts_and_commit(candidate, choose, monkeypatch):
    from stepladder import runs, sync

    monkeypatch.setattr(runs, "revision", lambda: "c0ffee")
    records.write_json({"num_parameters": 7}, Path("outputs", "model", "stepladder.json"))
    sections, files = choose("finetune", "bert"), splits.assign("films", None)
    run = held(tracker(), sync.by_hand(sections, files, Path("outputs"), {"accuracy": 0.8, "mcc": None}))
    assert run["metrics"] == {"val/accuracy": 0.8, "num_parameters": 7}
    assert run["tags"]["mlflow.source.git.commit"] == "c0ffee" and run["tags"]["stepladder.output"] == "outputs"
    assert run["tags"]["mlflow.runName"] == "finetune-bert-full"


def test_verdict_completes_the_runs_where_the_registration_did_not_come_to_it(candidate, monkeypatch, capsys):
    from pipelines import verdict
    from stepladder import leaderboard, sync

    def conclude(code: int) -> None:
        monkeypatch.setattr(leaderboard, "conclude", lambda root: (["the last lines"], code))
        with pytest.raises(SystemExit) as end:
            verdict.main.__wrapped__()
        assert end.value.code == code and capsys.readouterr().out == "the last lines\n"

    run = sync.tell(["lora"])["lora"]
    scored(accuracy=0.7)
    conclude(1)
    assert held(tracker(), run)["metrics"]["test/accuracy"] == 0.7
    records.write_json({}, Path("reports", "registered.json"))
    monkeypatch.setattr(sync, "tell", lambda names: pytest.fail("told again"))
    conclude(0)


@pytest.mark.parametrize("piece", ["tuned/lora.yaml", "inputs/lora.json", "build/lora.yaml"])
def test_a_candidate_that_failed_before_it_was_trained_is_not_told_by_its_older_files(candidate, piece):
    from stepladder import sync

    scored(accuracy=0.7)
    Path(piece).unlink()
    assert sync.tell(["lora"]) == {}


def test_a_model_that_was_trained_anew_is_not_told_with_the_scores_of_the_one_before(candidate, monkeypatch):
    from pipelines import train
    from stepladder import candidates, sync

    scored(accuracy=0.7)
    monkeypatch.setattr(candidates, "train", lambda config: {"accuracy": 0.9})
    train.main.__wrapped__(yaml.safe_load(Path("build", "lora.yaml").read_text()))
    (run,) = tracker().client.search_runs([tracker().experiment])
    assert "test/accuracy" not in run.data.metrics
    Path("predictions", "test", "lora.parquet").unlink()  # by evaluate, which then fails
    sync.tell(["lora"])
    assert "test/accuracy" not in held(tracker(), run.info.run_id)["metrics"]


def test_sync_before_configure_names_the_command_to_type(place):
    from pipelines import sync

    with pytest.raises(ConfigError, match=r"build/compare/compare\.yaml: not there; dvc repro configure"):
        sync.main.__wrapped__()


def test_nested_sections_become_flat_parameters_without_the_unused():
    from stepladder import tracking

    assert tracking.flat({"a": {"b": {"c": 1}, "d": None}, "e": [1], "f": {}}) == {"a.b.c": 1, "e": [1]}


@pytest.mark.capability(24)
def test_a_study_is_a_child_of_its_candidates_run_and_its_trials_are_its_children(candidate):
    import polars as pl

    from stepladder import dialects, sync

    rates = {0.1: ("complete", 0.2, None), 0.2: ("pruned", 0.1, None), 0.9: ("failed", None, "loss is nan")}
    rows = [
        {"trial": i, "state": state, "optimizer.learning_rate": rate, "score": score, "loss": None, "fault": fault}
        for i, (rate, (state, score, fault)) in enumerate(rates.items())
    ]
    records.write(pl.DataFrame(rows), candidate / "reports" / "trials" / "lora.parquet")
    records.write_text("sections: {}\nkey: three rates\n", Path("tuned", "lora.yaml"))
    records.write_json({"key": "three rates", "git_revision": "c0ffee"}, Path("runs", "lora", "sweep.json"))
    sections = dialects.read(Path("build", "lora.yaml")) | {"sweep": {"sampler": "tpe", "n_trials": 3}}
    records.write_text(yaml.safe_dump(sections), Path("build", "lora.yaml"))
    first, told = sync.tell(["lora"]), sync.entry("lora")
    assert sync.tell(["lora"]) == first, "told twice it is the same run"
    client = tracker().client
    runs = {run.info.run_name: run for run in client.search_runs(["1"])}
    study, trials = runs["lora-sweep"], [runs[f"lora-trial-{i}"] for i in range(3)]
    assert study.data.tags["mlflow.parentRunId"] == first["lora"] and told.name == "lora"
    assert study.data.params == {"sampler": "tpe", "n_trials": "3"}
    assert study.data.metrics == {"val/accuracy": 0.2, "num_complete": 1, "num_pruned": 1, "num_failed": 1}
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {study.info.run_id}
    assert [run.data.tags["stepladder.state"] for run in trials] == ["complete", "pruned", "failed"]
    assert [run.data.metrics for run in trials] == [{"val/accuracy": 0.2}, {"val/accuracy": 0.1}, {}]
    assert [run.data.params["optimizer.learning_rate"] for run in trials] == ["0.1", "0.2", "0.9"]
    assert {run.data.tags["mlflow.source.git.commit"] for run in trials} == {"c0ffee"} and len(runs) == 5


def test_a_typed_study_is_the_parent_of_its_trials_runs(place):
    from optuna.trial import create_trial

    from stepladder import sync

    one, folders = tracker(), [str(place / "outputs" / number) for number in "01"]
    runs = [one.tell(entry(key=folder, tags={"stepladder.output": folder})) for folder in folders]
    stranger = one.tell(entry(key="other", tags={"stepladder.output": str(place / "outputs" / "2")}))
    trials = [create_trial(value=0.5, user_attrs={"output": folder}) for folder in folders]
    runtime, shown = {"experiment": "tiny", "tracking_uri": None}, {"slices.svg": "<svg/>"}
    for _ in range(2):  # the same command again
        sync.typed(runtime, "train-1", trials, params={"method.r": [4, 8]}, metrics={"val/accuracy": 0.5}, shown=shown)
    parents = [one.client.get_run(run).data.tags.get("mlflow.parentRunId") for run in (*runs, stranger)]
    found = one.client.get_run(parents[0])
    assert parents == [found.info.run_id] * 2 + [None] and found.info.run_name == "train-1"
    assert found.data.metrics == {"val/accuracy": 0.5, "num_complete": 2, "num_pruned": 0, "num_failed": 0}
    assert Path(one.client.download_artifacts(parents[0], "slices.svg")).read_text() == "<svg/>"


def test_an_experiment_that_another_machine_makes_meanwhile_is_the_same(place, monkeypatch):
    from mlflow import MlflowClient

    first, known = tracker().experiment, MlflowClient.get_experiment_by_name
    asked = iter([lambda *_: None, known])
    monkeypatch.setattr(MlflowClient, "get_experiment_by_name", lambda *words: next(asked)(*words))
    assert tracker().experiment == first
