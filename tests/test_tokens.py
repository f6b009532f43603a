"""Tokens: equal to the tokenizer's own, made once, read from disk, made again when damaged."""

import numpy as np
import pytest

from tests.conftest import sentences

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
