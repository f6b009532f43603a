"""Levels: the ways to use a language model, one file each, all behind one contract.

A level is a class `Level(sections, *, base)`; `sections` are the composed sections as plain dicts and `base` the folder
of fetched weights, or None. It has
`fit(train, val, *, state, log, corpus=None, mixture=None) -> facts`, `predict(records) -> predictions`,
`latency(records)` (see latency.of), `save(folder)` and `Level.load(folder)`, so that one `evaluate` serves all.
After `fit`, `validated` holds its predictions of val, or None where it made none on the way; `tokens_read` is what the
inputs had that it answered last.
"""

import importlib
import pkgutil

from stepladder.errors import ConfigError, unknown


def load(name: str) -> type:
    """Return the class `Level` of `levels/<name>.py`; raises ConfigError for an unknown name."""
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise ConfigError(f"level: {unknown('level', name, known)}")
    return importlib.import_module(f"{__name__}.{name}").Level
