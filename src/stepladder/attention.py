"""Attention: short rows on a CPU by plain products, several times faster than torch's fused kernel.

transformers calls it by its name, after `prefer(model)`. Query heads that share keys (Ainslie et al. 2023,
arXiv:2305.13245) are stacked, so that no key is copied. Source: Vaswani et al. 2017 (arXiv:1706.03762), section 3.2.1.
On two Zen 4 cores in bf16, forward and backward of 16 rows of 30 tokens take 1.6 ms instead of 9.7, of 8 rows of 256
tokens 26 ms instead of 42; from 512 tokens on the fused kernel wins, and it is what longer rows get.
"""

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from stepladder import dropout as drop

NAME = "short_rows"
LIMIT = 256 * 256  # queries x keys of a row


def prefer(model: torch.nn.Module, kind: str = "auto") -> None:
    """Let the transformers models in `model` attend by sdpa or eager; auto is `attend` where they lie on a CPU."""
    for part in model.modules():
        if not isinstance(part, PreTrainedModel):
            continue
        if kind != "auto":
            part.set_attn_implementation(kind)
        elif part.device.type == "cpu" and part.config._attn_implementation == "sdpa":
            part.set_attn_implementation(NAME)


def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, **options):
    """Return (rows, queries, heads, width) and no weights; `attention_mask` is True where a query may look, or None.

    query is (rows, heads, queries, width), key and value (rows, key heads, keys, width).
    """
    rows, heads, queries, width = query.shape
    masked = attention_mask is None or attention_mask.dtype == torch.bool
    special = any(options.get(name) is not None for name in ("position_bias", "softcap", "cache"))
    if queries * key.shape[2] > LIMIT or query.device.type != "cpu" or special or not masked:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
    stacked = (rows, key.shape[1], -1, key.shape[2])
    scaled = (query * (width**-0.5 if scaling is None else scaling)).reshape(rows, key.shape[1], -1, width)
    scores = (scaled @ key.transpose(2, 3)).view(rows, heads, queries, -1)
    allowed = _causal(module, queries, options) if attention_mask is None else attention_mask
    if allowed is not None:
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
    weights = drop.dropout(scores.softmax(-1), dropout)  # summed in float32 by torch, also for bf16
    return (weights.view(stacked) @ value).view(rows, heads, queries, -1).transpose(1, 2).contiguous(), None


def _causal(module, queries: int, options: dict) -> torch.Tensor | None:
    """Return the mask that is meant by None: a decoder's lower triangle, and all of it for a single query."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return torch.ones(queries, queries, dtype=torch.bool).tril() if causal and queries > 1 else None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
