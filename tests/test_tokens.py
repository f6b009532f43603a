"""Tokens: equal to the tokenizer's own, made once, read from disk, made again when damaged."""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stepladder import records
from tests.conftest import COMMON, sentences

pytestmark = pytest.mark.slow

TEXTS = ["a film", "", "the plot\u2028its\x85 long second act 123", "music \N{CLAPPER BOARD} e\u0301"]


@pytest.mark.parametrize("form", ["bert", "llama"])
@pytest.mark.parametrize("options", [{}, {"truncation": True, "max_length": 4}, {"add_special_tokens": False}])
def test_they_are_what_the_tokenizer_says(form, options, tiny, tmp_path, monkeypatch):
    from stepladder import models, tokens

    monkeypatch.setattr(tokens, "AT_ONCE", 3)
    monkeypatch.setattr("stepladder.store.kept", lambda kind: tmp_path / kind)
    tokenizer, texts = models.tokenizer(tiny / form), TEXTS + sentences(10)["input"].to_list()
    found = tokens.encode(tokenizer, texts, **options)
    assert list(found) == tokenizer(texts, **options)["input_ids"]
    assert [found[i] for i in range(len(found))] == list(found)
    assert isinstance(found.ids, np.memmap) and found.ids.dtype == np.uint16
    behind = tokens.encode(tokenizer, texts, before=[7, 8], **options)
    assert list(behind) == [[7, 8, *ids] for ids in found]


def test_they_are_made_once_for_equal_texts_and_again_when_damaged(tiny, tmp_path, monkeypatch):
    from stepladder import models, tokens

    monkeypatch.setattr("stepladder.store.kept", lambda kind: tmp_path / kind)
    texts, made, fill = sentences(10)["input"].to_list(), [], tokens._fill
    monkeypatch.setattr(tokens, "_fill", lambda *words: made.append(1) or fill(*words))
    for _ in range(2):
        tokenizer = models.tokenizer(tiny / "bert")  # another process would open its own
        tokenizer(["x"], truncation=True, max_length=2)  # how it was asked last is no part of the key
        first = tokens.encode(tokenizer, texts)
    assert len(made) == 1
    for other in (texts[::-1], [*texts[:-2], texts[-2] + texts[-1]]):
        tokens.encode(tokenizer, other)
    tokens.encode(models.tokenizer(tiny / "llama"), texts)
    assert len(made) == 4
    file = next(file for file in tmp_path.rglob("ids.npy") if np.load(file).tolist() == np.asarray(first.ids).tolist())
    wanted, content = list(first), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.chmod(0o644)
    file.unlink()
    file.write_bytes(content)
    assert list(tokens.encode(tokenizer, texts)) == wanted and len(made) == 5


def test_features_of_a_frozen_backbone_are_computed_once_for_equal_tokens(tiny, tmp_path, monkeypatch):
    import torch

    from stepladder import answering, features, models, training
    from tests.test_training import plan

    monkeypatch.setattr("stepladder.store.kept", lambda kind: tmp_path / kind)
    description = answering.describe(
        "pooled", task="classification", labels=["bad", "good"], objective="supervised", prompt=None, decoding=None,
        inference={"max_length": 64, "eval_batch_size": 8, "precision": "32-true"}, longest=128, base="",
    )  # fmt: skip
    computed, embed = [], training.embed
    monkeypatch.setattr(training, "embed", lambda *words: computed.append(1) or embed(*words))
    found = []
    for seed in (0, 1):
        model = answering.open_model("pooled", tiny / "bert", ["bad", "good"], seed=seed)
        answerer = answering.Answerer(model, models.tokenizer(tiny / "bert"), description)
        examples = training.encode(answerer.objective, sentences(9))
        found.append(features.of(answerer, examples, plan(), base=tiny / "bert").rows)
    assert len(computed) == 1
    batch = answerer.objective.collate(examples.rows)
    with torch.inference_mode():
        wanted = model.embed(batch["input_ids"], batch["attention_mask"])
    for rows in found:
        assert torch.stack([row["features"] for row in rows]).numpy() == pytest.approx(wanted.numpy(), abs=1e-5)
        assert [row["label"] for row in rows] == batch["labels"].tolist()
    features.of(answerer, examples, plan(precision="bf16-mixed"), base=tiny / "bert")
    features.of(answerer, training.encode(answerer.objective, sentences(8)), plan(), base=tiny / "bert")
    assert len(computed) == 3


def test_a_saved_tokenizer_does_not_tell_how_it_was_asked_last(tiny, tmp_path):
    from stepladder import models

    tokenizer = models.tokenizer(tiny / "bert")
    for name, options in {"never": None, "cut": {"truncation": True, "max_length": 4, "padding": True}}.items():
        if options:
            tokenizer(["a film", "the plot of it"], **options)
        models.save_tokenizer(tokenizer, tmp_path / name)
    assert (tmp_path / "never" / "tokenizer.json").read_bytes() == (tmp_path / "cut" / "tokenizer.json").read_bytes()


def test_texts_of_a_file_are_inputs_then_targets_each_once_in_their_order(tmp_path, monkeypatch):
    from stepladder.corpora import Texts

    monkeypatch.setattr(records, "PIECE_BYTES", 400)
    monkeypatch.setattr(records, "PIECE_ROWS", 2)
    frame = sentences(40).with_columns(pl.col("input").shift(3).alias("target"))
    frame = pl.concat([frame, frame.head(9).with_columns(pl.lit("é\u2028").alias("target"))])
    records.write(frame, tmp_path / "file.parquet")
    texts = Texts(tmp_path / "file.parquet")
    wanted = list(dict.fromkeys(text for name in ("input", "target") for text in frame[name] if text is not None))
    assert len(list(records.pieces(tmp_path / "file.parquet", "input"))) > 3
    assert list(texts) == list(texts) == wanted and len(texts) == len(wanted) == 41


@pytest.mark.parametrize("packing", ["joined", "documents"])
@pytest.mark.parametrize("max_length", [3, 16, 200])
def test_rows_that_are_cut_when_asked_for_are_those_of_a_plain_list(packing, max_length, tiny, tmp_path, monkeypatch):
    from stepladder import models, objectives

    monkeypatch.setattr("stepladder.store.kept", lambda kind: tmp_path / kind)
    tokenizer, frame = models.tokenizer(tiny / "llama"), sentences(30).with_columns(pl.col("input") + " é")
    objective = objectives.load("language_modeling")(
        tokenizer, task="language_modeling", max_length=max_length, packing=packing
    )
    end, whole, rows, windows = tokenizer.eos_token_id, [], [[]], []
    for ids in tokenizer(frame["input"].to_list(), add_special_tokens=False)["input_ids"]:
        whole += [end, *ids]
        for start in range(0, len(ids), max_length):
            windows.append([end, *ids][start : start + max_length + 1])
        for start in range(0, len(ids) + 1, max_length):
            piece = [end, *ids, end][start : start + max_length + 1]
            rows += [[]] if sum(map(len, rows[-1])) + len(piece) > max_length + 1 else []
            rows[-1].append(piece)
    if packing == "joined":
        rows = [[whole[i : i + max_length + 1]] for i in range(0, len(whole) - 1, max_length)]
    found = objective.encode(frame, train=True)
    assert [row["ids"] for row in found] == [[*itertools.chain(*row)] for row in rows]
    assert found.lengths == [row["length"] for row in found] and [row["row"] for row in found] == [*range(len(rows))]
    if packing == "documents":
        assert [row["positions"] for row in found] == [[i for piece in row for i in range(len(piece))] for row in rows]
    alone = objective.encode(frame, train=False)
    assert [row["ids"] for row in alone] == windows
    sizes = [sum(row["bytes"] for row in alone if row["row"] == i) for i in range(len(frame))]
    assert sizes == frame["input"].str.len_bytes().to_list()


PEAK = """
import re, sys
from pathlib import Path
from stepladder import tokens
from stepladder.corpora import Texts
class Quick(list):  # real ones need a minute for so much text
    def __call__(self, texts, **_):
        return {"input_ids": [list(text[::9].encode()) for text in texts]}
def peak():  # of this program alone: what getrusage says begins with that of the one that started it
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
for name in ("small", "large"):
    texts, made = Texts(f"{sys.argv[1]}/{name}.parquet"), Path(sys.argv[1], name)
    made.mkdir()
    tokens._fill(made, Quick(), texts, [0], {})
    print(peak(), len(tokens.Tokens(made).ids))
held = list(texts)
print(peak(), sum(map(len, held)))
"""


def test_a_corpus_does_not_have_to_fit_into_memory(tmp_path):
    """Twenty times as large a corpus takes little more memory; a list of its texts takes all of its size and more."""
    block, rows = " ".join(random.Random(1).choices(COMMON, k=150)), {"small": 5_000, "large": 100_000}
    for name, number in rows.items():
        columns = {"id": list(map(str, range(number))), "input": [f"{i} {block[:1000]}" for i in range(number)]}
        frame = pl.DataFrame(columns | dict.fromkeys(records.COLUMNS[2:]), dict.fromkeys(records.COLUMNS, pl.String))
        records.write(frame, tmp_path / f"{name}.parquet")
    path = {"PYTHONPATH": str(Path(records.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", PEAK, str(tmp_path)]
    done = subprocess.run(words, env=path, capture_output=True, text=True, check=True)
    (small, _), (large, ids), (held, size) = (map(int, line.split()) for line in done.stdout.splitlines())
    assert size > 100e6 and ids > 11e6
    assert large - small < size / 3 and held - large > size * 2 / 3
