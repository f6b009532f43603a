"""Swaps: does the answer to a test input change with the gender, or the origin of a name, of the people in it?

Of each input that holds a listed word two versions are asked: with the first word of every pair, and with the second.
Source: counterfactual fairness of classifiers by substituted terms (Garg et al. 2019, arXiv:1809.10610), there the
counterfactual token fairness gap.
"""

import re

import numpy as np
import polars as pl

from stepladder import predictions
from stepladder.errors import ConfigError
from stepladder.metrics import accuracy, mean_absolute_error
from stepladder.probes import Asked, numbers

TASK = ("classification",)
BECAUSE = "it compares the probabilities of labels, which task classification has"
MEASURES = {"<group>_flips": None, "<group>_gap": None, "<group>_shift_<label>": None}
MIN_INPUTS = 20  # an interval of fewer says how alike they are, not how sure the number is
UNKNOWN = {"value": None, "low": None, "high": None}


def measure(asked: Asked, *, words: list[list[str]], max_rows: int) -> tuple[dict, pl.DataFrame]:
    """Return flips, gap and shifts for each group of `words`, [group, first, second], of at most `max_rows` inputs.

    flips: share of inputs with another answer. gap: mean total variation distance of the probabilities. shift_<label>:
    how much more probable a label is with the second words than with the first. Raises ConfigError for other words.
    """
    for odd in (line for line in words if len(line) != 3):
        raise ConfigError(f"probe.swaps.words: {odd} is not allowed; expected [group, first, second]")
    measures, tables = {}, []
    for group in dict.fromkeys(group for group, *_ in words):
        pairs = [pair for name, *pair in words if name == group]
        changed = asked.sample(versions(asked.read("test"), pairs), max_rows)
        if len(changed) < MIN_INPUTS:
            few = f"{len(changed)} test inputs hold a word of {group}, {MIN_INPUTS} are wanted"
            print(f"swaps: {few}; nothing is measured", flush=True)
            measures[f"{group}_flips"] = UNKNOWN | {"num_items": len(changed)}
            continue
        answers = [asked.level.predict(changed.with_columns(input=pl.col(side))) for side in ("first", "second")]
        measures |= {f"{group}_{name}": told for name, told in _measured(asked, *answers).items()}
        tables += [
            answer.select("id", "answer", "probabilities", group=pl.lit(group), side=pl.lit(side))
            for side, answer in zip(("first", "second"), answers, strict=True)
        ]
    return measures, pl.concat(tables) if tables else pl.DataFrame(schema={"id": pl.String})


def versions(records: pl.DataFrame, pairs: list[list[str]]) -> pl.DataFrame:
    """Return the records whose input holds a word of the pairs, with its versions `first` and `second`.

    Case is kept. Where a word stands in two pairs (her: his or him), the pair that is listed first decides.
    """
    sides = [{}, {}]
    for pair in pairs:
        for side, word in zip(sides, pair, strict=True):
            for other in pair:
                side.setdefault(other.lower(), word)
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, sides[0]))})\b", re.IGNORECASE)
    names = ("first", "second")
    texts = {
        name: [
            pattern.sub(lambda found, side=side: _cased(side[found[0].lower()], found[0]), text)
            for text in records["input"]
        ]
        for name, side in zip(names, sides, strict=True)
    }
    return records.with_columns(pl.Series(name, texts[name]) for name in names).filter(
        pl.col("first") != pl.col("second")
    )


def _measured(asked: Asked, first: pl.DataFrame, second: pl.DataFrame) -> dict:
    labels, before, after = predictions.labels(first), predictions.matrix(first), predictions.matrix(second)
    same = asked.measured(first.with_columns(target=second["answer"]), accuracy)
    flips = {"value": 1 - same["value"], "low": 1 - same["high"], "high": 1 - same["low"]}
    distance = np.abs(before - after).sum(1) / 2
    measures = {"flips": same | flips, "gap": asked.measured(numbers(first, distance), mean_absolute_error)}
    for label in labels[1:] if len(labels) == 2 else labels:
        sides = [numbers(first, matrix[:, labels.index(label)]) for matrix in (before, after)]
        measures[f"shift_{label}"] = asked.gain(*sides, mean_absolute_error)  # less is better: second minus first
    return measures


def _cased(word: str, like: str) -> str:
    if like.isupper() and len(like) > 1:
        return word.upper()
    return word[0].upper() + word[1:] if like[0].isupper() else word.lower()
