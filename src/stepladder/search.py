"""Search: every combination of a sweep's values, fitted on a sample of train and judged on val; test is never read."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import yaml

from stepladder import candidates, levels, metrics, records, runs, work

Trial = Callable[[dict, dict], dict]  # composes a candidate again with {key: value} on top


def grid(config: dict, trial: Trial) -> None:
    """Stage sweep: write tuned/<c>.yaml with the winning sections, whole, and reports/trials/<c>.parquet."""
    name, sweep = config["candidate"], config["sweep"] or {"parameters": {}}
    keys = list(sweep["parameters"])
    points = [dict(zip(keys, values, strict=True)) for values in itertools.product(*sweep["parameters"].values())]
    rows, settled = [], {"sections": {}}
    if keys:
        files, more = candidates.inputs(config).files, ("sweep", "options")
        searched, basis = candidates.key(config, files, more=more), candidates.basis(config, files, more=more)
        with (
            work.at("sweep", name, searched, basis=basis) as state,
            runs.measured(Path("runs", name, "sweep.json")) as cost,
        ):
            rows = [_once(config, point, trial, state / f"{i + 1} of {len(points)}") for i, point in enumerate(points)]
            cost |= {"num_trials": len(rows), "key": searched}
    if rows:
        best = points[_best([row["score"] for row in rows], config["task"]["metric"])]
        settled = {"sections": _changed(trial(config, {}), trial(config, best)), "key": searched}
        print(f"best of {len(rows)} trials: {best}", flush=True)
    records.write_text(yaml.safe_dump(settled, sort_keys=False), Path("tuned", f"{name}.yaml"))
    table = pl.DataFrame(rows) if rows else pl.DataFrame(schema={"score": pl.Float64})
    records.write(table, Path("reports", "trials", f"{name}.parquet"))


def _once(config: dict, point: dict, trial: Trial, state: Path) -> dict:
    """Return the row of a trial, which is not tried again when the search goes on after a stop."""
    file = state / "row.json"
    if not file.is_file():
        records.write_json(_tried(config, point, trial, state), file)
    row = json.loads(file.read_text())
    print(f"trial {state.name}: {point} -> val/{config['task']['metric']} {row['score']:.4f}", flush=True)
    return row


def _tried(config: dict, point: dict, trial: Trial, state: Path) -> dict:
    files, sections = candidates.inputs(config), trial(config, _short(config) | point)
    train = candidates.sample(files.read("train"), sections["data"]["max_rows"], sections["seed"])
    val, metric = files.read("val"), config["task"]["metric"]
    level = levels.load(sections["level"]["name"])(sections, base=files.base)
    facts = level.fit(
        train, val, state=state / "fit", log=lambda *_: None, corpus=files.corpus(), mixture=files.mixture()
    )
    answers = level.predict(val) if level.validated is None else level.validated
    shutil.rmtree(state / "fit", ignore_errors=True)
    shown = {key: str(value) if isinstance(value, list | dict) else value for key, value in point.items()}
    return {**shown, "score": metrics.load(metric).compute(answers), "loss": facts["best_loss"]}


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
