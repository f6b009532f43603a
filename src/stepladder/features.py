"""Features: what a frozen backbone makes of texts, computed once and kept in state/features/<key>/.

The key is the hash of the backbone's files, the precision and the token ids, so trials, seeds and heads share it.
"""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from stepladder import store, training
from stepladder.settings import Settings

FILE = "features.npy"  # (rows, width), float32


def of(answerer, examples: training.Examples, settings: Settings, *, base: Path) -> training.Examples:
    """Return the examples with the `features` of the frozen backbone in `base` in place of their tokens."""
    content = [store.hashes(base), settings.precision, [example["ids"] for example in examples.rows]]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def fill(part: Path) -> None:
        made = training.embed(answerer.model, answerer.objective, examples, settings)
        np.save(part / FILE, made.numpy())

    folder = store.settle(store.kept("features") / key, fill)
    vectors = torch.from_numpy(np.load(folder / FILE))
    rows = [
        {"features": vector, "label": example["label"], "row": example["row"], "length": 1}
        for example, vector in zip(examples.rows, vectors, strict=True)
    ]
    return dataclasses.replace(examples, rows=rows)
