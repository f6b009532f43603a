"""Sweeps: a search is killed half way and started again."""

import re
import shutil
import signal
import subprocess
import sys

from benchmarks.bare_stack.outcomes import NotRunError, Outcome
from benchmarks.bare_stack.processes import python, waited
from benchmarks.bare_stack.stacks import Stack

PINNED = ("hydra-optuna-sweeper==1.3.0", "optuna==2.10.1", "cmaes", "colorlog")  # the sweeper asks for this optuna
NUM_TRIALS, KILLED_AFTER = 8, 3
OURS_TRIALS = 4


def x19(stack: Stack) -> Outcome:
    """A sweep is killed half way, then started again"""
    return _plain(stack) if stack.name == "bare" else _ours(stack)


def _plain(stack: Stack) -> Outcome:
    library = stack.path / "library"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(library), *PINNED]
    if subprocess.run(install, capture_output=True, text=True, check=False, timeout=120).returncode:
        raise NotRunError("hydra-optuna-sweeper 1.3.0 could not be installed here")
    words, more = python("sweep.py", "-m"), {"PYTHONPATH": str(library)}
    kept = stack.run(*words, "hydra.sweeper.storage=sqlite:///study.db", "hydra.sweeper.study_name=s", **more)
    tried = stack.path / "tried"
    tried.unlink(missing_ok=True)
    running = stack.start(*words, **more)
    waited(lambda: tried.is_file() and len(tried.read_text().splitlines()) > KILLED_AFTER, 60)
    running.send(signal.SIGKILL)
    running.wait()
    before = len(tried.read_text().splitlines())
    again = stack.run(*words, **more)
    after = len(tried.read_text().splitlines()) - before
    facts = f"a study kept in SQLite: exit code {kept.code} ({kept.error}); in memory: killed in trial {before}"
    demands = {
        "a study can be kept": kept.code == 0,
        "finished trials are not tried again": after <= NUM_TRIALS - before + 1,
    }
    return Outcome(demands, f"{facts}, then {after} of {NUM_TRIALS} trials tried again, exit code {again.code}")


def _ours(stack: Stack) -> Outcome:
    tuned, table = stack.path / "tuned/lora.yaml", stack.path / "reports/trials/lora.parquet"
    whole = tuned.read_bytes(), table.read_bytes()
    shutil.rmtree(stack.path / "state/sweep")
    running = stack.start(*python("-m", "pipelines.sweep", "-cd", "build", "-cn", "lora"))
    waited(lambda: running.process.poll() is not None or len(_trials(running.said)) >= 2)
    running.send(signal.SIGKILL)
    before = len(_trials(running.wait().said))
    again = stack.pipeline("sweep", "-cd", "build", "-cn", "lora")
    fitted = len(re.findall(r"to train:|going on from", again.said))
    same = (tuned.read_bytes(), table.read_bytes()) == whole
    demands = {
        "a study can be kept": again.code == 0,
        "finished trials are not tried again": fitted <= OURS_TRIALS - before,
        "it ends with the bytes of an unbroken search": same,
    }
    facts = f"killed after {before} of {OURS_TRIALS} trials; again: {fitted} trial(s) fitted, exit code {again.code}"
    return Outcome(demands, f"{facts}, result {'as unbroken' if same else 'differs'}")


def _trials(said: str) -> list[str]:
    return re.findall(r"^trial \d+ of", said, re.MULTILINE)


x19.finished = True
