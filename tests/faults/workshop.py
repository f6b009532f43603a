"""A workshop: a small prepared project in a folder, whose stages run as processes forked from one warm process.

A stage that needs torch starts in milliseconds, and a fault can be planted in it before it begins.
"""

import contextlib
import importlib
import multiprocessing
import os
import runpy
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from stepladder import exporter, store
from tests.faults import warm
from tests.stories.conftest import BERT, LLAMA, ROOT, SMALL, plain

PARAMS = {
    "seed": 42,
    "data": "sample_reviews",
    "datasets": ["sample_plain_english"],
    "set": {"split": {"name": "stratified"}, "trainer": {"max_epochs": 2}, "gate": {"num_resamples": 200}},
    "candidates": {
        "majority": {"level": "baseline", "model": "majority"},
        "zero_shot": {"level": "prompt", "model": "local_decoder", "set": LLAMA},
        "frozen": {"level": "finetune", "model": "local_encoder", "method": "frozen", "set": BERT},
        "full": {"level": "finetune", "model": "local_encoder", "method": "full",
                 "set": BERT | {"data": {"max_rows": 120}}},
        "lora": {"level": "finetune", "model": "local_encoder", "method": "lora", "sweep": "lora",
                 "set": BERT | {"method": {"r": 2}, "data": {"max_rows": 120}}},
        "scratch": {"level": "pretrain", "model": "tiny_llama", "corpus": "sample_plain_english",
                    "set": {"model": SMALL, "level": {"pretraining": {"max_tokens": 8000}},
                            "data": {"max_rows": 120}}},
    },
}  # fmt: skip
DATA = ("sample_reviews", "sample_plain_english")
LEVELS = ("finetune", "pretrain", "prompt")
WARM = ["pipelines", "hydra.main", "sklearn.linear_model", "stepladder.search", "stepladder.registry",
        *(f"stepladder.levels.{level}" for level in LEVELS), *warm.IMPORTS]  # fmt: skip
Fault = Callable[[], None]


@dataclass
class Stage:
    """A stage that runs or has run: its process, what it said, and its exit code (-9: killed)."""

    process: multiprocessing.Process
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait(self, timeout: float = 120) -> int:
        """Return the exit code."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, f"still running after {timeout} s:\n{self.said}"
        return self.process.exitcode

    def until(self, condition: Callable[[], object], timeout: float = 60) -> None:
        """Wait until `condition` holds while the stage runs; a stage that ends before is an error."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert self.process.is_alive(), f"it ended with {self.process.exitcode}:\n{self.said}"
            assert time.monotonic() < deadline, f"nothing happened within {timeout} s:\n{self.said}"
            time.sleep(0.002)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the stage; one that has ended does not hear it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


@dataclass(frozen=True)
class Workshop:
    """A project in `path`, without DVC: its stages are run by hand, as `dvc.yaml` would."""

    path: Path

    def start(self, name: str, *words: str, fault: Fault | None = None, **environment: str) -> Stage:
        """Start `python -m pipelines.<name> words` in the folder; `fault`, a function of a module, is called first."""
        log = self._log()
        begun = process(_run, self.path, name, words, environment, log, fault)
        begun.start()
        return Stage(begun, log)

    def call(self, function: Callable, *arguments) -> Stage:
        """Start a function of a module in a process of its own, forked from the warm one."""
        log = self._log()
        begun = process(_call, self.path, function, arguments, log)
        begun.start()
        return Stage(begun, log)

    def run(self, name: str, *words: str, fault: Fault | None = None, **environment: str) -> Stage:
        """Run a stage to its end."""
        stage = self.start(name, *words, fault=fault, **environment)
        stage.wait()
        return stage

    def works(self, name: str, *words: str, fault: Fault | None = None, **environment: str) -> str:
        """Run a stage that must succeed; return what it said."""
        stage = self.run(name, *words, fault=fault, **environment)
        assert stage.process.exitcode == 0, (
            f"{name} {' '.join(words)} ended with {stage.process.exitcode}\n{stage.said}"
        )
        return stage.said

    def _log(self) -> Path:
        """Return a new file for what a process says."""
        number = len(list((self.path / "logs").glob("said-*")))
        log = self.path / "logs" / f"said-{number:03d}.txt"
        log.parent.mkdir(exist_ok=True)
        log.touch()
        return log

    def of(self, candidate: str) -> tuple[str, ...]:
        """Return the words that give a stage the composed file of a candidate, data set or the comparison."""
        folder = "build/data" if candidate in DATA else "build/compare" if candidate == "compare" else "build"
        return ("-cd", folder, "-cn", candidate)

    def hashes(self, *outputs: str) -> dict[str, dict[str, str]]:
        """Return the hashes of output files and folders; one that is missing has none."""
        paths = {name: self.path / name for name in outputs}
        return {name: store.hashes(path) if path.exists() else {} for name, path in paths.items()}

    def copy(self, path: Path) -> "Workshop":
        """Return a copy with everything in it."""
        shutil.copytree(self.path, path, symlinks=True)
        return Workshop(path)

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace `old`, which stands once in the file."""
        text = (self.path / name).read_text()
        assert text.count(old) == 1, f"{name}: {old!r} stands there {text.count(old)} times"
        (self.path / name).write_text(text.replace(old, new))


def prepared(path: Path, tiny: Path, empty_store: Path) -> Workshop:
    """Return a workshop where data is prepared and fetched, and nothing searched or trained."""
    path.mkdir()
    shutil.copy(empty_store, path / "mlflow.db")
    made = Workshop(path)
    (path / "params.yaml").write_text(plain(PARAMS))
    for name in ("samples", "conf"):
        shutil.copytree(ROOT / name, path / name)
    shutil.copytree(tiny, path / "state" / "tiny")
    made.works("configure")
    for file in (path / "build").glob("*.yaml"):  # a checkpoint at every step: the runs last a second
        file.write_text(file.read_text().replace("checkpoint_every_s: 60", "checkpoint_every_s: 0"))
    for data in DATA:
        for stage in ("fetch", "prepare", "split"):
            made.works(stage, *made.of(data))
    for stage in ("fetch", "assign"):
        made.works(stage, *made.of("compare"))
    for candidate in PARAMS["candidates"]:
        made.works("fetch", *made.of(candidate))
    return made


def complete(made: Workshop) -> None:
    """Run what is left, from the sweeps to the registration."""
    for candidate in PARAMS["candidates"]:
        for stage in ("sweep", "train", "evaluate", "score", "probe"):
            made.works(stage, *made.of(candidate))
    made.works("compare", *made.of("compare"))
    made.works("register", *made.of("compare"))


def sections(made: Workshop, candidate: str) -> dict:
    """Return the composed sections of a candidate."""
    return yaml.safe_load((made.path / "build" / f"{candidate}.yaml").read_text())


def process(function: Callable, *words) -> multiprocessing.Process:
    """Return a process that is forked from the warm one when it starts, and calls a function of a module."""
    return _warm().Process(target=function, args=words)


def _warm():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(WARM)
    return context


def _run(path: Path, name: str, words: tuple, environment: dict, log: Path, fault: Fault | None) -> None:
    """Become the stage, in a process that was forked: folder, environment, streams, then the module as typed."""
    _enter(path, environment, log)
    if "MLFLOW_TRACKING_URI" not in environment:
        exporter.start = warm.Forked
    if fault:
        fault()
    sys.argv = [f"{name}.py", *words]
    runpy.run_module(f"pipelines.{name}", run_name="__main__", alter_sys=True)


def _call(path: Path, function: Callable, arguments: tuple, log: Path) -> None:
    _enter(path, {}, log)
    function(*arguments)


def _enter(path: Path, environment: dict, log: Path) -> None:
    os.chdir(path)
    os.environ.update({"DVC_ROOT": str(path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | environment)
    target = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    importlib.import_module("torch").set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of a loader's workers, as where the stage is typed
