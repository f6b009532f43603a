"""A tiny Llama as a GGUF file with a tokenizer, whole and damaged, opened by transformers.

python ggufs.py write tiny.gguf     the file alone
python ggufs.py open                {"half a file": {"refused": true, "said": "..."}, ...} of three that lie there
"""

import json
import sys
import time
from pathlib import Path

import gguf
import torch

SIZES = {"hidden": 64, "inner": 128, "heads": 4, "vocabulary": 300}


def write(file: Path) -> None:
    """Write a random model of one layer."""
    chance = torch.Generator().manual_seed(0)
    hidden, inner, vocabulary = SIZES["hidden"], SIZES["inner"], SIZES["vocabulary"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(inner)
    writer.add_block_count(1)
    writer.add_head_count(SIZES["heads"])
    writer.add_head_count_kv(SIZES["heads"])
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(hidden // SIZES["heads"])
    writer.add_vocab_size(vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*(f"<{i}>" for i in range(vocabulary - 3)), "a", "b", "ab"])
    writer.add_token_types([gguf.TokenType.NORMAL] * vocabulary)
    writer.add_token_merges(["a b"])
    for kind in ("bos", "eos", "unk"):
        getattr(writer, f"add_{kind}_token_id")(3)
    shapes = {"token_embd": (vocabulary, hidden), "output": (vocabulary, hidden), "output_norm": (hidden,)}
    shapes |= {f"blk.0.attn_{name}": (hidden, hidden) for name in ("q", "k", "v", "output")}
    shapes |= {f"blk.0.{name}": (inner, hidden) for name in ("ffn_gate", "ffn_up")}
    shapes |= {"blk.0.ffn_down": (hidden, inner), "blk.0.attn_norm": (hidden,), "blk.0.ffn_norm": (hidden,)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=chance).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def damage(file: Path, kind: str) -> None:
    """Cut a file in half, or overwrite a quarter of it, in the weights."""
    content = bytearray(file.read_bytes())
    if kind == "half a file":
        content = content[: len(content) // 2]
    else:
        size = len(content) // 4
        content[-2 * size : -size] = bytes(size)
    file.write_bytes(bytes(content))


def opened(file: Path) -> dict:
    """Return what transformers says to a file."""
    from transformers import AutoModelForCausalLM

    started = time.monotonic()
    try:
        AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    except Exception as error:
        said = f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
        return {"refused": True, "named": file.name in str(error), "said": said}
    return {"refused": False, "said": f"loads in {time.monotonic() - started:.1f} s"}


def main(word: str, *names: str) -> None:
    """Do what the word says."""
    if word == "write":
        return write(Path(names[0]))
    if word == "damage":
        return damage(Path(names[0]), names[1])
    files = {kind: Path(f"{kind}.gguf".replace(" ", "-")) for kind in ("whole", "half a file", "overwritten weights")}
    for kind, file in files.items():
        write(file)
        if kind != "whole":
            damage(file, kind)
    print(json.dumps({kind: opened(file) for kind, file in files.items()}))
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
