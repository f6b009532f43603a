"""Stacks: the same small project twice, in plain libraries (Bare) and in Stepladder (Ours), with the same handles.

Each has a DVC stage that trains with a checkpoint at every step and a stage that evaluates what was trained. Both are
run once unbroken; a fault gets a copy, as finished or with the training still to do.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from benchmarks.bare_stack import processes
from benchmarks.bare_stack.processes import Done, Running, python, surroundings, waited

ROOT = Path(__file__).parents[2]
PLAIN = Path(__file__).parent / "plain"
BERT = {"model": {"asset": {"path": "state/tiny/bert"}}}
TRAINER = {"max_epochs": 3, "batch_size": 4, "patience": 1000, "precision": "32-true"}
PARAMS = {
    "seed": 42,
    "data": "sample_reviews",
    "datasets": [],
    "set": {
        "split": {"name": "stratified"},
        "runtime": {"checkpoint_every_s": 0, "num_threads": 1, "log_every_s": 1},
    },
    "candidates": {
        "majority": {"level": "baseline", "model": "majority"},
        "full": {"level": "finetune", "model": "local_encoder", "method": "full", "set": BERT | {"trainer": TRAINER}},
        "lora": {"level": "finetune", "model": "local_encoder", "method": "lora", "sweep": "four_rates",
                 "set": BERT | {"method": {"r": 2}, "trainer": {"max_epochs": 1}}},
    },
}  # fmt: skip
SWEEP = """# conf/sweep/four_rates.yaml - a grid of four
# dvc repro sweep@lora
parameters:
  optimizer.learning_rate: [1.0e-3, 2.0e-3, 3.0e-3, 4.0e-3]
max_rows: 100
max_epochs: 1
"""
MADE = ("build/", "inputs/", "metrics/", "dvc.lock", "docs/", "tests/")  # of another params.yaml, or not needed


class Stack:
    """A project in `path`; what differs between the two is below."""

    name, stage, target, state = "", "", "", "."

    def __init__(self, path: Path):
        self.path = path

    def start(self, *words: str, **environment: str) -> Running:
        """Begin a command in the project."""
        folder = self.path.parent / "dvc"
        own = {"DVC_SITE_CACHE_DIR": str(folder / "site"), "DVC_GLOBAL_CONFIG_DIR": str(folder / "global")}
        return Running(list(words), folder=self.path, environment=surroundings(**own | environment))

    def run(self, *words: str, timeout: float = processes.LONG_S, **environment: str) -> Done:
        """Run a command in the project to its end."""
        return self.start(*words, **environment).wait(timeout)

    def dvc(self, *words: str) -> Done:
        """Run a command of DVC."""
        return self.run(*python("-m", "dvc", *words))

    def repro(self) -> Running:
        """Begin `dvc repro` of all that leads to the evaluation."""
        return self.start(*python("-m", "dvc", "repro", self.target))

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that lie there."""
        names = [re.search(self.numbered, file.name) for file in self.path.glob(self.kept)]
        return sorted(int(found.group(1)) for found in names if found)

    def reached(self, step: int, timeout: float = 120) -> bool:
        """Wait until a checkpoint of this step or a later one lies there."""
        return bool(waited(lambda: max(self.steps(), default=0) >= step, timeout))

    def workers(self) -> list[int]:
        """Return the ids of the processes that train here."""
        return [each for each in processes.within(self.path, self.trains) if not _is_shell(each)]

    def recorded(self) -> bool:
        """Return whether DVC holds the training for finished."""
        lock = self.path / "dvc.lock"
        return lock.is_file() and self.stage in (yaml.safe_load(lock.read_text()).get("stages") or {})

    def copy(self, path: Path, *, finished: bool = False) -> "Stack":
        """Return a copy; unless finished, the training and what follows are still to do and in no cache of runs."""
        shutil.copytree(self.path, path, symlinks=True)
        made = type(self)(path)
        made.whole = self.whole
        if not finished:
            for place in (".dvc/cache/runs", *self.outputs):
                gone = path / place
                shutil.rmtree(gone) if gone.is_dir() else gone.unlink(missing_ok=True)
            lock = yaml.safe_load((path / "dvc.lock").read_text())
            lock["stages"] = {name: said for name, said in lock["stages"].items() if name not in self.redone}
            (path / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
        return made

    def unbroken(self) -> "Stack":
        """Run the project to its end, and remember what came out."""
        done = self.repro().wait()
        if done.code != 0:
            raise RuntimeError(f"{self.name}: the unbroken run failed\n{done.said[-3000:]}")
        self.whole = self.result()
        return self

    def same(self) -> bool:
        """Return whether what came out is what the unbroken run made."""
        return self.result() == self.whole


class Bare(Stack):
    """dvc.yaml, a script with lightning.Trainer and ModelCheckpoint, a script that scores the last checkpoint."""

    name, stage, target = "bare", "train", "evaluate"
    kept, numbered, trains = "model/epoch*.ckpt", r"step=(\d+)", r"python.* ?train\.py"
    outputs, redone = ("model", "scores.json", "step"), ("train", "evaluate")
    train = (sys.executable, "train.py")
    starts = r"starts at step (\d+)"

    @classmethod
    def make(cls, path: Path) -> "Bare":
        """Write the project."""
        shutil.copytree(PLAIN, path, ignore=shutil.ignore_patterns("__pycache__"))
        made = cls(path)
        for words in (["git", "init", "-q"], python("-m", "dvc", "init", "-q")):
            made.run(*words)
        return made

    def result(self) -> str:
        """Return the hash of the weights that were evaluated."""
        file = self.path / "scores.json"
        return json.loads(file.read_text())["weights"] if file.is_file() else ""

    def resumed_at(self, running: Running) -> int | None:
        """Return the step that training says it starts at, None while it has not said."""
        found = running.find(self.starts)
        return None if found is None else int(found)


class Ours(Stack):
    """A copy of this repository with three candidates on tiny random models."""

    name, stage, target = "ours", "train@full", "evaluate@full"
    kept, numbered, trains = "state/train/full-*/fit/*-*.ckpt", r"^(\d{8})-", r"pipelines\.train"
    outputs = ("models", "predictions", "state/train", "runs")
    redone = ("train@full", "train@lora", "evaluate@full", "evaluate@lora")
    train = (sys.executable, "-m", "pipelines.train", "-cd", "build", "-cn", "full")
    starts = r"going on from \S*/(\d{8})-"

    @classmethod
    def make(cls, path: Path) -> "Ours":
        """Copy what git knows, with its own params.yaml and models."""
        listed = ["git", "ls-files", "-co", "--exclude-standard"]
        files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        for file in files:
            if not file.startswith(MADE) and (ROOT / file).is_file():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, path / file)
        (path / "params.yaml").write_text(plain(PARAMS))
        (path / "conf" / "sweep" / "four_rates.yaml").write_text(SWEEP)
        made = cls(path)
        for words in (
            ["git", "init", "-q"], ["git", "add", "-A"],
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "as it is"],
            python(str(PLAIN / "tiny.py"), "state/tiny"), python("-m", "dvc", "repro", "evaluate@lora"),
        ):  # fmt: skip
            done = made.run(*words)
            if done.code != 0:
                raise RuntimeError(f"{words}: {done.said[-3000:]}")
        return made

    def pipeline(self, stage: str, *words: str, **more) -> Done:
        """Run a stage as one types it."""
        return self.run(*python("-m", f"pipelines.{stage}", *words), **more)

    def result(self) -> str:
        """Return the hash of the published weights and of what they answer on val."""
        files = [self.path / "models/full/model.safetensors", self.path / "predictions/val/full.parquet"]
        if not all(file.is_file() for file in files):
            return ""
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    def resumed_at(self, running: Running) -> int | None:
        """Return the step of the checkpoint that training goes on from, 0 when it begins anew."""
        found = running.find(self.starts)
        return int(found) if found else 0 if running.find(r"(to train:)") else None


def plain(table: dict) -> str:
    """Return YAML without the anchors that values standing there twice would get."""
    return yaml.safe_dump(json.loads(json.dumps(table)), sort_keys=False)


def _is_shell(process: int) -> bool:
    """Return whether this is the shell through which DVC starts a stage."""
    try:
        return Path(f"/proc/{process}/comm").read_text().strip() in ("sh", "bash", "dash")
    except OSError:
        return True
