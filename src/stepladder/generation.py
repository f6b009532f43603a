"""Generation: what a causal model says: log-likelihoods of given answers, and free text.

Prompts are lists of token ids. Batches are padded on the left, so that all rows end at the same position and only
the last positions need logits. A prefix that all prompts share (few-shot examples) is run once and its keys and
values are reused: same scores, a fraction of the work.
"""

import copy

import numpy as np
import torch
from torch import Tensor

from stepladder import llamacpp, virtual

MIN_PREFIX = 32  # tokens; below this, copying keys and values costs what it saves


def left_pad(sequences: list[list[int]], pad: int) -> dict[str, Tensor]:
    """Return input_ids and attention_mask (rows, tokens) with all rows ending at the last column."""
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), pad)
    mask = torch.zeros((len(sequences), width), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        ids[row, width - len(sequence) :] = torch.as_tensor(np.asarray(sequence, np.int64))
        mask[row, width - len(sequence) :] = 1
    return {"input_ids": ids, "attention_mask": mask}


def logits(model, input_ids: Tensor, attention_mask: Tensor, *, keep: int, cache=None) -> Tensor:
    """Return float32 logits (rows, keep, vocabulary) of the last `keep` positions.

    With a `cache`, `attention_mask` covers the cached tokens too and `input_ids` only what follows them.
    """
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "past_key_values": cache}
    if virtual.count(model):
        model, inputs = model.get_base_model(), virtual.before(model, input_ids, attention_mask)
    width = inputs.get("inputs_embeds", input_ids).shape[1]
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)[:, -width:]
    options = {"position_ids": positions, "logits_to_keep": keep, "use_cache": cache is not None}
    return model(**inputs, **options).logits.float()


def common_prefix(prompts: list[list[int]]) -> list[int]:
    """Return the longest token prefix of all prompts that leaves each of them at least one token."""
    first, last = min(prompts), max(prompts)
    limit = min(map(len, prompts)) - 1
    length = next((i for i in range(limit) if first[i] != last[i]), limit)
    return first[:length]


class Prefix:
    """Keys and values of a shared prompt prefix, computed once; empty when the prompts share too little."""

    def __init__(self, model, prompts: list[list[int]]):
        shared = common_prefix(prompts) if len(prompts) > 1 and not virtual.count(model) else []
        self.tokens = shared if len(shared) >= MIN_PREFIX else []
        self._cache = None
        if self.tokens:
            ids = torch.tensor([self.tokens], device=next(model.parameters()).device)
            self._cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values

    def cache(self, rows: int):
        """Return a fresh cache for `rows` rows, or None without a prefix."""
        if self._cache is None:
            return None
        fresh = copy.deepcopy(self._cache)
        fresh.batch_repeat_interleave(rows)
        return fresh

    def mask(self, mask: Tensor) -> Tensor:
        """Return `mask` (rows, tokens) with the prefix's columns in front."""
        return torch.cat([mask.new_ones((len(mask), len(self.tokens))), mask], dim=1)


def label_scores(model, batch: dict[str, Tensor], labels: list[list[int]], prefix: Prefix | None = None) -> Tensor:
    """Return (rows, labels): for each prompt the summed log-probability of all tokens of each label.

    One forward pass serves all labels of one token; longer labels take one pass each.
    Source: the log-likelihood requests of the LM Evaluation Harness (Gao et al. 2021).
    """
    if all(len(label) == 1 for label in labels):
        last = _after(model, batch, [], prefix)[:, -1]  # (rows, vocabulary)
        return last.log_softmax(-1)[:, [label[0] for label in labels]]
    columns = []
    for label in labels:
        steps = _after(model, batch, label[:-1], prefix).log_softmax(-1)  # (rows, tokens of the label, vocabulary)
        wanted = torch.tensor(label, device=steps.device).expand(len(steps), -1)[..., None]
        columns.append(steps.gather(-1, wanted).sum((1, 2)))
    return torch.stack(columns, dim=1)


def _after(model, batch: dict[str, Tensor], continuation: list[int], prefix: Prefix | None) -> Tensor:
    """Return logits at the last prompt token and at each token of `continuation` appended to every row."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    added = torch.tensor(continuation, dtype=ids.dtype, device=ids.device).expand(len(ids), -1)
    ids = torch.cat([ids, added], dim=1)
    mask = torch.cat([mask, mask.new_ones(added.shape)], dim=1)
    cache = None
    if prefix and prefix.tokens:
        cache, mask = prefix.cache(len(ids)), prefix.mask(mask)
    return logits(model, ids, mask, keep=len(continuation) + 1, cache=cache)


def generate(model, tokenizer, batch: dict[str, Tensor], *, one_line: bool, **decoding) -> list[str]:
    """Return the text that follows each prompt, without sampling, up to the end-of-text token or the line's end.

    `decoding` are max_new_tokens and num_beams; with `one_line` the first line is the answer. With a `gguf` file and
    its sha256 llama.cpp writes in the place of the model, and `decoding` are what llamacpp.write takes.
    """
    if "gguf" in decoding:
        masks = batch["attention_mask"].bool()
        prompts = [ids[mask].tolist() for ids, mask in zip(batch["input_ids"], masks, strict=True)]
        file, limit = (decoding.pop("gguf"), decoding.pop("sha256")), decoding.pop("max_new_tokens")
        options = {"one_line": one_line, "threads": torch.get_num_threads(), **decoding}
        return llamacpp.write(tokenizer, prompts, file=file, limit=limit, **options)
    plain = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    end = {"stop_strings": ["\n"], "tokenizer": tokenizer} if one_line else {}
    options = {**decoding, **plain, **end, "pad_token_id": tokenizer.pad_token_id}
    if virtual.count(model):
        written = virtual.generate(model, **batch, **options)
    else:
        written = model.generate(**batch, **options)[:, batch["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    return [text.strip().split("\n")[0].strip() if one_line else text.strip() for text in texts]
