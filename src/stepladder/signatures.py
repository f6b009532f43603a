"""Signatures: which keys and types each allowed `_target_` takes, so that a config is checked without importing torch.

python -m stepladder.signatures        writes signatures.json beside this file; run it after an upgrade of peft or torch
"""

import ast
import inspect
import json
from pathlib import Path

from stepladder import schema

# Set by our own code, or names of modules and files to import: never a matter of config.
OURS = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_config", "megatron_core", "peft_type",
    "peft_version", "revision", "runtime_config", "task_type", "tokenizer_name_or_path",
}  # fmt: skip


def generate() -> dict[str, dict[str, str]]:
    """Return schema.targets() as the installed peft and torch have it; torch's `lr` is learning_rate in conf/."""
    import peft
    import torch

    adapters = _subclasses(peft, peft.PeftConfig)
    optimizers = _subclasses(torch.optim, torch.optim.Optimizer)
    optimizers.pop("torch.optim.LBFGS")  # it wants a closure
    return {name: _parameters(kind) for name, kind in sorted((adapters | optimizers).items())}


def _subclasses(module, parent: type) -> dict[str, type]:
    found = inspect.getmembers(module, lambda kind: inspect.isclass(kind) and issubclass(kind, parent))
    return {f"{module.__name__}.{name}": kind for name, kind in found if kind is not parent}


def _parameters(kind: type) -> dict[str, str]:
    found = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        written = parameter.annotation
        text = written if isinstance(written, str) else inspect.formatannotation(written)
        if name not in OURS and (words := schema.spell(ast.parse(text, mode="eval").body)):
            found["learning_rate" if name == "lr" else name] = words
    return dict(sorted(found.items()))


if __name__ == "__main__":
    Path(schema.PACKAGE, "signatures.json").write_text(json.dumps(generate(), indent=1) + "\n", encoding="utf-8")
