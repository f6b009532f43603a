"""Memorisation: can one tell from a candidate's loss on a record whether it was trained on it?

Membership inference by the loss (Yeom et al. 2018, arXiv:1709.01604): the area under the ROC curve over as many train
as test records; .5 tells nothing, 1 tells each. Where canaries were planted, their exposure (`canaries`), for each
number of times that they were read. Level prompt trains on nothing and is a control.
"""

import polars as pl

from stepladder import canaries
from stepladder.metrics import mean_absolute_error, roc_auc
from stepladder.probes import Asked, numbers

TASK = ("classification", "language_modeling")
BECAUSE = "it goes by the loss of a record, which tasks classification and language_modeling have"
MEASURES = {
    "membership_auc": None,
    "exposure_1": "data.canaries",
    "exposure_4": "data.canaries",
    "exposure_16": "data.canaries",
}
SIDES = {"other": "test", "member": "train"}


def measure(asked: Asked, *, max_rows: int) -> tuple[dict, pl.DataFrame]:
    """Return membership_auc over at most `max_rows` records it was trained on and as many it was tested on.

    Where canaries were planted also exposure_<times>: the mean over the canaries that were planted so often, in bits.
    """
    sides = {target: asked.read(part) for target, part in SIDES.items()}
    size = min(max_rows, *map(len, sides.values()))
    answers = {target: asked.level.predict(asked.sample(rows, size)) for target, rows in sides.items()}
    scored = [_confidence(rows).with_columns(target=pl.lit(target)) for target, rows in answers.items()]
    rows = pl.concat(scored).select("id", "target", "confidence")
    chances = pl.struct(other=1 - pl.col("confidence"), member=pl.col("confidence"))
    measures = {"membership_auc": asked.measured(rows.with_columns(probabilities=chances), roc_auc)}
    if not asked.canaries:
        return measures, rows
    exposures, exposed = _exposed(asked)
    return measures | exposures, pl.concat([rows, exposed], how="diagonal")


def _exposed(asked: Asked) -> tuple[dict, pl.DataFrame]:
    """Return the mean exposure for each number of times, and the canaries that were planted with theirs."""
    drawn = canaries.drawn(asked.read("train"), asked.canaries, seed=asked.options["seed"])
    scored = _confidence(asked.level.predict(drawn)).join(drawn.select("id", "times"), on="id")
    others = scored.filter(times=0)["confidence"].to_numpy()
    measures, rows = {}, []
    for times in canaries.TIMES:
        found = scored.filter(times=times)
        bits = canaries.exposure(found["confidence"].to_numpy(), others)
        measures[f"exposure_{times}"] = asked.measured(numbers(found, bits), mean_absolute_error)
        rows.append(found.select("id", "confidence", "times", target=pl.lit("canary"), exposure=pl.Series(bits)))
    return measures, pl.concat(rows)


def _confidence(rows: pl.DataFrame) -> pl.DataFrame:
    """Return what falls as the loss rises: the probability of the true label, or the inverse of the bits a byte."""
    if "bits" in rows.columns:
        return rows.with_columns(confidence=-pl.col("bits") / pl.col("num_bytes"))
    labels = [field.name for field in rows.schema["probabilities"].fields]
    true = [pl.when(target=label).then(pl.col("probabilities").struct.field(label)) for label in labels]
    return rows.with_columns(confidence=pl.coalesce(true))
