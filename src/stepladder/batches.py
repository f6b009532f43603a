"""Batches: rows of like length together, in an order that is a pure function of seed and epoch."""

import itertools
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
import torch
from torch.utils.data import Sampler

WINDOW = 50  # batches that are sorted together: large enough to fill batches, small enough to keep them random


class Batches(Sampler[list[int]]):
    """Batch sampler over `lengths` (tokens a row); set `epoch` before each pass, `skip` to begin later in the next.

    With a `curriculum` an epoch has as many batches of as many rows, drawn from those that are open at its step.
    """

    def __init__(self, lengths: list[int], batch_size: int, *, seed: int, curriculum: "Curriculum | None" = None):
        self.lengths, self.batch_size, self.seed, self.curriculum = lengths, batch_size, seed, curriculum
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self):
        seed = self.seed * 1_000_003 + self.epoch
        first, self.skip = self.skip, 0
        closed = self.curriculum and self.curriculum.num_open(self.epoch * len(self)) < len(self.lengths)
        yield from itertools.islice(self._opening(seed) if closed else self._all(seed), first, None)

    def _all(self, seed: int) -> Iterator[list[int]]:
        """Yield every row once."""
        random = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self.lengths), generator=random).tolist()
        size = self.batch_size * WINDOW
        windows = [sorted(order[i : i + size], key=self.lengths.__getitem__) for i in range(0, len(order), size)]
        batches = [w[i : i + self.batch_size] for w in windows for i in range(0, len(w), self.batch_size)]
        for index in torch.randperm(len(batches), generator=random).tolist():
            yield batches[index]

    def _opening(self, seed: int) -> Iterator[list[int]]:
        """Yield rows that are open by then, none again before all that are open came: as an epoch over these would."""
        random = Random(seed)  # draws some of many without looking at all
        order, opened, pool = self.curriculum.order, 0, []
        for index in range(len(self)):
            size = min(self.batch_size, len(self.lengths) - index * self.batch_size)
            number = self.curriculum.num_open(self.epoch * len(self) + index)
            pool += order[opened:number]
            opened = number
            rest = []
            if len(pool) < size:  # they came, but for a few; then they come again
                rest, pool = pool, [row for row in order[:opened] if row not in pool]
            yield rest + self._taken(pool, size - len(rest), random)
            pool += rest

    def _taken(self, pool: list[int], size: int, random: Random) -> list[int]:
        """Take so many rows of like length out of `pool`: any of some batches that are drawn and sorted together."""
        places = random.sample(range(len(pool)), min(len(pool), size * WINDOW))
        number = len(places) // size
        places = sorted(places[: number * size], key=lambda place: self.lengths[pool[place]])
        first = size * random.randrange(number)
        chosen = places[first : first + size]
        rows = [pool[place] for place in chosen]
        for place in sorted(chosen, reverse=True):
            pool[place] = pool[-1]
            pool.pop()
        return rows


class Curriculum:
    """Which rows are open at a step: those of which at most a share c of all rows scores as low or lower.

    Rows of equal score open together, and the lowest that fill a batch are open from the first step on. Source:
    Platanios et al. 2019, "Competence-based curriculum learning for neural machine translation", algorithm 1.
    """

    def __init__(self, scores: Sequence[float], *, num_steps: int, batch_size: int, **pacing):
        self.num_steps, self.pacing = num_steps, pacing
        ordered = np.sort(scores)
        self.order = np.argsort(scores, kind="stable").tolist()
        self.density = np.searchsorted(ordered, ordered, side="right") / len(ordered)  # of each row in that order
        self.least = self.density[min(batch_size, len(ordered)) - 1]

    def num_open(self, step: int) -> int:
        """Return how many rows of `order` are open at a step of the training, counted from 0."""
        share = max(self.least, competence(step / self.num_steps, **self.pacing))
        return int(np.searchsorted(self.density, share, side="right"))


def competence(time: float, *, pacing: str, start: float, duration: float, steps: list[list[float]] | None) -> float:
    """Return the share of rows that may be open at a time, the share of the planned steps that are done.

    linear: min(1, t (1 - c0) / T + c0); root: min(1, sqrt(t (1 - c0^2) / T + c0^2)), of c0 = start and T = duration,
    equations 6 and 7 of Platanios et al. 2019; step: the share of the last pair (time, share) of `steps`.
    """
    if pacing == "step":
        return max((share for begins, share in steps if time >= begins), default=start)
    power = {"linear": 1, "root": 2}[pacing]
    return 1.0 if time >= duration else (time / duration * (1 - start**power) + start**power) ** (1 / power)
