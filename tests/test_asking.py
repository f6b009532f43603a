"""Asking: each row is answered once, in its order and file's kind, also by a run that was killed on the way."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock

from stepladder import asking
from stepladder.errors import BusyError, ConfigError, DataError

KINDS = (".csv", ".jsonl", ".parquet")
ROWS = pl.DataFrame(
    {"n": [str(i) for i in range(700)], "text": [f'text {i}, of "quotes" and\nlines' for i in range(700)]}
)


ASKED = """
import sys, threading, time
from pathlib import Path
from stepladder import asking

most, asking.SIZE = [0], 4096

def watch():
    while True:
        status = Path("/proc/self/status").read_text()
        most[0] = max(most[0], int(status.split("RssAnon:")[1].split()[0]) * 1024)
        time.sleep(0.005)

threading.Thread(target=watch, daemon=True).start()
asking.file(*map(Path, sys.argv[1:]), column="text", model="m", ask=lambda texts: [{"answer": text} for text in texts])
print(most[0])
"""  # answers as long as the texts; pages of a file that is mapped are not counted


class Model:
    """Answers the length of a text, and dies after so many calls."""

    def __init__(self, dies: int | None = None):
        self.asked, self.dies = [], dies

    def __call__(self, texts: list[str]) -> list[dict]:
        if self.dies is not None and len(self.asked) >= self.dies:
            raise KeyboardInterrupt
        self.asked.append(texts)
        return [{"answer": str(len(text)), "good": len(text) / 100, "bad": 1 - len(text) / 100} for text in texts]


def written(folder: Path, suffix: str) -> Path:
    path = folder / f"rows [1]*{suffix}"
    asking.WRITE[suffix](ROWS.lazy(), path)
    return path


def read(path: Path) -> pl.DataFrame:
    return asking.READ[path.suffix](path).collect()


@pytest.mark.parametrize("target", KINDS)
@pytest.mark.parametrize("source", KINDS)
def test_each_row_comes_back_with_its_answer(source, target, tmp_path):
    model, made = Model(), tmp_path / f"out [1]*{target}"
    assert asking.file(written(tmp_path, source), made, column="text", model="m/1", ask=model) == 700
    found = read(made)
    assert found["text"].to_list() == ROWS["text"].to_list() and found["n"].cast(pl.Int64).to_list() == list(range(700))
    assert found["answer"].cast(pl.Int64).to_list() == [len(text) for text in ROWS["text"]]
    assert found["good"].cast(pl.Float64).to_list() == pytest.approx([len(text) / 100 for text in ROWS["text"]])
    assert [file.name for file in tmp_path.glob(".*") if file.suffix == ".part"] == []


def test_a_run_that_was_stopped_goes_on_and_asks_nothing_twice(tmp_path, capsys):
    source, made = written(tmp_path, ".jsonl"), tmp_path / "out.csv"
    first, second = Model(dies=1), Model()
    with pytest.raises(KeyboardInterrupt):
        asking.file(source, made, column="text", model="m/1", ask=first)
    assert not made.exists()
    (part,) = tmp_path.glob(".out.csv.*.part")
    part.write_text(part.read_text() + '{"answer": "half a li')
    asking.file(source, made, column="text", model="m/1", ask=second)
    assert "going on after 256 rows" in capsys.readouterr().out
    assert [text for texts in (*first.asked, *second.asked) for text in texts] == ROWS["text"].to_list()
    asking.file(source, tmp_path / "whole.csv", column="text", model="m/1", ask=Model())
    assert made.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize("changed", ["model", "rows", "column"])
def test_answers_of_other_rows_or_another_model_are_not_gone_on_with(changed, tmp_path):
    source, made, second = written(tmp_path, ".parquet"), tmp_path / "out.jsonl", Model()
    with pytest.raises(KeyboardInterrupt):
        asking.file(source, made, column="text", model="m/1", ask=Model(dies=2))
    if changed == "rows":
        ROWS.reverse().write_parquet(source)
    options = {"column": "n" if changed == "column" else "text", "model": "m/2" if changed == "model" else "m/1"}
    asking.file(source, made, **options, ask=second)
    assert sum(map(len, second.asked)) == 700 and not list(tmp_path.glob("*.part"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    grown = {}
    for number in (500_000, 900_000):
        source = tmp_path / f"{number}.csv"
        pl.select(text=pl.format("{} " + "words " * 150, pl.int_range(number))).write_csv(source)
        words = [source, tmp_path / "out.csv"]
        told = subprocess.run([sys.executable, "-c", ASKED, *words], capture_output=True, text=True, check=True).stdout
        grown[source.stat().st_size] = int(told.split()[-1])
    (small, few), (large, many) = grown.items()
    assert large - small > 350e6 and many - few < 0.25 * (large - small)


def test_answers_with_any_line_break_and_columns_that_begin_late_come_back(tmp_path):
    rows = [{"text": f"text {i}", **({"late": 1.5} if i > 400 else {})} for i in range(600)]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    odd, made = "a\u2028b\x85c\u2029\x1c", tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        asking.file(tmp_path / "a.jsonl", made, column="text", model="m", ask=odd_then_dies(odd, 2))
    asking.file(tmp_path / "a.jsonl", made, column="text", model="m", ask=odd_then_dies(odd, 9))
    found = read(made)
    assert set(found["answer"]) == {odd} and found["late"].drop_nulls().len() == 199


def odd_then_dies(answer: str, calls: int):
    left = iter(range(calls))

    def ask(texts: list[str]) -> list[dict]:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return [{"answer": answer}] * len(texts)

    return ask


def test_a_column_of_the_rows_is_never_replaced(tmp_path):
    (tmp_path / "a.csv").write_text("text,answer\nx,mine\n")
    with pytest.raises(DataError, match="have a column 'answer' already"):
        asking.file(tmp_path / "a.csv", tmp_path / "out.csv", column="text", model="m", ask=Model())


def test_two_processes_do_not_write_one_file(tmp_path):
    with FileLock(tmp_path / ".out.csv.busy"), pytest.raises(BusyError, match="another process writes it"):
        asking.file(written(tmp_path, ".csv"), tmp_path / "out.csv", column="text", model="m", ask=Model())


def test_several_labels_are_a_list_in_jsonl_and_text_in_csv(tmp_path):
    for suffix, expected in ((".jsonl", ["a", "b"]), (".csv", '["a", "b"]')):
        made = tmp_path / f"out{suffix}"
        asking.file(
            written(tmp_path, ".csv"),
            made,
            column="text",
            model="m",
            ask=lambda texts: [{"answer": ["a", "b"]}] * len(texts),
        )
        answer = read(made)["answer"][0]
        assert (answer if isinstance(answer, str) else answer.to_list()) == expected


@pytest.mark.parametrize(
    ("name", "content", "column", "words"),
    [
        ("a.txt", "x", "text", "No kind of file named '.txt'"),
        ("a.csv", "txt,n\nx,1\n", "text", "Did you mean 'txt'?"),
        ("a.csv", "text,n\nx,1\n  ,2\n", "text", "row 2 has no text in column text"),
        ("a.jsonl", '{"text": "x"}\n{"te', "text", "cannot be read"),
        ("a.csv", None, "text", "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(name, content, column, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises((ConfigError, DataError)) as caught:
        asking.file(tmp_path / name, tmp_path / "out.csv", column=column, model="m", ask=Model())
    assert words in str(caught.value) and "\n" not in str(caught.value)
