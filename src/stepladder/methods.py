"""Methods: which weights of a loaded model are trained at level `finetune`.

`full` trains all, `frozen` only the head, and the name of a PEFT configuration class (`peft.LoraConfig`) trains
what that class adds. Source: Hu et al. 2021 (arXiv:2106.09685) for LoRA, the peft library for the rest.
"""

import warnings
from pathlib import Path

import peft
import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS_NAME
from safetensors.torch import load_file

from stepladder import models
from stepladder.errors import ConfigError, IntegrityError

FULL, FROZEN = {"name": "full"}, {"name": "frozen"}


def apply(model: torch.nn.Module, method: dict, *, seed: int) -> torch.nn.Module:
    """Return `model` ready to train by `method`; PEFT methods return a wrapped model.

    Raises ConfigError when the method leaves nothing to train, or names no PEFT configuration.
    """
    torch.manual_seed(seed)
    if target := method.get("_target_"):
        with models.quiet():
            model = peft.get_peft_model(model, _configuration(target, method, model))
    elif method == FROZEN:
        model.base_model.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ConfigError(f"method: {method} leaves no weight to train")
    return model


def attach(model: torch.nn.Module, folder: Path) -> peft.PeftModel:
    """Return `model` with the adapter that was saved in `folder`.

    Raises IntegrityError with the keys where its settings are of a later peft, or its weights are missing, left over,
    of another shape or not finite: peft itself goes on with what fits, and says so in a warning at most.
    """
    file = folder / WEIGHTS_NAME
    with models.opening(folder), warnings.catch_warnings():
        warnings.filterwarnings("error", "Unexpected keyword arguments")
        adapted = peft.PeftModel.from_pretrained(model, folder).eval()
        saved, wanted = load_file(file), peft.get_peft_model_state_dict(adapted)
    wrong = {
        "missing": sorted(wanted.keys() - saved.keys()),
        "left over": sorted(saved.keys() - wanted.keys()),
        "not finite": sorted(key for key, weight in saved.items() if not weight.isfinite().all()),
    }
    if any(wrong.values()):
        told = "; ".join(f"{len(keys)} weights {how}: {', '.join(keys[:3])}" for how, keys in wrong.items() if keys)
        raise IntegrityError(f"{file}: {told}")
    return adapted


def _configuration(target: str, method: dict, model: torch.nn.Module) -> peft.PeftConfig:
    kind = getattr(peft, target.removeprefix("peft."), None)
    if not (isinstance(kind, type) and issubclass(kind, peft.PeftConfig)):
        raise ConfigError(f"method._target_: '{target}' is no configuration class of peft")
    options = {key: value for key, value in method.items() if key not in ("_target_", "name")}
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return kind(task_type="CAUSAL_LM", **options)
    if options.get("target_modules") == "all-linear":  # the head is trained whole; peft spares only its last layer
        options.setdefault("exclude_modules", _head(model))
    return kind(task_type="SEQ_CLS", **options)


def _head(model: torch.nn.Module) -> list[str]:
    inside = set(model.base_model.modules())
    linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return [name for name in linear if model.get_submodule(name) not in inside]
