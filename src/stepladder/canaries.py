"""Canaries: made-up records planted among the train rows, so that what a training memorises can be counted.

set: {data: {canaries: 20}}     20 records once, 20 others four times, 20 others sixteen times

Each names a number that nothing implies, and its answer, if its task has one, is drawn by chance. Exposure: how few of
NUM_OTHERS like it, which no training read, a model finds as likely, in bits. Source: Carlini et al. 2019
(arXiv:1802.08232), section 4.
"""

import random

import numpy as np
import polars as pl

TIMES = (1, 4, 16)  # how often a canary is planted
NUM_OTHERS = 1000  # numbers that a planted one is compared with: log2(1001), 10.0 bits, are the most there is to see
TEXT = "The random number is {}."
NUM_DIGITS = 9


def planted(train: pl.DataFrame, number: int | None, *, seed: int) -> pl.DataFrame:
    """Return the train records with `number` canaries for each of TIMES at places chosen by `seed`."""
    if not number:
        return train
    made = drawn(train, number, seed=seed).filter(pl.col("times") > 0)
    copies = made.select(pl.all().repeat_by("times")).explode(pl.all()).drop("times")
    copies = copies.with_columns(id=pl.format("{}_{}", "id", pl.int_range(pl.len()).over("id")))
    print(f"{len(copies):,} rows of {len(made)} canaries are planted among them (data.canaries)", flush=True)
    both = pl.concat([train, copies.select(train.columns)])
    return both[np.random.default_rng(seed).permutation(len(both))]


def drawn(train: pl.DataFrame, number: int, *, seed: int) -> pl.DataFrame:
    """Return the canaries with the column `times`, and NUM_OTHERS like them that are planted 0 times.

    Their answers and sources are those of random train records.
    """
    chance, times = random.Random(f"canaries:{seed}"), [each for each in TIMES for _ in range(number)]
    times += [0] * NUM_OTHERS
    numbers = chance.sample(range(10 ** (NUM_DIGITS - 1), 10**NUM_DIGITS), len(times))
    like = train[[chance.randrange(len(train)) for _ in times]]
    empty = [pl.lit(None, train.schema[name]).alias(name) for name in ("group", "timestamp") if name in train.columns]
    return like.with_columns(
        pl.Series("id", [f"canary_{value}" for value in numbers]),
        pl.Series("input", [TEXT.format(value) for value in numbers]),
        pl.Series("times", times, pl.Int64),
        *empty,
    )


def exposure(confidence: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the bits of exposure of each canary by how likely it is and by how likely the others are.

    Of equally likely ones half stand before it. A model that never read it is expected at 1/ln 2, 1.44 bits.
    """
    before = (others > confidence[:, None]).sum(1) + (others == confidence[:, None]).sum(1) / 2
    return np.log2(len(others) + 1) - np.log2(before + 1)
