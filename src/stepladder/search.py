"""Search: the trials of a sweep, each a candidate fitted on a sample of train and judged on val; test is never read.

The first trial of a search by a sampler has the candidate's own values; a grid has the points that it names.
"""

import gc
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import polars as pl
import yaml

from stepladder import candidates, levels, metrics, records, runs, spaces, study, sweeps, trials, work
from stepladder.errors import ConfigError, DataError, NumericsError

Trial = Callable[[dict, dict], dict]  # composes a candidate again with {key: value} on top
FAULTS = (ConfigError, DataError, NumericsError)  # of a trial; another is the machine's, and ends the search
LIMITS = ("n_trials", "max_failure_rate", "max_seconds")  # that say how far a study goes, not where


def sweep(config: dict, trial: Trial) -> None:
    """Stage sweep: write tuned/<c>.yaml with the winning sections, whole, and in reports/ trials and searches."""
    name, settled, rows = config["candidate"], {"sections": {}}, []
    shown = Path("reports", "searches", name)
    shown.mkdir(parents=True, exist_ok=True)
    if config["sweep"]:
        with runs.measured(Path("runs", name, "sweep.json"), metered=config["runtime"]["meter"]) as cost:
            rows, won, told = _searched(config, trial, cost, shown)
        settled = {"sections": _changed(trial(config, {}), trial(config, won)), "key": cost["key"]}
        settled |= {"importance": told["importance"]} if told["importance"] else {}
        settled |= {"reproducible": False} if config["sweep"].get("max_seconds") else {}
    records.write_text(yaml.safe_dump(settled, sort_keys=False), Path("tuned", f"{name}.yaml"))
    table = pl.DataFrame(rows, infer_schema_length=None) if rows else pl.DataFrame(schema={"score": pl.Float64})
    records.write(table, Path("reports", "trials", f"{name}.parquet"))


def _searched(config: dict, trial: Trial, cost: dict, shown: Path) -> tuple[list[dict], dict, dict]:
    """Return a row for each trial, what the best of them changed in the candidate, and what is told of them all."""
    name, files, more = config["candidate"], candidates.inputs(config), ("sweep", "options")
    space, plan = spaces.of(config["sweep"]), _plan(config)
    kept = config | {"sweep": {key: value for key, value in config["sweep"].items() if key not in LIMITS}}
    where, basis = (found(kept, files.files, more=more) for found in (candidates.key, candidates.basis))
    with work.at("sweep", name, where, basis=basis) as state:
        found = study.open_study(state / "study.log", name, plan)
        cost["earlier_seconds"] = round(study.seconds(found), 3)
        tried = study.run(found, space, plan, partial(_evaluated, config, files, trial, state))
    rows = [_row(each, space) for each in tried]
    best = study.best(tried, plan.directions[0])
    cost |= {"num_trials": len(rows), "trial_seconds": round(sum(each.user_attrs["seconds"] for each in tried), 3)}
    cost["tokens"] = sum(each.user_attrs.get("tokens", 0) for each in tried)
    cost["key"] = candidates.key(config, files.files, more=more)
    print(f"best of {len(rows)} trials: {study.point(best, space)}", flush=True)
    return rows, sweeps.changes(config, study.point(best, space)), trials.write(tried, space, plan, shown)


def _plan(config: dict) -> study.Plan:
    """Return how to search: the candidate's own values come first where a sampler begins from something."""
    found, metric = config["sweep"], config["task"]["metric"]
    said = {key: found[key] for key in study.SAID if key in found}
    own, outside = sweeps.start(spaces.of(found), partial(sweeps.own, config))
    said["enqueue"] = (*(() if outside else (own,)), *said.get("enqueue", ()))
    direction = "maximize" if metrics.load(metric).GREATER_IS_BETTER else "minimize"
    return study.Plan(seed=config["seed"], directions=(direction,), num_checks=sweeps.num_checks(config), **said)


def _evaluated(config: dict, files, trial: Trial, state: Path, asked: list) -> Iterator[float | Exception]:
    """Yield what each trial reached, or why it did not; what it left is removed when that is told."""
    for one, point in asked:
        try:
            sections = trial(config, _short(config) | sweeps.changes(config, point))
            outcome = _tried(config, files, sections, one, state / "fit")
        except (study.pruned(), *FAULTS) as reason:
            outcome = reason
        yield outcome
        shutil.rmtree(state / "fit", ignore_errors=True)
        _settle()


@cache
def _settle() -> None:
    """Let Python's collector pass over what the first trial imported, a million objects, when it looks for garbage."""
    gc.collect()
    gc.freeze()


def _tried(config: dict, files, sections: dict, trial, state: Path) -> float:
    train = candidates.sample(files.read("train"), sections["data"]["max_rows"], sections["seed"])
    val, metric = files.read("val"), config["task"]["metric"]

    def log(name: str, value: float, step: int, _epoch: int) -> None:
        if name == f"val/{metric}":
            study.report(trial, value, step)

    trial.set_user_attr("before", work.seconds(state / str(trial.number)))  # of a process that was stopped
    level = levels.load(sections["level"]["name"])(sections, base=files.base)
    further = {"corpus": files.corpus(), "mixture": files.mixture()}
    facts = level.fit(train, val, state=state / str(trial.number), log=log, **further)
    answers = level.predict(val) if level.validated is None else level.validated
    trial.set_user_attr("loss", facts.get("best_loss"))
    trial.set_user_attr("tokens", facts["tokens_seen"])
    if (score := metrics.load(metric).compute(answers)) is None:
        raise DataError(f"{metric} is not defined on these {len(val)} val records")
    return float(score)


def _row(trial, space: list[spaces.Parameter]) -> dict:
    """Return what a table of trials says of one: nothing that another run would say otherwise."""
    point = study.point(trial, space)
    shown = {key: str(value) if isinstance(value, list | dict) else value for key, value in point.items()}
    keys = {each.key: shown.get(each.key) for each in space}
    told = {"score": trial.value, "loss": trial.user_attrs.get("loss"), "fault": trial.user_attrs.get("fault")}
    return {"trial": trial.number, "state": study.STATES[trial.state.name], **keys, **told}


def _short(config: dict) -> dict:
    """Return what makes a trial short: never more rows than the candidate's own, and null is the candidate's own."""
    sweep, rows = config["sweep"], [config["sweep"]["max_rows"], config["data"]["max_rows"]]
    short = {"data.max_rows": min(filter(None, rows), default=None), "trainer.max_epochs": sweep["max_epochs"]}
    return {key: value for key, value in short.items() if value is not None}


def _changed(own: dict, won: dict) -> dict:
    """Return the winner's sections, whole, that differ from the candidate's own: an option may switch others along."""
    return {name: won[name] for name in won if name not in candidates.UNTRACKED and won[name] != own[name]}
