"""Micro-batches: a batch that does not fit into memory is computed in parts, to the loss and gradient of the whole.

The parts' losses are weighted by how much each of them predicts, so a step stays the step it was, also where the last
batch is short; trainer.accumulate asks for parts, and they double until they fit. Source of the idea: MosaicML
Composer's automatic micro-batches; of the weights: Hugging Face's "Fixing gradient accumulation" (2024).
"""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from stepladder.errors import MachineError

T = TypeVar("T")
EXHAUSTED = ("can't allocate memory", "could not create a memory", "could not create a primitive", "out of memory")
ADVICE = "lower trainer.max_length, set trainer.gradient_checkpointing: true, train fewer weights or a smaller model"


class Known(torch.autograd.Function):
    """A loss whose gradients by `weights` are computed already: backward hands them on."""

    @staticmethod
    def forward(ctx, loss: Tensor, gradients: list[Tensor | None], *weights: Tensor) -> Tensor:
        ctx.gradients = gradients
        return loss.clone()

    @staticmethod
    def backward(ctx, factor: Tensor):
        gradients, ctx.gradients = ctx.gradients, None
        if factor != 1:
            gradients = [None if each is None else each * factor for each in gradients]
        return None, None, *gradients


def loss(model, objective, batch: dict, parts: int, weights: list | None = None) -> Tensor:
    """Return the objective's loss of the batch, computed in so many parts, gradients of what is trained included.

    They are all there when it returns: what runs out of memory leaves no half gradient behind. `weights` are those of
    the model in its order, which whoever takes many steps lists once.
    """
    weights = [weight for weight in weights or model.parameters() if weight.requires_grad]
    pieces = split(batch, parts)
    counts = [objective.count(piece) for piece in pieces] if len(pieces) > 1 else [1]
    total, gradients = 0.0, None
    for piece, count in zip(pieces, counts, strict=True):
        if count:
            share = objective.loss(model, piece) * (count / sum(counts))
            with torch.autocast(share.device.type, enabled=False):  # each gradient in the type of its product
                found = torch.autograd.grad(share, weights, allow_unused=True)
            gradients = found if gradients is None else [_sum(*pair) for pair in zip(gradients, found, strict=True)]
            total = total + share.detach()
    return Known.apply(total, list(gradients), *weights)


def answers(model, answer: Callable, batch: dict, parts: int) -> list[dict]:
    """Return the answered rows of a batch, computed in so many parts."""
    return [row for piece in split(batch, parts) for row in answer(model, piece)]


def within_memory(work: Callable[[int], T], *, parts: int, rows: int) -> tuple[T, int]:
    """Return what `work(parts)` gives, and the parts: twice as many, aloud, each time that memory runs out.

    Raises MachineError with advice when single rows do not fit.
    """
    while True:
        try:
            return work(parts), parts
        except (MemoryError, RuntimeError) as error:
            if not exhausted(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        if parts >= rows:
            raise MachineError(f"memory does not suffice for one row at a time ({reason}); {ADVICE}")
        parts *= 2
        gc.collect()  # what the error's frames held
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"out of memory: batches are computed in {parts} parts; a step's rows and loss stay", flush=True)


def exhausted(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a CPU or another device."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in str(error) for word in EXHAUSTED)


def split(batch: dict, parts: int) -> list[dict]:
    """Return the batch as at most so many batches of as equal numbers of rows as possible, each as wide as it needs."""
    if parts == 1:
        return [batch]
    rows = len(batch["row"])
    size = -(-rows // parts)
    return [_narrow({key: value[i : i + size] for key, value in batch.items()}) for i in range(0, rows, size)]


def _narrow(batch: dict) -> dict:
    """Return the batch without columns that are padding in every row, on either side.

    What is a number a token is an integer: as many labels as tokens are no reason to cut them.
    """
    mask = batch.get("attention_mask")
    if mask is None:
        return batch
    used = mask.any(0).nonzero()
    kept = slice(int(used[0]), int(used[-1]) + 1)
    tensors = {key: value for key, value in batch.items() if torch.is_tensor(value)}
    wide = {key for key, each in tensors.items() if each.shape == mask.shape and not each.is_floating_point()}
    return {key: value[:, kept] if key in wide else value for key, value in batch.items()}


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return other if one is None else one if other is None else one + other
