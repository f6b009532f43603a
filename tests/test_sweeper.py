"""The sweeper: Hydra's --multirun by the same study, in any Hydra application, at no price where it is not used."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stepladder import schema, shipped, spaces, study
from tests.test_strict import typed_faults

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
SPHERE = """
import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def sphere(config):
    if config.get("broken") == config.x:
        raise ValueError(f"x={config.x} is broken")
    found = config.x**2 + config.y**2 + (config.z.size if "z" in config else 0)
    return [found, config.x] if config.get("two") else found

if __name__ == "__main__":
    sphere()
"""  # https://github.com/facebookresearch/hydra/blob/1.3_branch/plugins/hydra_optuna_sweeper/example/sphere.py
SWEEPER = {"sampler": "tpe", "seed": 123, "direction": "minimize", "n_trials": 5, "study_name": "sphere"}
PARAMS = {"x": "interval(-5.5, 5.5)", "y": "choice(-5, 0, 5)"}


def sweep(folder: Path, *words: str, params: dict | None = None, **config) -> tuple[subprocess.CompletedProcess, dict]:
    """Run the example of the old plugin's documentation with these words; return what it said and found."""
    defaults = [*config.pop("defaults", ()), {"override hydra/sweeper": "optuna"}]
    settings = {"sweep": {"dir": "out"}, "sweeper": SWEEPER | {"storage": "study.log", "params": params or PARAMS}}
    content = {"defaults": ["_self_", *defaults], "x": 1, "y": 1, **config, "hydra": settings}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    (folder / "sphere.py").write_text(SPHERE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "sphere.py", "-m", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    found = folder / "out" / "optimization_results.yaml"
    return done, yaml.safe_load(found.read_text()) if found.is_file() else {}


def tried(done: subprocess.CompletedProcess) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("trial ")]


def test_the_sphere_is_searched_and_the_same_command_goes_on(tmp_path):
    done, found = sweep(tmp_path)
    assert done.returncode == 0, done.stderr
    (best,) = found["best"]
    assert best["params"]["y"] == 0 and best["values"][0] == pytest.approx(best["params"]["x"] ** 2)
    assert len(tried(done)) == 5 and (tmp_path / "out" / "4" / ".hydra" / "overrides.yaml").is_file()
    again, _ = sweep(tmp_path, "hydra.sweeper.n_trials=7")
    assert [line.split(":")[0] for line in tried(again)] == ["trial 6 of 7", "trial 7 of 7"]
    whole, _ = sweep(tmp_path, "hydra.sweeper.n_trials=7", "hydra.sweeper.resume=false")
    assert [line.partition(": ")[2] for line in tried(whole)] == [
        line.partition(": ")[2] for line in [*tried(done), *tried(again)]
    ]


@pytest.mark.capability(24)
def test_what_is_typed_and_what_the_stage_runs_are_the_same_trials(tmp_path):
    typed, _ = sweep(tmp_path)
    space, plan = spaces.of({"parameters": PARAMS}), study.Plan(123, "tpe", n_trials=5)
    there = study.open_study(tmp_path / "study.log", "sphere", plan)
    here = study.open_study(tmp_path / "stage.log", "c", plan)
    trials = study.run(here, space, plan, lambda asked: (float(p["x"] ** 2 + p["y"] ** 2) for _, p in asked))
    assert typed.returncode == 0, typed.stderr
    assert [(each.params, each.values) for each in there.trials] == [(each.params, each.values) for each in trials]


def test_a_parameter_may_exist_under_an_option_alone_and_a_typed_word_wins(tmp_path):
    for kind, size in (("small", 0), ("large", 1)):
        (tmp_path / "z").mkdir(exist_ok=True)
        (tmp_path / "z" / f"{kind}.yaml").write_text(f"size: {size}\n")
    params = {"z": ["small", "large"], "z=large": {"z.size": "range(1, 4)"}, "x": "range(0, 3)", "y": "0"}
    config = {"defaults": [{"z": "small"}]}
    done, found = sweep(
        tmp_path, "hydra.sweeper.sampler=grid", "hydra.sweeper.n_trials=null", "x=2", params=params, **config
    )
    assert done.returncode == 0, done.stderr
    assert len(tried(done)) == 4 and "z.size=3" in done.stdout and "x=2" in done.stdout
    assert found["best"][0]["values"] == [4.0]


def test_jobs_may_run_beside_each_other_and_fail_up_to_a_limit(tmp_path):
    params = {"x": "range(0, 4)"}  # 1, the config's own, is first
    grid = ("hydra.sweeper.sampler=grid", "+broken=3")
    words = ("hydra/launcher=joblib", "hydra.sweeper.n_jobs=2", "hydra.launcher.n_jobs=2")
    done, found = sweep(tmp_path, *grid, *words, "hydra.sweeper.max_failure_rate=0.25", params=params)
    assert done.returncode == 0 and found["n_trials"] == 4 and found["best"][0]["params"] == {"x": 0}
    assert "trial 4 of 4: {'x': 3} -> failed: x=3 is broken" in done.stdout
    strict, _ = sweep(tmp_path, *grid, "hydra.sweeper.study_name=other", params={"x": "3,0"})
    assert strict.returncode and "x=3 is broken" in strict.stderr and len(tried(strict)) == 1


def test_several_directions_are_searched_by_nsgaii(tmp_path):
    words = ("hydra.sweeper.sampler=nsgaii", "hydra.sweeper.direction=[minimize,maximize]")
    done, found = sweep(tmp_path, *words, two=True, params={"x": "range(0, 3)"})
    assert done.returncode == 0, done.stderr
    assert {each["params"]["x"]: each["values"] for each in found["best"]}.items() <= {
        0: [1, 0],
        1: [2, 1],
        2: [5, 2],
    }.items()
    short, _ = sweep(tmp_path, *words, "hydra.sweeper.study_name=other")
    assert short.returncode and "1 scores for 2 directions" in short.stderr


def test_a_space_that_the_sampler_cannot_search_is_refused_before_the_first_job(tmp_path):
    done, _ = sweep(tmp_path, "hydra.sweeper.sampler=cmaes")
    assert done.returncode and "cmaes searches numbers; take sampler: tpe" in done.stderr and not tried(done)
    done, _ = sweep(tmp_path, "x=1", "y=1")
    assert done.returncode and "nothing is searched" in done.stderr


def test_importing_the_plugin_imports_neither_optuna_nor_torch_nor_stepladder():
    code = "import sys, json, hydra_plugins.stepladder_sweeper; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    names = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "hydra" in names and not names & {"optuna", "torch", "stepladder", "numpy", "mlflow"}


@pytest.mark.capability(48)
@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("hydra.sweeper.n_trails=3", "Did you mean 'n_trials'?"),
        ("hydra.sweeper.n_trials=0", "expected int [1, 100000] or null"),
        ("hydra.sweeper.sampler=tep", "expected grid or random or tpe"),
        ("hydra/sweeper=optima", "expected basic or optuna"),
        ("hydra.sweper.n_trials=3", "Did you mean 'sweeper'?"),
        ("hydra/launcher=slurm", "or ray or submitit_slurm"),
        ("hydra.launcher.timeout_mn=3", "Did you mean 'timeout_min'?"),
        ("hydra.launcher.tasks_per_node=2", "expected int [1, 1]"),
    ],
)
def test_a_setting_of_the_sweeper_that_is_wrong_is_refused(word, told):
    (line,) = typed_faults(word, many=True)
    assert told in line


def test_a_launcher_that_is_not_installed_is_refused_with_its_extra(monkeypatch):
    monkeypatch.setattr(shipped, "find_spec", lambda package: package != "hydra_plugins.hydra_submitit_launcher")
    (line,) = typed_faults("hydra/launcher=submitit_slurm", many=True)
    assert "hydra_submitit_launcher is not installed: pip install -e '.[slurm]'" in line
    assert typed_faults("hydra/launcher=joblib", many=True) == []


def test_settings_of_the_sweeper_are_those_of_a_sweep_and_pass():
    from hydra_plugins.stepladder_sweeper import StudySweeperConf

    words = ["hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.direction=[minimize,maximize]"]
    assert typed_faults(*words, "optimizer.learning_rate=tag(log,interval(1e-5,1e-3))", many=True) == []
    (shape,) = schema._shapes("<sweeper>")
    known = {key.rstrip("?") for key in shape} - {"max_batch_size"}
    assert known == {key for key in StudySweeperConf.__dataclass_fields__ if not key.startswith("_")}


def test_a_point_that_several_trials_of_a_batch_have_is_tried_once(tmp_path):
    words = ("hydra.sweeper.n_jobs=4", "hydra.sweeper.n_trials=8", "hydra.sweeper.sampler=random")
    done, found = sweep(tmp_path, *words, params={"x": "1,2"})
    assert done.returncode == 0 and found["n_trials"] == 8 and len(tried(done)) == 8, done.stderr
    folders = [int(path.name) for path in (tmp_path / "out").iterdir() if path.is_dir()]
    assert 2 <= len(folders) <= 4, "at most two points in each of two batches"
