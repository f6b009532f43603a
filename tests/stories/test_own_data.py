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


def test_raw_text_becomes_a_leaderboard_in_bits_per_byte(new_project):
    scratch = {"level": "pretrain", "model": "tiny_llama", "corpus": "text", "objective": "none", "prompt": "none",
               "set": PARAMS["candidates"]["scratch"]["set"]}  # fmt: skip
    rows = {"majority": {"level": "baseline", "model": "majority"}, "scratch": scratch}
    project = new_project("text", PARAMS | {"data": "text", "datasets": [], "candidates": rows})
    texts = [
        f"{chance} the {place} no. {i}.\n\n" for i in range(60) for chance, place in (("To", "end"), ("At", "sea"))
    ]
    (project.path / "data/raw/notes.txt").write_text("".join(texts))
    options = {"path": "data/raw/notes.txt", "options": {"group_by_file": False}}
    project.params(set={"data": options, "gate": {"num_resamples": 200}, "trainer": {"max_epochs": 1}})
    project.works("dvc", "repro", "compare")
    board = project.json("reports/leaderboard.json")
    assert board["metric"] == "bits_per_byte" and {row["candidate"] for row in board["rows"]} == set(rows)
    assert all(0 < row["score"]["test"] < 8 for row in board["rows"])


def test_free_text_answers_become_a_leaderboard(new_project, tiny):
    import shutil

    rows = {name: PARAMS["candidates"][name] for name in ("majority", "tfidf", "zero_shot")}
    project = new_project("pairs", PARAMS | {"data": "csv", "datasets": [], "candidates": rows})
    shutil.copytree(tiny, project.path / "state" / "tiny")
    pairs = ["question,answer", *(f'"How is no. {i}?","It is fine, no. {i}\nand more"' for i in range(60))]
    (project.path / "data/raw/pairs.csv").write_text("\n".join(pairs) + "\n")
    columns = {"input": "question", "target": "answer"}
    data = {"path": "data/raw/pairs.csv", "columns": columns}
    project.params(
        set={"task": "generation", "data": data, "decoding": {"max_new_tokens": 8}, "gate": {"num_resamples": 200}}
    )
    project.works("dvc", "repro", "compare")
    board = project.json("reports/leaderboard.json")
    assert board["metric"] == "chrf" and {row["candidate"] for row in board["rows"]} == set(rows)
