"""Slices: parts of the test rows that a person would cut, scored as their rows alone would be."""

import numpy as np
import polars as pl
import pytest

from stepladder import metrics, slices, statistics
from stepladder.errors import DataError
from tests.test_metrics import classified, rated, several

BOARD = {"seed": 3, "metric": "accuracy", "task": "classification",
         "gate": {"confidence": 0.9, "num_resamples": 100}}  # fmt: skip


def records(frame: pl.DataFrame, **columns) -> pl.DataFrame:
    """Return records of the predictions, whose inputs have 1, 2, 3, ... words."""
    inputs = [" ".join(["word"] * (row + 1)) for row in range(len(frame))]
    told = {"input": inputs} | dict.fromkeys(("source", "group"), [None] * len(frame)) | columns
    return frame.select("id", "target").with_columns(**{key: pl.Series(key, value) for key, value in told.items()})


@pytest.fixture(scope="module")
def frames() -> dict:
    return dict(
        zip(("floor", "other"), statistics.aligned((classified(1, 90), classified(1, 90).reverse())), strict=True)
    )


def test_rows_are_cut_by_source_length_label_and_any_column_that_has_few_values(frames) -> None:
    rows = records(frames["floor"], source=["a", "b", "c"] * 30, group=[str(row) for row in range(90)],
                   rating=np.arange(90) % 9 / 2, fold=["x"] * 60 + [None] * 30)  # fmt: skip
    found = {(by, value): inside for by, value, inside in slices.cuts(rows, "classification")}
    by = {name: [value for at, value in found if at == name] for name, _ in found}
    assert by == {
        "length": ["1 to 30 words", "31 to 60 words", "61 to 90 words"], "source": ["a", "b", "c"], "fold": ["x"],
        "rating": ["0 to 1", "1.5 to 2.5", "3 to 4"], "label": ["no", "perhaps", "yes"],
    }  # fmt: skip
    for name in ("length", "source", "rating", "label"):
        assert (sum(inside.astype(int) for (at, _), inside in found.items() if at == name) == 1).all()
    assert found["fold", "x"].sum() == 60


def test_a_column_of_a_persons_own_table_that_holds_only_numbers_is_cut_in_thirds(frames) -> None:
    ages, codes = [str(row % 30) for row in range(89)] + [None], [f"k{row % 30}" for row in range(90)]
    rows = records(frames["floor"], age=ages, code=codes, group=[str(row) for row in range(90)])
    found = {(by, value): inside.sum() for by, value, inside in slices.cuts(rows, "classification") if by != "label"}
    assert {value: size for (by, value), size in found.items() if by != "length"} == {
        "0 to 9": 30, "10 to 19": 30, "20 to 29": 29,
    }  # fmt: skip


def test_a_slice_is_scored_as_its_rows_alone_would_be(frames) -> None:
    rows = records(frames["floor"], source=["a", "b", "c"] * 30)
    found = slices.of(frames, rows, BOARD, "floor")
    part = next(part for part in found if (part["by"], part["value"]) == ("source", "b"))
    alone = frames["other"].filter(rows.sort("id")["source"] == "b")
    options = {"confidence": 0.9, "num_resamples": 100, "seed": 3}
    assert part["rows"] == 30 and part["scores"]["other"].keys() == set(metrics.names("classification"))
    for name, told in part["scores"]["other"].items():
        expected = [metrics.load(name).compute(alone), *statistics.interval(alone, name, **options)]
        assert told == pytest.approx(expected)
    both = [frames[name].filter(rows.sort("id")["source"] == "b") for name in ("other", "floor")]
    gap = statistics.paired_difference(both, "accuracy", **options)
    assert part["differences"] == {"other": pytest.approx([gap["difference"], gap["low"], gap["high"]])}


def test_a_label_is_scored_by_what_needs_no_other_label(frames) -> None:
    found = slices.of(frames, records(frames["floor"]), BOARD, None)
    part = next(part for part in found if part["by"] == "label")
    assert set(part["scores"]["floor"]) == {"accuracy", "brier", "log_loss"} and part["differences"] == {}


def test_small_slices_are_left_out_and_other_rows_are_refused(frames) -> None:
    rows = records(frames["floor"], source=["rare"] * 19 + ["common"] * 71)
    assert [part["value"] for part in slices.of(frames, rows, BOARD, None) if part["by"] == "source"] == ["common"]
    with pytest.raises(DataError, match="89 records of the test split are not the 90 rows"):
        slices.of(frames, rows.head(89), BOARD, None)


def test_other_tasks_are_cut_too() -> None:
    frame = several(0, 200)
    board = BOARD | {"metric": "micro_f1", "task": "multilabel"}
    found = slices.of({"one": frame.sort("id")}, records(frame), board, None)
    label = next(part for part in found if part["by"] == "label")
    assert label["rows"] == sum("art" in target for target in frame["target"]) and label["value"] == "art"
    numbers = rated(0, 60)
    board = BOARD | {"metric": "mean_absolute_error", "task": "regression"}
    found = slices.of({"one": numbers.sort("id")}, records(numbers), board, None)
    assert {part["by"] for part in found} == {"length"} and all(part["scores"]["one"] for part in found)
