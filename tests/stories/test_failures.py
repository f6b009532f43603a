"""A failing candidate: the others finish, a partial table says what is missing, and mending completes the run.

A failing data set: nothing runs after it, and nothing is concluded.
"""

import mlflow
import pytest

from tests.stories.conftest import PARAMS

pytestmark = [
    pytest.mark.story,
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),
]


def test_one_failing_candidate_leaves_a_partial_table_and_mending_completes_it(story, tmp_path):
    project = story.copy(tmp_path / "repository")
    wrong = PARAMS["candidates"]["zero_shot"] | {"set": {"model": {"asset": {"path": "state/nowhere"}}}}
    again = {"again": PARAMS["candidates"]["majority"]}
    project.params(candidates=PARAMS["candidates"] | {"zero_shot": wrong} | again)

    failed = project.run("dvc", "repro", "--keep-going")
    assert failed.code != 0 and "state/nowhere: no such file or folder" in failed.out + failed.err
    assert "score@again" in project.stages_run(failed.out)

    verdict = project.run("-m", "pipelines.verdict")
    assert verdict.code == 1 and "Traceback" not in verdict.err
    first, sentence, page, _ = verdict.out.splitlines()[-4:]
    assert first.startswith("zero_shot failed at fetch") and "dvc repro score@zero_shot" in first
    assert sentence.startswith("Partial, without zero_shot: ") and page == "reports/partial/leaderboard.html"
    board = project.json("reports/partial/leaderboard.json")
    assert {row["candidate"] for row in board["rows"]} == {*PARAMS["candidates"], "again"} - {"zero_shot"}
    assert not board["registration"]["passed"] and "nothing is registered" in board["registration"]["reason"]
    assert "partial" in (project.path / page).read_text().lower()

    client = mlflow.MlflowClient(f"sqlite:///{project.path / 'mlflow.db'}")
    ids = [client.get_experiment_by_name("stepladder").experiment_id]
    complete = client.search_runs(ids, "metrics.\"test/accuracy\" >= 0 and tags.mlflow.runName = 'again'")
    assert len(complete) == 1, "the run of a candidate that did not fail lacks its test scores"

    project.params(candidates=PARAMS["candidates"] | again)
    project.works("dvc", "repro", "--keep-going", "compare")
    assert project.run("-m", "pipelines.verdict").code == 0
    assert not (project.path / "reports/partial").exists()
    assert len(project.json("reports/leaderboard.json")["rows"]) == len(PARAMS["candidates"]) + 1


def test_a_failing_data_set_is_named_and_the_verdict_on_older_data_is_not_told(story, tmp_path):
    project = story.copy(tmp_path / "repository")
    project.edit("samples/reviews.csv", "", "one field\n")
    assert project.run("dvc", "repro", "--keep-going").code != 0
    verdict = project.run("-m", "pipelines.verdict")
    assert verdict.code == 3 and verdict.out == ""
    assert verdict.err.endswith("repeat it: dvc repro prepare@sample_reviews\n")
