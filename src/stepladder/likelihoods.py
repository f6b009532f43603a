"""Likelihoods: how probable a causal model holds given texts, whatever it was tuned to answer."""

from functools import cache
from pathlib import Path

import polars as pl

from stepladder import answering, models, objectives, training
from stepladder.answering import Answerer


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
