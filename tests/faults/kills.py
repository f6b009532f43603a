"""Kills: a stage is ended at some moment of its life, run again, and held against an unbroken run."""

import json
import random
import shutil
import signal
import sqlite3
import time
from dataclasses import dataclass

from tests.faults.workshop import PARAMS, Stage, Workshop

PATIENCE_S = 10  # of a scheduler between SIGTERM and SIGKILL
CODES = {signal.SIGKILL: {-9}, signal.SIGTERM: {143, -15}}  # -15: before the stage listens, or when it has ended
REGISTRY = (
    "registered_models",
    "registered_model_aliases",
    "registered_model_tags",
    "model_versions",
    "model_version_tags",
)
TRAINED, SEARCHED = ("models/{}", "predictions/val/{}.parquet"), ("tuned/{}.yaml", "reports/trials/{}.parquet")
SPLIT = ("data/{}/train.parquet", "data/{}/val.parquet", "data/{}/test.parquet", "reports/data/{}_split.json")
BOARD = (
    "reports/leaderboard.json",
    "reports/leaderboard.csv",
    "reports/leaderboard.html",
    "reports/leaderboard.md",
    "reports/leaderboard.png",
)
OUTPUTS = {
    ("fetch", "zero_shot"): ("assets/{}.json",),
    ("prepare", "sample_reviews"): ("data/{}/records.parquet", "reports/data/{}.json", "reports/data/{}.html"),
    ("split", "sample_reviews"): SPLIT,
    ("assign", "compare"): tuple(f"inputs/{name}.json" for name in PARAMS["candidates"]),
    ("sweep", "lora"): SEARCHED,
    ("train", "majority"): TRAINED,
    ("train", "zero_shot"): TRAINED,
    ("train", "frozen"): TRAINED,
    ("train", "lora"): TRAINED,
    ("train", "full"): TRAINED,
    ("train", "scratch"): TRAINED,
    ("evaluate", "lora"): ("predictions/test/{}.parquet",),
    ("score", "lora"): ("metrics/{}.json",),
    ("probe", "lora"): ("reports/probes/{}.json", "reports/probes/{}.parquet"),
    ("compare", "compare"): BOARD,
    ("register", "compare"): ("reports/registered.json",),
}  # fmt: skip
CONVERTED = ("fetch", "model=local_encoder", "model.asset.path=state/tiny/bert", "model.conversion=distilbert")


@dataclass(frozen=True)
class Target:
    """A stage as it is typed, the outputs that DVC would delete before it, and what it left and took when unbroken."""

    made: Workshop
    words: tuple[str, ...]
    before: dict[str, dict[str, str]]
    seconds: float

    def clear(self) -> None:
        """Delete what DVC deletes, and what tells the stage that it has been here."""
        for name in self.before:
            path = self.made.path / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if self.words[0] == "register":
            with sqlite3.connect(self.made.path / "mlflow.db") as registry:
                for table in REGISTRY:
                    registry.execute(f"DELETE FROM {table}")

    def begin(self) -> Stage:
        return self.made.start(*self.words, STEPLADDER_FRESH="1")

    def kill(self, number: signal.Signals, share: float) -> float:
        """Send a signal at this share of the unbroken run's seconds; return how long the stage took to end.

        An output that lies there then is the whole one.
        """
        self.clear()
        stage = self.begin()
        time.sleep(share * self.seconds)
        sent = time.monotonic()
        stage.send(number)
        code = stage.wait()
        assert code in CODES[number] | {0}, f"ended with {code}\n{stage.said}"
        assert "Traceback" not in stage.said, stage.said
        for name, found in self.made.hashes(*self.before).items():
            files = _visible(found)
            assert not files or files == _visible(self.before[name]), f"{name} is half made"
        return time.monotonic() - sent

    def again(self) -> None:
        """Run the stage to its end: the bytes are those of the unbroken run."""
        self.made.works(*self.words)
        assert self.made.hashes(*self.before) == self.before
        if self.words[0] == "register":
            with sqlite3.connect(self.made.path / "mlflow.db") as registry:
                counts = [registry.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in REGISTRY]
            assert (counts[1], counts[3]) == (1, 1), "one version, one alias"


def _visible(files: dict[str, str]) -> dict[str, str]:
    """Return the files without those of work in the making and of locks."""
    return {name: value for name, value in files.items() if not name.startswith(".")}


def target(made: Workshop, stage: str, of: str) -> Target:
    """Return the stage of a finished workshop, which it has to itself, after one more unbroken run."""
    words = CONVERTED if of == "converted" else (stage, *made.of(of))
    outputs = ("state/store/models",) if of == "converted" else OUTPUTS[stage, of]
    names = [name.format(of) for name in outputs]
    if stage == "register":
        board = made.path / "reports" / "leaderboard.json"
        allowed = {"candidate": "lora", "passed": True, "reason": "let through, whatever the numbers say"}
        allowed |= {"conditions": []}
        board.write_text(json.dumps(json.loads(board.read_text()) | {"registration": allowed}))
    before = made.hashes(*names)
    found = Target(made, words, before, 0.0)
    found.clear()
    started = time.monotonic()
    begun = found.begin()
    assert begun.wait() == 0, begun.said
    after, seconds = made.hashes(*names), time.monotonic() - started
    assert after == before or stage == "register" or of == "converted", "an unbroken run is not the same twice"
    return Target(made, words, after, seconds)


def drawn(seed: int) -> tuple[tuple[str, str], signal.Signals, float]:
    """Return a stage, a signal and a share of its seconds; each stage and signal comes equally often."""
    stages = [*OUTPUTS, ("fetch", "converted")]
    number = (signal.SIGKILL, signal.SIGTERM)[seed // len(stages) % 2]
    return stages[seed % len(stages)], number, random.Random(seed).random()
