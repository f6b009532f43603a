"""Batches: rows of like length together, in an order that is a pure function of seed and epoch."""

import torch
from torch.utils.data import Sampler

WINDOW = 50  # batches that are sorted together: large enough to fill batches, small enough to keep them random


class Batches(Sampler[list[int]]):
    """Batch sampler over `lengths` (tokens a row); set `epoch` before each pass, `skip` to begin later in the next."""

    def __init__(self, lengths: list[int], batch_size: int, *, seed: int):
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.epoch = self.skip = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self):
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=random).tolist()
        size = self.batch_size * WINDOW
        windows = [sorted(order[i : i + size], key=self.lengths.__getitem__) for i in range(0, len(order), size)]
        batches = [w[i : i + self.batch_size] for w in windows for i in range(0, len(w), self.batch_size)]
        first, self.skip = self.skip, 0
        for index in torch.randperm(len(batches), generator=random).tolist()[first:]:
            yield batches[index]
