"""Stories: the pipeline as a person runs it, in copies of this repository, with tiny random models and no network.

One project runs all candidates from the start of the session, beside the tests that need no finished run.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
MADE = ("build/", "inputs/", "metrics/", "dvc.lock")  # committed outputs of another params.yaml
SLOW_MACHINE_S = 600
BERT = {"model": {"asset": {"path": "state/tiny/bert"}}}
LLAMA = {"model": {"asset": {"path": "state/tiny/llama"}}}
SMALL = {"vocab_size": 320, "context_length": 64, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
         "num_attention_heads": 2}  # fmt: skip
PARAMS = {
    "seed": 42,
    "data": "sample_reviews",
    "datasets": ["sample_plain_english"],
    "set": {"split": {"name": "stratified"}, "trainer": {"max_epochs": 1}, "gate": {"num_resamples": 200}},
    "candidates": {
        "majority": {"level": "baseline", "model": "majority"},
        "tfidf": {"level": "baseline", "model": "tfidf", "set": {"model": {"C": 1.0}}},
        "zero_shot": {"level": "prompt", "model": "local_decoder", "set": LLAMA},
        "frozen": {"level": "finetune", "model": "local_encoder", "method": "frozen", "set": BERT},
        "lora": {"level": "finetune", "model": "local_encoder", "method": "lora", "sweep": "two_rates",
                 "set": BERT | {"method": {"r": 2}}},
        "scratch": {"level": "pretrain", "model": "tiny_llama", "corpus": "sample_plain_english",
                    "set": {"model": SMALL, "level": {"pretraining": {"max_tokens": 8000}}}},
    },
}  # fmt: skip
BASELINES = {name: PARAMS["candidates"][name] for name in ("majority", "tfidf")}
TWO_RATES = """# conf/sweep/two_rates.yaml - a grid of two
# dvc repro sweep@lora
parameters:
  optimizer.learning_rate: [2.0e-3, 4.0e-3]
max_rows: 60
max_epochs: 1
"""


@dataclass(frozen=True)
class Done:
    """What a command said, its exit code and the CPU seconds of it and its children."""

    code: int
    out: str
    err: str
    cpu_seconds: float


@dataclass(frozen=True)
class Project:
    """A repository of its own in `path`."""

    path: Path

    def run(self, *words: str, timeout: float = SLOW_MACHINE_S, **environment: str) -> Done:
        """Run `python -m pipelines...` or `dvc ...` as one types it in the repository root."""
        command = [sys.executable, *words] if words[0].startswith("-") else [sys.executable, "-m", *words]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=self.path, env=surroundings() | environment, capture_output=True, text=True, timeout=timeout
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return Done(done.returncode, done.stdout, done.stderr, spent)

    def works(self, *words: str, **environment: str) -> str:
        """Run a command that must succeed; return what it said."""
        done = self.run(*words, **environment)
        assert done.code == 0, f"{' '.join(words)}\n{done.out[-3000:]}\n{done.err[-3000:]}"
        return done.out + done.err

    def status(self) -> dict:
        """Return {stage: changes} as dvc tells it."""
        return json.loads(self.run("dvc", "status", "--json").out)

    def stages_run(self, told: str) -> list[str]:
        """Return the stages that a `dvc repro` ran, in their order."""
        return [line.split("'")[1] for line in told.splitlines() if line.startswith("Running stage '")]

    def json(self, name: str):
        return json.loads((self.path / name).read_text())

    def params(self, **changes) -> dict:
        """Write params.yaml with these top-level keys changed."""
        table = {**yaml.safe_load((self.path / "params.yaml").read_text()), **changes}
        (self.path / "params.yaml").write_text(plain(table))
        return table

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace the one place where `old` stands in a file; an empty `old` appends."""
        text = (self.path / name).read_text()
        assert not old or text.count(old) == 1, f"{name}: {old!r} stands there {text.count(old)} times"
        (self.path / name).write_text(text.replace(old, new) if old else text + new)

    def commit(self, message: str = "as it is") -> None:
        for words in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", message]):
            subprocess.run(["git", *words], cwd=self.path, check=True, capture_output=True)

    def copy(self, path: Path) -> "Project":
        """Return a copy with everything in it, DVC's cache as well."""
        shutil.copytree(self.path, path, symlinks=True)
        made = Project(path)
        made.own_settings()
        return made

    def own_settings(self) -> None:
        (self.path / ".dvc" / "config.local").write_text(f"[core]\n    site_cache_dir = {self.path}/state/dvc\n")


def plain(table: dict) -> str:
    """Return YAML without the anchors that values standing there twice would get."""
    return yaml.safe_dump(json.loads(json.dumps(table)), sort_keys=False)


def surroundings() -> dict[str, str]:
    """Return an environment without a trace of the caller's DVC, MLflow or Hydra, on one thread, with bytecode."""
    dropped = ("DVC_", "MLFLOW_", "HYDRA_", "PYTHONDONTWRITEBYTECODE")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1"}
    return kept | quiet | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let tests that wait for the finished run come last: it goes on beside the others."""
    items.sort(key=waits)
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(SLOW_MACHINE_S))


def waits(item: pytest.Item) -> bool:
    return "story" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """Return a function that makes a clone of this repository with the given params.yaml."""

    def make(name: str, params: dict) -> Project:
        path = tmp_path_factory.mktemp(name) / "repository"
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for file in listed.stdout.splitlines():
            if not file.startswith(MADE) and (ROOT / file).is_file():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / file, path / file)
        (path / "params.yaml").write_text(plain(params))
        (path / "conf" / "sweep" / "two_rates.yaml").write_text(TWO_RATES)
        made = Project(path)
        subprocess.run(["git", "init", "-q"], cwd=path, check=True)
        made.own_settings()
        made.commit()
        return made

    return make


@pytest.fixture(scope="session", autouse=True)
def started(request: pytest.FixtureRequest) -> Iterator[tuple[Project, subprocess.Popen] | None]:
    """The project of all candidates, with its first `dvc repro` on its way when a chosen test waits for it."""
    if not any(map(waits, request.session.items)):
        yield None
        return
    new_project, tiny = request.getfixturevalue("new_project"), request.getfixturevalue("tiny")
    project = new_project("story", PARAMS)
    shutil.copytree(tiny, project.path / "state" / "tiny")
    with (project.path / "logs.txt").open("w") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", "dvc", "repro"], cwd=project.path, env=surroundings(), stdout=log, stderr=log
        )
        yield project, running
        running.terminate()
        running.wait()


@pytest.fixture(scope="session")
def story(started: tuple[Project, subprocess.Popen]) -> Project:
    """The project when its first `dvc repro` is done; copy it to change something."""
    project, running = started
    told = project.path / "logs.txt"
    assert running.wait(SLOW_MACHINE_S) == 0, told.read_text()[-5000:]
    told.rename(project.path / "logs" / "first.txt")
    project.commit()
    return project


@pytest.fixture(scope="session")
def baselines(new_project: Callable[..., Project]) -> Project:
    """A project of two baselines, its sample prepared by hand, nothing trained."""
    project = new_project("baselines", PARAMS | {"datasets": [], "candidates": BASELINES})
    for stage, more in {"fetch": (), "prepare": (), "split": ("split=stratified",)}.items():
        project.works("-m", f"pipelines.{stage}", "data=sample_reviews", *more)
    return project
