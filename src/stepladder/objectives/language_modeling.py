"""Language modelling: predict each next token of raw text; reported as bits per byte.

For training, `packing` joined puts records one after the other, behind the end-of-text token, and cuts rows of
`max_length` tokens without padding; documents keeps each record whole, at positions of its own, and blind for the
others of its row. For evaluation each record is scored alone, in windows of `max_length`, so that its bits can be
traced to it.
"""

import math

import polars as pl
import torch
from torch import Tensor

from stepladder import generation, tokens


class Objective:
    """Next-token loss on every token; the end-of-text token stands before each record."""

    tasks = ("language_modeling",)

    def __init__(self, tokenizer, *, task: str, max_length: int, packing: str = "joined", **_unused):
        self.task, self.tokenizer, self.max_length, self.packing = task, tokenizer, max_length, packing

    def encode(self, records: pl.DataFrame, *, train: bool) -> list[dict]:
        """Return packed rows for training, windows of single records otherwise."""
        end, inputs = self.tokenizer.eos_token_id, records["input"].to_list()
        starts = tokens.encode(self.tokenizer, inputs, before=[end], add_special_tokens=False)
        if train and self.packing == "joined":
            places = range(0, len(starts.ids) - 1, self.max_length)
            rows = [starts.ids[i : i + self.max_length + 1] for i in places]
            return [{"ids": ids, "row": i, "bytes": 0, "length": len(ids)} for i, ids in enumerate(rows)]
        if train:
            return self._whole([part for ids in starts for part in self._cut([*ids, end])])
        sizes = [len(text.encode()) for text in inputs]
        return [window for i, ids in enumerate(starts) for window in self._windows(i, ids, sizes[i])]

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

    def _cut(self, ids: list[int]) -> list[list[int]]:
        """Return the ids in windows that share one token, so that each token but the first is predicted once."""
        starts = range(0, len(ids) - 1, self.max_length) or [0]
        return [ids[i : i + self.max_length + 1] for i in starts]

    def _windows(self, row: int, ids: list[int], size: int) -> list[dict]:
        return [
            {"ids": part, "row": row, "bytes": size if i == 0 else 0, "length": len(part)}
            for i, part in enumerate(self._cut(ids))
        ]

    def _whole(self, documents: list[list[int]]) -> list[dict]:
        """Return rows of whole documents, in their order, as many as fit."""
        rows = [{"ids": [], "positions": []}]
        for ids in documents:
            if len(rows[-1]["ids"]) + len(ids) > self.max_length + 1:
                rows.append({"ids": [], "positions": []})
            rows[-1]["ids"] += ids
            rows[-1]["positions"] += range(len(ids))
        return [{**row, "row": i, "bytes": 0, "length": len(row["ids"])} for i, row in enumerate(rows)]

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
