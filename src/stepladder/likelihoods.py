"""Likelihoods: how probable a causal model holds given texts, whatever it was tuned to answer."""

from functools import cache
from pathlib import Path

import polars as pl

from stepladder import answering, models, objectives, training
from stepladder.answering import Answerer
from stepladder.objectives import IGNORED, response


@cache
def base(answerer: Answerer, folder: Path) -> Answerer:
    """Return the model of `folder` with tokenizer and settings of an answerer that was tuned from it."""
    precision = answerer.description["inference"]["precision"]
    model = answering.open_model("causal", folder, None, seed=None, precision=precision)
    models.lighten(model, precision)
    return Answerer(model, models.tokenizer(folder), answerer.description)


def of_texts(answerer: Answerer, records: pl.DataFrame, *, max_length: int) -> pl.DataFrame:
    """Return bits and num_bytes of each record's input, scored alone in windows of at most `max_length` tokens."""
    length = min(max_length, models.longest(answerer.model, answerer.tokenizer))
    objective = objectives.load("language_modeling")(answerer.tokenizer, task="language_modeling", max_length=length)
    return training.predict(answerer.model, objective, records, answerer.settings)


def of_continuations(answerer: Answerer, pairs: list[tuple[str, str]]) -> pl.DataFrame:
    """Return for each (context, continuation) nats, the log-likelihood of the second behind the first, and its tokens.

    Tokens as the LM Evaluation Harness cuts them: those of both together, less as many as the context has alone. A
    context without tokens is the end-of-text token; one that is too long loses its beginning.
    """
    longest = models.longest(answerer.model, answerer.tokenizer)
    objective = _Continuations(answerer.tokenizer, max_length=longest)
    asked = pl.DataFrame(pairs, ["input", "target"], orient="row")
    return training.predict(answerer.model, objective, asked, answerer.settings)


class _Continuations(response.Objective):
    """Response without a prompt and without an end: the loss of given tokens behind given tokens."""

    def __init__(self, tokenizer, *, max_length: int):
        super().__init__(tokenizer, task="generation", labels=None, max_length=max_length, prompt=None, decoding=None)

    def encode(self, records: pl.DataFrame, *, train: bool) -> list[dict]:
        contexts, both = records["input"].to_list(), (records["input"] + records["target"]).to_list()
        before, whole = (
            self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] for texts in (contexts, both)
        )
        examples = []
        for row, (ids, all_ids) in enumerate(zip(before, whole, strict=True)):
            answer = all_ids[len(ids) :]
            shown = (ids or [self.tokenizer.eos_token_id])[-(self.max_length + 1 - len(answer)) :]
            length = len(shown) + len(answer)
            examples.append({"ids": shown, "answer": answer, "label": IGNORED, "row": row, "length": length})
        return examples

    def answer(self, model, batch: dict) -> list[dict]:
        return self.losses(model, batch)

    def predictions(self, records: pl.DataFrame, rows: list[dict]) -> pl.DataFrame:
        ordered = sorted(rows, key=lambda row: row["row"])
        return pl.DataFrame({"nats": [-row["loss"] for row in ordered], "tokens": [row["tokens"] for row in ordered]})
