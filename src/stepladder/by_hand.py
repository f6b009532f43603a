"""By hand: a run that was typed, on a prepared data set, into a folder of its own; DVC's outputs are not touched."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from stepladder import candidates, compose, conversions, exporter, runs, splits, storages, store, study, sweeps, sync
from stepladder.errors import ConfigError


@dataclass(frozen=True)
class Trial:
    """What a run reports to, where a sweep may prune it: a study, its pruner, and the number of the trial in it."""

    storage: str
    study_name: str
    pruner: str
    number: int


def train(config: dict, output: Path, *, trial: Trial | None = None) -> dict[str, float]:
    """Train what was typed into `output`, fetching its base when needed, and track it; return the val scores.

    Raises DataError with the command to type where the data set is not prepared, and what Optuna raises where a trial
    is pruned.
    """
    config = config | {"tasks": compose.tasks(config)}
    files = splits.assign(config["data"]["name"], config["corpus"], list(config["tasks"]))
    asset = conversions.provide(config["model"])
    folder = asset.get("folder")
    chosen = candidates.Inputs(files, folder and store.root() / folder, asset["files"])
    report = _reporter(config, trial) if trial else None
    try:
        measured = runs.measured(output / "train.json", metered=config["runtime"]["meter"])
        with exporter.beside(config, files, output) as ended, measured as cost:
            parts = {"sections": config, "files": chosen, "cost": cost, "report": report}
            scores = candidates.fit_into(output / "model", output / "val.parquet", **parts)
            ended["scores"] = scores
    except Exception as error:
        if getattr(error, "status", None) == study.PRUNED:  # nobody goes on with it
            shutil.rmtree(sync.journal(sync.begun(config, files).key).parent, ignore_errors=True)
        raise
    return scores


def _reporter(config: dict, trial: Trial) -> candidates.Report:
    """Return what tells the study of each validation; ConfigError where there is one alone."""
    if (checks := sweeps.num_checks(config)) < 2:
        raise ConfigError(f"hydra.sweeper.pruner={trial.pruner}: {sweeps.ONE_CHECK}")
    plan = study.Plan(seed=config["seed"], pruner=trial.pruner, num_checks=checks)
    joined = study.join(storages.where(trial.storage, trial.study_name), trial.study_name, plan, trial.number)
    watched = f"val/{config['task']['metric']}"
    return lambda name, value, step: study.report(joined, value, step) if name == watched else None
