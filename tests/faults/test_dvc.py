"""A3: DVC dies alone; its stage ends as well, and the next `dvc repro` goes on from the checkpoints."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.workshop import PARAMS, Workshop
from tests.stories.conftest import Project, new_project, surroundings  # noqa: F401  a fixture
from tests.stories.test_interruptions import waited, workers

pytestmark = [pytest.mark.slow, pytest.mark.story]

STAGE, TRAINED = "train@lora", ("models/lora", "predictions/val/lora.parquet")
PREPARED = ("assets", "build", "data", "inputs", "state", "tuned")  # what the stage reads


@pytest.fixture
def project(new_project: Callable[..., Project], finished_workshop: Workshop) -> Project:  # noqa: F811
    """A repository with DVC in which a training is next: what it reads lies there."""
    made = new_project("dvc", PARAMS)
    for name in PREPARED:
        shutil.copytree(finished_workshop.path / name, made.path / name, dirs_exist_ok=True)
    shutil.copy(finished_workshop.path / "mlflow.db", made.path)
    shutil.rmtree(made.path / "state" / "train")
    return made


def checkpoints(project: Project) -> list[Path]:
    return sorted(project.path.glob("state/train/lora-*/fit/*-*.ckpt"))


@pytest.fixture
def held(project: Project) -> Iterator[tuple[subprocess.Popen, int]]:
    """DVC and the stage that it runs, which is stopped behind a checkpoint."""
    words = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", STAGE]
    dvc = subprocess.Popen(words, cwd=project.path, env=surroundings(), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(checkpoints(project)) < 2:
        assert dvc.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    (stage,) = workers(project)
    os.kill(stage, signal.SIGSTOP)
    yield dvc, stage
    dvc.kill()
    dvc.wait()


def dies(held: tuple[subprocess.Popen, int], number: signal.Signals) -> None:
    """Kill DVC alone, then let its stage go on."""
    dvc, stage = held
    dvc.send_signal(number)
    assert dvc.wait(30) != 0
    os.kill(stage, signal.SIGCONT)


@pytest.mark.fault("A3")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_when_dvc_dies_its_stage_ends_and_the_next_run_goes_on_from_its_checkpoints(
    number, project, held, finished_workshop, tally
):
    dies(held, number)
    assert waited(lambda: not workers(project)), "an orphan goes on beside the next run"
    assert checkpoints(project) and not (project.path / TRAINED[0]).exists()
    newest = checkpoints(project)[-1].name
    assert "going on from state/train/" in (said := project.works("dvc", "repro", "--single-item", STAGE))
    assert newest in said, said
    assert Workshop(project.path).hashes(*TRAINED) == finished_workshop.hashes(*TRAINED)
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A3")
def test_a_stage_that_does_not_hear_of_dvcs_death_goes_on_as_an_orphan(project, request):
    """The negative control."""
    project.edit("pipelines/__init__.py", "                _end_with_parent()", "                pass")
    dies(request.getfixturevalue("held"), signal.SIGKILL)
    assert waited(lambda: (project.path / TRAINED[0]).exists()), "it ended; the guard may go"
    assert waited(lambda: not workers(project))
