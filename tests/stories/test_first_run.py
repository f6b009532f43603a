"""The first run: every stage, every level, one leaderboard, one tracked run a candidate; a second run does nothing."""

import mlflow
import pytest

from tests.stories.conftest import PARAMS

pytestmark = [pytest.mark.story, pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")]

LEVELS = {
    "majority": "baseline",
    "tfidf": "baseline",
    "zero_shot": "prompt",
    "frozen": "finetune",
    "lora": "finetune",
    "scratch": "pretrain",
}
OF_A_CANDIDATE = ("fetch", "sweep", "train", "evaluate", "score", "probe")
OF_A_DATA_SET = ("fetch_data", "prepare", "split")
QUIET_CPU_S = 15  # of dvc itself, which parses dvc.lock


def test_every_stage_runs_once(story):
    ran = story.stages_run((story.path / "logs/first.txt").read_text())
    expected = {f"{stage}@{name}" for stage in OF_A_CANDIDATE for name in LEVELS}
    expected |= {f"{stage}@sample_reviews" for stage in OF_A_DATA_SET}
    expected |= {f"{stage}@sample_plain_english" for stage in ("fetch_other", "prepare_other", "split_other")}
    expected |= {"configure", "assign", "fetch_probes", "compare", "register"}
    assert len(ran) == len(set(ran)) and set(ran) == expected


def test_the_leaderboard_ranks_all_candidates_with_their_levels(story):
    board = story.json("reports/leaderboard.json")
    assert {row["candidate"]: row["level"] for row in board["rows"]} == LEVELS
    assert not board["partial"] and board["failed"] == []
    assert all(row["score"]["low"] <= row["score"]["test"] <= row["score"]["high"] for row in board["rows"])
    for end in ("csv", "html", "png"):
        assert (story.path / f"reports/leaderboard.{end}").stat().st_size > 500


@pytest.mark.capability(31)
def test_each_candidate_is_one_tracked_run_that_filters_find(story):
    client = mlflow.MlflowClient(f"sqlite:///{story.path / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "stepladder"]
    found = client.search_runs([experiment.experiment_id], 'metrics."test/accuracy" >= 0')
    assert sorted(run.info.run_name for run in found) == sorted(LEVELS)
    for run in found:
        names = {name.split("/")[1] for name in run.data.metrics if name.startswith("val/")} - {"loss"}
        assert names and names == {name.split("/")[1] for name in run.data.metrics if name.startswith("test/")}
        assert "config.yaml" in [file.path for file in client.list_artifacts(run.info.run_id)]
        digests = {given.tags[0].value: given.dataset.digest for given in run.inputs.dataset_inputs}
        assert {"train", "val", "test"} <= digests.keys() and all(len(digest) == 32 for digest in digests.values())
        assert run.data.tags["level"] == LEVELS[run.info.run_name]
    assert not client.search_runs([experiment.experiment_id], 'metrics."test/accuracy" > 1')


def test_the_sweep_hands_its_winner_to_train(story):
    import yaml

    rate = yaml.safe_load((story.path / "tuned/lora.yaml").read_text())["sections"]["optimizer"]["learning_rate"]
    assert rate in (0.002, 0.004), "neither is the candidate's own"
    assert yaml.safe_load((story.path / "tuned/tfidf.yaml").read_text()) == {"sections": {}}
    assert PARAMS["candidates"]["lora"]["sweep"] == "two_rates"


@pytest.mark.capability(46)
def test_a_second_run_does_nothing_and_the_verdict_is_told(story):
    done = story.run("dvc", "repro")
    assert done.code == 0 and story.stages_run(done.out) == []
    assert "up to date" in done.out + done.err
    assert done.cpu_seconds < QUIET_CPU_S
    lines = story.works("-m", "pipelines.verdict").splitlines()
    assert lines[-2:] == ["reports/leaderboard.html", "mlflow ui --backend-store-uri sqlite:///mlflow.db"]
