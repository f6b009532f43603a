"""The data report: what came in, what was dropped and why, and what is left, as JSON and as one self-contained page."""

import math
import re
import unicodedata
from collections import Counter
from pathlib import Path

import jinja2
import numpy as np
import polars as pl

from stepladder import records, targets

NUM_EXAMPLES = 8
NUM_BINS = 20
MAX_CHARACTERS = 400  # of an example on the page
TOKEN = re.compile(r"\w+|[^\w\s]")  # words and punctuation marks: a count that no model's tokenizer decides


def summarise(frame: pl.DataFrame, ledger: dict, *, name: str, task: str, reading: dict) -> dict:
    """Return everything the page shows: columns, ledger, class balance, lengths and examples, in numbers and texts."""
    texts = {"input": frame["input"].to_list()}
    if task not in (*records.LABELLED, "regression") and frame["target"].null_count() < frame.height:
        texts["target"] = frame["target"].drop_nulls().to_list()
    classes, sources = targets.counts(frame["target"], task), Counter(frame["source"].fill_null("(none)"))
    return {
        "name": name,
        "task": task,
        **reading,
        **ledger,
        "classes": _shares(classes, frame.height) if task in records.LABELLED else None,
        "sources": _shares(sources, frame.height) if len(sources.keys() - {"(none)"}) > 1 else None,
        "numbers": _spread(targets.numbers(frame["target"])) if task == "regression" else None,
        "num_groups": frame["group"].drop_nulls().n_unique(),
        "num_bytes": sum(len(text.encode()) for texts_of in texts.values() for text in texts_of),
        "lengths": {field: _lengths(values) for field, values in texts.items()},
        "records": _examples(frame),
    }


def page(summary: dict) -> str:
    """Return the report as HTML: no network, no script, every text escaped and its invisible characters shown."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    return environment.get_template("data.html").render(summary)


def visible(text: str) -> str:
    """Return `text` with control, bidirectional and other invisible characters written as <U+202E>, cut when long."""
    shown = "".join(_shown(character) for character in text[:MAX_CHARACTERS])
    return shown if len(text) <= MAX_CHARACTERS else f"{shown} … ({len(text):,} characters)"


def _shown(character: str) -> str:
    joiner = character == "\u200d"  # builds emoji
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return f"<U+{ord(character):04X}>" if hidden and not joiner else character


def _shares(counts: Counter, size: int) -> dict[str, dict]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {label: {"rows": rows, "share": round(rows / size, 6)} for label, rows in ordered}


def _spread(values: np.ndarray) -> dict[str, float]:
    """Return least, mean, greatest and standard deviation, and in how many values they are."""
    found = {"min": values.min(), "mean": values.mean(), "max": values.max(), "deviation": values.std()}
    return {key: round(float(value), 6) for key, value in found.items()} | {"distinct": len(np.unique(values))}


def _lengths(texts: list[str]) -> dict[str, dict]:
    """Return quantiles and histogram of the lengths in words (between white space) and in tokens (words and marks)."""
    return {
        "words": _distribution([len(text.split()) for text in texts]),
        "tokens": _distribution([len(TOKEN.findall(text)) for text in texts]),
    }


def _distribution(lengths: list[int]) -> dict:
    """Return total, quantiles by nearest rank, and bins of equal width; the last bin also holds the longest 1 %."""
    ordered = sorted(lengths)
    ranks = {"min": 0.0, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    quantiles = {name: ordered[max(0, math.ceil(share * len(ordered)) - 1)] for name, share in ranks.items()}
    width = max(1, math.ceil((quantiles["p99"] + 1) / NUM_BINS))
    counts = Counter(min(length // width, NUM_BINS - 1) for length in lengths)
    bins = [{"start": width * i, "rows": counts[i]} for i in range(max(counts) + 1)]
    return {"total": sum(lengths), **quantiles, "bins": bins}


def _examples(frame: pl.DataFrame) -> list[dict]:
    """Return records evenly spread over the file, so that the choice is stable and not just its head."""
    step = max(1, frame.height // NUM_EXAMPLES)
    return frame.gather_every(step).head(NUM_EXAMPLES).select("id", "input", "target", "source").to_dicts()
