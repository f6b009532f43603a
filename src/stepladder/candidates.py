"""Candidates: one complete choice, from composed sections and files to a trained model and its predictions.

Stages of the pipeline pass `config`, the composed sections as a plain dict; a config without a candidate's name comes
from a command typed by hand and writes into a folder of its own.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import yaml

from stepladder import canaries, levels, records, runs, store, work
from stepladder.errors import DataError, IntegrityError

HISTORY = "history.jsonl"
Report = Callable[[str, float, int], None]  # name, value, step
UNTRACKED = ("candidate", "overrides", "options", "runtime", "gate", "price", "sweep", "probe", "code")


@dataclass(frozen=True)
class Inputs:
    """The files a candidate reads, {"train": {"path", "sha256"}, ...}, the folder of its base and the hashes in it.

    What is read is hashed first: IntegrityError where it is not what was named. Whoever edits a file and keeps its size
    and time is not noticed by DVC.
    """

    files: dict
    base: Path | None
    weights: dict[str, str]

    def read(self, part: str) -> pl.DataFrame:
        """Return the records of train, val or test."""
        return records.read(_checked(self.files[part]))

    def corpus(self) -> dict[str, Path] | None:
        """Return the files {"train", "val"} of the corpus, which may be larger than memory; None without one."""
        chosen = self.files["corpus"]
        return chosen and {part: _checked(chosen[part]) for part in ("train", "val")}

    def mixture(self) -> dict[str, tuple[pl.DataFrame, pl.DataFrame]]:
        """Return the records {data set: (train, val)} of further data sets."""
        return {
            name: tuple(records.read(_checked(parts[part])) for part in ("train", "val"))
            for name, parts in self.files["mixture"].items()
        }


def inputs(config: dict) -> Inputs:
    """Return what `assign` chose and `fetch` brought; DataError with the command to type where it is missing."""
    name = config["candidate"]
    assigned, fetched = Path("inputs", f"{name}.json"), Path("assets", f"{name}.json")
    for file in (assigned, fetched):
        if not file.is_file():
            raise DataError(f"{file}: missing; make it with: dvc repro train@{name}")
    asset, command = json.loads(fetched.read_text()), f"dvc repro --force --single-item fetch@{name}"
    folder = asset.get("folder")
    if folder and not (store.root() / folder).is_dir():  # a clone that pulled has its description, not its bytes
        raise DataError(f"{folder}: missing; bring it with: {command}")
    if folder:
        store.require(store.root() / folder, asset["files"], of=f"; bring it again with: {command}")
    return Inputs(json.loads(assigned.read_text()), folder and store.root() / folder, asset["files"])


def tuned(config: dict) -> dict:
    """Return the composed sections with those that the sweep settled in their place."""
    file = Path("tuned", f"{config['candidate']}.yaml")
    found = yaml.safe_load(file.read_text())["sections"] if config["candidate"] and file.is_file() else {}
    return {**config, **found}


def key(sections: dict, files: dict, *, more: tuple[str, ...] = ()) -> str:
    """Return the hash of what a tracked run, a model and its cost stand for: of all in their `basis`."""
    content = json.dumps(list(basis(sections, files, more=more).values()), sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def basis(sections: dict, files: dict, *, more: tuple[str, ...] = ()) -> dict[str, dict]:
    """Return the settings, training code and data that decide what a training leads to.

    `more` names untracked sections that matter as well, to a search for example.
    """
    settings = {name: value for name, value in sections.items() if name not in UNTRACKED or name in more}
    code = {name: (sections.get("code") or {}).get(name) for name in ("level", "objective", "monitor")}
    return {"settings": settings, "code": code, "inputs": files}


def sample(train: pl.DataFrame, max_rows: int | None, seed: int) -> pl.DataFrame:
    """Return at most `max_rows` records, chosen by a seeded hash of their ids, in their order."""
    if max_rows is None or len(train) <= max_rows:
        return train
    ranks = [hashlib.sha256(f"{seed}:{identifier}".encode()).hexdigest() for identifier in train["id"]]
    limit = sorted(ranks)[max_rows - 1]
    kept = train.filter(pl.Series(ranks) <= limit)
    print(f"train on {len(kept):,} of {len(train):,} rows (data.max_rows)", flush=True)
    return kept


def fit(sections: dict, files: Inputs, *, made: Path, state: Path, report: Report | None = None) -> None:
    """Train one candidate; put its model, its val predictions and what it cost into `made`.

    `report` hears each value that is told, and may end the training by an exception of its own. `state` holds the way
    there: a training that was stopped goes on, and its history and cost are those of one.
    """
    train, val = files.read("train"), files.read("val")
    print(f"{sections['level']['name']}: {len(train):,} train and {len(val):,} val rows", flush=True)
    level = levels.load(sections["level"]["name"])(sections, base=files.base)
    sampled = sample(train, sections["data"]["max_rows"], sections["seed"])
    sampled = canaries.planted(sampled, sections["data"]["canaries"], seed=sections["seed"])
    cost, before = {}, work.seconds(state)
    with (state / HISTORY).open("a") as history:
        print(file=history)  # ends the half line that a killed process may have left
        with runs.timed(cost, "fit_seconds"):
            further = {"corpus": files.corpus(), "mixture": files.mixture()}
            facts = level.fit(sampled, val, state=state / "fit", log=_journal(history, report), **further)
    facts |= {"num_train_rows": len(train), "key": key(sections, files.files)}
    read = (facts, *(facts[phase] for phase in ("pretraining", "adapting") if phase in facts))
    cost |= {"num_rows": facts["examples_seen"], "tokens": sum(each["tokens_seen"] for each in read)}
    cost |= {"fit_seconds": round(cost["fit_seconds"] + before, 3), "earlier_seconds": before, "key": facts["key"]}
    level.save(made / "model")
    records.write_text(told_once(state / HISTORY), made / "model" / HISTORY)
    base = files.base and {"folder": store.shown(files.base), "files": files.weights}
    determined = {"key": facts["key"], "seed": sections["seed"], "data": files.files, "versions": work.versions()}
    store.seal(made / "model", base=base, **determined)
    records.write(level.predict(val) if level.validated is None else level.validated, made / "val.parquet")
    records.write_json(cost, made / "cost.json")


def told_once(history: Path) -> str:
    """Return a history with each value of a step once: a training that went on has told the last ones again."""
    lines = history.read_text().splitlines()
    whole = [line for line in lines if line.endswith("}")]  # a killed process may have left half a line
    told = {(point["name"], point["step"]): line for line, point in zip(whole, map(json.loads, whole), strict=True)}
    return "".join(f"{line}\n" for line in told.values())


def train(config: dict) -> dict[str, float]:
    """Stage train: write models/<c>/ and predictions/val/<c>.parquet; return the val scores."""
    name, sections, files = config["candidate"], tuned(config), inputs(config)
    places = (Path("models", name), Path("predictions", "val", f"{name}.parquet"))
    with runs.measured(Path("runs", name, "train.json"), metered=sections["runtime"]["meter"]) as cost:
        return fit_into(*places, sections=sections, files=files, cost=cost)


def fit_into(
    folder: Path, predictions: Path, *, sections: dict, files: Inputs, cost: dict, report: Report | None = None
) -> dict[str, float]:
    """Train a candidate, save it in `folder` and what it answers on val in `predictions`; return the val scores."""
    name, found = sections["candidate"] or "by_hand", basis(sections, files.files)
    with work.at("train", name, key(sections, files.files), basis=found) as state:
        build, built = partial(fit, sections, files, state=state, report=report), []
        made = store.settle(state / "result", lambda part: built.append(build(made=part)))
        cost["again"] = not built
        shutil.rmtree(state / "fit", ignore_errors=True)  # the way there, larger than what it led to
        cost |= json.loads((made / "cost.json").read_text())
        work.publish(made / "model", folder)
        work.publish(made / "val.parquet", predictions)
        if not sections["candidate"]:  # no later stage looks for it
            shutil.rmtree(state)
    return _scores(predictions, sections["task"]["name"])


def evaluate(config: dict) -> None:
    """Stage evaluate: open the test split once and write predictions/test/<c>.parquet."""
    name, model = config["candidate"], Path("models", config["candidate"])
    test = inputs(config).read("test")
    store.verify(model)
    level = levels.load(config["level"]["name"]).load(model)
    with runs.measured(Path("runs", name, "evaluate.json"), metered=config["runtime"]["meter"]) as cost:
        with runs.timed(cost, "predict_seconds"):
            predictions = level.predict(test)
        cost |= {"num_rows": len(test), "examples_per_second": round(len(test) / cost["predict_seconds"], 2)}
        cost |= {"key": json.loads((model / "stepladder.json").read_text())["key"], "tokens": level.tokens_read}
        cost["latency"] = level.latency(test) if config["runtime"]["meter"] else None
    records.write(predictions, Path("predictions", "test", f"{name}.parquet"))


def _checked(file: dict[str, str]) -> Path:
    """Return the path of a file whose bytes are those that were named."""
    path = Path(file["path"])
    if path.is_file() and (fault := store.difference(path, file["sha256"], store.sha256(path))):
        raise IntegrityError(f"{fault}; was it edited? make it again with: dvc repro --force split")
    return path


def _journal(file, report: Report | None = None) -> Callable:
    """Return the log of a training: a line a value, on the disk before the call ends.

    So no checkpoint, which is written after what led to it was told, is ever ahead of the journal.
    """

    def log(name: str, value: float, step: int, epoch: int) -> None:
        print(json.dumps({"name": name, "value": value, "step": step, "epoch": epoch}), file=file, flush=True)
        os.fsync(file.fileno())
        if report:
            report(name, value, step)

    return log


def _scores(predictions: Path, task: str) -> dict[str, float]:
    from stepladder import metrics

    scores = metrics.evaluate(pl.read_parquet(predictions), task)
    known = {name: value for name, value in scores.items() if value is not None}
    print(f"val: {', '.join(f'{name} {value:.4f}' for name, value in known.items())}", flush=True)
    return known
