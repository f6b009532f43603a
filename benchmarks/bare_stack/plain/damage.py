"""Ways to damage a file of safetensors: bytes flipped, keys renamed, cut in the middle.

python damage.py flipped models/lora/adapter_model.safetensors
"""

import sys
from pathlib import Path

from safetensors.torch import load_file, save_file


def flip(file: Path) -> None:
    """Turn sixteen bytes of the weights round; the header, which tells where tensors lie, stays."""
    content = bytearray(file.read_bytes())
    place = (len(content) + 8 + int.from_bytes(content[:8], "little")) // 2
    content[place : place + 16] = bytes(255 - byte for byte in content[place : place + 16])
    file.write_bytes(bytes(content))


def rename(file: Path) -> None:
    """Give the tensors names that no model has."""
    save_file({key.replace("lora_A", "lora_X"): weight for key, weight in load_file(file).items()}, file)


def cut(file: Path) -> None:
    """Leave the first half."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


KINDS = {"flipped bytes": flip, "renamed keys": rename, "truncated": cut}

if __name__ == "__main__":
    KINDS[sys.argv[1]](Path(sys.argv[2]))
