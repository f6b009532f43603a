"""Llama.cpp: let the weights of a GGUF file write answers, for machines where torch is slow at one at a time.

python -m pipelines.train level=prompt model=smollm2 data=plain_english decoding=llamacpp \
    decoding.gguf=data/raw/smollm2.gguf decoding.sha256=...
Prompts are token ids of the model's own tokenizer and answers are read off by it, so that the file's is of no account.
Source: github.com/ggml-org/llama.cpp through llama-cpp-python; the extra `llamacpp` installs it, and wants a compiler.
"""

import atexit
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from stepladder import store
from stepladder.errors import ConfigError, DataError, IntegrityError, MachineError

MAGIC = b"GGUF"  # a file begins with it (ggml-org/ggml, docs/gguf.md)
CURE = "pip install 'stepladder[llamacpp]' (builds with cmake and a C++ compiler), or take decoding: greedy"
AS_IT_IS = {"min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0}  # what transformers does not do either, unasked


def write(tokenizer, prompts: list[list[int]], *, file: tuple[str, str], limit: int, one_line: bool, **chance) -> list:
    """Return the text that follows each prompt, up to the end-of-text token or, with `one_line`, the line's end.

    `file` is the path of a GGUF file and its sha256, `limit` the most tokens of an answer. `chance` are temperature,
    top_k, top_p, seed and the number of threads; at temperature 0 the likeliest token is taken, and each prompt begins
    with the seed, so that an answer does not depend on those before it. Raises MachineError without the package,
    ConfigError or IntegrityError for another file, DataError for fewer tokens than the tokenizer's.
    """
    model, texts = opened(*file, threads=chance["threads"]), []
    if model.n_vocab() < len(tokenizer):  # ids would mean other words
        raise DataError(f"decoding.gguf: {file[0]} has {model.n_vocab()} tokens, the tokenizer {len(tokenizer)}")
    options = {"temp": chance["temperature"], "top_k": chance["top_k"], "top_p": chance["top_p"], **AS_IT_IS}
    for prompt in prompts:
        if len(prompt) + limit > model.n_ctx():
            longest = f"{len(prompt)} tokens and {limit} more"
            raise ConfigError(f"decoding.gguf: {file[0]} reads {model.n_ctx()} tokens, not {longest}; lower max_length")
        model.set_seed(chance["seed"])
        texts.append(_said(tokenizer, model.generate(prompt, **options), limit, one_line))
    return [text.strip().split("\n")[0].strip() if one_line else text.strip() for text in texts]


@cache
def opened(gguf: str, sha256: str, *, threads: int):
    """Return the model of a GGUF file of these bytes, opened once."""
    file = Path(gguf)
    if not file.is_file():
        raise ConfigError(f"decoding.gguf: {gguf}: no such file")
    with file.open("rb") as start:
        if start.read(len(MAGIC)) != MAGIC:
            raise ConfigError(f"decoding.gguf: {gguf}: not a GGUF file; take decoding: greedy for safetensors")
    if fault := store.difference(file, sha256, store.sha256(file)):
        raise IntegrityError(f"{fault} (decoding.sha256)")
    try:
        from llama_cpp import Llama
    except ImportError:
        raise MachineError(f"decoding=llamacpp needs the package llama-cpp-python: {CURE}") from None
    try:
        model = Llama(str(file), n_ctx=0, n_threads=threads, verbose=False)
    except ValueError as error:
        raise ConfigError(f"decoding.gguf: {gguf}: llama.cpp does not open it ({error})") from None
    atexit.register(model.close)  # later it cannot close any more, and says so
    return model


def _said(tokenizer, tokens: Iterator[int], limit: int, one_line: bool) -> str:
    ids: list[int] = []
    for token in tokens:
        if token == tokenizer.eos_token_id or len(ids) == limit:
            break
        ids.append(token)
        if len(ids) == limit or (one_line and "\n" in tokenizer.decode(ids, skip_special_tokens=True)):
            break
    return tokenizer.decode(ids, skip_special_tokens=True)
