"""The LM Evaluation Harness as a judge: exported causal models, asked by it over the same test file, row by row.

make judge      in the environment of make bench, which has lm-eval
The task is one of its own kind, made of our test file and the words of our prompt; nothing is fetched.
Source: Gao et al. 2021, doi.org/10.5281/zenodo.5371628.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stepladder import records
from tests.conftest import LORA, sentences
from tests.test_levels import PRETRAIN

pytestmark = [pytest.mark.judge, pytest.mark.slow]
NATS = 1e-4  # in float32
DATA = "reviews"  # of params.yaml
SHOT = {"num_shots": 1}
CASES = {
    "zero_shot": ("prompt", "llama", {}),
    "few_shot": ("prompt", "llama", {"prompt": SHOT}),
    "calibrated": ("prompt", "llama", {"prompt": SHOT | {"content_free": ["N/A", ""]}}),
    "chat": ("prompt", "chat", {"prompt": {"name": "chat"}}),
    "full": ("finetune", "llama", {"method": {"name": "full"}}),
    "lora": ("finetune", "llama", {"method": LORA}),
    "scratch": ("pretrain", "llama", PRETRAIN),
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))


def judged(folder: Path, test: Path, prompt, labels: list[str]) -> list[dict]:
    """Return what lm-eval finds for each row of a Parquet file of records: doc, acc and the scores of the labels."""
    harness = pytest.importorskip("lm_eval", reason="lm-eval is not installed; make judge installs it")
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.models.huggingface import HFLM

    task = {
        "task": "records",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(test)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": lambda doc: prompt.question(doc["input"]),
        "doc_to_choice": [prompt.answer(label) for label in labels],
        "doc_to_target": lambda doc: labels.index(doc["target"]),
        "target_delimiter": "",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    model = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=8)
    found = harness.simple_evaluate(model, tasks=[ConfigurableTask(config=task)], bootstrap_iters=0, log_samples=True)
    rows = sorted(found["samples"]["records"], key=lambda row: row["doc_id"])
    assert found["results"]["records"]["acc,none"] == np.mean([row["acc"] for row in rows])
    return rows


@pytest.mark.filterwarnings("ignore")  # what the harness and its datasets warn of
@pytest.mark.parametrize("name", CASES)
def test_the_harness_gives_every_row_the_answer_and_the_scores_that_we_give(name, tiny, choose, tmp_path):
    from stepladder import levels

    level, model, changes = CASES[name]
    sections = choose(level, model, **changes, trainer={"max_length": 256})
    made = levels.load(level)(sections, base=None if level == "pretrain" else tiny / model)
    corpus = {part: tmp_path / f"{part}.parquet" for part in ("train", "val")} if level == "pretrain" else None
    for seed, part in enumerate(corpus or (), start=5):
        records.write(sentences(60, seed=seed).with_columns(target=pl.lit(None, pl.String)), corpus[part])
    (tmp_path / "state").mkdir()
    parts = sentences(40), sentences(12, seed=1)
    made.fit(*parts, state=tmp_path / "state", log=lambda *_: None, corpus=corpus)
    test, file = sentences(60, seed=2), tmp_path / "test.parquet"
    test.write_parquet(file)
    ours, objective = made.predict(test), made.answerer.objective
    made.answerer.export(tmp_path / "exported")
    rows = judged(tmp_path / "exported", file, objective.prompt, objective.labels)
    assert [row["doc"]["id"] for row in rows] == ours["id"].to_list() and len(rows) == 60
    scores = np.array([[answer[0] for answer in row["filtered_resps"]] for row in rows])  # (rows, labels)
    right = (ours["answer"] == ours["target"]).cast(pl.Float64).to_list()
    theirs = [row["acc"] for row in rows]
    if prior := objective.prompt.prior:  # which the harness knows nothing of
        scores = scores - [prior[label] for label in objective.labels]
        best = [objective.labels[place] for place in scores.argmax(1)]
        theirs = [float(label == row["doc"]["target"]) for label, row in zip(best, rows, strict=True)]
    assert theirs == right and 0 < sum(right) < 60
    shares = ours["probabilities"].struct.unnest().select(objective.labels).to_numpy()
    assert np.abs(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True) - np.log(shares)).max() < NATS


@pytest.mark.filterwarnings("ignore")
def test_the_harness_sees_that_another_model_was_exported(tiny, choose, tmp_path):
    from stepladder import levels

    made = levels.load("prompt")(choose("prompt", "llama"), base=tiny / "llama")
    (tmp_path / "state").mkdir()
    made.fit(sentences(40), sentences(12, seed=1), state=tmp_path / "state", log=lambda *_: None)
    test, file = sentences(60, seed=2), tmp_path / "test.parquet"
    test.write_parquet(file)
    right, objective = made.predict(test)["answer"] == test["target"], made.answerer.objective
    for weight in made.answerer.model.parameters():
        weight.data = weight.data.flip(0)
    made.answerer.export(tmp_path / "exported")
    rows = judged(tmp_path / "exported", file, objective.prompt, objective.labels)
    assert [row["acc"] for row in rows] != right.cast(pl.Float64).to_list()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["zero_shot", "lora_smollm2", "scratch"])
def test_the_harness_gives_the_answers_of_the_models_that_make_run_left(name, tmp_path):
    from stepladder import answering

    if not Path("models", name).is_dir():
        pytest.skip("wants the models of make run")
    made = answering.load(Path("models", name)).merged()
    told = made.description["inference"] | {"precision": "32-true"}
    exact = answering.Answerer(made.model.float(), made.tokenizer, made.description | {"inference": told})
    test, file = records.read(f"data/{DATA}/test.parquet").head(200), tmp_path / "test.parquet"
    test.select("id", "input", "target").write_parquet(file)
    ours = exact.predict(test)
    exact.export(tmp_path / "exported")
    rows = judged(tmp_path / "exported", file, exact.objective.prompt, exact.objective.labels)
    assert [row["acc"] for row in rows] == (ours["answer"] == ours["target"]).cast(pl.Float64).to_list()
