"""Sources: one file a kind, each with `read(path, *, ...)` that yields records such as the one below.

{"input": "A fine film.", "target": "positive", "id": "movie_7", "source": "movie", "group": None, "timestamp": None}

Only `input` and `target` are required; `target` is None for raw text. A record with a text under `drop` is left out,
and the ledger counts it under that reason. Tables also have `columns(path, ...)`: the column map of a file that was
given none. Everything is text, byte for byte. Modules with a leading underscore are shared by the kinds, and no kind.
"""
