"""Limits: how fast this machine multiplies matrices, and how many multiplications a job needs.

A forward pass costs 2 FLOPs a weight and token, the gradient of the inputs 2 more, that of the weights 2 more
(Kaplan et al. 2020, arXiv:2001.08361, section 2.1): 2N to answer, 4N for LoRA, 6N to train all. Only tokens of texts
count, padding does not, and attention's own products are left out.
"""

import math

import torch

from benchmarks.clocks import Clock
from stepladder import settings

BF16 = settings.resolve("auto") != "32-true"  # whether this machine has units for it
SHARE = 1.0 if BF16 else 0.5  # of the rows, where the same work takes several times as long
NO_BF16 = None if BF16 else "not on this machine: it has no bf16 units"
TRIALS = 5
MIN_S = 0.05  # of each trial
ANSWER, ADAPT, TRAIN = 2, 4, 6  # FLOPs a weight and token


def product_rate(rows: int, width: int, inner: int, *, clock: Clock) -> float:
    """Return the best FLOP/s of (rows, width) x (width, inner) over some trials: the rate without neighbours.

    In bf16 where the machine has units for it, in float32 elsewhere.
    """
    torch.set_num_threads(clock.threads)
    left, right = (
        torch.randn(size, dtype=torch.bfloat16 if BF16 else torch.float32) for size in ((rows, width), (width, inner))
    )
    left @ right
    times, best = 1, math.inf
    for _ in range(TRIALS):
        seconds = 0.0
        while seconds < MIN_S:
            with torch.inference_mode(), clock.running():
                for _ in range(times):
                    left @ right
            seconds = clock.spent
            if seconds < MIN_S:
                times *= 2
        best = min(best, seconds / times)
    return 2 * rows * width * inner / best


def weights(model: torch.nn.Module) -> int:
    """Return the weights of a model's linear layers without those of its heads: each token passes them once."""
    inside = model.base_model.modules()
    return sum(module.weight.numel() for module in inside if isinstance(module, torch.nn.Linear))


def head(model: torch.nn.Module) -> int:
    """Return the weights of the layer that turns one position into scores of all tokens; 0 where there is none."""
    layer = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return layer.weight.numel() if layer is not None else 0
