"""Interruptions: whatever is killed, and whenever, the same command again ends with the bytes of an unbroken run."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepladder import store
from tests.stories.conftest import Project, surroundings

pytestmark = pytest.mark.story

OUTPUTS = {
    "sweep@lora": ["tuned/lora.yaml", "reports/trials/lora.parquet"],
    "train@lora": ["models/lora", "predictions/val/lora.parquet"],
    "train@scratch": ["models/scratch", "predictions/val/scratch.parquet"],
    "train@frozen": ["models/frozen", "predictions/val/frozen.parquet"],
}


@pytest.fixture(scope="module")
def project(story, tmp_path_factory) -> Project:
    """A copy of the finished run that keeps a checkpoint at every step."""
    made = story.copy(tmp_path_factory.mktemp("interrupted") / "repository")
    for file in (made.path / "build").glob("*.yaml"):
        text = file.read_text()
        file.write_text(text.replace("checkpoint_every_s: 60", "checkpoint_every_s: 0"))
    return made


def hashes(project: Project, stage: str) -> dict:
    return {name: store.hashes(project.path / name) for name in OUTPUTS[stage]}


def begun(project: Project, stage: str) -> subprocess.Popen:
    """Start a stage anew through DVC, whatever was finished before, in a group of its own."""
    words = [sys.executable, "-m", "dvc", "repro", "--force", "--single-item", stage]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = surroundings() | {"STEPLADDER_FRESH": "1"}
    return subprocess.Popen(words, cwd=project.path, env=environment, start_new_session=True, **streams)


def workers(project: Project) -> list[int]:
    """Return the ids of the stages that run in this project."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words, where = (place / "cmdline").read_bytes().split(b"\0"), (place / "cwd").resolve()
        except OSError:
            continue
        if any(word.startswith(b"pipelines.") for word in words) and where == project.path:
            found.append(int(place.name))
    return found


def waited(condition, seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


MOMENTS = [  # what is killed, how, and so many seconds after the stage began
    ("dvc", signal.SIGKILL, 1.0), ("dvc", signal.SIGTERM, 5.0), ("stage", signal.SIGKILL, 5.0),
    ("stage", signal.SIGTERM, 6.0), ("stage", signal.SIGKILL, 7.0), ("stage", signal.SIGINT, 6.5),
]  # fmt: skip
SHORT = {("train@lora", *MOMENTS[4])}  # of CI
FAULTS = {signal.SIGKILL: "A1", signal.SIGTERM: "A2", signal.SIGINT: "A8"}
CASES = [pytest.param(stage, *moment, marks=[pytest.mark.fault("A3" if moment[0] == "dvc" else FAULTS[moment[1]]),
                                             *([] if (stage, *moment) in SHORT else [pytest.mark.long])])
         for stage in OUTPUTS for moment in MOMENTS]  # fmt: skip


@pytest.mark.parametrize(("stage", "target", "sent", "delay"), CASES)
def test_a_stage_that_was_killed_ends_with_the_bytes_of_an_unbroken_one(stage, target, sent, delay, project, tally):
    before = hashes(project, stage)
    running = begun(project, stage)
    assert waited(lambda: workers(project)), "the stage did not start"
    time.sleep(delay)
    for process in [running.pid] if target == "dvc" else workers(project):
        os.kill(process, sent)
    said, _ = running.communicate()
    assert waited(lambda: not workers(project)), "an orphan goes on beside the next run"
    assert "Traceback" not in said
    project.works("dvc", "repro", "--single-item", stage)
    assert hashes(project, stage) == before
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A10")
@pytest.mark.long
@pytest.mark.fault("A10")
def test_a_finished_training_that_dvc_did_not_note_is_not_repeated(project):
    """DVC dies between the stage's end and its lock file: the result is published again from state/."""
    stage, before = "train@lora", hashes(project, "train@lora")
    shutil.rmtree(project.path / "state" / "train")
    lock = (project.path / "dvc.lock").read_text()
    assert "to train:" in project.works("dvc", "repro", "--force", "--single-item", stage)
    assert list((project.path / "state" / "train").glob("lora-*/result"))
    assert not list((project.path / "state" / "train").glob("lora-*/fit")), "checkpoints of finished work are kept"
    (project.path / "dvc.lock").write_text(lock)
    again = project.works("dvc", "repro", "--force", "--single-item", stage)
    assert "to train:" not in again and hashes(project, stage) == before
    assert "to train:" in project.works("dvc", "repro", "--force", "--single-item", stage, STEPLADDER_FRESH="1")
    assert hashes(project, stage) == before
    project.works("dvc", "repro", "--force", "--single-item", "compare")
    assert not list((project.path / "state" / "train").glob("lora-*")), "what DVC knows is not kept twice"


@pytest.mark.fault("H1")
def test_of_two_dvc_repro_at_once_the_second_names_the_first_and_touches_nothing(baselines, tmp_path):
    made = baselines.copy(tmp_path / "repository")
    made.params(set={"split": {"name": "stratified"}, "gate": {"num_resamples": 200}})
    first = subprocess.Popen([sys.executable, "-m", "dvc", "repro"], cwd=made.path, env=surroundings())
    assert waited(lambda: workers(made))
    second = made.run("dvc", "repro")
    assert second.code and str(first.pid) in second.out + second.err and not made.stages_run(second.out)
    assert first.wait(300) == 0 and made.status() == {}


@pytest.mark.fault("H2")
@pytest.mark.long
def test_a_second_process_at_the_same_work_is_refused_with_the_id_of_the_first(project):
    running = begun(project, "train@scratch")
    assert waited(lambda: list((project.path / "state" / "train").glob("scratch-*.pid")))
    (first,) = workers(project)
    os.kill(first, signal.SIGSTOP)
    try:
        second = project.run("-m", "pipelines.train", "-cd", "build", "-cn", "scratch")
    finally:
        os.kill(first, signal.SIGCONT)
    assert second.code == 75 and f"process {first} on " in second.err and "Traceback" not in second.err
    running.communicate()
