"""Diagnosis: confusions are scikit-learn's, examples are the rows with the best and worst answers, curves are thin."""

import json

import numpy as np
import polars as pl
import pytest

from stepladder import diagnosis
from tests.test_metrics import classified, generated, modelled, rated, several


def test_confusions_equal_scikit_learns() -> None:
    from sklearn.metrics import confusion_matrix

    frame = classified(2, 80)
    expected = confusion_matrix(frame["target"].to_list(), frame["answer"].to_list(), labels=["no", "perhaps", "yes"])
    assert diagnosis.confusion(frame, ["no", "perhaps", "yes"]) == expected.tolist()


def inputs(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("id", input=pl.format("text {}", "id"))


def test_examples_are_the_surest_right_and_the_surest_wrong_answers_with_their_probabilities() -> None:
    frame = classified(2, 80)
    found = diagnosis.examples(frame, inputs(frame), "classification")
    given = {row["id"]: row["probabilities"] for row in frame.to_dicts()}
    target = dict(frame.select("id", "target").iter_rows())
    ranked = sorted(target, key=lambda name: given[name][target[name]])
    assert [row["id"] for row in found["worst"]] == ranked[:5] and [row["id"] for row in found["best"]] == ranked[
        :-4:-1
    ]
    worst = found["worst"][0]
    assert (
        worst["target_probability"] == given[worst["id"]][worst["target"]] and worst["input"] == f"text {worst['id']}"
    )
    assert worst["answer_probability"] == given[worst["id"]][worst["answer"]] > worst["target_probability"]


NUMBERS = rated().head(4).with_columns(answer=pl.Series([1.0, 2, 3, 4]), target=pl.Series([1.0, 2, 3, 9]))


@pytest.mark.parametrize(("task", "frame", "best", "worst"), [
    ("generation", generated(["a cat", "a", "c d"], ["a cat", "b", "c"]), "0", "1"),
    ("language_modeling", modelled(), "a", "b"),
    ("regression", NUMBERS, "0", "3"),
    ("multilabel", several(0, 20), None, None),
])  # fmt: skip
def test_every_task_has_best_and_worst_rows(task: str, frame: pl.DataFrame, best: str, worst: str) -> None:
    found = diagnosis.examples(frame, inputs(frame), task)
    assert found["best"] and found["worst"] and found["best"][0]["cost"] < found["worst"][0]["cost"]
    assert best in (None, found["best"][0]["id"]) and worst in (None, found["worst"][0]["id"])


def test_answers_that_are_all_alike_have_no_worst_and_long_texts_are_cut() -> None:
    frame = generated(["x" * 400, "x" * 400], ["x" * 400] * 2)
    found = diagnosis.examples(frame, inputs(frame), "generation")
    assert found["worst"] == [] and len(found["best"][0]["answer"]) == 302


def test_curves_keep_first_and_last_point_and_no_learning_rate(tmp_path) -> None:
    lines = [{"name": name, "value": float(step), "step": step, "epoch": 0}
             for step in range(1000) for name in ("train/loss", "train/learning_rate")]  # fmt: skip
    lines.append({"name": "val/accuracy", "value": 0.5, "step": 999, "epoch": 0})
    (tmp_path / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = diagnosis.curves(tmp_path / "history.jsonl")
    assert found.keys() == {"train/loss", "val/accuracy"} and found["val/accuracy"] == [[999, 0.5]]
    steps = np.array(found["train/loss"])[:, 0]
    assert len(steps) == 120 and (steps[0], steps[-1]) == (0, 999) and (np.diff(steps) >= 8).all()
    assert diagnosis.curves(tmp_path / "none.jsonl") == {}
