"""Methods: which weights of a loaded model are trained at level `finetune`.

`full` trains all, `frozen` only the head, `partial` some of the model's own, `gradual` more with each epoch,
`bottleneck` small networks between the layers, and the name of a PEFT configuration class (`peft.LoraConfig`) what
that class adds. An adapted model stands beside its base: `save` writes what was added alone, `attach` puts it back.
"""

from pathlib import Path

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from stepladder import adapters, bottleneck, models
from stepladder.errors import ConfigError

FULL, FROZEN = {"name": "full"}, {"name": "frozen"}
WHOLE = ("full", "partial", "gradual")  # methods that change the model's own weights


def apply(model: torch.nn.Module, method: dict, *, seed: int, base: Path | None = None) -> torch.nn.Module:
    """Return `model` ready to train by `method`; PEFT methods return a wrapped model.

    `base` is the folder of its tokenizer, which a prompt that begins as a text wants. Raises ConfigError when the
    method leaves nothing to train, cannot be had with this model, or names no PEFT configuration.
    """
    torch.manual_seed(seed)
    if method.get("_target_"):
        model = adapters.add(model, method, outside=outside(model), base=base)
    elif method == FROZEN:
        model.base_model.requires_grad_(False)
    elif method.get("name") == "partial":
        _partial(model, method)
    elif method.get("name") == "bottleneck":
        _bottlenecks(model, method)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ConfigError(f"method: {method} leaves no weight of {model.config.model_type} to train")
    return model


def thaw(model: torch.nn.Module, *, layers_per_epoch: int, epoch: int) -> None:
    """Let the head learn first, then the upper layers, so many more with each epoch, in the end the embeddings.

    A model without a new head begins with its upper layers. Source: Howard & Ruder 2018 (arXiv:1801.06146), 3.3.
    """
    new = set(outside(model))
    groups = layers(model)
    open_layers = (epoch + (not new)) * layers_per_epoch
    model.requires_grad_(open_layers >= max(map(len, groups)))
    for name in new:
        model.get_submodule(name).requires_grad_(True)
    for group in groups:
        for layer in list(group)[max(0, len(group) - open_layers) :]:
            layer.requires_grad_(True)


def layers(model: torch.nn.Module) -> list[torch.nn.ModuleList]:
    """Return the model's stacks of layers, from the input on: one, or those of encoder and decoder."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    return [stack for stack in lists if all(isinstance(layer, GradientCheckpointingLayer) for layer in stack)]


def outside(model: torch.nn.Module) -> list[str]:
    """Return the names of the linear layers outside the backbone: the head, but none where it shares its weights."""
    inside = {id(weight) for weight in model.base_model.parameters()}
    linear = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return [name for name in linear if id(model.get_submodule(name).weight) not in inside]


def adapted(model: torch.nn.Module) -> bool:
    """Say whether the model stands beside a base that is not saved with it."""
    return adapters.is_one(model) or bottleneck.is_in(model)


def save(model: torch.nn.Module, folder: Path, *, base: str | None) -> None:
    """Write what was added to the base, whose name goes along."""
    folder.mkdir(parents=True, exist_ok=True)
    (bottleneck if bottleneck.is_in(model) else adapters).save(model, folder, base=base)


def attach(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """Return `model` with what was saved in `folder`.

    Raises IntegrityError with the keys where its settings are of a later peft, or its weights are missing, left over,
    of another shape or not finite.
    """
    if not (folder / bottleneck.CONFIG).is_file():
        return adapters.attach(model, folder)
    with models.opening(folder):
        model, missing, surplus = bottleneck.attach(model, folder)
    named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    infinite = [name for name, weight in named if not weight.isfinite().all()]
    adapters.refuse(folder / bottleneck.WEIGHTS, missing, surplus, infinite)
    return model


def merged(model: torch.nn.Module) -> torch.nn.Module:
    """Return the model with what was added multiplied into its weights, where that can be."""
    return adapters.merged(model) if adapters.is_one(model) else model


def base_weights(model: torch.nn.Module) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return a model that stays adapted as its base, and the base's weights under the names they had, head included."""
    if adapters.is_one(model):
        return adapters.base_weights(model)
    return model, {name: w for name, w in model.state_dict().items() if f".{bottleneck.PART}." not in name}


def _partial(model: torch.nn.Module, method: dict) -> None:
    """Freeze all but the head and what the section names: the last layers, every bias, the input embeddings."""
    head, number = outside(model), method["last_layers"]
    model.requires_grad_(False)
    for name in head:
        model.get_submodule(name).requires_grad_(True)
    for stack in layers(model):
        if number > len(stack):
            raise ConfigError(f"method.last_layers={number}: {model.config.model_type} has {len(stack)} layers")
        for layer in list(stack)[len(stack) - number :]:
            layer.requires_grad_(True)
    for name, weight in model.named_parameters():
        if method["biases"] and name.endswith("bias"):
            weight.requires_grad_(True)
    if method["embeddings"]:
        model.get_input_embeddings().requires_grad_(True)


def _bottlenecks(model: torch.nn.Module, method: dict) -> None:
    head = outside(model)
    model.requires_grad_(False)
    try:
        bottleneck.insert(model, method)
    except ValueError as error:
        raise ConfigError(f"method: {error}") from None
    for name in head:
        model.get_submodule(name).requires_grad_(True)
