"""Launchers: the same sweep by each has the same trials and the same best point; one that is stopped goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.engines.test_workers import Crew
from tests.stories.conftest import Project, surroundings
from tests.stories.test_by_hand import runs_of

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),  # of SQLAlchemy, about MLflow's code
]
TFIDF = ("level=baseline", "model=tfidf", "data=sample_reviews", "split=stratified")
SEARCH = ("-m", "pipelines.train", "-m", "hydra/sweeper=optuna", *TFIDF, "model.C=tag(log, interval(0.1, 10))")
MODULES = {"joblib": "hydra_plugins.hydra_joblib_launcher", "ray": "hydra_plugins.hydra_ray_launcher"}
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=10")


def searched(project: Project, name: str, *words: str, **environment: str) -> tuple[list[str], dict]:
    """Run the search under a study of this name; return what it said of each trial, and its results."""
    folder = f"outputs/{name}"
    own = (f"hydra.sweep.dir={folder}", f"hydra.sweeper.study_name={name}", "hydra.sweeper.n_trials=3")
    told = project.works(*SEARCH, *own, "hydra.sweeper.n_jobs=2", *words, **environment)
    found = yaml.safe_load((project.path / folder / "optimization_results.yaml").read_text())
    return [line for line in told.splitlines() if line.startswith("trial ")], found


@pytest.fixture(scope="module")
def local(baselines) -> tuple[list[str], dict]:
    return searched(baselines, "local", "hydra/launcher=local")


@pytest.mark.parametrize("launcher", ["joblib", "ray", "submitit_slurm"])
def test_the_same_sweep_by_each_launcher_has_the_same_trials_and_the_same_best(launcher, local, baselines, request):
    if launcher == "submitit_slurm":
        found = searched(baselines, launcher, *SLURM, **request.getfixturevalue("slurm"))
    elif find_spec(MODULES[launcher]):
        found = searched(baselines, launcher, f"hydra/launcher={launcher}")
    else:
        pytest.skip(f"wants pip install -e '.[{launcher}]'")
    assert found[0] == local[0] and len(found[0]) == 3
    assert found[1]["best"] == local[1]["best"] and found[1]["n_trials"] == 3
    runs = {run.info.run_id: run for run in runs_of(baselines)}
    (parent,) = [run for run in runs.values() if run.info.run_name == launcher]
    trials = [run for run in runs.values() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(trials) == 3 and parent.data.metrics["num_complete"] == 3
    assert parent.data.metrics["val/accuracy"] == max(run.data.metrics["val/accuracy"] for run in trials)


def test_a_trial_in_a_process_of_its_own_is_pruned_by_its_study(baselines, tiny):
    shutil.copytree(tiny, baselines.path / "state" / "tiny", dirs_exist_ok=True)
    model = ("model=local_encoder", "model.asset.path=state/tiny/bert", "data=sample_reviews", "split=stratified")
    trainer = ("trainer.max_epochs=2", "trainer.checks_per_epoch=4", "data.max_rows=120", "trainer.max_length=32")
    search = ("hydra/sweeper=optuna", "hydra.sweeper.pruner=halving", "hydra.sweeper.sampler=grid")
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "optimizer.learning_rate=2e-3,1e-6,1e-7,1e-8")
    words = ("level=finetune", *model, "method=full", *trainer, *search, *launcher)
    told = baselines.works("-m", "pipelines.train", "-m", *words)
    assert "trial 4 of 4" in told and "-> pruned after" in told, told[-3000:]


def test_ctrl_c_ends_a_sweep_with_code_75_and_the_same_command_goes_on(local, baselines):
    words = [*SEARCH, "hydra.sweeper.study_name=stopped", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=2"]
    running = subprocess.Popen([sys.executable, *words], cwd=baselines.path, env=surroundings(), stdout=subprocess.PIPE)
    said = next(line for line in running.stdout if line.startswith(b"trial 1 "))
    running.send_signal(signal.SIGINT)
    rest = running.communicate()[0]
    assert running.returncode == 75 and b"trial 3" not in rest
    again, found = searched(baselines, "stopped")
    before = [line for line in (said + rest).decode().splitlines() if line.startswith("trial ")]
    assert [*before, *again] == local[0] and found["best"] == local[1]["best"]


def test_a_job_that_slurm_loses_ends_the_sweep_and_its_array_and_costs_no_trial(slurm, tmp_path):
    crew = Crew(tmp_path, str(tmp_path / "study.log"), slurm, n_trials=4, n_jobs=4)
    sweep = crew.start(*SLURM, "hydra.launcher.array_parallelism=2", "seconds=20")
    crew.until(2)
    os.kill(crew.tried()[0][0], signal.SIGKILL)
    said, _ = sweep.communicate()
    assert sweep.returncode and "MachineError: a job was lost" in said and "the same command goes on" in said, said
    gone(slurm)
    after = crew.start(*SLURM, "seconds=0")
    said, _ = after.communicate()
    assert after.returncode == 0 and "trial 4 of 4" in said, said
    points = [where for _, where in crew.tried()]
    assert len({*points}) == 4 and max(map(points.count, points)) <= 2


def test_ctrl_c_takes_back_what_waits_and_runs_in_slurm(slurm, tmp_path):
    crew = Crew(tmp_path, str(tmp_path / "study.log"), slurm, n_trials=4, n_jobs=4)
    sweep = crew.start(*SLURM, "hydra.launcher.array_parallelism=1", "seconds=60")
    crew.until(1)
    assert jobs(slurm)
    sweep.send_signal(signal.SIGINT)
    sweep.communicate()
    assert sweep.returncode
    gone(slurm)


def jobs(environment: dict[str, str]) -> str:
    words = ["squeue", "--noheader"]
    return subprocess.run(words, env=os.environ | environment, capture_output=True, text=True, check=True).stdout


def gone(environment: dict[str, str]) -> None:
    """Wait until no job is there: Slurm gives one some seconds to end."""
    deadline = time.monotonic() + 60
    while left := jobs(environment):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)


@pytest.mark.skipif(find_spec(MODULES["ray"]) is None, reason="wants pip install -e '.[ray]'")
def test_ray_tries_a_trial_again_whose_worker_is_killed(tmp_path: Path):
    crew = Crew(tmp_path, str(tmp_path / "study.log"), n_trials=2, n_jobs=2)
    sweep = crew.start("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2", "seconds=5")
    crew.until(2)
    os.kill(crew.tried()[0][0], signal.SIGKILL)
    said, _ = sweep.communicate()
    assert sweep.returncode == 0 and "trial 2 of 2" in said, said
    assert len(crew.tried()) == 3 and len({where for _, where in crew.tried()}) == 2


@pytest.mark.skipif(find_spec(MODULES["ray"]) is None, reason="wants pip install -e '.[ray]'")
def test_ctrl_c_ends_what_runs_on_ray_and_the_same_command_goes_on(tmp_path: Path):
    crew = Crew(tmp_path, str(tmp_path / "study.log"), n_trials=4, n_jobs=2)
    words = ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2")
    sweep = crew.start(*words, "seconds=60")
    crew.until(2)
    sweep.send_signal(signal.SIGINT)
    sweep.communicate()
    assert sweep.returncode
    begun, deadline = [process for process, _ in crew.tried()], time.monotonic() + 30
    while left := [process for process in begun if Path(f"/proc/{process}").exists()]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)
    after = crew.start(*words, "seconds=0")
    said, _ = after.communicate()
    assert after.returncode == 0 and "trial 4 of 4" in said, said
    points = [where for _, where in crew.tried()]
    assert len({*points}) == 4 and len(points) == 6, "what was in hand is tried again, the same points"
