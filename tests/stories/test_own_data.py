"""Own data: a table in data/raw/ becomes a leaderboard by two edited lines; what is wrong with it is one line."""

import random

import pytest

from tests.stories.conftest import BASELINES, PARAMS

pytestmark = pytest.mark.story

OWN = {"data": "csv", "set": {"data": {"path": "data/raw/mine.csv"}, "gate": {"num_resamples": 200}}}
COLUMNS = "data.columns={input: text, target: label}"
FAULTS = {  # content, what else is typed -> what the one line names
    "three columns": (
        b"text,label,more\nfine,good,1\ndull,bad,2\n",
        [],
        ["which column is what", "set: {data: {path:"],
    ),
    "missing column": (b"text,labels\nfine,good\ndull,bad\nflat,bad\n", [COLUMNS], ["mine.csv", "label"]),
    "empty field": (b"text,label\nfine,good\ndull,bad\nflat,bad\nodd,\n", [], ["mine.csv:5:label: empty"]),
    "wrong encoding": ("text,label\nfine,good\ncaf\xe9,bad\n".encode("latin-1"), [], ["mine.csv", "UTF-8"]),
    "missing file": (None, [], ["mine.csv: no such file"]),
}


def table(rows: int) -> bytes:
    chance = random.Random(0)
    words = {"fault": ["broken", "leaks", "noise", "refund"], "praise": ["works", "quiet", "quick", "solid"]}
    lines = ["text,label"]
    for row in range(rows):
        label = ("fault", "praise")[row % 2]
        lines.append(f'"It {chance.choice(words[label])}, {chance.choice(words[label])} no. {row}",{label}')
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture(scope="module")
def own(new_project):
    project = new_project("own", PARAMS | {"datasets": [], "candidates": {"tfidf": BASELINES["tfidf"]}})
    project.params(**OWN)
    return project


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_table_is_one_line_and_code_3(own, fault):
    content, more, words = FAULTS[fault]
    file = own.path / "data/raw/mine.csv"
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)
    by_hand = own.run("-m", "pipelines.prepare", "data=csv", "data.path=data/raw/mine.csv", *more)
    assert by_hand.code == 3 and "Traceback" not in by_hand.err
    (line,) = [line for line in by_hand.err.splitlines() if line.startswith("error[3]")]
    assert all(word in line for word in words), line
    if fault == "empty field":  # DVC turns every code into its own; the line is the same
        told = own.run("dvc", "repro", "prepare@csv")
        assert told.code != 0 and line in told.err + told.out


def test_a_table_of_two_columns_becomes_a_leaderboard_and_an_edited_byte_is_noticed(own):
    (own.path / "data/raw/mine.csv").write_bytes(table(120))
    own.works("dvc", "repro", "compare")
    board = own.json("reports/leaderboard.json")
    assert board["data"] == "csv" and [row["candidate"] for row in board["rows"]] == ["tfidf"]
    own.edit("data/raw/mine.csv", 'no. 7"', 'no. 8!"')
    assert set(own.status()) - {"register"} == {
        "prepare@csv",
        "assign",
    }  # assign reads all of data/ and puts out hashes
