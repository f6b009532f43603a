"""Supervised: a classification head answers; cross-entropy over the labels."""

import numpy as np
import polars as pl
import torch
from torch import Tensor

from stepladder import tokens
from stepladder.objectives import IGNORED, classified, positions


class Objective:
    """Cross-entropy of `AutoModelForSequenceClassification`, whose label order is `labels`."""

    tasks = ("classification",)

    def __init__(self, tokenizer, *, task: str, labels: list[str], max_length: int, **_unused):
        self.task, self.tokenizer, self.labels, self.max_length = task, tokenizer, labels, max_length
        self.columns = None  # which outputs of a head that has more are this task's

    def encode(self, records: pl.DataFrame, *, train: bool) -> list[dict]:
        """Return one example a record, its input cut to `max_length` tokens."""
        texts = tokens.encode(self.tokenizer, records["input"].to_list(), truncation=True, max_length=self.max_length)
        examples = []
        for row, (ids, label) in enumerate(zip(texts, self._labels(records), strict=True)):
            cut = len(ids) == self.max_length and len(self._whole(records["input"][row])) > self.max_length
            examples.append({"ids": ids, "label": label, "row": row, "length": len(ids), "cut": cut})
        return examples

    def collate(self, examples: list[dict]) -> dict[str, Tensor]:
        """Return input_ids, attention_mask (rows, tokens), labels and row (rows), padded on the right.

        So padded, the tokens of a text keep their positions, and a decoder's head finds its last one.
        Examples with `features` (rows, width), a frozen backbone's output, bring those instead of tokens.
        """
        if "features" in examples[0]:
            batch = {"features": torch.stack([e["features"] for e in examples])}
        else:
            ids = {"input_ids": [e["ids"] for e in examples]}
            batch = self.tokenizer.pad(ids, padding_side="right", return_tensors="pt")
        batch["labels"] = torch.tensor([e["label"] for e in examples])
        batch["row"] = torch.tensor([e["row"] for e in examples])
        return dict(batch)

    def loss(self, model, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean cross-entropy of the batch, in nats."""
        return torch.nn.functional.cross_entropy(self._logits(model, batch), batch["labels"])

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return how many rows the loss is a mean of."""
        return int((batch["labels"] != IGNORED).sum())

    def answer(self, model, batch: dict[str, Tensor]) -> list[dict]:
        """Return for each row its log-probabilities and its loss."""
        scores = self._logits(model, batch).log_softmax(-1)  # (rows, labels)
        losses = torch.nn.functional.nll_loss(scores, batch["labels"], reduction="none")
        counts = (batch["labels"] != IGNORED).long()
        rows = zip(batch["row"].tolist(), scores.cpu().numpy(), losses.tolist(), counts.tolist(), strict=True)
        return [{"row": row, "scores": score, "loss": loss, "tokens": count} for row, score, loss, count in rows]

    def predictions(self, records: pl.DataFrame, rows: list[dict]) -> pl.DataFrame:
        """Return the predictions of `records` in their order."""
        ordered = sorted(rows, key=lambda row: row["row"])
        return classified(records, np.stack([row["scores"] for row in ordered]).astype(np.float64), self.labels)

    def _labels(self, records: pl.DataFrame) -> list:
        """Return what the loss compares with, for each record."""
        return positions(records, self.labels)

    def _whole(self, text: str) -> list[int]:
        return self.tokenizer(text, verbose=False)["input_ids"]

    def _logits(self, model, batch: dict[str, Tensor]) -> Tensor:
        inputs = {key: value for key, value in batch.items() if key not in ("labels", "row")}
        logits = model(**inputs).logits.float()  # (rows, outputs)
        return logits if self.columns is None else logits[:, self.columns]
