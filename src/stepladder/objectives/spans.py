"""Spans: some runs of tokens are taken out of raw text; a model of two halves reads the rest and writes them.

15 % of the tokens, in runs of three on average; each run's place is a sentinel, `<extra_id_0>` and on, and the decoder
writes each sentinel with its run behind it. Source: Raffel et al. 2020, arXiv:1910.10683, 3.1.4 (T5).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from stepladder import tokens
from stepladder.errors import ConfigError
from stepladder.objectives import masked, seq2seq

LENGTH = 3  # tokens of a run, on average


class Objective(masked.Objective):
    """Cross-entropy on the runs, their sentinels and the end; there is no task that it answers."""

    def __init__(self, tokenizer, *, max_length: int, **_unused):
        self.task, self.tokenizer, self.max_length = None, tokenizer, max_length
        most = runs(max_length)[1] + 1
        known, names = tokenizer.get_vocab(), [f"<extra_id_{i}>" for i in range(most)]
        if missing := [name for name in names if name not in known]:
            raise ConfigError(
                f"model: its tokenizer lacks the sentinel {missing[0]}; rows of trainer.max_length={max_length} "
                f"tokens need {most}; lower it, or take a model with sentinels, as T5"
            )
        self.sentinels = [known[name] for name in names]

    def pack(self, texts: Iterable[str]) -> masked.Rows:
        """Return rows of at most `max_length` tokens; the end-of-text token stands before each text."""
        end = self.tokenizer.eos_token_id
        found = tokens.encode(self.tokenizer, texts, before=[end], add_special_tokens=False)
        cut = masked.joined(found, self.max_length - 1)  # what is read of it may be one longer
        return masked.Rows(cut, [], [], lambda ids: sum(runs(len(ids))) + 2)

    def take_out(self, ids: list[int], seed: int | None) -> tuple[list[int], list[int]]:
        """Return what the encoder reads of a row and what the decoder is to write; a seed of None: the random state."""
        source = None if seed is None else torch.Generator().manual_seed(seed)
        noise, number = runs(len(ids))
        parts = [_parted(size, number, source) for size in (len(ids) - noise, noise)]
        read, written, place = [], [], 0
        for sentinel, kept, taken in zip(self.sentinels, *parts, strict=False):
            read += [*ids[place : place + kept], sentinel]
            written += [sentinel, *ids[place + kept : place + kept + taken]]
            place += kept + taken
        end = self.tokenizer.eos_token_id
        return [*read, end], [*written, self.sentinels[number], end]

    def _nats(self, model, batch: dict[str, Tensor], seeds: list[int] | None) -> Tensor:
        lengths = batch["attention_mask"].sum(1).tolist()
        whole = [ids[:size] for ids, size in zip(batch["input_ids"].tolist(), lengths, strict=True)]
        pairs = [self.take_out(ids, seed) for ids, seed in zip(whole, seeds or [None] * len(whole), strict=True)]
        read = self.tokenizer.pad(
            {"input_ids": [ids for ids, _ in pairs]}, padding_side="right", return_tensors="pt"
        ).to(batch["input_ids"].device)
        return seq2seq.token_losses(model, dict(read), [written for _, written in pairs])[0]


def runs(size: int) -> tuple[int, int]:
    """Return how many of a row's tokens are taken out, and in how many runs."""
    noise = min(max(1, round(masked.SHARE * size)), max(0, size - 1))
    return noise, min(max(1, round(noise / LENGTH)), max(1, noise))


def _parted(size: int, number: int, source: torch.Generator | None) -> list[int]:
    """Return `number` random lengths of at least one token that add up to `size`."""
    ends = torch.randperm(size - 1, generator=source)[: number - 1].sort().values + 1
    return torch.diff(ends, prepend=torch.tensor([0]), append=torch.tensor([size])).tolist()
