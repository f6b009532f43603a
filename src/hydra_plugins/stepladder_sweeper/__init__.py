r"""Stepladder's sweeper: `--multirun` by a study of Optuna, the same that stage `sweep` has.

python -m pipelines.train -m hydra/sweeper=optuna level=finetune model=minilm method=lora,dora \
    'optimizer.learning_rate=tag(log, interval(1e-5, 1e-3))'
The same command goes on where it was stopped. Hydra imports this module in every process: Optuna is imported in a sweep
alone. Sources: https://hydra.cc/docs/1.3/advanced/plugins/develop/ and https://hydra.cc/docs/plugins/optuna_sweeper/
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

NUM_TRIALS = 20


@dataclass
class StudySweeperConf:
    """Settings under `hydra.sweeper`; those of the same name in conf/sweep/ mean the same."""

    _target_: str = "hydra_plugins.stepladder_sweeper.StudySweeper"
    params: dict[str, Any] = field(default_factory=dict)  # as `parameters` in conf/sweep/; the command line comes after
    sampler: str = "tpe"
    pruner: str = "none"  # of what the job reports: a candidate's validations
    direction: Any = None  # minimize, maximize or several of them; null: what the task's metric says, else minimize
    n_trials: int | None = None  # 20, or every point of a grid
    n_jobs: int = 1  # handed to the launcher at once; more than one makes the study depend on their number
    enqueue: list[Any] = field(default_factory=list)
    max_failure_rate: float = 0.0
    max_seconds: float | None = None
    seed: int | None = None  # null: the config's own
    storage: str | None = None  # a journal file or a database's URL; null: state/studies/<study_name>.log
    study_name: str | None = None  # null: by a hash of what was typed, so that the same command goes on
    resume: bool = True  # false begins anew


ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=StudySweeperConf, provider="stepladder_sweeper")


class StudySweeper(Sweeper):
    """Asks a study for points, hands them to the launcher, and tells the study what the jobs return."""

    def __init__(self, **settings: Any) -> None:
        self.settings = DictConfig(settings)
        self.hydra_context = self.config = self.launcher = None

    def setup(self, *, hydra_context, task_function, config: DictConfig) -> None:
        """Keep what a sweep needs, and make the launcher."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        parts = {"hydra_context": hydra_context, "task_function": task_function, "config": config}
        self.launcher = Plugins.instance().instantiate_launcher(**parts)
        if _in_slurm(self.launcher):
            _own_name(self.launcher)

    def sweep(self, arguments: list[str]) -> dict:
        """Run the trials of these overrides, write optimization_results.yaml and return what is in it.

        Raises ConfigError for what cannot be searched, and what a job raised where too many fail.
        """
        from stepladder import storages, study

        space, fixed = self._space(arguments)
        own = self.hydra_context.config_loader.load_sweep_config(self.config, fixed)
        plan = self._plan(space, own)
        name = self.settings.study_name or self._name(arguments, plan, own)
        place = storages.where(self.settings.storage, name)
        told = {"hydra.sweeper.storage": str(place), "hydra.sweeper.study_name": name} if plan.pruner != "none" else {}
        evaluate = partial(self._launched, [*fixed, *_overrides(told)])  # a job that may be pruned knows its study
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        with storages.exclusive(place):
            found = study.open_study(place, name, plan, anew=not self.settings.resume)
            alone = isinstance(place, Path)
            trials = study.run(found, space, plan, evaluate, batch=self.settings.n_jobs, alone=alone)
        best = [study.best(trials, plan.directions[0])] if len(plan.directions) == 1 else found.best_trials
        solutions = [
            {"number": each.number, "params": study.point(each, space), "values": each.values} for each in best
        ]
        results = {"study": name, "storage": str(place), "n_trials": len(trials), "best": solutions}
        OmegaConf.save(results, folder / "optimization_results.yaml")
        if len(plan.directions) == 1:
            from stepladder import trials as told

            told.write(trials, space, plan, folder)
        if "runtime" in own and solutions:
            self._track(name, trials, OmegaConf.to_container(own), space, solutions[0]["values"])
        for each in solutions:
            print(f"best of {len(trials)} trials: {each['params']} -> {each['values']}", flush=True)
        return results

    def _track(self, name: str, trials: list, own: dict, space: list, best: list[float]) -> None:
        """Tell the tracking store of the study, under which it then shows the runs of the trials."""
        from stepladder import sync

        cure = "the trials themselves are; the same command tells the study later"
        said = {each.name: list(each.values) for each in space} | {"sampler": self.settings.sampler}
        with sync.forgiving(cure):
            reached = {f"val/{own['task']['metric']}": best[0]}
            shown = sync.texts(Path(self.config.hydra.sweep.dir))
            sync.typed(own["runtime"], name, trials, params=said, metrics=reached, shown=shown)

    def _space(self, arguments: list[str]) -> tuple[list, list[str]]:
        """Return the parameters that are searched and the overrides that are not; a word typed later wins."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from stepladder import spaces
        from stepladder.errors import ConfigError

        params = OmegaConf.to_container(self.settings.params)
        nested = {key: value for key, value in params.items() if isinstance(value, list | dict)}
        words = [f"{key}={value}" for key, value in params.items() if key not in nested]
        searched, wrong = spaces.read(nested)
        if wrong:
            raise ConfigError("\n".join(text for _, text in wrong))
        fixed: dict[str, str] = {}
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        for override in parser.parse_overrides([*words, *arguments]):
            key = override.get_key_element()
            searched = [each for each in searched if each.key != key]
            fixed.pop(key, None)
            if override.is_sweep_override():
                searched.append(spaces.of_override(key, override))
            else:
                fixed[key] = override.input_line
        return sorted(searched, key=lambda each: len(each.where)), list(fixed.values())

    def _plan(self, space: list, own: DictConfig):
        """Return how to search; the config's own values come first where the space holds them."""
        from stepladder import metrics, study, sweeps
        from stepladder.errors import ConfigError

        if not space:
            raise ConfigError("nothing is searched: no word has several values, and hydra.sweeper.params none either")
        said = OmegaConf.to_container(self.settings)
        if said["n_trials"] is None and said["sampler"] != "grid":
            said["n_trials"] = NUM_TRIALS
        if faults := sweeps.faults(space, said):
            raise ConfigError("\n".join(text for _, text in faults))
        point, outside = sweeps.start(space, partial(_own, own))
        direction = said["direction"]
        if direction is None:
            metric = OmegaConf.select(own, "task.metric")
            direction = "maximize" if metric and metrics.load(metric).GREATER_IS_BETTER else "minimize"
        seed = OmegaConf.select(own, "seed", default=0) if said["seed"] is None else said["seed"]
        kept = {key: said[key] for key in study.SAID} | {"enqueue": (*(() if outside else (point,)), *said["enqueue"])}
        return study.Plan(
            seed=seed, directions=(direction,) if isinstance(direction, str) else tuple(direction), **kept
        )

    def _name(self, arguments: list[str], plan, own: DictConfig) -> str:
        """Return a name by all that decides what the trials are, not how many there are: words, config and data."""
        from stepladder import store

        config = {key: value for key, value in OmegaConf.to_container(own).items() if key != "hydra"}
        folder = Path("data", str(OmegaConf.select(own, "data.name")))
        read = [store.sha256(file) for part in ("train", "val") if (file := folder / f"{part}.parquet").is_file()]
        parts = [arguments, OmegaConf.to_container(self.settings.params), plan.seed, plan.sampler, plan.pruner]
        text = json.dumps([*parts, config, read, plan.directions, plan.enqueue, self.settings.n_jobs], default=str)
        return f"{self.config.hydra.job.name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _launched(self, fixed: list[str], asked: list):
        """Yield what each job returned or raised, in a folder numbered as its trial; equal points are tried once."""
        first: dict[tuple, int] = {}
        for trial, point in asked:
            first.setdefault(tuple(_overrides(point)), trial.number)
        folder = Path(self.config.hydra.sweep.dir).absolute()  # a worker of a cluster may stand elsewhere
        place = _overrides({"hydra.sweep.dir": str(folder)})
        jobs = [(*fixed, *words, *place, f"hydra.sweep.subdir={number}") for words, number in first.items()]
        for trial, point in asked:
            trial.set_user_attr("output", str(folder / str(first[tuple(_overrides(point))])))
        ended = dict(zip(first, self._jobs(jobs, asked[0][0].number), strict=True))
        for _, point in asked:
            job = ended[tuple(_overrides(point))]
            try:
                with redirect_stderr(StringIO()):  # Hydra's line on a job that failed, which the trial's says better
                    returned = job.return_value
                yield _number(returned)
            except Exception as error:
                yield error

    def _jobs(self, jobs: list[tuple[str, ...]], first: int) -> list:
        """Return how jobs ended; where this process is to end, or one was lost with its machine, none goes on.

        Raises MachineError for a job that was lost: it says nothing of the trial, which the same command tries again.
        """
        from stepladder.errors import MachineError

        try:
            return self.launcher.launch(jobs, initial_job_idx=first)
        except BaseException as error:
            if _in_slurm(self.launcher):
                subprocess.run(["scancel", f"--name={self.launcher.params['name']}"], check=False)
            if not isinstance(error, Exception):
                raise
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            told = " ... ".join(dict.fromkeys([lines[0], lines[-1]]))
            raise MachineError(f"a job was lost: {told}; the same command goes on") from error


def _in_slurm(launcher) -> bool:
    return getattr(launcher, "_EXECUTOR", None) == "slurm"


def _own_name(launcher) -> None:
    """Name the Slurm jobs of this process as no other's, and say when their death would not be noticed."""
    launcher.params["name"] += f"-{platform.node()}-{os.getpid()}"
    if shutil.which("sacct") and subprocess.run(["sacct", "-n", "-X"], capture_output=True, check=False).returncode:
        print("warning: sacct does not answer: a job that is killed is waited for, for ever", file=sys.stderr)


def _overrides(point: dict) -> list[str]:
    """Return a point in Hydra's grammar; a plain name stands without quotes, as the option of a group does."""
    from stepladder import compose

    plain = {key: isinstance(value, str) and value.isidentifier() for key, value in point.items()}
    return [f"{key}={value if plain[key] else compose.literal(value)}" for key, value in point.items()]


def _own(config: DictConfig, key: str):
    """Return the value of a key, or the option of a group, in a composed config; None where it has none."""
    name = key.lstrip("+")
    option = OmegaConf.select(config, "hydra.runtime.choices", default={}).get(name)
    return OmegaConf.select(config, name) if option is None else option


def _number(returned):
    """Return what a job returned as one number or several; ConfigError for another thing."""
    from stepladder.errors import ConfigError

    try:
        return [float(value) for value in returned] if isinstance(returned, list | tuple) else float(returned)
    except TypeError:
        raise ConfigError(f"the job returned {returned!r}; a sweep wants a number, or one for each direction") from None
