"""Typed by hand: one run, a grid, help; quick answers where something is wrong."""

import mlflow
import pytest

from tests.stories.conftest import Project

pytestmark = [pytest.mark.story, pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")]

TFIDF = ("level=baseline", "model=tfidf", "data=sample_reviews", "split=stratified")
TRAIN = ("-m", "pipelines.train")
QUICK_CPU_S = 4.0  # of which Hydra takes two to list the options of all groups
HEAVY = {"torch", "lightning", "peft", "transformers", "mlflow"}


def runs_of(project: Project) -> list:
    client = mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    return client.search_runs([client.get_experiment_by_name("stepladder").experiment_id])


def test_a_grid_makes_one_tracked_run_for_each_value_and_touches_no_output(baselines):
    told = baselines.works(*TRAIN, "-m", *TFIDF, "model.C=0.1,10")
    assert told.count("val: accuracy") == 2
    found = {run.data.params["model.C"]: run for run in runs_of(baselines)}
    assert set(found) == {"0.1", "10"} or set(found) == {"0.1", "10.0"}
    for run in found.values():
        assert 0 <= run.data.metrics["val/accuracy"] <= 1 and run.inputs.dataset_inputs
        assert (baselines.path / run.data.tags["stepladder.output"] / "model").is_dir()
    assert not (baselines.path / "models").exists() and not (baselines.path / "predictions").exists()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("sample_plain_english", ["level=baseline", "model=tfidf"]),
        ("sample_presidents", ["level=baseline", "model=majority"]),
    ],
)
def test_a_data_set_that_is_not_prepared_ends_with_the_command_to_type(baselines, data, words):
    done = baselines.run(*TRAIN, *words, f"data={data}")
    assert done.code == 3
    (line,) = [line for line in done.err.splitlines() if line.startswith("error[3]")]
    assert f"for stage in fetch prepare split; do python -m pipelines.$stage data={data}; done" in line


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--help"], 0, "python -m pipelines.train --cfg job"),
        (["--cfg", "job", *TFIDF], 0, "name: tfidf"),
        (["level=baseline", "model=tfidg"], 2, "Did you mean 'tfidf'?"),
        (["+method.rr=3"], 2, "Did you mean 'r'?"),
        (["trainer.max_epochs=many"], 2, "expected int"),
    ],
)
def test_a_question_and_a_mistake_are_answered_quickly_and_without_torch(baselines, words, code, told):
    done = baselines.run("-X", "importtime", *TRAIN, *words)
    lines = [line for line in done.err.splitlines() if "import time:" in line]
    imported = {line.rpartition("|")[2].strip().split(".")[0] for line in lines}
    assert done.code == code
    assert told in done.out + done.err
    assert "hydra" in imported and not imported & HEAVY and "Traceback" not in done.err
    assert done.cpu_seconds < QUICK_CPU_S
