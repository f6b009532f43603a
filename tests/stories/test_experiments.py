"""DVC experiments: in the workspace and from its queue, where the copy runs its own code into the parent's store."""

import time

import mlflow
import pytest

from tests.stories.conftest import BASELINES, PARAMS

pytestmark = [
    pytest.mark.story,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
]

LONGEST_S = 120


@pytest.fixture(scope="module")
def project(story, tmp_path_factory):
    """Two baselines of the finished run, committed, so that an experiment is cheap."""
    made = story.copy(tmp_path_factory.mktemp("experiments") / "repository")
    made.params(
        candidates=BASELINES, datasets=[], set={"split": {"name": "stratified"}, "gate": {"num_resamples": 200}}
    )
    made.works("dvc", "repro", "compare")
    made.commit()
    return made


def tracked(project) -> list[float]:
    client = mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    ids = [client.get_experiment_by_name("stepladder").experiment_id]
    return [float(run.data.params["model.C"]) for run in client.search_runs(ids, "tags.model = 'tfidf'")]


def test_a_changed_value_is_an_experiment_in_the_workspace(project):
    told = project.works("dvc", "exp", "run", "-S", "candidates.tfidf.set.model.C=0.5")
    ran = set(project.stages_run(told))
    assert {"configure", "train@tfidf", "score@tfidf", "compare"} <= ran and not {
        stage for stage in ran if "@majority" in stage
    }
    assert 0.5 in tracked(project)


def test_a_queued_experiment_runs_its_own_code_and_is_tracked_in_the_parents_store(project):
    project.edit("src/stepladder/levels/baseline.py", "", 'print("the code of the copy")\n')
    project.works("dvc", "exp", "run", "--queue", "-S", "candidates.tfidf.set.model.C=0.25")
    project.edit("src/stepladder/levels/baseline.py", 'print("the code of the copy")\n', "")
    project.works("dvc", "queue", "start")
    until = time.monotonic() + LONGEST_S
    while not any(end in (seen := project.works("dvc", "queue", "status")) for end in ("Success", "Failed")):
        assert time.monotonic() < until, seen
        time.sleep(1)
    name = next(line.split()[0] for line in seen.splitlines() if "Success" in line or "Failed" in line)
    told = project.works("dvc", "queue", "logs", name)
    assert "Success" in seen, told
    assert "the code of the copy" in told
    assert 0.25 in tracked(project)
    assert PARAMS["candidates"]["tfidf"]["set"]["model"]["C"] == 1.0
