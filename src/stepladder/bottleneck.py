"""Bottleneck adapters: small networks behind the sublayers of a frozen transformer, which alone are trained.

Each reads a sublayer's output h before it is added to the residual stream, and gives h + up(f(down(h))). Places are
those of Houlsby et al. 2019 (arXiv:1902.00751), behind attention and feed-forward, or of Pfeiffer et al. 2021
(arXiv:2005.00247), behind the feed-forward alone. The weights of the base keep their names.
"""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

CONFIG, WEIGHTS, PART = "bottleneck_config.json", "bottleneck.safetensors", "bottleneck"
ATTENTION = r"attention\.output\.dense|attention\.out_lin|attn\.(o_proj|out_proj|c_proj)|(Self|EncDec)Attention\.o"
FEEDFORWARD = r"(?<!attention\.)output\.dense|ffn\.lin2|mlp\.(down_proj|c_proj|fc2)|DenseReluDense\.wo"
PLACES = {"houlsby": f"({ATTENTION}|{FEEDFORWARD})$", "pfeiffer": f"({FEEDFORWARD})$"}
FUNCTIONS = {"relu": torch.nn.ReLU, "gelu": torch.nn.GELU, "silu": torch.nn.SiLU}


class Bottleneck(torch.nn.Module):
    """h + up(f(down(h))); `up` begins at zero, so that the model begins as it was."""

    def __init__(self, width: int, inner: int, function: str):
        super().__init__()
        self.down, self.function = torch.nn.Linear(width, inner), FUNCTIONS[function]()
        self.up = torch.nn.Linear(inner, width)
        torch.nn.init.normal_(self.down.weight, std=0.01)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            torch.nn.init.zeros_(zero)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what the sublayer gives on (rows, tokens, width)."""
        return hidden + self.up(self.function(self.down(hidden)))


def insert(model: torch.nn.Module, section: dict) -> torch.nn.Module:
    """Put an adapter behind each place of section["places"], `reduction_factor` times as narrow as the model.

    Raises ValueError for an architecture whose sublayers are not known by name.
    """
    pattern, width = re.compile(PLACES[section["places"]]), model.config.hidden_size
    found = [module for name, module in model.named_modules() if pattern.search(name)]
    if not found:
        raise ValueError(f"{model.config.model_type}: no place for a bottleneck; known are BERT, DistilBERT, Llama, T5")
    for module in found:
        module.bottleneck = Bottleneck(width, max(1, width // section["reduction_factor"]), section["function"])
        module.bottleneck.to(next(module.parameters()).device)
        module.register_forward_hook(_through)
    model.bottleneck_config = {key: section[key] for key in ("places", "reduction_factor", "function")}
    return model


def is_in(model: torch.nn.Module) -> bool:
    """Say whether the model has bottleneck adapters."""
    return hasattr(model, "bottleneck_config")


def save(model: torch.nn.Module, folder: Path, *, base: str | None) -> None:
    """Write what was trained, adapters and head, and what it stands beside."""
    trained = {name: weight.detach().contiguous() for name, weight in model.named_parameters() if weight.requires_grad}
    save_file(trained, folder / WEIGHTS, {"format": "pt"})
    content = {**model.bottleneck_config, "base_model_name_or_path": base}
    (folder / CONFIG).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def attach(model: torch.nn.Module, folder: Path) -> tuple[torch.nn.Module, list[str], list[str]]:
    """Return the model with the adapters saved in `folder`, and the names that are missing and left over."""
    insert(model.requires_grad_(False), json.loads((folder / CONFIG).read_text()))
    saved = load_file(folder / WEIGHTS)
    wanted = {name for name, _ in model.named_parameters() if f".{PART}." in name}
    report = model.load_state_dict(saved, strict=False)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in saved)
    return model.eval(), sorted(wanted - saved.keys()), report.unexpected_keys


def _through(module: torch.nn.Module, _inputs: tuple, output: Tensor) -> Tensor:
    return module.bottleneck(output)
