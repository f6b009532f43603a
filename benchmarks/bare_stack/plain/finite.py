"""Say of each file of weights whether all of its numbers are finite.

python finite.py model/last.ckpt        {"model/last.ckpt": true}
"""

import json
import sys

import torch
from safetensors.torch import load_file


def finite(file: str) -> bool:
    """Return whether no weight is NaN or infinite."""
    weights = load_file(file) if file.endswith(".safetensors") else torch.load(file, weights_only=True)["state_dict"]
    return all(bool(torch.isfinite(weight).all()) for weight in weights.values())


if __name__ == "__main__":
    print(json.dumps({file: finite(file) for file in sys.argv[1:]}))
