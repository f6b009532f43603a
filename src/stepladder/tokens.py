"""Tokens: texts as token ids, made once for each tokenizer and list of texts, and read memory-mapped from then on.

state/tokens/<key>/ holds ids.npy, all ids one after the other, and ends.npy, where each text ends; the key is the hash
of the tokenizer, how it was asked, and the texts. Trials and candidates share it, and none holds a copy in memory.
"""

import hashlib
import json
import shutil
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from stepladder import store

AT_ONCE = 2**19  # characters; the tokenizer's own notes on each token take some hundred bytes
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


def encode(tokenizer, texts: Iterable[str], *, before: Sequence[int] = (), **options) -> Tokens:
    """Return the ids of the texts, each behind the ids `before`; `options` are the tokenizer's own.

    The texts are walked twice, for their hash and for their ids, and never held together.
    """
    hashed = hashlib.sha256(json.dumps([_name(tokenizer), list(before), options], sort_keys=True).encode())
    for text in texts:
        content = text.encode()
        hashed.update(len(content).to_bytes(8, "little") + content)
    folder = store.kept("tokens") / hashed.hexdigest()[:16]
    return Tokens(store.settle(folder, lambda part: _fill(part, tokenizer, texts, list(before), options)))


def _fill(folder: Path, tokenizer, texts: Iterable[str], before: list[int], options: dict) -> None:
    """Write the ids, some texts at a time: of the corpus, 8 bytes a text are in memory, where it ends."""
    kind, sizes, portions = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32), array("q"), _portions(texts)
    with (folder / "raw").open("wb") as file:
        for some in portions:
            for row in tokenizer(some, verbose=False, **options)["input_ids"]:
                file.write(np.asarray(before + row, kind).tobytes())
                sizes.append(len(before) + len(row))
    ends = np.cumsum(np.frombuffer(sizes, np.int64), dtype=np.int64)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (sum(sizes),)}
    with (folder / "raw").open("rb") as file, (folder / "ids.npy").open("wb") as made:
        np.lib.format.write_array_header_1_0(made, header)
        shutil.copyfileobj(file, made)
    (folder / "raw").unlink()
    np.save(folder / "ends.npy", ends)


def _portions(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the texts in lists of so many characters, or of one text that is longer."""
    some, room = [], AT_ONCE
    for text in texts:
        if some and len(text) > room:
            yield some
            some, room = [], AT_ONCE
        some.append(text)
        room -= len(text)
    if some:
        yield some


def _name(tokenizer) -> str:
    """Return the hash of all that decides how a tokenizer cuts, apart from how it was asked last."""
    if tokenizer not in _names:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        plain = {key: value for key, value in content.items() if key not in ("truncation", "padding")}
        _names[tokenizer] = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
    return _names[tokenizer]
