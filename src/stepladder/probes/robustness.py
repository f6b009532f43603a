"""Robustness: what a classifier loses when the same test inputs come with typing errors, or in another case.

Typing errors inside of words, as Pruthi et al. 2019 (arXiv:1905.11268): two neighbours swapped, a letter dropped, or
one doubled; first and last letters stay.
"""

import random
import re

import polars as pl

from stepladder.metrics import accuracy
from stepladder.probes import Asked

TASK = ("classification",)
BECAUSE = "it compares the accuracy on changed inputs, of task classification"
MEASURES = {
    "clean_accuracy": None,
    "typos_accuracy": "probe.robustness.typos",
    "typos_gain": "probe.robustness.typos",
    "lower_accuracy": "probe.robustness.lower",
    "lower_gain": "probe.robustness.lower",
    "upper_accuracy": "probe.robustness.upper",
    "upper_gain": "probe.robustness.upper",
}
WORD = re.compile(r"[^\W\d_]{4,}")  # letters alone; shorter words have no two inner ones


def measure(asked: Asked, *, typos: float, lower: bool, upper: bool, max_rows: int) -> tuple[dict, pl.DataFrame]:
    """Return accuracy on at most `max_rows` test inputs as they are, and of each change accuracy and gain on them.

    `typos` is the share of the words of four and more letters that get one; 0 leaves them out.
    """
    clean = asked.sample(asked.read("test"), max_rows)
    seed, changes = asked.options["seed"], {}
    if typos:
        texts = [mistyped(text, typos, seed=f"{seed}:{name}") for name, text in clean.select("id", "input").iter_rows()]
        changes["typos"] = pl.Series(texts)
    changes |= {"lower": pl.col("input").str.to_lowercase()} if lower else {}
    changes |= {"upper": pl.col("input").str.to_uppercase()} if upper else {}
    before = asked.level.predict(clean)
    measures, tables = (
        {"clean_accuracy": asked.measured(before, accuracy)},
        [before.with_columns(change=pl.lit("none"))],
    )
    for name, texts in changes.items():
        after = asked.level.predict(clean.with_columns(input=texts))
        measures |= {
            f"{name}_accuracy": asked.measured(after, accuracy),
            f"{name}_gain": asked.gain(after, before, accuracy),
        }
        tables.append(after.with_columns(change=pl.lit(name)))
    return measures, pl.concat(tables).select("id", "change", "target", "answer", "probabilities")


def mistyped(text: str, share: float, *, seed: str) -> str:
    """Return the text with an error in each word with the chance `share`, drawn from `seed`."""
    chance = random.Random(seed)
    return WORD.sub(lambda found: _slip(found[0], chance) if chance.random() < share else found[0], text)


def _slip(word: str, chance: random.Random) -> str:
    kind, place = chance.choice(("swap", "drop", "double")), chance.randrange(1, len(word) - 2)
    before, letter, behind = word[:place], word[place], word[place + 1 :]
    if kind == "swap":
        return before + behind[0] + letter + behind[1:]
    return before + behind if kind == "drop" else before + 2 * letter + behind
