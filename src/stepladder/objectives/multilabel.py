"""Multilabel: a classification head says yes or no to each label; binary cross-entropy, the mean over the labels."""

import numpy as np
import polars as pl
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from stepladder import targets
from stepladder.objectives import supervised


class Objective(supervised.Objective):
    """Loss of `AutoModelForSequenceClassification` with problem_type multi_label_classification (BCEWithLogitsLoss)."""

    tasks = ("multilabel",)

    def __init__(self, tokenizer, *, reading: dict, **given):
        super().__init__(tokenizer, **given)
        self.threshold = reading["threshold"]

    def loss(self, model, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean binary cross-entropy over the rows that have a target and their labels, in nats."""
        known = _known(batch)
        return binary_cross_entropy_with_logits(self._logits(model, batch)[known], batch["labels"][known])

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return how many rows the loss is a mean of."""
        return int(_known(batch).sum())

    def answer(self, model, batch: dict[str, Tensor]) -> list[dict]:
        """Return for each row the probabilities of its labels and its loss."""
        logits, known = self._logits(model, batch), _known(batch)  # (rows, labels)
        losses = binary_cross_entropy_with_logits(logits, batch["labels"].nan_to_num(), reduction="none")
        losses, shares = losses.mean(1) * known, logits.sigmoid().cpu().numpy()
        rows = zip(batch["row"].tolist(), shares, losses.tolist(), known.tolist(), strict=True)
        return [{"row": row, "scores": score, "loss": loss, "tokens": int(has)} for row, score, loss, has in rows]

    def predictions(self, records: pl.DataFrame, rows: list[dict]) -> pl.DataFrame:
        """Return the predictions of `records` in their order: the labels whose probability reaches the threshold."""
        ordered = sorted(rows, key=lambda row: row["row"])
        shares = np.stack([row["scores"] for row in ordered]).astype(np.float64)
        return targets.answered(records, shares, self.labels, shares >= self.threshold)

    def _labels(self, records: pl.DataFrame) -> list[list[float]]:
        return targets.marks(records, self.labels).tolist()


def _known(batch: dict[str, Tensor]) -> Tensor:
    """Return which rows have a target, (rows,)."""
    return ~batch["labels"].isnan().any(1)
