"""Regression: a head of one output says a number; squared error."""

import numpy as np
import polars as pl
import torch
from torch import Tensor

from stepladder import targets
from stepladder.objectives import supervised


class Objective(supervised.Objective):
    """Loss of `AutoModelForSequenceClassification` with problem_type regression (MSELoss)."""

    tasks = ("regression",)

    def __init__(self, tokenizer, *, reading: dict, **given):
        super().__init__(tokenizer, **given)
        self.scale = reading["scale"]

    def loss(self, model, batch: dict[str, Tensor]) -> Tensor:
        """Return the mean squared error over the rows that have a target, in the square of their unit."""
        known = ~batch["labels"].isnan()
        return torch.nn.functional.mse_loss(self._numbers(model, batch)[known], batch["labels"][known])

    def count(self, batch: dict[str, Tensor]) -> int:
        """Return how many rows the loss is a mean of."""
        return int((~batch["labels"].isnan()).sum())

    def answer(self, model, batch: dict[str, Tensor]) -> list[dict]:
        """Return for each row its number and its loss."""
        numbers = self._numbers(model, batch)
        known = ~batch["labels"].isnan()
        losses = (numbers - batch["labels"]).square().nan_to_num() * known
        rows = zip(batch["row"].tolist(), numbers.tolist(), losses.tolist(), known.tolist(), strict=True)
        return [{"row": row, "number": number, "loss": loss, "tokens": int(has)} for row, number, loss, has in rows]

    def predictions(self, records: pl.DataFrame, rows: list[dict]) -> pl.DataFrame:
        """Return the predictions of `records` in their order, on the scale where there is one."""
        ordered = sorted(rows, key=lambda row: row["row"])
        return targets.measured(records, np.array([row["number"] for row in ordered]), self.scale)

    def _labels(self, records: pl.DataFrame) -> list[float]:
        return targets.numbers(records["target"]).tolist()

    def _numbers(self, model, batch: dict[str, Tensor]) -> Tensor:
        return self._logits(model, batch).squeeze(-1)  # (rows,)
