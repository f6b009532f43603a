"""Subjects: what all jobs share: composed candidates, the folders of their bases, rows of the movie sentences.

Made by: dvc repro fetch@full fetch@lora_smollm2 split@reviews
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from stepladder import compose

ROOT = Path(__file__).parents[1]
CANDIDATES = {"minilm": "full", "smollm2": "lora_smollm2"}  # whose fetched base is read
SEED = 1  # of the choice of rows


@dataclass(frozen=True)
class Work:
    """What a contender is given: rows, a composed candidate and its base.

    `ordered` asks all contenders to take the rows in one order and to leave out dropout, so that each step's loss can
    be compared.
    """

    train: pl.DataFrame
    val: pl.DataFrame
    sections: dict
    base: Path
    ordered: bool = False

    def at(self, precision: str) -> "Work":
        """Return the same work at another precision."""
        trainer = {**self.sections["trainer"], "precision": precision}
        return replace(self, sections={**self.sections, "trainer": trainer})


def work(words: list[str], *, num_rows: int, num_val: int, threads: int) -> Work:
    """Return the work of a candidate that is chosen by Hydra's `words`, one of which is model=..."""
    model = next(word.partition("=")[2] for word in words if word.startswith("model="))
    found = compose.compose([*words, f"runtime.num_threads={threads}"])
    sections = found | {"tasks": compose.tasks(found)}  # as a candidate that is typed by hand
    return Work(rows("train", num_rows), rows("val", num_val), sections, base(model))


@cache
def rows(part: str, number: int) -> pl.DataFrame:
    """Return so many rows of a part of the movie sentences, by seed."""
    file = _there(ROOT / "data" / "reviews" / f"{part}.parquet")
    return pl.read_parquet(file).sample(number, seed=SEED)


def base(model: str) -> Path:
    """Return the folder of the fetched weights."""
    described = _there(ROOT / "assets" / f"{CANDIDATES[model]}.json")
    return _there(ROOT / json.loads(described.read_text())["folder"])


@contextmanager
def ordered(given: Work, num_rows: int) -> Iterator[Work]:
    """Yield the work over its first rows, ordered and with a base whose configuration has no dropout."""
    with TemporaryDirectory() as folder:
        calm = Path(folder) / "base"
        shutil.copytree(given.base, calm, copy_function=lambda source, target: Path(target).symlink_to(source))
        config = json.loads((given.base / "config.json").read_text())
        config |= {key: 0.0 for key, value in config.items() if "dropout" in key and isinstance(value, float)}
        (calm / "config.json").unlink()
        (calm / "config.json").write_text(json.dumps(config))
        yield replace(given, train=given.train.head(num_rows), base=calm, ordered=True)


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(
            f"{path.relative_to(ROOT)}: missing; make run, or: dvc repro fetch@full fetch@lora_smollm2 split@reviews"
        )
    return path
