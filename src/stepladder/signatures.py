"""Signatures: which keys and types each allowed `_target_` takes, so that a config is checked without importing torch.

python -m stepladder.signatures        writes signatures.json beside this file; run it after an upgrade of peft or torch
"""

import dataclasses
import inspect
import json
import types
import typing
from pathlib import Path

PATH = Path(__file__).with_name("signatures.json")
# Set by our own code, or names of modules and files to import: never a matter of config.
OURS = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_config", "megatron_core", "peft_type",
    "peft_version", "revision", "runtime_config", "task_type", "tokenizer_name_or_path",
}  # fmt: skip
PLAIN = {int: "int", float: "float", str: "str", bool: "bool", type(None): "null"}


def generate() -> dict[str, dict[str, str]]:
    """Return {"peft.LoraConfig": {"r": "int", ...}, "torch.optim.AdamW": {"learning_rate": "float", ...}, ...}."""
    found = {f"peft.{name}": _fields(kind) for name, kind in _peft()}
    found |= {f"torch.optim.{name}": _parameters(kind) for name, kind in _optimizers()}
    return dict(sorted(found.items()))


def write(path: Path = PATH) -> None:
    """Write the file that is committed."""
    path.write_text(json.dumps(generate(), indent=1) + "\n", encoding="utf-8")


def _peft() -> list[tuple[str, type]]:
    import peft

    found = inspect.getmembers(peft, inspect.isclass)
    return [(name, kind) for name, kind in found if issubclass(kind, peft.PeftConfig) and kind is not peft.PeftConfig]


def _fields(kind: type) -> dict[str, str]:
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind) if field.init and field.name not in OURS]
    return _expressible({name: _spell(hints[name]) for name in names})


def _optimizers() -> list[tuple[str, type]]:
    import torch

    found = inspect.getmembers(torch.optim, inspect.isclass)
    return [(name, kind) for name, kind in found if kind is not torch.optim.Optimizer and _is_plain(kind)]


def _is_plain(kind: type) -> bool:
    import torch

    return issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.LBFGS  # LBFGS wants a closure


def _parameters(kind: type) -> dict[str, str]:
    """Return the optimizer's keywords; torch's `lr` is called learning_rate here as everywhere in conf/."""
    parameters = [parameter for name, parameter in inspect.signature(kind).parameters.items() if name != "params"]
    return _expressible({"learning_rate" if p.name == "lr" else p.name: _spell(p.annotation) for p in parameters})


def _expressible(found: dict[str, str]) -> dict[str, str]:
    return {name: words for name, words in sorted(found.items()) if words}


def _spell(annotation) -> str:
    """Return the annotation in the words of schema.yaml; empty where YAML cannot express it."""
    words = [word for part in _alternatives(annotation) for word in _words(part)]
    return " | ".join(dict.fromkeys(words)) if set(words) - {"null"} else ""


def _words(part) -> list[str]:
    origin, inner = typing.get_origin(part), typing.get_args(part)
    if origin is typing.Literal:
        names = [f"={choice}" for choice in inner if isinstance(choice, str)]
        return names + sorted({PLAIN[type(choice)] for choice in inner if not isinstance(choice, str)})
    if origin in (list, tuple, dict):
        item = _spell(inner[1] if origin is dict else inner[0]).split(" | ")[0]
        return [f"{'map' if origin is dict else 'list'} of {item}"] if item else []
    return [PLAIN[part]] if part in PLAIN else []


def _alternatives(annotation) -> list:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [inner for part in typing.get_args(annotation) for inner in _alternatives(part)]
    return [annotation]


if __name__ == "__main__":
    write()
