"""Stages: what DVC and a light stage cost where there is nothing to do: CPU seconds over DVC's own, and no torch.

python -m benchmarks quick stages       `dvc repro` of the whole pipeline, and of one light stage that ends at once

The allowance is one CPU second over what DVC takes for a stage that does nothing, so the peer's seconds are those and
one, and the goal is a ratio of 1. The whole pipeline is gone through by --dry, which changes nothing.
"""

import functools
import os
import shlex
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import yaml

from benchmarks import subjects, workspaces
from benchmarks.clocks import Clock
from benchmarks.rounds import OURS, Contest, Pairing, Run

ALONE = "DVC alone, and 1 s"
ALLOWED_S = 1.0
LIGHT = ("-m", "pipelines.prepare", "-cd", "build/data", "-cn", "reviews", "--cfg", "job")  # starts, checks, composes
HEAVY = {"torch", "lightning", "transformers", "peft", "mlflow"}


def contests(clock: Clock, _stack: ExitStack) -> list[Contest]:
    """Return the pipeline with nothing to do, and the start of a light stage."""
    whole, light, idle = (functools.partial(each, clock=clock) for each in (nothing_to_do, light_stage, alone))
    return [
        Contest("dvc repro, nothing to do", {OURS: whole, ALONE: idle}, [Pairing(OURS, ALONE, 1.0, _up_to_date)]),
        Contest("start of a light stage", {OURS: light, ALONE: idle}, [Pairing(OURS, ALONE, 1.0, _no_torch)]),
    ]


def nothing_to_do(_work, *, clock: Clock) -> Run:
    """Let DVC compare every file of the pipeline with its lock."""
    with clock.running():
        said = workspaces.run(subjects.ROOT, "dvc", "repro", "--dry", threads=clock.threads)
    return Run(clock.spent, said)


def light_stage(_work, *, clock: Clock) -> Run:
    """Let DVC run one light stage that only starts."""
    command = shlex.join(["cd", str(subjects.ROOT)]) + " && " + shlex.join([sys.executable, *LIGHT])
    return _one_stage(command, clock)


def alone(_work, *, clock: Clock) -> Run:
    """Let DVC run a stage that does nothing; its seconds and the allowance."""
    found = _one_stage("true", clock)
    return Run(found.seconds + ALLOWED_S, found.result)


def _one_stage(command: str, clock: Clock) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        workspaces.run(place, "dvc", "init", "--no-scm", "-q", threads=clock.threads)
        (place / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"one": {"cmd": command}}}))
        with clock.running():
            said = workspaces.run(place, "dvc", "repro", threads=clock.threads)
    return Run(clock.spent, said)


def _up_to_date(_warm: dict, timed: dict[str, Run]) -> tuple[bool, str]:
    done = "Running stage" not in timed[OURS].result
    return done, "every stage is up to date" if done else "the pipeline is not finished: make run"


def _no_torch(_warm: dict, _timed: dict) -> tuple[bool, str]:
    command = [sys.executable, "-X", "importtime", *LIGHT]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=subjects.ROOT, env=environment, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()} & HEAVY
    return not loaded, f"it imports {', '.join(sorted(loaded)) if loaded else 'none of ' + ', '.join(sorted(HEAVY))}"
