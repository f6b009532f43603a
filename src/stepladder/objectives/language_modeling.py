"""Language modelling: predict each next token of raw text; reported as bits per byte.

For training, records are joined by the end-of-text token and cut into rows of `max_length` tokens without padding;
for evaluation each record is scored alone, in windows of `max_length`, so that its bits can be traced to it.
"""

import math

import polars as pl
import torch
from torch import Tensor

from stepladder import generation


class Objective:
    """Next-token loss on every token; the end-of-text token stands before each record."""

    tasks = ("language_modeling",)

    def __init__(self, tokenizer, *, task: str, max_length: int, **_unused):
        self.task, self.tokenizer, self.max_length = task, tokenizer, max_length

    def encode(self, records: pl.DataFrame, *, train: bool) -> list[dict]:
        """Return packed rows for training, windows of single records otherwise."""
        texts = self.tokenizer(records["input"].to_list(), add_special_tokens=False)["input_ids"]
        starts = [[self.tokenizer.eos_token_id, *ids] for ids in texts]
        if train:
            joined = [token for ids in starts for token in ids]
            rows = [joined[i : i + self.max_length + 1] for i in range(0, len(joined) - 1, self.max_length)]
            return [{"ids": ids, "row": i, "bytes": 0, "length": len(ids)} for i, ids in enumerate(rows)]
        sizes = [len(text.encode()) for text in records["input"]]
        return [window for i, ids in enumerate(starts) for window in self._windows(i, ids, sizes[i])]

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """Return input_ids and attention_mask padded on the left, row and bytes (rows)."""
        return {
            **generation.left_pad([e["ids"] for e in examples], self.tokenizer.pad_token_id),
            "row": torch.tensor([e["row"] for e in examples]),
            "bytes": torch.tensor([e["bytes"] for e in examples]),
        }

    def loss(self, model, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean negative log-likelihood in nats a token."""
        losses, mask = self._losses(model, batch)
        return losses.sum() / mask.sum()

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

    def _windows(self, row: int, ids: list[int], size: int) -> list[dict]:
        starts = range(0, len(ids) - 1, self.max_length) or [0]
        parts = [ids[i : i + self.max_length + 1] for i in starts]
        return [
            {"ids": part, "row": row, "bytes": size if i == 0 else 0, "length": len(part)}
            for i, part in enumerate(parts)
        ]

    def _losses(self, model, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return losses (rows, tokens - 1) in nats, zero at padding, and the mask of real targets."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        logits = generation.logits(model, ids[:, :-1], mask[:, :-1], keep=ids.shape[1] - 1)
        real = mask[:, 1:] * mask[:, :-1]
        flat = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return flat.view_as(real) * real, real
