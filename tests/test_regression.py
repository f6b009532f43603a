"""A number a record: read, kept on its scale, looked at, trained with transformers' loss, answered and served."""

import numpy as np
import polars as pl
import pytest

from stepladder import predictions, records, statistics, symptoms, targets
from stepladder.errors import DataError
from stepladder.report import data as report
from tests.conftest import sentences
from tests.test_levels import rated
from tests.test_strict import LORA, PROMPT, faults

SCALE = {"low": 1, "high": 5, "step": 1}
TASK = {"name": "regression", "metric": "mean_absolute_error", "labels": None, "scale": SCALE}
ROW = {"input": "a film", "target": "3"}


def graded(number: int, *, seed: int = 0) -> pl.DataFrame:
    frame = sentences(number, seed=seed)
    return frame.with_columns(rated(frame).alias("target"))


@pytest.mark.parametrize("text", ["three", "3,5", "nan", "inf", "1_000", "1 2", "0x3"])
def test_what_is_no_number_is_named(text):
    with pytest.raises(DataError, match=r"data set mine:'a film':target: '.*' is no number such as 3 or -2\.5"):
        targets.parsed([ROW | {"target": text}], name="mine", task=TASK | {"scale": None})


def test_a_number_outside_of_the_scale_is_named_and_others_stay_as_written():
    with pytest.raises(DataError, match=r"mine:r7:target: 5\.5 lies outside of task\.scale, 1 to 5"):
        targets.parsed([ROW | {"id": "r7", "target": "5.5"}], name="mine", task=TASK)
    rows = [ROW | {"target": text} for text in ("1", "2.50", " 4", "5e0")]
    assert targets.parsed(rows, name="mine", task=TASK) == rows


def test_a_list_and_an_empty_target_are_refused():
    for row, told in (
        (ROW | {"target": ["3"]}, "a list, expected text"),
        (ROW | {"target": None, "empty": "a.csv:2:stars: empty target"}, r"a\.csv:2:stars: empty target"),
        (ROW | {"target": None}, "needs a target column"),
    ):
        with pytest.raises(DataError, match=told):
            parsed = targets.parsed([row], name="mine", task=TASK)
            records.clean(parsed, name="mine", task="regression", labels=None)


def test_answers_are_clipped_and_rounded_to_the_nearest_step():
    values = np.array([-3.0, 1.4, 1.5, 3.49, 7.2])
    assert targets.on_scale(values, SCALE).tolist() == [1, 1, 2, 3, 5]
    assert targets.on_scale(values, SCALE | {"step": 0.5}).tolist() == [1, 1.5, 1.5, 3.5, 5]
    assert targets.on_scale(values, SCALE | {"step": None}).tolist() == [1, 1.4, 1.5, 3.49, 5]
    assert targets.on_scale(values, None) is values


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*inferred as AnyType:UserWarning")  # of a class inside MLflow
@pytest.mark.parametrize("scale", [SCALE, SCALE | {"step": 0.25}, SCALE | {"step": None}, None])
def test_a_served_answer_is_on_the_scale_like_the_measured_one(scale):
    from stepladder import serving

    served, values = serving.Answers(), np.linspace(-1, 7, 65)
    served.saved = {"reading": {"scale": scale}}
    assert [served._on_scale(value) for value in values.tolist()] == targets.on_scale(values, scale).tolist()


def test_a_position_a_number_and_marks_are_told_from_no_target():
    from stepladder.objectives import IGNORED, named, unanswered

    assert [named(1, ["a", "b"]), named([1.0, 0.0], ["a", "b"]), named(-100.0, None)] == [["b"], ["a"], ["-100"]]
    assert all(map(unanswered, (IGNORED, float("nan"), [float("nan")] * 2)))
    assert not any(map(unanswered, (0, -100.0, [0.0, 1.0])))


def test_the_report_gives_the_spread_of_the_numbers():
    frame, ledger = records.clean(graded(30).to_dicts(), name="mine", task="regression", labels=None)
    found = report.summarise(frame, ledger, name="mine", task="regression", reading={"columns": None, "note": None})
    values = targets.numbers(frame["target"])
    assert found["numbers"]["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert found["numbers"]["distinct"] == len(set(values)) and found["classes"] is None
    assert list(found["lengths"]) == ["input"] and "standard deviation" in report.page(found)


def test_the_doctor_lets_clean_rows_pass_and_sees_one_number_and_large_ones():
    train, val = graded(24), graded(12, seed=1)
    assert symptoms.found(symptoms.Texts(train, val, "regression", None, {})) == []
    same = train.with_columns(target=pl.lit("4"))
    (found,) = symptoms.spread(symptoms.Texts(same, val, "regression", None, {}))
    assert found.stops and found.text == "train: all 24 targets are 4"
    large = train.with_columns(target=pl.concat_str(pl.col("target"), pl.lit("000")))
    (found,) = symptoms.spread(symptoms.Texts(large, val, "regression", None, {}))
    assert not found.stops and "targets reach from 1000 to 5000" in found.text


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ({"lora": LORA}, None),
        ({"head": LORA | {"model": "smollm2", "objective": "supervised", "prompt": "none"}}, None),
        ({"zero": PROMPT}, "a head alone answers regression; take level: baseline, or level: finetune with"),
        ({"watched": LORA | {"set": {"trainer": {"monitor": "accuracy"}}}}, "expected mean_absolute_error"),
        ({"scaled": LORA | {"set": {"task": {"scale": SCALE}}}}, None),
        ({"scaled": LORA | {"set": {"task": {"scale": SCALE | {"low": 5}}}}}, "low must lie below high"),
        ({"scaled": LORA | {"set": {"task": {"scale": SCALE | {"step": 0}}}}}, "0 is not allowed"),
        ({"scaled": LORA | {"set": {"task": {"scale": SCALE | {"stp": 1}}}}}, "Did you mean 'step'"),
    ],
)
def test_what_answers_numbers_is_known_at_configure(tmp_path, rows, told):
    found = faults(tmp_path, rows, set={"task": "regression", "data": {"path": "data/raw/a.csv"}}, data="csv")
    assert len(found) == bool(told) and all(told in line for line in found)


def test_differences_and_intervals_come_from_the_errors_of_rows():
    frame, chance = graded(40), np.random.default_rng(0)
    near = targets.measured(frame, targets.numbers(frame["target"]) + chance.normal(0, 0.1, 40), None)
    far = targets.measured(frame, targets.numbers(frame["target"]) + chance.normal(0, 1, 40), None)
    options = {"confidence": 0.95, "num_resamples": 200, "seed": 1}
    found = statistics.paired_difference((near, far), "mean_absolute_error", **options)
    assert 0 < found["low"] <= found["difference"] <= found["high"] and found["p_value"] < 0.05
    low, high = statistics.interval(far, "quadratic_kappa", **options)
    assert 0 < low < high < 1


def test_faulty_predictions_are_refused(tmp_path):
    good = targets.measured(graded(4), np.arange(4.0), None)
    for told, faulty in {
        "target that is no number": good.with_columns(target=pl.Series([1.0, None, 2.0, 3.0])),
        "answer that is no number": good.with_columns(answer=pl.Series([1.0, float("inf"), 2.0, 3.0])),
    }.items():
        faulty.write_parquet(tmp_path / "c.parquet")
        with pytest.raises(DataError, match=told):
            predictions.read(tmp_path / "c.parquet", "regression")
    good.write_parquet(tmp_path / "c.parquet")
    assert predictions.read(tmp_path / "c.parquet", "regression").equals(good)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "distilbert", "llama"])
def test_the_loss_is_the_one_of_transformers_in_any_number_of_parts(name, tiny):
    import torch

    from stepladder import microbatches, models, objectives

    model = models.classifier(tiny / name, ["number"], seed=3, task="regression")
    assert model.config.problem_type == "regression" and model.config.num_labels == 1
    objective = objectives.load("regression")(
        models.tokenizer(tiny / name), task="regression", labels=None, reading={"scale": None}, max_length=64
    )
    batch = objective.collate(objective.encode(graded(7), train=True))
    with torch.no_grad():
        wanted = model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss
        assert objective.loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-6)
    for parts in (1, 3):
        assert microbatches.loss(model, objective, batch, parts).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.slow
def test_rows_without_a_target_are_answered_and_counted_in_no_loss(tiny):
    import torch

    from stepladder import models, objectives

    model = models.classifier(tiny / "bert", ["number"], seed=3, task="regression")
    objective = objectives.load("regression")(
        models.tokenizer(tiny / "bert"), task="regression", labels=None, reading={"scale": SCALE}, max_length=64
    )
    frame = graded(4).with_columns(target=pl.Series(["2", None, "4.5", None]))
    batch = objective.collate(objective.encode(frame, train=False))
    with torch.no_grad():
        rows = objective.answer(model, batch)
        loss = objective.loss(model, batch).item()
    assert [row["tokens"] for row in rows] == [1, 0, 1, 0] and objective.count(batch) == 2
    assert sum(row["loss"] for row in rows) / 2 == pytest.approx(loss, rel=1e-5)
    found = objective.predictions(frame, rows)
    assert found["target"].to_list() == [2.0, None, 4.5, None]
    assert set(found["answer"]) <= {1.0, 2.0, 3.0, 4.0, 5.0}
