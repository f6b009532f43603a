"""Splits: three parts that share no group and no input, and that old records keep when records are added."""

import logging

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stepladder import records, splits
from stepladder.errors import ConfigError, DataError

SHARES = {"val": 0.1, "test": 0.2}
SETTINGS = settings(max_examples=30, deadline=None)


def table(num_rows, *, groups=None, labels=("a", "b"), times=None, first=0):
    """Return records with distinct inputs; `groups`, `labels` and `times` are repeated along the rows."""
    rows = range(first, first + num_rows)
    return pl.DataFrame(
        {
            "id": [str(i) for i in rows],
            "input": [f"Text {i}" for i in rows],
            "target": [labels[i % len(labels)] for i in rows],
            "source": [None] * num_rows,
            "group": [groups[i % len(groups)] if groups else None for i in rows],
            "timestamp": [times[i % len(times)] if times else None for i in rows],
        },
        dict.fromkeys(records.COLUMNS, pl.String),
    )


def divide(frame, *, name="hash", seed=42, column=None, shares=SHARES):
    return splits.partition(frame, shares, name=name, seed=seed, column=column)


def sides(parts):
    return {identity: part for part, frame in parts.items() for identity in frame["id"]}


@pytest.mark.capability(23)
@SETTINGS
@given(num_rows=st.integers(100, 300), added=st.integers(0, 200), seed=st.integers(0, 9), grouped=st.booleans())
def test_adding_records_moves_no_old_one(num_rows, added, seed, grouped):
    groups = [f"group {i}" for i in range(97)] if grouped else None
    old, more = table(num_rows, groups=groups), table(added, groups=groups, first=num_rows)
    before = sides(divide(old, seed=seed))
    after = sides(divide(pl.concat([more, old]), seed=seed))
    assert before == {identity: after[identity] for identity in before}


@pytest.mark.capability(23)
@SETTINGS
@given(num_groups=st.integers(40, 200), name=st.sampled_from(["hash", "stratified"]), seed=st.integers(0, 9))
def test_every_record_goes_to_one_part_in_order_and_groups_stay_whole(num_groups, name, seed):
    frame = table(400, groups=[f"group {i}" for i in range(num_groups)])
    parts = divide(frame, name=name, seed=seed)
    assert sum(part.height for part in parts.values()) == 400
    for part in parts.values():
        assert part["id"].to_list() == sorted(part["id"].to_list(), key=int)
    seen = [set(part["group"]) for part in parts.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


@pytest.mark.capability(23)
@SETTINGS
@given(num_rows=st.integers(60, 500), num_labels=st.integers(2, 5), seed=st.integers(0, 9))
def test_stratified_shares_are_exact_to_the_record(num_rows, num_labels, seed):
    frame = table(num_rows, labels=[f"label {i}" for i in range(num_labels)])
    parts = divide(frame, name="stratified", seed=seed)
    for label, total in frame["target"].value_counts().iter_rows():
        for part, share in SHARES.items():
            assert parts[part].filter(pl.col("target") == label).height == max(1, round(total * share))


def test_shuffled_records_and_another_case_of_the_input_go_to_the_same_parts():
    frame = table(300)
    expected = sides(divide(frame))
    assert sides(divide(frame.sample(fraction=1, shuffle=True, seed=1))) == expected
    assert sides(divide(frame.with_columns(pl.col("input").str.to_uppercase()))) == expected
    assert sides(divide(frame, seed=43)) != expected


@pytest.mark.capability(23)
@SETTINGS
@given(years=st.lists(st.integers(1, 3000), min_size=20, max_size=60))
def test_the_past_trains_and_no_time_is_on_two_sides(years):
    assume(max(years.count(year) for year in years) < 3)
    parts = divide(table(len(years), times=[str(year) for year in years]), name="time")
    train, val, test = ({int(time) for time in parts[part]["timestamp"]} for part in splits.PARTS)
    assert max(train) < min(val)
    assert max(val) < min(test)


def test_dates_are_ordered_across_time_zones():
    times = [f"2024-01-{day:02}" for day in range(1, 21)] + ["2024-01-01T03:00:00+05:00"]
    parts = divide(table(21, times=times), name="time")
    assert "2024-01-01T03:00:00+05:00" in parts["train"]["timestamp"].to_list()
    assert "2024-01-20" in parts["test"]["timestamp"].to_list()


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (["2024", "yesterday"], "record 2: timestamp 'yesterday' is no number and no ISO 8601 date"),
        (["2024", None], "record 2: timestamp None"),
        (["2024", "2024-01-01"], "some timestamps are numbers and some are dates"),
        (["2024"], "leaves val, test empty"),
    ],
)
def test_times_that_cannot_be_ordered_get_one_line(times, message):
    with pytest.raises(DataError, match=message):
        divide(table(20, times=times), name="time")


@pytest.mark.capability(23)
def test_a_column_decides_and_is_not_written():
    frame = table(6).with_columns(split=pl.Series(["test", "val", "train"] * 2))
    parts = divide(frame, name="column", column="split")
    assert parts["test"]["id"].to_list() == ["0", "3"]
    assert parts["test"].columns == list(records.COLUMNS)
    with pytest.raises(DataError, match="record 1:split: 'dev'; expected one of train, val, test"):
        divide(frame.with_columns(split=pl.lit("dev")), name="column", column="split")
    with pytest.raises(DataError, match="Did you mean 'split'"):
        divide(frame, name="column", column="spilt")


@pytest.mark.capability(23)
@pytest.mark.parametrize("leak", ["group", "input"])
def test_a_leak_across_parts_is_refused(leak):
    same = {"group": pl.lit("speech 1").alias("group"), "input": pl.lit("Same").alias("input")}
    frame = table(6).with_columns(same[leak], split=pl.Series(["test", "val", "train"] * 2))
    with pytest.raises(DataError, match=r"split: .*'(speech 1|same)' sits in train and in val"):
        divide(frame, name="column", column="split")


@pytest.mark.parametrize("shares", [{"val": 0.5, "test": 0.5}, {"val": 0.0, "test": 0.2}, {"val": 0.1, "test": -1}])
def test_shares_that_leave_a_part_empty_are_refused(shares):
    with pytest.raises(ConfigError, match="both must be above 0 and their sum below 1"):
        divide(table(100), shares=shares)


def test_an_empty_part_an_unknown_split_and_a_rare_label_get_one_line():
    with pytest.raises(DataError, match=r"leaves val, test empty|leaves .* empty .*1 records"):
        divide(table(1))
    with pytest.raises(DataError, match="they are in 1 groups that stay whole"):
        divide(table(50, groups=["one"]))
    with pytest.raises(ConfigError, match=r"No split named 'stratify'. Did you mean 'stratified'"):
        divide(table(50), name="stratify")
    with pytest.raises(DataError, match="target 'label 0' has 2 records, 3 are needed"):
        divide(table(27, labels=[f"label {i}" for i in range(20)]), name="stratified")


def test_class_shares_are_reported_and_warned_about(caplog):
    frame = table(60).with_columns(split=pl.Series(["train"] * 40 + ["val"] * 10 + ["test"] * 10))
    parts = divide(frame, name="column", column="split")
    even = splits.describe(parts, name="column", task="classification")
    assert even["parts"]["val"] == {
        "rows": 10,
        "share": 0.166667,
        "classes": {label: {"rows": 5, "share": 0.5, "deviation": 0.0} for label in "ab"},
    }
    assert not caplog.records
    skewed = parts | {"val": parts["val"].with_columns(target=pl.Series(["a"] * 6 + ["b"] * 4))}
    with caplog.at_level(logging.WARNING):
        splits.describe(skewed, name="column", task="classification")
    assert "val: class 'a' is +8.3 points off its share of all" in caplog.text
    absent = parts | {"val": parts["val"].with_columns(target=pl.lit("a"))}
    with pytest.raises(DataError, match=r"no record of class 'b' in val \(25 of 60 records in all\)"):
        splits.describe(absent, name="column", task="classification")
    assert splits.describe(absent, name="column", task="generation")["parts"]["val"]["classes"] is None


def test_a_candidate_is_assigned_its_files_by_hash(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("reviews", "verses"):
        for part, frame in divide(table(200)).items():
            records.write(frame, tmp_path / "data" / name / f"{part}.parquet")
    files = splits.assign("reviews", None)
    assert list(files) == ["data", "train", "val", "test", "corpus", "mixture"]
    assert files["test"]["path"] == "data/reviews/test.parquet"
    assert len(files["test"]["sha256"]) == 64
    corpus = splits.assign("reviews", "verses")["corpus"]
    assert list(corpus) == ["train", "val"]
    assert corpus["train"] == {"path": "data/verses/train.parquet", "sha256": files["train"]["sha256"]}
    mixed = splits.assign("reviews", "verses", ["verses"])
    assert mixed["mixture"] == {"verses": corpus}
    assert [file["path"] for file in splits.files(mixed)][3:] == [
        "data/verses/train.parquet",
        "data/verses/val.parquet",
    ] * 2
    with pytest.raises(DataError, match="for stage in fetch prepare split; do python"):
        splits.assign("other", None)
