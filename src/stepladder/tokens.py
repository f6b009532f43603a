"""Tokens: texts as token ids, made once for each tokenizer and list of texts, and read memory-mapped from then on.

state/tokens/<key>/ holds ids.npy, all ids one after the other, and ends.npy, where each text ends; the key is the hash
of the tokenizer, how it was asked, and the texts. Trials and candidates share it, and none holds a copy in memory.
"""

import hashlib
import json
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stepladder import store

AT_ONCE = 10_000  # texts
_names = weakref.WeakKeyDictionary()  # of tokenizers


class Tokens(Sequence):
    """The ids of each text, and `ids` of all of them, without a copy in memory."""

    def __init__(self, folder: Path):
        self.ids, self.ends = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "ends"))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> list[int]:
        start = self.ends[index - 1] if index else 0
        return self.ids[start : self.ends[index]].tolist()

    def __iter__(self):
        return map(self.__getitem__, range(len(self)))


def encode(tokenizer, texts: list[str], *, before: Sequence[int] = (), **options) -> Tokens:
    """Return the ids of the texts, each behind the ids `before`; `options` are the tokenizer's own."""
    hashed = hashlib.sha256(json.dumps([_name(tokenizer), list(before), options], sort_keys=True).encode())
    for text in texts:
        content = text.encode()
        hashed.update(len(content).to_bytes(8, "little") + content)
    folder = store.kept("tokens") / hashed.hexdigest()[:16]
    return Tokens(store.settle(folder, lambda part: _fill(part, tokenizer, texts, list(before), options)))


def _fill(folder: Path, tokenizer, texts: list[str], before: list[int], options: dict) -> None:
    """Write the ids, some thousand texts at a time: what is in memory does not grow with the corpus."""
    kind, sizes = np.uint16 if len(tokenizer) <= 2**16 else np.uint32, []
    with (folder / "raw").open("wb") as file:
        for start in range(0, len(texts), AT_ONCE):
            rows = tokenizer(texts[start : start + AT_ONCE], verbose=False, **options)["input_ids"]
            for row in rows:
                file.write(np.asarray(before + row, kind).tobytes())
                sizes.append(len(before) + len(row))
    ends = np.cumsum(sizes, dtype=np.int64)
    made = np.lib.format.open_memmap(folder / "ids.npy", "w+", kind, (int(ends[-1]) if sizes else 0,))
    if len(made):
        made[:] = np.memmap(folder / "raw", kind, "r")
    made.flush()
    (folder / "raw").unlink()
    np.save(folder / "ends.npy", ends)


def _name(tokenizer) -> str:
    """Return the hash of all that decides how a tokenizer cuts, apart from how it was asked last."""
    if tokenizer not in _names:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        plain = {key: value for key, value in content.items() if key not in ("truncation", "padding")}
        _names[tokenizer] = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return _names[tokenizer]
