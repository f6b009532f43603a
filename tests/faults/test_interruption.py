"""A: whatever is killed, and whenever, the same command again ends with the bytes of an unbroken run."""

import json
import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.faults import hooks, kills
from tests.faults.workshop import Stage, Workshop

pytestmark = pytest.mark.slow

TRAINED = ("models/lora", "predictions/val/lora.parquet")
STAGES = [*kills.OUTPUTS, ("fetch", "converted")]
TWICE = (("train", "lora"), ("train", "scratch"))  # by both signals in CI, the others by one
LONG = [pytest.mark.long, pytest.mark.story]
CASES = [
    pytest.param(stage, number, id=f"{number.name} {' '.join(stage)}",
                 marks=[pytest.mark.fault(fault), *(() if (place + turn) % 2 or stage in TWICE else LONG)])
    for place, stage in enumerate(STAGES)
    for turn, (fault, number) in enumerate({"A1": signal.SIGKILL, "A2": signal.SIGTERM}.items())
]  # fmt: skip


@pytest.fixture(scope="module")
def target(finished_workshop: Workshop, tmp_path_factory):
    """Return a function that gives a stage to kill, in a project of its own."""
    made = {}

    def of(stage: tuple[str, str]) -> kills.Target:
        if stage not in made:
            path = tmp_path_factory.mktemp("-".join(stage)) / "project"
            made[stage] = kills.target(finished_workshop.copy(path), *stage)
        return made[stage]

    return of


@pytest.mark.parametrize(("stage", "number"), CASES)
def test_a_stage_that_was_killed_at_a_random_moment_ends_with_the_same_bytes(stage, number, target, tally):
    _, _, share = kills.drawn(STAGES.index(stage) + len(STAGES) * (number == signal.SIGTERM))
    killed = target(stage)
    assert killed.kill(number, share) < kills.PATIENCE_S
    killed.again()
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A1")
@pytest.mark.parametrize("in_place", [False, True])
def test_a_kill_within_the_writing_of_an_output_leaves_none(in_place, finished_workshop, tmp_path):
    """The control, writing in place, shows that half an output would be seen."""
    made, output = finished_workshop.copy(tmp_path / "project"), "predictions/test/lora.parquet"
    before = made.hashes(output)
    (made.path / output).unlink()
    fault = partial(hooks.killed_while_publishing, in_place=in_place)
    assert made.run("evaluate", *made.of("lora"), fault=fault).process.exitcode == -9
    assert (made.path / output).exists() == in_place and made.hashes(output) != before
    made.works("evaluate", *made.of("lora"))
    assert made.hashes(output) == before


@pytest.fixture
def lora(finished_workshop: Workshop, tmp_path: Path) -> Workshop:
    """A finished project whose LoRA is to be trained anew and keeps a checkpoint when it is asked to end alone."""
    made = finished_workshop.copy(tmp_path / "project")
    made.edit("build/lora.yaml", "checkpoint_every_s: 0", "checkpoint_every_s: 3600")
    return made


def ended(made: Workshop, plant, hook: str, *numbers: int, at: int, **options) -> Stage:
    """Train anew with signals that arrive in a hook of the training; return the stage that has ended."""
    fault = partial(plant, hook, numbers, at=at, **options)
    slurm = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    path = f"{made.path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    stage = made.run("train", *made.of("lora"), fault=fault, STEPLADDER_FRESH="1", PATH=path, **slurm)
    assert "Traceback" not in stage.said, stage.said
    return stage


def kept(made: Workshop) -> list[int]:
    """Return the steps of the checkpoints that lie there."""
    return sorted(int(file.name[:8]) for file in made.path.glob("state/train/lora-*/fit/*-*.ckpt"))


def resumed(made: Workshop, before: dict, step: int | None) -> None:
    """Train on from a checkpoint of this step, or without one anew, to the bytes of an unbroken run."""
    said = made.works("train", *made.of("lora"))
    assert f"{step:08d}-" in said if step else "to train:" in said
    assert made.hashes(*TRAINED) == before


def requeued(made: Workshop) -> list[str]:
    """Return what the stage asked of Slurm."""
    told = made.path / "bin" / "told.txt"
    return told.read_text().splitlines() if told.exists() else []


@pytest.fixture
def slurm(lora: Workshop) -> Workshop:
    """The same project where commands of Slurm are there, and note how they are called."""
    (lora.path / "bin").mkdir()
    for name in ("scontrol", "sbatch"):
        command = lora.path / "bin" / name
        command.write_text(f'#!/bin/sh\necho "{name} $*" >> "$(dirname "$0")/told.txt"\n')
        command.chmod(0o755)
    return lora


IN_TRAINING, IN_VALIDATION = "on_train_batch_end", "on_validation_batch_end"
PREEMPTIONS = [  # code, what Slurm is asked for
    pytest.param(signal.SIGTERM, 143, [], id="SIGTERM"),
    pytest.param(signal.SIGUSR1, 75, ["scontrol requeue 77"], id="SIGUSR1"),
]


@pytest.mark.fault("A7", "A2")
@pytest.mark.parametrize(("number", "code", "asked"), PREEMPTIONS)
def test_a_preempted_training_ends_behind_its_step_and_goes_on_bit_for_bit(number, code, asked, slurm, tally):
    before = slurm.hashes(*TRAINED)
    assert ended(slurm, hooks.signalled, IN_TRAINING, number, at=3).process.exitcode == code
    assert (kept(slurm), requeued(slurm)) == ([4], asked)  # it arrived when the third step was done
    resumed(slurm, before, 4)
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A7", "A2")
@pytest.mark.parametrize(("number", "code", "asked"), PREEMPTIONS)
def test_a_preempted_validation_ends_at_once_and_is_repeated(number, code, asked, slurm, tally):
    slurm.edit("build/lora.yaml", "checkpoint_every_s: 3600", "checkpoint_every_s: 0")
    before = slurm.hashes(*TRAINED)
    assert ended(slurm, hooks.signalled, IN_VALIDATION, number, at=1).process.exitcode == code
    steps = kept(slurm)
    assert steps and requeued(slurm) == asked
    resumed(slurm, before, steps[-1])
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A7", "A2")
def test_a_signal_to_all_processes_of_a_job_lets_the_loaders_workers_die_without_an_error(slurm, tally):
    before = slurm.hashes(*TRAINED)
    slurm.edit("build/lora.yaml", "num_workers: 0", "num_workers: 2")
    stage = ended(slurm, hooks.signalled, IN_TRAINING, signal.SIGTERM, at=3, group=True)
    assert stage.process.exitcode == 143 and "error[" not in stage.said, stage.said
    resumed(slurm, before, kept(slurm)[-1] if kept(slurm) else None)
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A2")
def test_a_training_that_does_not_finish_its_step_keeps_no_checkpoint(lora):
    """The control of the two above."""
    assert ended(lora, hooks.impatient, IN_TRAINING, signal.SIGTERM, at=3).process.exitcode == 143
    assert not kept(lora)


@pytest.mark.fault("A8")
@pytest.mark.parametrize(
    ("numbers", "code", "step"),
    [((signal.SIGINT,), 75, 4), ((signal.SIGINT, signal.SIGINT), 75, None), ((signal.SIGHUP,), 143, 4)],
    ids=["once", "twice", "terminal lost"],
)
def test_a_person_or_a_lost_terminal_ends_a_training_as_a_scheduler_does(numbers, code, step, lora, tally):
    before = lora.hashes(*TRAINED)
    assert ended(lora, hooks.signalled, IN_TRAINING, *numbers, at=3).process.exitcode == code
    assert kept(lora) == ([step] if step else [])
    resumed(lora, before, step)
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A8")
def test_two_interrupts_within_the_writing_of_a_checkpoint_tear_none(lora, tally):
    lora.edit("build/lora.yaml", "checkpoint_every_s: 3600", "checkpoint_every_s: 0")
    before, fault = lora.hashes(*TRAINED), partial(hooks.signalled_while_saving, (signal.SIGINT,) * 2, at=3)
    stage = lora.run("train", *lora.of("lora"), fault=fault, STEPLADDER_FRESH="1")
    assert stage.process.exitcode == 75 and "Traceback" not in stage.said, stage.said
    assert kept(lora) == [1, 2] and not list(lora.path.glob("state/train/lora-*/fit/*.tmp"))
    resumed(lora, before, 2)
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A8")
def test_under_nohup_a_lost_terminal_ends_nothing(lora):
    before = lora.hashes(*TRAINED)
    assert ended(lora, hooks.unheard, IN_TRAINING, signal.SIGHUP, at=3).process.exitcode == 0
    assert lora.hashes(*TRAINED) == before


def other_rate(made: Workshop) -> None:
    file = made.path / "tuned" / "lora.yaml"  # whichever rate the search chose
    text, number = re.subn(r"learning_rate: \S+", "learning_rate: 0.0004", file.read_text())
    assert number == 1
    file.write_text(text)


def other_data(made: Workshop) -> None:
    file = made.path / "inputs" / "lora.json"
    noted = json.loads(file.read_text())
    noted["train"] = noted["test"]  # rows of val would be a leak
    file.write_text(json.dumps(noted))


def other_code(made: Workshop) -> None:
    file = made.path / "build" / "lora.yaml"
    lines = [f"  level: {'0' * 64}" if line.startswith("  level: ") and len(line) > 60 else line
             for line in file.read_text().splitlines()]  # fmt: skip
    assert "\n".join(lines) != file.read_text().rstrip("\n")
    file.write_text("\n".join(lines) + "\n")


@pytest.mark.fault("A5")
@pytest.mark.parametrize("change", [other_rate, other_data, other_code])
def test_another_rate_data_or_code_begins_anew_and_the_old_ones_go_on(change, lora, tally):
    before = lora.hashes(*TRAINED)
    ended(lora, hooks.signalled, IN_TRAINING, signal.SIGTERM, at=3)
    files = {
        name: (lora.path / name).read_text() for name in ("tuned/lora.yaml", "inputs/lora.json", "build/lora.yaml")
    }
    change(lora)
    said = lora.works("train", *lora.of("lora"))
    assert "to train:" in said and "going on" not in said
    assert lora.hashes(*TRAINED) != before, "the key of what was trained is among its facts"
    for name, text in files.items():
        (lora.path / name).write_text(text)
    resumed(lora, before, 4)
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("A5")
def test_other_versions_are_refused_by_name_until_one_begins_anew(lora):
    before = lora.hashes(*TRAINED)
    ended(lora, hooks.signalled, IN_TRAINING, signal.SIGTERM, at=3)
    (file,) = lora.path.glob("state/train/lora-*/versions.json")
    versions = json.loads(file.read_text())
    file.write_text(json.dumps(versions | {"torch": "2.0.1"}))
    stage = lora.run("train", *lora.of("lora"))
    assert stage.process.exitcode == 4 and f"torch 2.0.1 -> {versions['torch']}" in stage.said
    assert "STEPLADDER_FRESH=1 begins anew" in stage.said and "Traceback" not in stage.said
    assert kept(lora) == [4], "what the old versions made is kept"
    lora.works("train", *lora.of("lora"), STEPLADDER_FRESH="1")
    assert lora.hashes(*TRAINED) == before
