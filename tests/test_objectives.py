"""Objectives: losses equal those of transformers, bits per byte those of a plain sum; texts are cut, prompts never."""

import json
import math
import pkgutil

import polars as pl
import pytest

from stepladder import objectives, records
from stepladder.errors import ConfigError, DataError
from stepladder.rules import HEADED
from tests.conftest import sentences

pytestmark = pytest.mark.slow

OBJECTIVES = sorted(module.name for module in pkgutil.iter_modules(objectives.__path__))
LABELS = ["bad", "good"]


@pytest.fixture(scope="module")
def llama(tiny):
    from stepladder import models

    return models.causal(tiny / "llama"), models.tokenizer(tiny / "llama")


def build(name: str, tokenizer, *, task: str, max_length: int = 64, template: str = "Text: {input}\nLabel:", **words):
    from stepladder.prompts import Prompt

    return objectives.load(name)(
        tokenizer,
        task=task,
        labels=LABELS if task in records.LABELLED else None,
        reading={"threshold": 0.5, "scale": None},
        max_length=max_length,
        prompt=Prompt(template, words=words),
        decoding={"max_new_tokens": 4, "num_beams": 1, "one_line": True},
    )


def made(name: str, tiny, *, task: str, model: str = "llama", **options):
    """Return model and objective."""
    from stepladder import models

    model = "t5" if name == "seq2seq" else model
    tokenizer = models.tokenizer(tiny / model)
    if name == "seq2seq":
        return models.seq2seq(tiny / model), build(name, tokenizer, task=task, **options)
    if name in ("supervised", *HEADED):
        names = ["number"] if task == "regression" else LABELS
        return models.classifier(tiny / model, names, seed=3, task=task), build(name, tokenizer, task=task, **options)
    return models.causal(tiny / model), build(name, tokenizer, task=task, **options)


def asked(frame: pl.DataFrame, task: str) -> pl.DataFrame:
    """Return the records with targets as the task keeps them: the label as one of several, a number of words."""
    targets = {"multilabel": pl.format('["{}"]', "target"), "regression": pl.col("input").str.len_chars().cast(str)}
    return frame.with_columns(targets[task].alias("target")) if task in targets else frame


def tasks() -> list[tuple[str, str]]:
    return [(name, task) for name in OBJECTIVES for task in objectives.load(name).tasks]


@pytest.mark.parametrize(("name", "task"), tasks())
def test_every_objective_gives_one_prediction_a_record_whatever_the_batch_and_the_order(name, task, tiny, reviews):
    import torch

    from stepladder import metrics

    model, objective = made(name, tiny, task=task)
    records = asked(reviews.head(6), task)
    examples = objective.encode(records, train=False)
    assert {"length", "row"} <= set(examples[0])
    assert objective.task == task

    def answered(size: int, order: list[dict]) -> list[dict]:
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        return [row for batch in batches for row in objective.answer(model, objective.collate(batch))]

    with torch.no_grad():
        rows, others = answered(1, examples), answered(4, examples[::-1])
    first, second = objective.predictions(records, rows), objective.predictions(records, others)
    assert first["id"].to_list() == records["id"].to_list()
    assert metrics.evaluate(first, task) == pytest.approx(metrics.evaluate(second, task), rel=1e-5)
    for one, other in ((rows, others), (others, rows)):
        assert sum(row["loss"] for row in one) == pytest.approx(sum(row["loss"] for row in other), rel=1e-5)
        assert sum(row["tokens"] for row in one) == sum(row["tokens"] for row in other)


@pytest.mark.parametrize(("name", "task"), tasks())
def test_a_validation_loss_over_one_batch_is_the_training_loss_of_that_batch(name, task, tiny, reviews):
    import torch

    model, objective = made(name, tiny, task=task)
    batch = objective.collate(objective.encode(asked(reviews.head(5), task), train=False))
    with torch.no_grad():
        rows, loss = objective.answer(model, batch), objective.loss(model, batch).item()
    assert sum(row["loss"] for row in rows) / sum(row["tokens"] for row in rows) == pytest.approx(loss, rel=1e-5)
    if hasattr(objective, "losses"):
        with torch.no_grad():
            unwritten = objective.losses(model, batch)
        assert [row["loss"] for row in unwritten] == pytest.approx([row["loss"] for row in rows], rel=1e-4)


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_the_response_loss_is_the_one_of_transformers_with_the_prompt_masked(task, llama, reviews):
    import torch

    model, tokenizer = llama
    objective = build("response", tokenizer, task=task, bad="dull and flat", good="fine")
    examples = objective.encode(reviews.head(6), train=True)
    width = max(len(e["ids"] + e["answer"]) for e in examples)
    rows = {"input_ids": [], "attention_mask": [], "labels": []}
    for e in examples:  # padded on the right, as transformers' own collators do
        rest = width - len(e["ids"] + e["answer"])
        rows["input_ids"].append(e["ids"] + e["answer"] + [0] * rest)
        rows["attention_mask"].append([1] * (width - rest) + [0] * rest)
        rows["labels"].append([-100] * len(e["ids"]) + e["answer"] + [-100] * rest)
    with torch.no_grad():
        wanted = model(**{key: torch.tensor(value) for key, value in rows.items()}).loss
        assert objective.loss(model, objective.collate(examples)).item() == pytest.approx(wanted.item(), abs=1e-5)
    assert len({len(e["answer"]) for e in examples}) > 1


@pytest.mark.capability(15)
@pytest.mark.parametrize("name", ["bert", "distilbert", "llama"])
def test_the_supervised_loss_is_the_one_of_the_sequence_classifier(name, tiny, reviews):
    import torch

    model, objective = made("supervised", tiny, task="classification", model=name)
    batch = objective.collate(objective.encode(reviews.head(7), train=True))
    with torch.no_grad():
        wanted = model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss
        examples = objective.encode(reviews.head(7), train=False)
        singly = [objective.answer(model, objective.collate([e])) for e in examples]
        together = objective.answer(model, batch)
        assert objective.loss(model, batch).item() == pytest.approx(wanted.item(), abs=1e-6)
    for (one,), other in zip(singly, together, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_the_language_modelling_loss_is_the_one_of_transformers_on_packed_rows(llama, reviews):
    import torch

    model, tokenizer = llama
    objective = build("language_modeling", tokenizer, task="language_modeling", max_length=24)
    examples = objective.encode(reviews, train=True)
    whole = [e for e in examples if e["length"] == 25]
    ids = torch.tensor([list(map(int, e["ids"])) for e in whole])
    with torch.no_grad():
        wanted = model(ids, labels=ids).loss
        assert objective.loss(model, objective.collate(whole)).item() == pytest.approx(wanted.item(), abs=1e-5)
    joined = [token for text in reviews["input"] for token in [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]]
    assert [token for e in examples for token in e["ids"][1:]] == joined[1:]  # each is predicted once


@pytest.mark.parametrize("max_length", [16, 200])
def test_bits_per_byte_equal_a_plain_computation_also_in_windows(max_length, llama, reviews):
    import torch

    from stepladder import metrics

    model, tokenizer = llama
    records = reviews.head(4).with_columns(pl.col("input") + pl.Series([" é\u2028", "", "", ""]))
    objective = build("language_modeling", tokenizer, task="language_modeling", max_length=max_length)
    bits = 0.0
    with torch.no_grad():
        examples = objective.encode(records, train=False)
        found = objective.predictions(records, objective.answer(model, objective.collate(examples)))
        for text in records["input"]:
            ids = [tokenizer.eos_token_id, *tokenizer(text)["input_ids"]]
            for start in range(0, len(ids) - 1, max_length):
                window = torch.tensor([ids[start : start + max_length + 1]])
                nats = model(window, labels=window).loss.item() * (window.shape[1] - 1)
                bits += nats / math.log(2)
    size = sum(len(text.encode()) for text in records["input"])
    assert found["num_bytes"].sum() == size
    assert metrics.evaluate(found, "language_modeling")["bits_per_byte"] == pytest.approx(bits / size, rel=1e-5)
    assert (len(examples) > len(records)) == (max_length == 16)


@pytest.mark.parametrize("task", ["classification", "generation"])
def test_a_long_input_is_cut_at_its_end_and_the_prompt_never(task, llama):
    _, tokenizer = llama
    text = "fine {braces} é\u2028 " * 40
    objective = build("response", tokenizer, task=task, max_length=40, template="Before {input}\nAfter:")
    frame = pl.DataFrame({"id": ["a", "b"], "input": [text, "short"], "target": ["good", "bad"]})
    spare = 4 if task == "generation" else max(map(len, objective.label_ids))
    for examples in (objective.encode(frame, train=True), objective.encode(frame, train=False)):
        cut, short = (tokenizer.decode(e["ids"]) for e in examples)
        assert short == "Before short\nAfter:"
        assert cut.startswith("Before fine {braces}")
        assert cut.endswith("\nAfter:")
        assert text.startswith(cut.removeprefix("Before ").removesuffix("\nAfter:"))
        assert 40 - spare - 3 <= len(examples[0]["ids"]) <= 40 - spare
    short = build("response", tokenizer, task=task, max_length=8, template="Before {input}\nAfter:")
    with pytest.raises(ConfigError, match="max_length=8 is shorter than the prompt"):
        short.encode(frame, train=True)


def test_what_a_text_is_cut_to_does_not_depend_on_its_target(llama):
    objective = build("response", llama[1], task="generation", max_length=40)
    frame = pl.DataFrame({"id": ["a", "b", "c"], "input": ["a film " * 40] * 3, "target": ["x", "long " * 9, None]})
    first, second, third = (e["ids"] for e in objective.encode(frame, train=False))
    assert first == second == third


def test_an_answer_that_would_melt_into_the_prompt_is_refused(llama):
    with pytest.raises(ConfigError, match="melt"):
        build("response", melting(llama[1]), task="classification", template="{input}\nThe")


def melting(tokenizer):
    """Return a tokenizer to which `The good` is one token."""
    from transformers import PreTrainedTokenizerFast

    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["added_tokens"] += [{**content["added_tokens"][0], "id": 1000, "content": "The good", "special": False}]
    from tokenizers import Tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)), eos_token="<|endoftext|>")


@pytest.mark.parametrize("name", ["supervised", "response"])
def test_a_target_that_is_no_label_is_named_and_a_missing_one_is_allowed(name, tiny, reviews):
    import torch

    model, objective = made(name, tiny, task="classification")
    strange = reviews.head(3).with_columns(pl.Series("target", ["good", "godo", "bad"]))
    with pytest.raises(DataError, match=r"record 'r0_1'.*'godo'.*Did you mean 'good'"):
        objective.encode(strange, train=True)
    unknown = reviews.head(3).with_columns(pl.lit(None, pl.String).alias("target"))
    with torch.no_grad():
        rows = objective.answer(model, objective.collate(objective.encode(unknown, train=False)))
    assert [row["tokens"] for row in rows] == [0, 0, 0]
    assert objective.predictions(unknown, rows)["answer"].is_in(LABELS).all()


def test_a_shared_prefix_gives_the_same_predictions_as_none(llama, reviews):
    import torch

    model, tokenizer = llama
    objective = build("response", tokenizer, task="classification", max_length=250, bad="wooden", good="fine film")
    shots = [("a clever film", "good"), ("the noisy music of it all", "bad")] * 2
    objective.prompt = objective.prompt.with_shots(shots)
    examples = objective.encode(reviews.head(5), train=False)
    batch = objective.collate(examples)
    with torch.no_grad():
        plain = objective.answer(model, batch)
        objective.share(model, examples)
        shared = objective.answer(model, batch)
    assert len(objective.prefix.tokens) >= 32
    for one, other in zip(plain, shared, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)


def test_an_unknown_objective_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'response'"):
        objectives.load("respons")


def test_packed_documents_have_the_loss_of_each_of_them_alone(tiny):
    """The reference runs transformers on one document at a time."""
    import torch

    from stepladder import microbatches, models, objectives

    model, tokenizer = models.causal(tiny / "llama"), models.tokenizer(tiny / "llama")
    end, losses = tokenizer.eos_token_id, {}
    for packing in ("documents", "joined"):
        objective = objectives.load("language_modeling")(
            tokenizer, task="language_modeling", max_length=80, packing=packing
        )
        rows = objective.encode(sentences(12), train=True)
        assert len(rows) < 12 and max(row["length"] for row in rows) <= 81
        batch = objective.collate(rows)
        with torch.no_grad():
            losses[packing] = objective.loss(model, batch).item()
            pieces = [(objective.count(piece), piece) for piece in microbatches.split(batch, 3)]
            nats = sum(objective.loss(model, piece).item() * count for count, piece in pieces)
            losses[packing, "in parts"] = nats / objective.count(batch)
    nats, count = 0.0, 0
    for text in sentences(12)["input"]:
        ids = torch.tensor([[end, *tokenizer(text, add_special_tokens=False)["input_ids"], end]])
        with torch.no_grad():
            nats += model(input_ids=ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert losses["documents"] == pytest.approx(nats / count, abs=1e-5)
    assert losses["documents", "in parts"] == pytest.approx(nats / count, abs=1e-5)
    assert abs(losses["joined"] - nats / count) > 1e-3


@pytest.mark.capability(16)
@pytest.mark.parametrize("task", ["classification", "generation"])
def test_the_seq2seq_loss_and_scores_are_those_of_transformers(task, tiny, reviews):
    import torch

    model, objective = made("seq2seq", tiny, task=task, bad="dull and flat", good="fine")
    tokenizer, records = objective.tokenizer, reviews.head(6)
    batch = objective.collate(objective.encode(records, train=True))
    words = {"bad": " dull and flat", "good": " fine"}
    ends = [] if task == "classification" else [tokenizer.eos_token_id]
    losses, scores = [], []
    with torch.no_grad():
        for text, target in records.select("input", "target").iter_rows():
            asked = tokenizer(f"Text: {text}\nLabel:", return_tensors="pt")
            answer = torch.tensor([tokenizer(words[target])["input_ids"] + ends])
            losses += [model(**asked, labels=answer).loss * answer.numel()]
            answers = [torch.tensor([tokenizer(word)["input_ids"]]) for word in words.values()]
            scores += [[-(model(**asked, labels=each).loss * each.numel()).item() for each in answers]]
        wanted = sum(losses) / objective.count(batch)
        assert objective.loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)
        if task == "classification":
            assert objective._scores(model, batch).tolist() == [pytest.approx(row, abs=1e-4) for row in scores]
