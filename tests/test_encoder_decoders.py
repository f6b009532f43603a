"""Encoder-decoders: a small T5 that begins at random learns to rewrite verses, which transformers alone writes too."""

import json

import polars as pl
import pytest

from stepladder import compose, metrics
from tests.conftest import SIZES

pytestmark = [pytest.mark.slow, pytest.mark.capability(16)]
SECTIONS = {
    "prompt": {"template": "{input}"},
    "decoding": {"max_new_tokens": 40, "num_beams": 1},
    "trainer": {"max_epochs": 60, "patience": 60, "max_length": 128},
}


def verses(number: int) -> pl.DataFrame:
    """Return the shortest pairs of the sample of plain_english as records."""
    lines = (compose.CONF.parent / "samples" / "plain_english.jsonl").read_text().splitlines()
    pairs = sorted(map(json.loads, lines), key=lambda row: len(row["input"]) + len(row["target"]))[:number]
    rows = [{"id": f"v{i}", "input": row["input"], "target": row["target"]} for i, row in enumerate(pairs)]
    return pl.DataFrame(rows).with_columns(
        pl.lit(None, pl.String).alias(name) for name in ("source", "group", "timestamp")
    )


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    """Return a folder with a T5 of two layers at random, and the vocabulary of the verses."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    from stepladder import vocabulary

    rows, folder = verses(300), tmp_path_factory.mktemp("t5")
    pieces = vocabulary.learn([*rows["input"], *rows["target"]], vocab_size=600, context_length=256)
    ends = {"pad_token_id": pieces.pad_token_id, "eos_token_id": pieces.eos_token_id}
    shape = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": SIZES["num_attention_heads"]}
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(pieces), decoder_start_token_id=pieces.pad_token_id, dropout_rate=0.0, **shape, **ends
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    pieces.save_pretrained(folder)
    return folder


def test_a_t5_that_began_at_random_writes_the_verses_that_it_learnt(untrained, choose, tmp_path):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from stepladder import levels, settings, training
    from stepladder.training import Examples

    rows, sections = verses(8), choose("finetune", "t5", task="generation", **SECTIONS)
    sections["model"] |= {"kind": "encoder_decoder"}
    sections["task"] |= {"instruction": None}
    level = levels.load("finetune")(sections, base=untrained)
    level.answerer = answerer = level._open(rows)
    before = metrics.load("chrf").compute(answerer.predict(rows))
    parts = {name: Examples(rows, answerer.objective.encode(rows, train=name == "train")) for name in ("train", "val")}
    learning = answerer.model, answerer.objective
    training.fit(learning, settings.of(sections), **parts, state=tmp_path / "fit", log=lambda *_: None)
    written = answerer.predict(rows)
    assert before < 10
    assert metrics.load("chrf").compute(written) > 95
    level.save(tmp_path / "made")
    model, words = (kind.from_pretrained(tmp_path / "made") for kind in (AutoModelForSeq2SeqLM, AutoTokenizer))
    read = words(rows["input"].to_list(), padding=True, padding_side="right", return_tensors="pt")
    read.pop("token_type_ids", None)
    theirs = model.generate(**read, max_new_tokens=40, do_sample=False)
    found = [text.strip() for text in words.batch_decode(theirs, skip_special_tokens=True)]
    assert found == written["answer"].to_list()
