"""Tiny random models with a tokenizer of letters, for Stepladder's project: an encoder, another one, a decoder.

python tiny.py state/tiny        state/tiny/{bert,other,llama}
"""

import string
import sys
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

LETTERS = [*string.ascii_lowercase, *string.digits, *string.punctuation]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]


def main(folder: Path) -> None:
    """Write the models as save_pretrained does."""
    pieces = BertTokenizerFast(vocab={piece: index for index, piece in enumerate(WORDS)})
    shape = {"vocab_size": len(WORDS), "max_position_embeddings": 300, "initializer_range": 0.3}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    for seed, name in enumerate(("bert", "other")):  # two bases of one shape
        torch.manual_seed(seed)
        BertModel(BertConfig(**shape, **sizes)).save_pretrained(folder / name)
        pieces.save_pretrained(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
