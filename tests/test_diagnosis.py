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


def texts(*answers: str) -> pl.DataFrame:
    return generated(list(answers), ["a cat", "b", "c d"])


MANY = several(0, 20)
SHARED = [  # task, predictions of two candidates, the row about which they differ most
    ("classification", classified(2, 3), classified(2, 3).with_columns(answer=pl.Series(["no", None, "no"])), None),
    ("multilabel", MANY, MANY.with_columns(answer=pl.when(pl.col("id") == MANY["id"][7]).then(pl.lit("[]"))
        .otherwise("answer")), MANY["id"][7]),
    ("regression", NUMBERS, NUMBERS.with_columns(answer=pl.Series([1.0, 2.5, 9.0, 4.5])), "2"),
    ("generation", texts("a cat", "b", "c"), texts("a cat", "x", "c d"), "1"),
]  # fmt: skip


@pytest.mark.parametrize(("task", "one", "other", "first"), SHARED)
def test_what_is_answered_most_differently_is_shown_with_all_answers(task, one, other, first) -> None:
    found = diagnosis.shared({"a": one, "b": other.reverse()}, inputs(one), task=task, seed=1)
    assert len(found) == min(5, len(one)) and first in (None, found[0]["id"])
    given = {name: dict(frame.select("id", "answer").iter_rows()) for name, frame in (("a", one), ("b", other))}
    for row in found:
        assert row["input"] == f"text {row['id']}" and list(row["answers"]) == ["a", "b"]
        assert {name: told["answer"] for name, told in row["answers"].items()} == {
            name: answers[row["id"]] for name, answers in given.items()
        }
        known = [len(told["probabilities"]) for told in row["answers"].values()]
        assert task != "classification" or known == [told["answer"] is not None for told in row["answers"].values()]
    json.dumps(found)


def test_rows_answered_equally_differently_are_drawn_by_the_seed_and_not_by_their_order() -> None:
    one = classified(2, 80)
    other = one.with_columns(answer=pl.when(pl.col("answer") == "no").then(pl.lit("yes")).otherwise(pl.lit("no")))

    def ids(frames: tuple, seed: int) -> list[str]:
        named = dict(zip("ab", frames, strict=True))
        return [row["id"] for row in diagnosis.shared(named, inputs(one), task="classification", seed=seed)]

    assert ids((one, other), 1) == ids((one.reverse(), other), 1) != ids((one, other), 2)


def test_a_row_that_a_model_named_no_label_for_is_no_disagreement() -> None:
    frame = classified(2, 9)
    silent = frame.with_columns(answer=pl.lit(None, pl.String))
    named = frame.with_columns(answer=pl.when(pl.col("id") == frame["id"][4]).then(pl.lit("?")).otherwise("answer"))
    first, *_ = diagnosis.shared({"a": frame, "b": named, "c": silent}, inputs(frame), task="classification", seed=1)
    assert first["id"] == frame["id"][4] and first["answers"]["c"] == {"answer": None, "probabilities": []}


def test_raw_text_has_no_answers_and_one_candidate_differs_from_none() -> None:
    assert diagnosis.shared({"a": modelled(), "b": modelled()}, pl.DataFrame(), task="language_modeling", seed=1) == []
    assert diagnosis.shared({"a": classified(2, 9)}, pl.DataFrame(), task="classification", seed=1) == []


def test_what_a_search_chose_is_told_as_overrides_of_the_candidates_own_values() -> None:
    own = {"method": {"name": "full"}, "optimizer": {"_target_": "AdamW", "betas": [0.9, 0.99], "learning_rate": 1e-3}}
    won = {
        "method": {"_target_": "peft.LoraConfig", "r": 8},
        "optimizer": own["optimizer"] | {"learning_rate": 2e-4, "betas": [0.9, 0.95]},
        "curriculum": {"name": "length"}, "sweep": None,
    }  # fmt: skip
    assert diagnosis.chosen(own | {"curriculum": None}, won) == [
        "method._target_=peft.LoraConfig", "method.r=8", "optimizer.betas=[0.9, 0.95]",
        "optimizer.learning_rate=0.0002", "curriculum.name=length", "sweep=null",
    ]  # fmt: skip
    assert diagnosis.chosen(own, {}) == []


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
