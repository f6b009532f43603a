"""Records: cleaning with a ledger that balances, and files with the same bytes each time."""

import json
import random

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepladder import records
from stepladder.errors import ConfigError, DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
SALT = st.sampled_from(
    ["A\u2028b", "a\x85b", "\x1cA", "a\r\nb", '"', "\\", "\uff21", "é", "e\u0301", "ß", "SS", "ss", "\u0345\u0391"]
)
INPUT = (SALT | TEXT).filter(str.strip)
ROWS = st.lists(st.fixed_dictionaries({"input": INPUT, "target": st.sampled_from(["yes", "no"])}), max_size=20)
SETTINGS = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
BOTH = [{"input": "first of all", "target": "yes"}, {"input": "last of all", "target": "no"}]


def clean(rows, task="classification", labels=None):
    return records.clean(rows, name="mine", task=task, labels=labels)


@SETTINGS
@given(text=SALT | TEXT, other=SALT | TEXT)
def test_normalising_twice_changes_nothing_and_ignores_case_form_and_space(text, other):
    once = records.normalise(text)
    assert records.normalise(once) == once
    assert records.normalise(f"{text} {other}") == records.normalise(f"  {text}\u2028\t{other}\n")
    assert records.normalise("E\u0301") == records.normalise("é")


@SETTINGS
@given(rows=ROWS)
def test_rows_in_are_rows_out_and_rows_dropped_with_reasons(rows):
    frame, ledger = clean(BOTH + rows)
    assert ledger["rows_in"] == len(rows) + 2
    assert ledger["rows_in"] == ledger["rows_out"] + sum(ledger["dropped"].values())
    assert ledger["rows_out"] == frame.height
    keys = [records.normalise(text) for text in frame["input"]]
    assert len(set(keys)) == len(keys)
    assert frame["id"].is_unique().all()


@SETTINGS
@given(rows=ROWS)
def test_cleaning_what_is_clean_drops_nothing_and_keeps_the_bytes(rows):
    frame, _ = clean(BOTH + rows)
    again, ledger = clean(frame.to_dicts())
    assert again.equals(frame)
    assert ledger["dropped"] == {}
    assert set(frame["input"]) <= {row["input"] for row in BOTH + rows}


@SETTINGS
@given(rows=ROWS, seed=st.integers(0, 5))
def test_the_order_of_rows_does_not_decide_which_inputs_stay(rows, seed):
    shuffled = random.Random(seed).sample(BOTH + rows, len(rows) + 2)
    one, other = (clean(table)[0] for table in (BOTH + rows, shuffled))
    assert set(one["id"]) == set(other["id"])


@SETTINGS
@given(rows=ROWS, more=ROWS)
def test_adding_rows_at_the_end_changes_no_id(rows, more):
    before, after = clean(BOTH + rows)[0], clean(BOTH + rows + more)[0]
    ids = dict(after.select("input", "id").iter_rows())
    assert all(ids.get(text, identity) == identity for text, identity in before.select("input", "id").iter_rows())


def test_the_first_of_equal_inputs_stays_and_all_with_different_labels_go():
    rows = [
        *BOTH,
        {"input": "Same", "target": "yes"},
        {"input": " same ", "target": "yes"},
        {"input": "torn", "target": "yes"},
        {"input": "Torn", "target": "no"},
        {"input": "unsure", "target": "no", "drop": "rating near zero"},
    ]
    frame, ledger = clean(rows)
    assert frame["input"].to_list() == ["first of all", "last of all", "Same"]
    assert ledger["dropped"] == {
        "rating near zero": 1,
        "input seen before": 1,
        "equal inputs with different targets": 2,
    }
    assert ledger["examples"]["equal inputs with different targets"] == ["torn", "Torn"]


def test_another_answer_to_the_same_input_is_a_duplicate_in_a_generation():
    rows = [{"input": "Say it.", "target": "One."}, {"input": "say it.", "target": "Two."}]
    frame, ledger = clean(rows, task="generation")
    assert frame["target"].to_list() == ["One."]
    assert ledger["dropped"] == {"input seen before, with another target": 1}


def test_raw_text_needs_no_target_and_other_tasks_do():
    rows = [{"input": "Once.", "target": None}]
    assert clean(rows, task="language_modeling")[0]["target"].to_list() == [None]
    with pytest.raises(DataError, match="task generation needs a target column"):
        clean(rows, task="generation")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"input": "a", "target": "POS"}, {"input": "b", "target": "POS "}], r"'POS' \(1 rows\), 'POS ' \(1 rows\)"),
        ([{"input": "a", "target": "x"}, {"input": "b", "target": "x"}], "one label, 'x'"),
        ([{"input": "a", "target": "yes"}, {"input": " ", "target": "no"}], "mine:2:input: empty"),
        ([{"input": "a", "target": "yes"}, {"input": "b", "target": ""}], "mine:2:target: empty"),
        (
            [{"input": "a", "target": "yes", "id": "1"}, {"input": "b", "target": "no", "id": "1"}],
            "id '1' is on 2 rows",
        ),
        ([{"input": "a", "target": "yes"}, {"input": "A", "target": "no"}], "no record is left of 2 rows"),
        ([], "no record is left of 0 rows"),
    ],
)
def test_wrong_rows_get_one_line(rows, message):
    with pytest.raises(DataError, match=message):
        clean(rows)


def test_an_unknown_label_is_named_with_its_nearest_neighbour():
    with pytest.raises(DataError, match=r"1 rows. No label named 'negativ'. Did you mean 'negative'\?"):
        clean(
            [{"input": "a", "target": "positive"}, {"input": "b", "target": "negativ"}], labels=["negative", "positive"]
        )


def test_a_split_column_is_kept_for_the_split():
    frame, _ = clean([row | {"split": "train"} for row in BOTH])
    assert frame.columns == [*records.COLUMNS, "split"]
    assert set(frame.schema.values()) == {pl.String}


@SETTINGS
@given(rows=ROWS)
def test_a_file_holds_what_was_written_in_the_same_bytes_each_time(tmp_path, rows):
    frame, _ = clean(BOTH + rows)
    records.write(frame, tmp_path / "a.parquet")
    records.write(frame, tmp_path / "b.parquet")
    assert records.read(tmp_path / "a.parquet").equals(frame)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.parquet", "b.parquet"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    records.write_json({"a": 1}, tmp_path / "a.json")
    with pytest.raises(UnicodeEncodeError):
        records.write_text("\ud800", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_file_that_holds_no_records_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such file; make it with: dvc repro"):
        records.read(tmp_path / "a.parquet")
    records.write(pl.DataFrame({"id": ["1"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="missing input, target"):
        records.read(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        records.read(tmp_path / "a.parquet")


def test_a_guessed_column_map_is_said_aloud(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_text("words,verdict\none,x\ntwo,x\n")
    rows, reading = records.collect(path, source="csv", columns=None, options={"delimiter": ","})
    assert reading["columns"] == {"input": "words", "target": "verdict"}
    assert "'verdict', with fewer distinct values, is the target" in reading["note"]
    assert reading["note"] in caplog.text
    _, reading = records.collect(path, source="csv", columns=reading["columns"], options={"delimiter": ","})
    assert reading["note"] is None
    assert len(rows) == 2


def test_an_unknown_source_is_named_with_its_nearest_neighbour(tmp_path):
    with pytest.raises(ConfigError, match=r"data.source: No source named 'jsonlines'. Did you mean 'jsonl'"):
        records.collect(tmp_path, source="jsonlines", columns=None, options={})


def test_data_is_found_where_it_was_fetched_or_where_the_person_says(tmp_path, monkeypatch):
    assets = tmp_path / "reviews.json"
    with pytest.raises(DataError, match=r"python -m pipelines.fetch data=reviews"):
        records.locate("reviews", path=None, assets=assets)
    assets.write_text('{"name": "reviews", "file": "state/store/a.whl", "files": {}}')
    monkeypatch.setenv("DVC_ROOT", "/elsewhere")
    assert str(records.locate("reviews", path=None, assets=assets)) == "/elsewhere/state/store/a.whl"
    assert records.locate("csv", path=str(assets), assets=assets) == assets
    with pytest.raises(DataError, match=r"data/raw/mine.csv: no such file; put it there"):
        records.locate("csv", path="data/raw/mine.csv", assets=assets)
