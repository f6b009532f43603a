"""Virtual tokens: run a causal model behind the prompt or prefix that peft learnt for it (prompt learning).

peft's own forward drops position ids, so that a text's distance from its prefix would grow with the padding between
them, and a row's answer with the batch it stands in. Here the positions follow the mask: prefix, then text.
"""

import torch
from torch import Tensor


def count(model) -> int:
    """Return how many learnt tokens stand before each input of the model; 0 without prompt learning."""
    config = getattr(model, "active_peft_config", None)
    return config.num_virtual_tokens if getattr(config, "is_prompt_learning", False) else 0


def before(model, input_ids: Tensor, attention_mask: Tensor, *, copies: int = 1) -> dict:
    """Return what the base model reads in place of the tokens (rows, tokens), padded on the left.

    A prefix is the keys and values of tokens that were never read; a prompt is embeddings before those of the text.
    `copies` of each row are what beams want of a prefix.
    """
    prompt = model.get_prompt(len(input_ids) * (1 if model.active_peft_config.peft_type == "PROMPT_TUNING" else copies))
    mask = torch.cat([attention_mask.new_ones((len(input_ids), count(model))), attention_mask], dim=1)
    if not isinstance(prompt, Tensor):
        return {"input_ids": input_ids, "attention_mask": mask, "past_key_values": prompt}
    words = model.get_base_model().get_input_embeddings()(input_ids)
    return {"inputs_embeds": torch.cat([prompt.to(words.dtype), words], dim=1), "attention_mask": mask}


def generate(model, input_ids: Tensor, attention_mask: Tensor, **options) -> Tensor:
    """Return the tokens that follow each row, alone (rows, new tokens)."""
    read = before(model, input_ids, attention_mask, copies=options.get("num_beams", 1))
    skip = 0
    if "past_key_values" in read:  # transformers cuts from the ids what the cache holds already
        blank = input_ids.new_full((len(input_ids), count(model)), options["pad_token_id"])
        read["input_ids"] = torch.cat([blank, input_ids], dim=1)
        skip = read["input_ids"].shape[1]
    return model.get_base_model().generate(**read, **options)[:, skip:]
