"""Vocabulary: learn a byte-level BPE tokenizer from a corpus (Sennrich et al. 2016; on bytes, Radford et al. 2019).

One special token, <|endoftext|>, begins a text, ends it and pads a batch (where the attention mask hides it).
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from stepladder import speech

END = "<|endoftext|>"


def learn(texts: Iterable[str], *, vocab_size: int, context_length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of at most `vocab_size` tokens; any text survives encoding and decoding byte for byte."""
    bytes_alone = pre_tokenizers.ByteLevel.alphabet()
    learned = Tokenizer(BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learned.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=vocab_size, special_tokens=[END], initial_alphabet=bytes_alone, show_progress=False)
    with speech.during(f"learning a vocabulary of {vocab_size:,} tokens"):
        learned.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=learned,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=context_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
