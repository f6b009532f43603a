"""A LoRA adapter on a tiny BERT, damaged in four ways, opened by PeftModel.from_pretrained.

python adapters.py        {"other base": {"refused": false, "same": false, "warned": false, "said": ""}, ...}
"""

import json
import shutil
import sys
import warnings
from pathlib import Path

import damage
import peft
import torch
from transformers import BertConfig, BertModel

SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 90}


def base(seed: int) -> BertModel:
    """Return one of the bases of equal shape."""
    torch.manual_seed(seed)
    return BertModel(BertConfig(**SHAPE)).eval()


def opened(folder: Path, seed: int, expected: torch.Tensor | None) -> tuple[dict, torch.Tensor | None]:
    """Return what opening an adapter told, and what the model then answers."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            with torch.no_grad():
                answer = peft.PeftModel.from_pretrained(base(seed), folder)(torch.arange(10)[None]).last_hidden_state
        except Exception as error:
            return {"refused": True, "said": f"{type(error).__name__}: {error}"}, None
    warned = [str(each.message).splitlines()[0] for each in told if "adapter" in str(each.message).lower()]
    same = expected is None or torch.allclose(answer, expected, equal_nan=False)
    return {"refused": False, "same": same, "warned": bool(warned), "said": " ".join(warned)[:100]}, answer


def main() -> None:
    """Print one entry for each damage."""
    whole = Path("adapter")
    model = peft.get_peft_model(base(0), peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False))
    chance = torch.Generator().manual_seed(7)  # other numbers than a fresh adapter would draw
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=chance)
    model.save_pretrained(whole)
    _, expected = opened(whole, 0, None)
    found = {"another base": opened(whole, 1, expected)[0]}
    for name, spoil in damage.KINDS.items():
        folder = Path(f"adapter {name}")
        shutil.copytree(whole, folder)
        spoil(folder / "adapter_model.safetensors")
        found[name] = opened(folder, 0, expected)[0]
    print(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
