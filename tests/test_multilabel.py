"""Several labels a record: read, kept, split, looked at, trained with transformers' loss, answered and served."""

import json
import logging

import numpy as np
import polars as pl
import pytest

from stepladder import predictions, records, splits, statistics, symptoms, targets
from stepladder.errors import DataError
from stepladder.report import data as report
from tests.conftest import sentences
from tests.test_levels import several
from tests.test_strict import LORA, PROMPT, faults

TASK = {"name": "multilabel", "metric": "micro_f1", "labels": None, "separator": "|", "threshold": 0.5}
LABELS = ["bad", "music", "plot"]
MAJORITY = {"majority": {"level": "baseline", "model": "majority"}}


def cleaned(rows: list[dict], labels=None) -> pl.DataFrame:
    parsed = targets.parsed(rows, name="mine", task=TASK)
    return records.clean(parsed, name="mine", task="multilabel", labels=labels)[0]


def marked(number: int, *, seed: int = 0) -> pl.DataFrame:
    frame = sentences(number, seed=seed)
    return frame.with_columns(several(frame).alias("target"))


def test_a_list_a_text_and_nothing_become_one_form():
    rows = [
        {"input": "a", "target": "war| drama |war"},
        {"input": "b", "target": ["war", "drama"]},
        {"input": "c", "target": None, "empty": "mine.csv:4:tags: empty target"},
        {"input": "d", "target": []},
    ]
    assert cleaned(rows)["target"].to_list() == ['["drama", "war"]'] * 2 + ["[]"] * 2
    assert targets.counts(cleaned(rows)["target"], "multilabel") == {"drama": 2, "war": 2}


@pytest.mark.parametrize(
    ("rows", "labels", "told"),
    [
        ([{"input": "a", "target": "war||drama"}], None, r"mine:'a':target: an empty label in 'war\|\|drama'"),
        ([{"input": "a", "target": "war"}, {"input": "b", "target": "War|x"}], None, "'War' .* differ in case"),
        ([{"input": "a", "target": "war|dramma"}], ["war", "drama"], "No label named 'dramma'. Did you mean 'drama'"),
        ([{"input": "a", "target": ""}], None, "no record has a label"),
        ([{"input": "a", "target": None}], None, "needs a target column"),
    ],
)
def test_what_is_no_set_of_labels_is_named(rows, labels, told):
    with pytest.raises(DataError, match=told):
        cleaned(rows, labels)


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_other_tasks_refuse_a_list_and_an_empty_target_at_its_place(task):
    with pytest.raises(DataError, match="a list, expected text; several labels a record want task: multilabel"):
        records.clean([{"input": "a", "target": ["x"]}], name="mine", task=task, labels=None)
    with pytest.raises(DataError, match=r"^a\.csv:2:label: empty target"):
        row = {"input": "a", "target": None, "empty": "a.csv:2:label: empty target"}
        records.clean([row], name="mine", task=task, labels=None)


def test_equal_inputs_with_other_labels_are_dropped_and_the_report_counts_labels():
    rows = [{"input": text, "target": target} for text, target in [("a", "x"), ("A", "x|y"), ("b", "y|x"), ("c", "")]]
    parsed = targets.parsed(rows, name="mine", task=TASK)
    frame, ledger = records.clean(parsed, name="mine", task="multilabel", labels=None)
    assert ledger["dropped"] == {"equal inputs with different targets": 2}
    found = report.summarise(frame, ledger, name="mine", task="multilabel", reading={"columns": None, "note": None})
    assert found["classes"] == {"x": {"rows": 1, "share": 0.5}, "y": {"rows": 1, "share": 0.5}}
    assert list(found["lengths"]) == ["input"] and "Class balance" in report.page(found)


def test_a_split_wants_each_label_in_train_and_warns_where_another_part_lacks_it(caplog):
    caplog.set_level(logging.WARNING, "stepladder")
    parts = {part: marked(12, seed=seed) for seed, part in enumerate(splits.PARTS)}
    parts["val"] = parts["val"].with_columns(target=pl.lit('["plot"]'))
    shares = splits.describe(parts, name="hash", task="multilabel")["parts"]["train"]["classes"]
    assert list(shares) == LABELS and shares["bad"]["rows"] == 6
    assert "no record of class 'bad' in val (12 of 36 records in all)" in caplog.text
    parts["train"] = parts["train"].with_columns(target=pl.lit('["plot"]'))
    with pytest.raises(DataError, match="no record of class 'bad' in train"):
        splits.describe(parts, name="hash", task="multilabel")


def test_the_doctor_lets_clean_rows_pass_and_names_a_stranger():
    train, val = marked(24), marked(12, seed=1)
    texts = symptoms.Texts(train, val, "multilabel", LABELS, {"music": "\ue000", "plot": "\ue001"})
    assert symptoms.found(texts) == []
    odd = val.with_columns(target=pl.lit('["bda", "plot"]'))
    (found,) = symptoms.strangers(symptoms.Texts(train, odd, "multilabel", LABELS, {}))
    assert "have another label" in found.text and "Did you mean 'bad'" in found.cure and len(found.rows) == 12
    always = train.with_columns(target=pl.lit('["bad"]'))
    told = [(each.text, each.stops) for each in symptoms.classes(symptoms.Texts(always, val, "multilabel", LABELS, {}))]
    assert ("train: no row of class 'music', 'plot'", True) in told
    assert ("train: all rows have class 'bad'", False) in told


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"lora": LORA}, None),
        ({"zero": PROMPT}, "a head alone answers multilabel; take level: baseline, or level: finetune with"),
        ({"words": {"level": "finetune", "model": "smollm2", "method": "lora"}}, "a head alone answers multilabel"),
        ({"head": LORA | {"model": "smollm2", "objective": "supervised", "prompt": "none"}}, None),
        ({"watched": LORA | {"set": {"trainer": {"monitor": "accuracy"}}}}, "expected label_f1, micro_f1"),
    ],
)
def test_what_answers_several_labels_is_known_at_configure(tmp_path, rows, told):
    found = faults(tmp_path, rows, set={"task": "multilabel", "data": {"path": "data/raw/a.csv"}}, data="csv")
    assert len(found) == bool(told) and all(told in line for line in found)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        ({"split": "stratified"}, "stratified keeps the shares of one label a record"),
        ({"task": {"labels": ["a", "a"]}}, "a label stands there twice"),
        ({"task": {"threshold": 1.5}}, "1.5 is not allowed; expected float (0, 1)"),
        ({"task": {"metric": "accuracy"}}, "accuracy scores classification, not multilabel"),
    ],
)
def test_what_does_not_fit_several_labels_is_told(tmp_path, chosen, told):
    task = {} if "task" in chosen else {"task": "multilabel"}
    data = {"data": "csv", "set": task | {"data": {"path": "data/raw/a.csv"}} | chosen}
    rows = {"majority": MAJORITY["majority"] | {"task": "multilabel"}} if not task else {}
    found = faults(tmp_path, rows, **data)
    assert any(told in line for line in found), found


def test_differences_and_intervals_come_from_the_counts_of_rows():
    chance = np.random.default_rng(0)
    frame = marked(40)
    shares = chance.random((40, 3))
    one = targets.answered(frame, shares, LABELS, targets.marks(frame, LABELS) == 1)
    other = targets.answered(frame, shares[:, ::-1], LABELS[::-1], shares > 0.5)
    options = {"confidence": 0.95, "num_resamples": 200, "seed": 1}
    found = statistics.paired_difference((one, other), "micro_f1", **options)
    assert 0 < found["low"] <= found["difference"] <= found["high"] and found["p_value"] < 0.05
    assert statistics.interval(one, "micro_f1", **options) == (1.0, 1.0)


def test_faulty_predictions_are_refused(tmp_path):
    frame = marked(4)
    good = targets.answered(frame, np.full((4, 3), 0.5), LABELS, np.full((4, 3), True))
    faults_ = {
        "target of record 'r0_1'. No label named 'x'": good.with_columns(
            target=pl.Series(['["bad"]', '["x"]', "[]", "[]"])
        ),
        "outside 0 to 1": targets.answered(frame, np.full((4, 3), 1.5), LABELS, np.full((4, 3), True)),
        "has no answer": good.with_columns(answer=pl.lit(None, pl.String)),
    }
    for told, faulty in faults_.items():
        faulty.write_parquet(tmp_path / "c.parquet")
        with pytest.raises(DataError, match=told):
            predictions.read(tmp_path / "c.parquet", "multilabel")
    good.write_parquet(tmp_path / "c.parquet")
    assert predictions.read(tmp_path / "c.parquet", "multilabel").equals(good)


def test_the_constant_baseline_has_the_best_micro_f1_of_all_constant_answers():
    from itertools import chain, combinations

    from sklearn.metrics import f1_score

    from stepladder.levels import baseline

    train = marked(40)
    true = targets.marks(train, LABELS)
    found = baseline._counted(TASK, train)
    subsets = chain.from_iterable(combinations(range(3), size) for size in (1, 2, 3))
    scores = {one: f1_score(true, np.tile([i in one for i in range(3)], (40, 1)), average="micro") for one in subsets}
    assert found["majority"] == [LABELS[i] for i in max(scores, key=scores.get)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "distilbert", "llama"])
def test_the_loss_is_the_one_of_transformers_in_any_number_of_parts(name, tiny):
    import torch
    from transformers import AutoModelForSequenceClassification

    from stepladder import microbatches, models, objectives

    model = models.classifier(tiny / name, LABELS, seed=3, task="multilabel")
    assert model.config.problem_type == "multi_label_classification"
    assert isinstance(model, AutoModelForSequenceClassification._model_mapping[type(model.config)])
    objective = objectives.load("multilabel")(
        models.tokenizer(tiny / name), task="multilabel", labels=LABELS, reading={"threshold": 0.5}, max_length=64
    )
    frame = marked(6).with_columns(input=pl.Series(["a", "film"] * 3))  # as many tokens as labels
    for part in (frame, marked(7)):
        batch = objective.collate(objective.encode(part, train=True))
        with torch.no_grad():
            wanted = model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss
            assert objective.loss(model, batch).item() == pytest.approx(wanted.item(), abs=1e-6)
        for parts in (1, 3):
            assert microbatches.loss(model, objective, batch, parts).item() == pytest.approx(wanted.item(), abs=1e-5)


@pytest.mark.slow
def test_rows_without_a_target_are_answered_and_counted_in_no_loss(tiny):
    import torch

    from stepladder import models, objectives

    model = models.classifier(tiny / "bert", LABELS, seed=3, task="multilabel")
    objective = objectives.load("multilabel")(
        models.tokenizer(tiny / "bert"), task="multilabel", labels=LABELS, reading={"threshold": 0.4}, max_length=64
    )
    frame = marked(4).with_columns(target=pl.Series(['["bad"]', None, "[]", None]))
    batch = objective.collate(objective.encode(frame, train=False))
    with torch.no_grad():
        rows = objective.answer(model, batch)
        loss = objective.loss(model, batch).item()
    assert [row["tokens"] for row in rows] == [1, 0, 1, 0] and objective.count(batch) == 2
    assert sum(row["loss"] for row in rows) / 2 == pytest.approx(loss, rel=1e-5)
    found = objective.predictions(frame, rows)
    for answer, shares in zip(found["answer"], found["probabilities"], strict=True):
        assert json.loads(answer) == [label for label in LABELS if shares[label] >= 0.4]
