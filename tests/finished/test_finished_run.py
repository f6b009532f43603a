"""What `make run` left in this repository holds together: table, tracked runs, saved and registered models.

make proof        after make run; nothing is trained, every number is recomputed by others' libraries
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from sklearn.metrics import accuracy_score, f1_score

from tests import elsewhere

ROOT = Path(__file__).parents[2]
PARTS = ("val/", "test/")
MAX_PAGE_BYTES = 2_000_000
NUM_ASKED = 128  # test rows that saved models answer again, one by one
BF16 = 0.1  # a probability in float32 and in the shipped precision differ by less
SHARE_EQUAL = 0.98  # of answers in float32 that equal those of the shipped precision
ASK_CHAMPION = """
import sys
sys.modules["stepladder"] = None  # served without it
import json, mlflow
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
print(model.predict([{"input": text} for text in json.loads(sys.argv[3])])["answer"].to_json())
"""

pytestmark = [pytest.mark.finished, pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning")]


@pytest.fixture(scope="module")
def board() -> dict:
    file = ROOT / "reports" / "leaderboard.json"
    if not file.is_file():
        pytest.fail("reports/leaderboard.json is not there; type: make run", pytrace=False)
    return json.loads(file.read_text())


@pytest.fixture(scope="module")
def client():
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{ROOT / 'mlflow.db'}")


def answered(candidate: str, part: str = "test") -> pl.DataFrame:
    return pl.read_parquet(ROOT / "predictions" / part / f"{candidate}.parquet")


def test_every_candidate_of_params_stands_in_the_table_and_all_levels_are_compared(board):
    wanted = yaml.safe_load((ROOT / "params.yaml").read_text())["candidates"]
    assert {row["candidate"] for row in board["rows"]} == set(wanted) and not board["partial"]
    assert {row["level"] for row in board["rows"]} == {"baseline", "prompt", "finetune", "pretrain"}
    assert board["num_test_rows"] >= 1000
    assert all(row["num_rows"]["test"] == board["num_test_rows"] for row in board["rows"])
    assert all(0 <= row["rows_seen"] <= row["num_train_rows"] for row in board["rows"])


def test_the_page_can_be_sent_by_mail(board):
    assert (ROOT / "reports" / "leaderboard.html").stat().st_size <= MAX_PAGE_BYTES
    assert {name for one in board["shared"] for name in one["answers"]} == {row["candidate"] for row in board["rows"]}


def test_every_score_follows_from_the_saved_predictions(board):
    test = pl.read_parquet(ROOT / "data" / board["data"] / "test.parquet")
    for row in board["rows"]:
        frame = answered(row["candidate"])
        assert frame["id"].to_list() == test["id"].to_list() and frame["target"].to_list() == test["target"].to_list()
        pair = test["target"].to_list(), frame["answer"].to_list()
        assert row["score"]["test"] == row["metrics"]["test"]["accuracy"] == pytest.approx(accuracy_score(*pair))
        assert row["metrics"]["test"]["macro_f1"] == pytest.approx(f1_score(*pair, average="macro"))
        assert row["score"]["low"] < row["score"]["test"] < row["score"]["high"]


def test_no_group_and_no_input_sits_on_two_sides(board):
    from stepladder import records

    sides = {}
    for part in ("train", "val", "test"):
        for text in pl.read_parquet(ROOT / "data" / board["data"] / f"{part}.parquet")["input"]:
            assert sides.setdefault(records.normalise(text), part) == part


def test_full_fine_tuning_beats_the_best_baseline_beyond_chance(board):
    full = next(row for row in board["rows"] if row["candidate"] == "full")
    assert board["decision"]["best_baseline"] == "tfidf"
    assert full["difference"]["low"] > 0


def test_each_candidate_is_a_tracked_run_with_config_data_and_equally_named_metrics(board, client):
    experiment = client.get_experiment_by_name("stepladder").experiment_id
    runs = client.search_runs([experiment], 'metrics."test/accuracy" >= 0')
    newest = {run.info.run_name: run for run in reversed(runs)}
    assert len(newest) >= 9 and {row["candidate"] for row in board["rows"]} <= set(newest)
    locked = (ROOT / "dvc.lock").read_text()
    names = set()
    for row in board["rows"]:
        run = newest[row["candidate"]]
        val, test = ({name.split("/")[1] for name in run.data.metrics if name.startswith(part)} for part in PARTS)
        assert val - {"loss"} == test, f"{row['candidate']}: val and test have metrics of other names"
        names.add(frozenset(test))
        assert run.data.metrics["test/accuracy"] == row["score"]["test"]
        assert "config.yaml" in {file.path for file in client.list_artifacts(run.info.run_id)}
        digests = {given.tags[0].value: given.dataset.digest for given in run.inputs.dataset_inputs}
        assert {"train", "val", "test"} <= set(digests)
        assert all(digest in locked for digest in digests.values()), "a run names data that DVC does not know"
    assert len(names) == 1, "the metrics of some runs have other names"
    above = client.search_runs([experiment], 'metrics."test/accuracy" > 0.8')
    assert 0 < len(above) < len(runs)


def test_saved_models_answer_the_same_by_transformers_and_peft_alone(board):
    kinds = {row["candidate"] for row in board["rows"] if row["level"] in ("finetune", "pretrain")}
    texts = pl.read_parquet(ROOT / "data" / board["data"] / "test.parquet")["input"].head(NUM_ASKED).to_list()
    found = elsewhere.ask({name: Path("models", name) for name in kinds}, texts, root=ROOT)
    for name, shares in found.items():
        measured = answered(name).head(NUM_ASKED)["probabilities"].struct.unnest().to_numpy()
        assert np.abs(shares - measured).max() < BF16, f"{name}: other probabilities than bf16 explains"
        sure = np.abs(measured[:, 0] - measured[:, 1]) > 2 * BF16  # a model that learned nothing is sure of nothing
        assert (shares.argmax(1) == measured.argmax(1))[sure].all(), name


def test_the_registered_model_answers_as_it_was_measured_from_an_empty_folder(board, client, tmp_path):
    outcome = json.loads((ROOT / "reports" / "registered.json").read_text())
    assert outcome["passed"] and outcome["candidate"] == board["decision"]["winner"]
    texts = pl.read_parquet(ROOT / "data" / board["data"] / "test.parquet")["input"].head(NUM_ASKED).to_list()
    versions = client.search_model_versions(f"name = '{outcome['model']}'")
    assert any("champion" in client.get_model_version(found.name, found.version).aliases for found in versions)
    newest = max(int(found.version) for found in versions if found.tags["candidate"] == outcome["candidate"])
    words = [f"sqlite:///{ROOT / 'mlflow.db'}", f"models:/{outcome['model']}/{newest}", json.dumps(texts)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PYTHONPATH"))}
    command = [sys.executable, "-W", "ignore", "-c", ASK_CHAMPION, *words]
    done = subprocess.run(command, cwd=tmp_path, env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout.splitlines()[-1]).values()
    measured = answered(outcome["candidate"])["answer"].head(NUM_ASKED)
    assert np.mean([a == b for a, b in zip(answers, measured, strict=True)]) >= SHARE_EQUAL
