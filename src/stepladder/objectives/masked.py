"""Masked: some tokens of raw text are hidden from an encoder, which finds them (Devlin et al. 2019, arXiv:1810.04805).

Of the chosen tokens 80 % become the mask, 10 % another token, 10 % stay. Which they are is drawn anew at each step,
from the random state that a checkpoint keeps; for a validation from the number of the row.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from stepladder import tokens
from stepladder.errors import ConfigError
from stepladder.objectives import IGNORED
from stepladder.objectives.language_modeling import Cut

SHARE = 0.15  # of the tokens


class Rows(Sequence):
    """Rows cut from the joined texts, within what begins and ends each; `predicted` says how much each is to learn."""

    def __init__(self, cut: Cut, before: list[int], behind: list[int], predicted):
        self.cut, self.before, self.behind, self.predicted = cut, before, behind, predicted
        self.lengths = [size + len(before) + len(behind) for size in cut.lengths]

    def __len__(self) -> int:
        return len(self.cut)

    def __getitem__(self, index: int) -> dict:
        ids = self.cut[index]["ids"]
        whole = self.before + ids + self.behind
        return {"ids": whole, "row": index, "length": len(whole), "predicted": self.predicted(ids)}


class Objective:
    """Cross-entropy on the hidden tokens; there is no task that it answers."""

    tasks = ()

    def __init__(self, tokenizer, *, max_length: int, **_unused):
        self.task, self.tokenizer, self.max_length = None, tokenizer, max_length
        if tokenizer.mask_token_id is None or tokenizer.sep_token_id is None:
            raise ConfigError("model: its tokenizer has no token that hides another; phase adapt needs one here")

    def encode(self, records: pl.DataFrame, *, train: bool) -> Rows:
        """Return the records' texts, packed."""
        return self.pack(records["input"])

    def pack(self, texts: Iterable[str]) -> Rows:
        """Return rows of `max_length` tokens; a separator stands before each text."""
        start, end = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        cut = joined(tokens.encode(self.tokenizer, texts, before=[end], add_special_tokens=False), self.max_length - 2)
        return Rows(cut, [start], [end], lambda ids: max(1, round(SHARE * sum(token != end for token in ids))))

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask padded on the right, sizes and row (rows)."""
        found = {"input_ids": [e["ids"] for e in examples]}
        return {
            **self.tokenizer.pad(found, padding_side="right", return_tensors="pt"),
            "sizes": torch.tensor([e["predicted"] for e in examples]),
            "row": torch.tensor([e["row"] for e in examples]),
        }

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return how many tokens are hidden."""
        return int(batch["sizes"].sum())

    def loss(self, model, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean nats of the hidden tokens."""
        return self._nats(model, batch, None).sum() / self.count(batch)

    def losses(self, model, batch: dict[str, Tensor]) -> list[dict]:
        """Return for each row its nats and how many tokens were hidden."""
        nats = self._nats(model, batch, batch["row"].tolist()).sum(1).tolist()
        rows = zip(batch["row"].tolist(), nats, batch["sizes"].tolist(), strict=True)
        return [{"row": row, "loss": loss, "tokens": size} for row, loss, size in rows]

    def hide(self, batch: dict[str, Tensor], seeds: list[int] | None) -> tuple[Tensor, Tensor]:
        """Return what the model sees and what it is to find, (rows, tokens); the latter is IGNORED elsewhere.

        `seeds` draw for each row by itself; None takes the random state.
        """
        ids, sizes = batch["input_ids"].cpu(), batch["sizes"].cpu()
        names = ("cls_token_id", "sep_token_id", "pad_token_id")
        special = torch.isin(ids, torch.tensor([getattr(self.tokenizer, name) for name in names]))
        chance = torch.stack([_drawn(ids.shape[1], seed) for seed in seeds or [None] * len(ids)])  # (rows, 3, tokens)
        order = chance[:, 0].masked_fill(special, 2.0).argsort(1).argsort(1)
        chosen = order < sizes[:, None]
        others = (chance[:, 2] * len(self.tokenizer)).long()
        seen = torch.where(chosen & (chance[:, 1] < 0.8), self.tokenizer.mask_token_id, ids)
        seen = torch.where(chosen & (chance[:, 1] >= 0.9), others, seen)
        device = batch["input_ids"].device
        return seen.to(device), ids.masked_fill(~chosen, IGNORED).to(device)

    def _nats(self, model, batch: dict[str, Tensor], seeds: list[int] | None) -> Tensor:
        """Return the nats of each token, (rows, tokens), zero where nothing is hidden; the head sees no others."""
        seen, wanted = self.hide(batch, seeds)
        hidden = wanted != IGNORED

        def only_hidden(_model, _given, found):
            found.last_hidden_state = found.last_hidden_state[hidden][None]
            return found

        hook = model.base_model.register_forward_hook(only_hidden)
        try:
            logits = model(input_ids=seen, attention_mask=batch["attention_mask"]).logits[0].float()
        finally:
            hook.remove()
        nats = torch.nn.functional.cross_entropy(logits, wanted[hidden], reduction="none")
        return torch.zeros(wanted.shape, device=nats.device).masked_scatter(hidden, nats)


def joined(found: tokens.Tokens, size: int) -> Cut:
    """Return the texts one after the other, cut into rows of so many tokens; a last one of a single token is left."""
    starts = np.arange(0, max(1, len(found.ids) - 1), size)
    places = np.stack([starts, np.minimum(starts + size, len(found.ids))], axis=1)
    return Cut(found.ids, places, np.arange(len(places)))


def _drawn(width: int, seed: int | None) -> Tensor:
    """Return three uniform numbers a token, the same whatever the row is padded to."""
    if seed is None:
        return torch.rand(3, width)
    return torch.rand(width, 3, generator=torch.Generator().manual_seed(seed)).T
