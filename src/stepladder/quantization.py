"""Quantization: a frozen base of 4 bits a weight, by bitsandbytes, so that a larger model fits beside its adapter.

Dettmers et al. 2023, "QLoRA", arXiv:2305.14314. What is saved answers with the rounded weights in their full width:
the same numbers, without bitsandbytes.
"""

from importlib.util import find_spec

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from stepladder.errors import MachineError

BITS = 4


def options(kind: str, empty: PreTrainedModel, *, precision: str) -> dict:
    """Return the options of transformers' BitsAndBytesConfig, with the layers that stay whole: the head's.

    `empty` is the model without its weights. Raises MachineError where bitsandbytes is not installed.
    """
    if find_spec("bitsandbytes") is None:
        cure = "pip install 'stepladder[qlora]', or take method: lora"
        raise MachineError(f"method.quantization={kind} needs the package bitsandbytes: {cure}")
    inside = set(empty.base_model.modules()) - {empty.get_output_embeddings()}
    linear = (name for name, module in empty.named_modules() if isinstance(module, torch.nn.Linear))
    return {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": kind,
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16" if precision == "bf16-mixed" else "float32",
        "llm_int8_skip_modules": [name for name in linear if empty.get_submodule(name) not in inside],
    }


def given(options: dict | None) -> dict:
    """Return what `from_pretrained` is to be told."""
    return {"quantization_config": BitsAndBytesConfig(**options)} if options else {}


def steady(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with one product for training and answering.

    With AVX512-BF16 bitsandbytes answers by another one, which rounds to bf16 and repacks the weights on its way.
    """
    for module in model.modules():
        if is_rounded(module):
            module.support_avx512bf16_for_cpu = False
    return model


def is_rounded(module: torch.nn.Module) -> bool:
    """Say whether a layer's weights are of 4 bits."""
    return hasattr(getattr(module, "weight", None), "quant_state")


def size(weight: torch.nn.Parameter) -> int:
    """Return the number of weights, of which two share a byte where they are rounded."""
    state = getattr(weight, "quant_state", None)
    return state.shape.numel() if state else weight.numel()


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with its rounded weights in their full width."""
    return model.dequantize().eval()
