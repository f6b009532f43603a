"""Search: every combination of a sweep's values, fitted on a sample of train and judged on val; test is never read."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import yaml

from stepladder import candidates, levels, metrics, records, runs, store

Trial = Callable[[dict, dict], dict]  # composes a candidate again with {key: value} on top


def grid(config: dict, trial: Trial) -> None:
    """Stage sweep: write tuned/<c>.yaml with the winning sections, whole, and reports/trials/<c>.parquet."""
    name, sweep = config["candidate"], config["sweep"] or {"parameters": {}}
    keys = list(sweep["parameters"])
    points = [dict(zip(keys, values, strict=True)) for values in itertools.product(*sweep["parameters"].values())]
    rows, settled = [], {"sections": {}}
    if keys:
        with runs.measured(Path("runs", name, "sweep.json")) as cost:
            rows = [_tried(config, point, trial, f"{i + 1} of {len(points)}") for i, point in enumerate(points)]
            searched = candidates.key(config, candidates.inputs(config).files, more=("sweep", "options"))
            cost |= {"num_trials": len(rows), "key": searched}
    if rows:
        best = points[_best([row["score"] for row in rows], config["task"]["metric"])]
        settled = {"sections": _changed(trial(config, {}), trial(config, best)), "key": searched}
        print(f"best of {len(rows)} trials: {best}", flush=True)
    records.write_text(yaml.safe_dump(settled, sort_keys=False), Path("tuned", f"{name}.yaml"))
    table = pl.DataFrame(rows) if rows else pl.DataFrame(schema={"score": pl.Float64})
    records.write(table, Path("reports", "trials", f"{name}.parquet"))


def _tried(config: dict, point: dict, trial: Trial, place: str) -> dict:
    files, sections = candidates.inputs(config), trial(config, _short(config) | point)
    train = candidates.sample(files.read("train"), sections["data"]["max_rows"], sections["seed"])
    state = store.root() / "state" / "sweep" / f"{config['candidate']}-{candidates.key(sections, files.files)}"
    shutil.rmtree(state, ignore_errors=True)
    told = {}

    def log(name: str, value: float, step: int, epoch: int) -> None:
        told[name, step] = value

    val, metric = files.read("val"), config["task"]["metric"]
    level = levels.load(sections["level"]["name"])(sections, base=files.base)
    facts = level.fit(train, val, state=state, log=log, corpus=files.corpus())
    shutil.rmtree(state, ignore_errors=True)
    score = told.get((f"val/{metric}", facts["best_step"]))
    if score is None:  # texts are not written at every validation
        score = metrics.load(metric).compute(level.predict(val))
    print(f"trial {place}: {point} -> val/{metric} {score:.4f}", flush=True)
    shown = {key: str(value) if isinstance(value, list | dict) else value for key, value in point.items()}
    return {**shown, "score": score, "loss": told["val/loss", facts["best_step"]]}


def _short(config: dict) -> dict:
    """Return what makes a trial short: never more rows than the candidate's own, and null is the candidate's own."""
    sweep, rows = config["sweep"], [config["sweep"]["max_rows"], config["data"]["max_rows"]]
    short = {"data.max_rows": min(filter(None, rows), default=None), "trainer.max_epochs": sweep["max_epochs"]}
    return {key: value for key, value in short.items() if value is not None}


def _changed(own: dict, won: dict) -> dict:
    """Return the winner's sections, whole, that differ from the candidate's own: an option may switch others along."""
    return {name: won[name] for name in won if name not in candidates.UNTRACKED and won[name] != own[name]}


def _best(scores: list[float], metric: str) -> int:
    """Return the position of the best score, the first of equals."""
    sign = 1 if metrics.load(metric).GREATER_IS_BETTER else -1
    return max(range(len(scores)), key=lambda i: sign * scores[i])
