"""Language modelling: predict each next token of raw text; reported as bits per byte.

For training, `packing` joined puts records one after the other, behind the end-of-text token, and cuts rows of
`max_length` tokens without padding; documents keeps each record whole, at positions of its own, and blind for the
others of its row. For evaluation each record is scored alone, in windows of `max_length`, so that its bits can be
traced to it.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl
import torch
from torch import Tensor

from stepladder import generation, tokens


class Cut(Sequence):
    """Examples cut from one long array of ids when they are asked for; only the place of each is in memory.

    The pieces `places[firsts[i] : firsts[i + 1]]`, (from, to), are example i; `numbers` and `sizes` are its row and
    bytes. Where the ids end, `end` stands once more. With `firsts` each piece is a document, at positions of its own.
    """

    def __init__(
        self, ids, places: np.ndarray, numbers: np.ndarray, sizes=None, *, firsts=None, end: int | None = None
    ):
        self.ids, self.places, self.numbers, self.sizes = ids, places, numbers, sizes
        self.whole, self.end = firsts is not None, end
        self.firsts = np.arange(len(places) + 1) if firsts is None else firsts
        sums = np.concatenate([[0], np.cumsum(places[:, 1] - places[:, 0])])
        self.lengths = np.diff(sums[self.firsts]).tolist()

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index):
        index, ids, positions = range(len(self))[index], [], []
        if isinstance(index, range):
            return [self[i] for i in index]
        for start, stop in self.places[self.firsts[index] : self.firsts[index + 1]]:
            ids += self.ids[start:stop].tolist() + [self.end] * int(stop > len(self.ids))
            positions += range(stop - start)
        example = {"ids": ids, "row": int(self.numbers[index]), "length": len(ids)}
        example["bytes"] = 0 if self.sizes is None else int(self.sizes[index])
        return example | ({"positions": positions} if self.whole else {})


class Objective:
    """Next-token loss on every token; the end-of-text token stands before each record."""

    tasks = ("language_modeling",)

    def __init__(self, tokenizer, *, task: str, max_length: int, packing: str = "joined", **_unused):
        self.task, self.tokenizer, self.max_length, self.packing = task, tokenizer, max_length, packing

    def encode(self, records: pl.DataFrame, *, train: bool) -> Cut:
        """Return packed rows for training, windows of single records otherwise."""
        if train:
            return self.pack(records["input"])
        found = self._tokens(records["input"])
        places, texts = self._windows(np.asarray(found.ends))
        sizes = records["input"].str.len_bytes().to_numpy()
        first = np.diff(texts, prepend=-1) > 0  # of the windows of its text
        return Cut(found.ids, places, texts, np.where(first, sizes[texts], 0))

    def pack(self, texts: Iterable[str]) -> Cut:
        """Return rows for training; the texts are walked, and tokens stay on the disk until a row is asked for."""
        found = self._tokens(texts)
        if self.packing == "joined":
            starts = np.arange(0, len(found.ids) - 1, self.max_length)
            places = np.stack([starts, np.minimum(starts + self.max_length + 1, len(found.ids))], axis=1)
            return Cut(found.ids, places, np.arange(len(places)))
        places, _ = self._windows(np.asarray(found.ends), behind=1)  # behind a text stands the end-of-text of the next
        firsts = self._rows(places)
        numbers = np.arange(len(firsts) - 1)
        return Cut(found.ids, places, numbers, firsts=firsts, end=self.tokenizer.eos_token_id)

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask padded on the left, row and bytes (rows).

        Rows of whole documents bring `positions` (rows, tokens), which begin anew with each document.
        """
        batch = generation.left_pad([e["ids"] for e in examples], self.tokenizer.pad_token_id)
        if "positions" in examples[0]:  # padding is a document of its own
            width = batch["input_ids"].shape[1]
            padded = [[*range(width - len(e["ids"])), *e["positions"]] for e in examples]
            batch["positions"] = torch.tensor(padded)
        batch["row"] = torch.tensor([e["row"] for e in examples])
        batch["bytes"] = torch.tensor([e["bytes"] for e in examples])
        return batch

    def loss(self, model, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean negative log-likelihood in nats a token."""
        losses, mask = self._losses(model, batch)
        return losses.sum() / mask.sum()

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return how many tokens the loss is a mean of."""
        return int(self._real(batch).sum())

    def answer(self, model, batch: dict[str, Tensor]) -> list[dict]:
        """Return for each window its bytes, its nats and its number of predicted tokens."""
        losses, mask = self._losses(model, batch)
        sums, counts = losses.sum(1).tolist(), mask.sum(1).tolist()
        rows = zip(batch["row"].tolist(), batch["bytes"].tolist(), sums, counts, strict=True)
        return [{"row": row, "bytes": size, "loss": nats, "tokens": count} for row, size, nats, count in rows]

    def predictions(self, records: pl.DataFrame, rows: list[dict]) -> pl.DataFrame:
        """Return bits and num_bytes of each record, in order."""
        bits, sizes = [0.0] * len(records), [0] * len(records)
        for row in rows:
            bits[row["row"]] += row["loss"] / math.log(2)
            sizes[row["row"]] += row["bytes"]
        return records.select("id", "source", "target").with_columns(
            pl.lit(None, pl.String).alias("answer"), pl.Series("bits", bits), pl.Series("num_bytes", sizes, pl.Int64)
        )

    def _tokens(self, texts: Iterable[str]) -> tokens.Tokens:
        end = self.tokenizer.eos_token_id
        return tokens.encode(self.tokenizer, texts, before=[end], add_special_tokens=False)

    def _windows(self, ends: np.ndarray, *, behind: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the places of windows of each text, with so many ids `behind` it, and the number of each one's text.

        Windows share one token, so that each token but the first is predicted once.
        """
        starts, stops = np.concatenate([[0], ends[:-1]]), ends + behind
        counts = np.maximum(1, -(-(stops - starts - 1) // self.max_length))
        texts = np.repeat(np.arange(len(ends)), counts)
        within = np.arange(len(texts)) - np.repeat(np.cumsum(counts) - counts, counts)
        places = starts[texts] + within * self.max_length
        return np.stack([places, np.minimum(places + self.max_length + 1, stops[texts])], axis=1), texts

    def _rows(self, places: np.ndarray) -> np.ndarray:
        """Return where rows of whole pieces begin, as many as fit into each in their order, and where the last ends."""
        firsts, room = [0], self.max_length + 1
        for index, length in enumerate((places[:, 1] - places[:, 0]).tolist()):
            if length > room:
                firsts.append(index)
                room = self.max_length + 1
            room -= length
        return np.array([*firsts, len(places)])

    def _losses(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return losses (rows, tokens - 1) in nats, zero at padding, and the mask of real targets."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        if "positions" in batch:  # without a mask transformers lets each document see itself alone, by its positions
            logits = model(
                input_ids=ids[:, :-1], position_ids=batch["positions"][:, :-1], use_cache=False
            ).logits.float()
        else:
            logits = generation.logits(model, ids[:, :-1], mask[:, :-1], keep=ids.shape[1] - 1)
        real = self._real(batch)
        flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return flat.view_as(real) * real, real

    def _real(self, batch: dict[str, Tensor]) -> Tensor:
        """Return (rows, tokens - 1): 1 where the next token is one of the same text."""
        mask = batch["attention_mask"]
        real = mask[:, 1:] * mask[:, :-1]
        return real * (batch["positions"].diff(dim=1) == 1) if "positions" in batch else real
