"""Models: open tokenizers and weights from a folder, or build new ones; in eval mode, and in fp32 unless told.

No code of a model's author is ever run (trust_remote_code False) and no pickle is ever read (use_safetensors True).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging

from stepladder import quantization
from stepladder.errors import ConfigError, IntegrityError, StepladderError

STRICT = {
    "dtype": torch.float32,
    "local_files_only": True,
    "trust_remote_code": False,
    "use_safetensors": True,
    "output_loading_info": True,
}
PROBLEMS = {  # transformers' problem_type of a head
    "classification": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


def tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer with a pad token (the end token where none is named), padding where the model wants it.

    Encoders are padded on the right; decoders on the left, so that the last position is always the text's.
    """
    with opening(folder):
        opened = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    encoder = config.is_encoder_decoder or config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    opened.padding_side = "right" if encoder else "left"
    if opened.pad_token is None:
        opened.pad_token = opened.eos_token
    return opened


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer without how it was asked last, which is no part of it and would be saved along."""
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)


def classifier(
    folder: Path, labels: list[str], *, seed: int | None, task: str = "classification", **rounding
) -> PreTrainedModel:
    """Return the backbone with a fresh head over `labels`, in that order, drawn from `seed`; None: the saved head.

    The task goes into the model's config as transformers' problem_type, which names its loss.
    Raises IntegrityError when weights of the backbone (of the head as well, without a seed) are missing or left over.
    """
    names = dict(enumerate(labels))
    options = {"id2label": names, "label2id": {label: index for index, label in names.items()}}
    if seed is not None:
        options["ignore_mismatched_sizes"] = True
    with opening(folder), _seeded(seed or 0):
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder, problem_type=PROBLEMS[task], **options, **rounding, **STRICT
        )
    require_backbone(folder, model, report, fresh_head=seed is not None)
    if seed is not None:
        _draw_head(model, seed)
    model.config.pad_token_id = tokenizer(folder).pad_token_id
    return model.eval()


def causal(folder: Path, *, dtype: torch.dtype = torch.float32, **rounding) -> PreTrainedModel:
    """Return the decoder; raises IntegrityError when any of its weights is missing."""
    return _language_model(AutoModelForCausalLM, folder, dtype, rounding)


def seq2seq(folder: Path, *, dtype: torch.dtype = torch.float32, **rounding) -> PreTrainedModel:
    """Return the encoder-decoder; raises IntegrityError when any of its weights is missing."""
    return _language_model(AutoModelForSeq2SeqLM, folder, dtype, rounding)


def empty(form: str, folder: Path) -> PreTrainedModel:
    """Return the model of a form without its weights, to look at its layers."""
    kinds = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
    with opening(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return kinds.get(form, AutoModelForSequenceClassification).from_config(config)


def masked(folder: Path, *, seed: int) -> PreTrainedModel:
    """Return the encoder with a head that finds hidden tokens: its own, drawn from `seed` where it brings none."""
    with opening(folder), _seeded(seed):
        model, report = AutoModelForMaskedLM.from_pretrained(folder, **STRICT)
    require_backbone(folder, model, report, fresh_head=True)
    return model.eval()


def save_backbone(model: PreTrainedModel, base: Path, folder: Path) -> None:
    """Write the model of `base` with the backbone's weights of `model`; what only `base` has, a pooler, stays."""
    with opening(base):
        whole, _ = AutoModel.from_pretrained(base, **STRICT)
    whole.load_state_dict(model.base_model.state_dict(), strict=False)
    whole.save_pretrained(folder)


def _language_model(kind: type, folder: Path, dtype: torch.dtype, rounding: dict) -> PreTrainedModel:
    with opening(folder):
        model, report = kind.from_pretrained(folder, **rounding, **STRICT | {"dtype": dtype})
    require_backbone(folder, model, report, fresh_head=False)
    model.get_output_embeddings().register_forward_pre_hook(_together)
    return model.eval()


def _together(_head: torch.nn.Module, inputs: tuple) -> tuple:
    """Lay out the last positions of a batch side by side: of a view torch copies the head's weights once a row.

    Source: torch.matmul, which folds a batch into one product where that costs no copy of the smaller side.
    """
    return tuple(each.contiguous() for each in inputs)


def llama(section: dict, tokenizer: PreTrainedTokenizerBase, *, seed: int) -> LlamaForCausalLM:
    """Return an untrained Llama of the section's sizes with tied embeddings, drawn from `seed`.

    Its vocabulary is the tokenizer's; raises ConfigError when that is larger than the section's vocab_size.
    """
    if len(tokenizer) > section["vocab_size"]:
        raise ConfigError(f"model.vocab_size={section['vocab_size']}, but the tokenizer has {len(tokenizer)} tokens")
    sizes = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=section["context_length"],
        tie_word_embeddings=True,
        **{f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")},
        **{size: section[size] for size in sizes},
    )
    with _seeded(seed):
        return LlamaForCausalLM(config).float().eval()


def count(model: torch.nn.Module) -> tuple[int, int]:
    """Return the numbers of all and of trained parameters, tied ones once."""
    sizes = [(quantization.size(weight), weight.requires_grad) for weight in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def lighten(model: torch.nn.Module, precision: str) -> None:
    """Hold the weights of frozen linear layers in bf16 where each pass would round them so: same numbers, less work.

    Weights that an embedding shares stay as they are, because an embedding is not rounded by autocast.
    """
    if precision != "bf16-mixed":
        return
    looked_up = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    for module in model.modules():
        rounded = quantization.is_rounded(module)
        if isinstance(module, torch.nn.Linear) and id(module.weight) not in looked_up and not rounded:
            for weight in module.parameters(recurse=False):
                weight.data = weight.data if weight.requires_grad else weight.data.bfloat16()


def longest(model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many tokens the model was built to read; positions beyond them have no weights or no training."""
    limit = tokenizer.model_max_length
    return min(limit, getattr(model.config, "max_position_embeddings", limit))


def require_backbone(folder: Path, model: PreTrainedModel, report: dict, *, fresh_head: bool) -> None:
    """Only what lies outside the backbone, its pooler included, may differ between the file and the model."""
    backbone = {model.base_model_prefix, *(name for name, _ in model.base_model.named_children())} - {"pooler"}
    keys = {
        "missing": [*report["missing_keys"]],
        "left over": [*report["unexpected_keys"]],
        "of another shape": [key for key, *_ in report["mismatched_keys"]],
    }
    for fault, names in keys.items():
        strict = fault == "missing" and not fresh_head
        wrong = sorted(
            key for key in names if strict or (key.split(".")[0] in backbone and ".pooler." not in f".{key}")
        )
        if wrong:
            raise IntegrityError(f"{folder}: {len(wrong)} weights {fault}: {', '.join(wrong[:3])}")


def _draw_head(model: PreTrainedModel, seed: int) -> None:
    """Fill the head as transformers does, normal weights and zero biases, whatever head the file came with."""
    chance = torch.Generator().manual_seed(seed)
    inside = set(model.base_model.modules())
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module not in inside:
            torch.nn.init.normal_(module.weight, std=getattr(model.config, "initializer_range", 0.02), generator=chance)
            if module.bias is not None:
                torch.nn.init.zeros_(module.bias)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Silence the loader, whose report is checked instead, and name the folder in its errors."""
    try:
        with quiet():
            yield
    except (StepladderError, MemoryError):
        raise
    except Exception as error:  # the tokenizers library raises no narrower one
        reason = " ".join(str(error).split())[:400] or type(error).__name__
        raise IntegrityError(f"{folder}: cannot be opened: {reason}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what transformers says, its progress bars, and peft's use of old names and of extensions it may miss."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            for said in ("Failed to load the CUDA extension", "Setting boft_n_butterfly_factor to 1"):  # on a CPU
                warnings.filterwarnings("ignore", said, UserWarning)
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
