"""Corpora: raw text that a model learns from before its task; a file may be larger than memory, so it is walked."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from stepladder import records

NUM_HELD_OUT = 500  # texts, evenly spread over the corpus's val part, that measure what is learnt


class Texts:
    """The inputs of a file of records and then its targets, where there are any, as texts, each once.

    They are read anew at each pass. Which are the first of their kind is known by a hash of 64 bits: some 25 bytes a
    text while it is found out, a bit afterwards.
    """

    def __init__(self, file: Path):
        self.file = file
        hashes = bytearray()
        for text in self._all():
            hashes += hashlib.blake2b(text.encode(), digest_size=8).digest()
        _, firsts = np.unique(np.frombuffer(hashes, np.uint64), return_index=True)
        first = np.zeros(len(hashes) // 8, bool)
        first[firsts] = True
        self.count, self.first = len(firsts), np.packbits(first)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        return (text for i, text in enumerate(self._all()) if self.first[i // 8] >> (7 - i % 8) & 1)

    def _all(self) -> Iterator[str]:
        for column in ("input", "target"):
            for piece in records.pieces(self.file, column):
                yield from piece.drop_nulls()


def held_out(file: Path) -> pl.DataFrame:
    """Return some texts of a file, evenly spread, as records."""
    texts = Texts(file)
    chosen = list(itertools.islice(itertools.islice(texts, 0, None, max(1, len(texts) // NUM_HELD_OUT)), NUM_HELD_OUT))
    rows = {"id": list(map(str, range(len(chosen)))), "input": chosen, "source": None, "target": None}
    return pl.DataFrame(rows, dict.fromkeys(rows, pl.String))
