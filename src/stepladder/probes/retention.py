"""Retention: what general text costs the trained model, and what it cost before: tuning forgets.

Bits per byte of the test part of a data set of raw text, each record scored alone. A gain below zero is what was
forgotten (McCloskey & Cohen 1989, "Catastrophic interference in connectionist networks").
"""

import polars as pl

from stepladder import likelihoods
from stepladder.metrics import bits_per_byte
from stepladder.probes import Asked

FORM = ("causal",)
BECAUSE = "it reads the likelihood of a text, which a decoder that answers by writing has, and no head or baseline"
MEASURES = {
    "bits_per_byte": None,
    "base_bits_per_byte": "level.name=finetune",
    "gain": "level.name=finetune",
}


def measure(asked: Asked, *, data: str, max_rows: int, max_length: int) -> tuple[dict, pl.DataFrame]:
    """Return bits per byte of at most `max_rows` texts in windows of `max_length` tokens, and the gain on the base."""
    texts = asked.sample(asked.data(data), max_rows)
    after = likelihoods.of_texts(asked.answerer, texts, max_length=max_length)
    measures, tables = (
        {"bits_per_byte": asked.measured(after, bits_per_byte)},
        [after.with_columns(model=pl.lit("tuned"))],
    )
    if asked.base:
        base = likelihoods.base(asked.answerer, asked.base)
        before = likelihoods.of_texts(base, texts, max_length=max_length)
        measures |= {
            "base_bits_per_byte": asked.measured(before, bits_per_byte),
            "gain": asked.gain(after, before, bits_per_byte),
        }
        tables.append(before.with_columns(model=pl.lit("base")))
    return measures, pl.concat(tables).select("id", "model", "bits", "num_bytes")
