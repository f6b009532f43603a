"""Leaderboard: all candidates on the same frozen test set, with intervals, prices and a verdict, from files.

Everything but `prices` and `worth`, their ratio in words, is determined by the inputs; `prices` is what was measured on
some machine (runs/) or lies on its disk.
"""

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import polars as pl
import yaml

from stepladder import (
    calibration,
    comparison,
    diagnosis,
    gate,
    ledger,
    metrics,
    predictions,
    speech,
    splits,
    store,
    verdict,
)
from stepladder.errors import ConfigError, DataError
from stepladder.report import leaderboard as report

TRACKED = ("seed", "data", "task", "gate", "price", "candidates", "code")  # keys of build/compare/compare.yaml
MLFLOW = "mlflow ui --backend-store-uri sqlite:///mlflow.db"
TEST = "data/{0}/test.parquet"
SEARCH = "reports/searches/{0}/search.json"  # of candidates that were searched
TUNED = "tuned/{0}.yaml"  # what their searches chose; empty where there was none, and by hand not there
READ = (
    ("configure", "build/{0}.yaml"),
    ("train", "models/{0}/stepladder.json"),
    ("train", "predictions/val/{0}.parquet"),
    ("evaluate", "predictions/test/{0}.parquet"),
    ("score", "metrics/{0}.json"),
    ("probe", "reports/probes/{0}.json"),
)
PLOT = (  # a stage that fails leaves none of its files behind, but those of later stages may be old ones
    ("configure", "build/{0}.yaml"),
    ("fetch", "assets/{0}.json"),
    ("assign", "inputs/{0}.json"),
    ("sweep", TUNED),
    *READ[1:],
)
OF_DATA = (
    ("fetch_data", "assets/data/{0}.json"),
    ("prepare", "data/{0}/records.parquet"),
    *(("split", f"data/{{0}}/{part}.parquet") for part in splits.PARTS),
)
FACTS = ("num_parameters", "num_trained_parameters", "rows_seen", "num_train_rows", "tokens_seen", "best_epoch", "base")


def assemble(root: Path, config: dict, *, partial: bool = False) -> dict:
    """Return the leaderboard of config's candidates: rows ranked on validation, elsewhere, failed, prices, verdict.

    config: build/compare/compare.yaml, of which are read seed (of the resampling), data.name (the scored data set),
    candidates (names), task.name, task.metric, gate {confidence, num_resamples, min_difference, require} and price.
    With partial, a candidate that lacks a piece stands under `failed`.
    Raises ConfigError without a baseline, DataError for a missing (unless partial) or an outdated piece.
    """
    metric = config["task"]["metric"]
    board = {
        "seed": config["seed"],
        "data": config["data"]["name"],
        "task": config["task"]["name"],
        "metric": metric,
        "greater_is_better": metrics.load(metric).GREATER_IS_BETTER,
        "gate": config["gate"],
        "price": config["price"],
        "failed": failed(root, config["candidates"], PLOT if partial else READ),
        "inputs": inputs(root, config),
    }
    board["partial"] = bool(board["failed"])
    if board["failed"] and not partial:
        first, others = board["failed"][0], [row["candidate"] for row in board["failed"][1:]]
        also = f" (also incomplete: {', '.join(others)})" if others else ""
        raise DataError(f"{first['path']}: not there; {first['command']}{also}")
    lost = {row["candidate"] for row in board["failed"]}
    rows = [_row(root, name) for name in config["candidates"] if name not in lost]
    board["prices"] = {row["candidate"]: ledger.price(root, row, config["price"]) for row in rows}
    board["searches"] = {name: found for name in config["candidates"] if (found := _search(root, name))}
    board["elsewhere"] = [row for row in rows if row["data"] != board["data"]]
    scored = [row for row in rows if row["data"] == board["data"]]
    _refuse_without_baseline(board, scored)
    with speech.during(f"comparing {len(scored)} candidates, {board['gate']['num_resamples']:,} resamples each"):
        board |= _compared(root, board, scored)
    for name, worth in comparison.worth(board).items():
        board["prices"][name] |= worth
    return board | _judged(board)


def inputs(root: Path, config: dict) -> dict[str, str]:
    """Return {path: sha256} of what determines a leaderboard, as far as it is there: what stage compare tracks."""
    settings = json.dumps({key: config.get(key) for key in TRACKED}, sort_keys=True).encode()
    pieces = [path.format(name) for name in config["candidates"] for stage, path in READ if stage != "configure"]
    pieces += [path.format(name) for name in config["candidates"] for path in (SEARCH, TUNED)]
    pieces += [TEST.format(config["data"]["name"])]
    contents = {path: (root / path).read_bytes() for path in pieces if (root / path).exists()}
    contents["build/compare/compare.yaml"] = settings
    return {path: hashlib.sha256(content).hexdigest() for path, content in contents.items()}


def failed(root: Path, candidates: list[str], pieces: tuple = PLOT) -> list[dict]:
    """Return {candidate, level, stage, path, command} of each candidate for the first piece that it lacks."""
    rows = []
    for name in candidates:
        lacking = ((stage, path.format(name)) for stage, path in pieces if not (root / path.format(name)).exists())
        for stage, path in list(lacking)[:1]:
            level = _yaml(root / f"build/{name}.yaml")["level"]["name"] if stage != "configure" else None
            command = f"dvc repro probe@{name}" if stage == "probe" else _command(name)
            rows.append({"candidate": name, "level": level, "stage": stage, "path": path, "command": command})
    return rows


def configured(root: Path) -> dict:
    """Return build/compare/compare.yaml, what the leaderboard is about; ConfigError where it was not composed."""
    return _yaml(root / "build/compare/compare.yaml")


def conclude(root: Path) -> tuple[list[str], int]:
    """Return the last lines of a run and its exit code: verdict, page, MLflow command.

    Where a candidate failed, or the leaderboard is older than what it was made of, a partial table is written to
    reports/partial/, the commands come first and the code is 1. Raises DataError where a stage of a data set failed:
    no candidate ran after it, and whatever they left is of older data.
    """
    config = configured(root)
    _refuse_failed_data(root, config)
    _refuse_older_inputs(root, config)
    path, lost = root / "reports/leaderboard.json", failed(root, config["candidates"])
    board = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"inputs": None}
    complete = not lost and board["inputs"] == inputs(root, config)
    shutil.rmtree(root / "reports/partial", ignore_errors=True)
    if not complete:
        path = root / "reports/partial/leaderboard.json"
        board = assemble(root, config, partial=True)
        report.write(board, path.parent, root=root)
    repeat = [f"{row['candidate']} failed at {row['stage']}; repeat it: {row['command']}" for row in lost]
    if not complete and not lost:
        repeat = ["reports/leaderboard.* do not show the latest results; repeat: dvc repro compare"]
    page = str(path.with_suffix(".html").relative_to(root))
    words = " ".join(filter(None, (board["verdict"], board["worth"])))
    return [*repeat, words, page, MLFLOW], int(not complete)


def _refuse_failed_data(root: Path, config: dict) -> None:
    for name in sorted(path.stem for path in (root / "build/data").glob("*.yaml")):
        lacking = [(stage, path.format(name)) for stage, path in OF_DATA if not (root / path.format(name)).exists()]
        for stage, path in lacking[:1]:
            stage = stage if name == config["data"]["name"] else f"{stage.removesuffix('_data')}_other"
            raise DataError(f"{path}: not there, its stage failed; repeat it: dvc repro {stage}@{name}")


def _refuse_older_inputs(root: Path, config: dict) -> None:
    places = {name: root / f"inputs/{name}.json" for name in config["candidates"]}
    told = {name: _json(path) for name, path in places.items() if path.exists()}  # else it failed at assign
    found = {}
    for name, files in told.items():
        for file in splits.files(files):
            path = file["path"]
            found[path] = found.get(path) or store.sha256(root / path)
            if found[path] != file["sha256"]:
                raise DataError(f"{path}: not the file that inputs/{name}.json names; repeat: dvc repro assign")


def _compared(root: Path, board: dict, rows: list[dict]) -> dict:
    """Return what needs the predictions of the scored data set: ranks, intervals, pairs, slices, errors, decision."""
    records = pl.read_parquet(root / TEST.format(board["data"]))
    frames = {
        row["candidate"]: predictions.read_parts(root / "predictions", row["candidate"], board["task"]) for row in rows
    }
    tests = {name: parts["test"] for name, parts in frames.items()}
    labels = predictions.labels(next(iter(tests.values()))) if board["task"] == "classification" and rows else []
    for row in rows:
        name = row["candidate"]
        row["score"] = _score(row, tests[name], board["metric"])
        row["curves"] = diagnosis.curves(root / f"models/{name}/history.jsonl")
        row["examples"] = diagnosis.examples(tests[name], records, board["task"])
        if board["task"] == "classification":
            row["confusion"] = diagnosis.confusion(tests[name], labels)
            row["calibration"] = calibration.of(frames[name]["val"], tests[name])
    rows = verdict.ranked(rows, greater_is_better=board["greater_is_better"])
    found = comparison.of(rows, tests, board=board, records=records)
    options = {"task": board["task"], "seed": board["seed"]}
    found["shared"] = diagnosis.shared({row["candidate"]: tests[row["candidate"]] for row in rows}, records, **options)
    decision = None
    if any(row["level"] == "baseline" for row in rows):
        compare = partial(comparison.between, found["pairs"])
        decision = verdict.decide(rows, compare, min_difference=board["gate"]["min_difference"])
    return found | {"rows": rows, "decision": decision, "labels": labels, "num_test_rows": len(records) * bool(rows)}


def _judged(board: dict) -> dict:
    """Return verdict, price and registration in words."""
    if not board["decision"]:
        claim, evidence = "No verdict", "every baseline failed"
        told = {"claim": claim, "evidence": evidence, "registration": None, "worth": None}
        return {"verdict": f"{claim}: {evidence}."} | told
    decision = board["decision"]
    numbers = {"num_rows": board["num_test_rows"], "num_pairs": len(board["pairs"])}
    options = {"confidence": board["gate"]["confidence"], **numbers}
    worth = verdict.worth(decision["sufficient"], decision["best_baseline"], board["prices"])
    claim, evidence = verdict.sentence(decision, board["rows"], metric=board["metric"], **options)
    words, least = f"{claim}: {evidence}.", board["gate"]["min_difference"]
    registration = gate.judged(board, verdict.registration(decision, min_difference=least))
    if board["failed"]:
        lost = ", ".join(row["candidate"] for row in board["failed"])
        words = f"Partial, without {lost}: {words}"
        registration |= {"passed": False, "reason": f"{lost} failed; nothing is registered from a partial table"}
    return {"verdict": words, "claim": claim, "evidence": evidence, "worth": worth, "registration": registration}


def _refuse_without_baseline(board: dict, rows: list[dict]) -> None:
    if "baseline" not in [row["level"] for row in [*rows, *board["failed"]]]:
        raise ConfigError(
            f"candidates: no baseline on data set {board['data']}, and a table without one is refused; "
            "add to params.yaml `tfidf: {level: baseline, model: tfidf}`"
        )


def _row(root: Path, name: str) -> dict:
    config, scores = _yaml(root / f"build/{name}.yaml"), _json(root / f"metrics/{name}.json")
    facts, tuned = _json(root / f"models/{name}/stepladder.json"), root / TUNED.format(name)
    return {
        "candidate": name,
        "level": config["level"]["name"],
        "model": config["model"].get("id") or config["model"]["name"],
        "method": _method(config),
        "data": config["data"]["name"],
        "seed": config.get("seed"),
        "settings": _settings(config),
        "metrics": {part: scores[part] for part in ("val", "test")},
        "num_rows": scores["num_rows"],
        "risks": _json(root / f"reports/probes/{name}.json"),
        **{key: facts.get(key) for key in FACTS},
        "overrides": config.get("overrides") or [],
        "tuned": diagnosis.chosen(config, _yaml(tuned)["sections"] if tuned.exists() else {}),
        "command": _command(name),
    }


def _search(root: Path, name: str) -> dict | None:
    """Return what is told of a candidate's search, with the files of its pictures; None where nothing was searched."""
    file = root / SEARCH.format(name)
    if not file.is_file():
        return None
    pictures = {each.stem: each.relative_to(root).as_posix() for each in sorted(file.parent.glob("*.svg"))}
    return _json(file) | {"pictures": pictures}


def _settings(config: dict) -> str:
    """Return a digest of all that a candidate is but its name and seed."""
    rest = {key: value for key, value in config.items() if key not in ("candidate", "seed", "overrides")}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()[:16]


def _method(config: dict) -> str | None:
    """Return the method's name (peft.LoraConfig is lora), at level prompt the prompt's, else None."""
    section = config.get("method") or config.get("prompt") or {}
    return section.get("name") or section.get("_target_", "").split(".")[-1].removesuffix("Config").lower() or None


def _score(row: dict, frame: pl.DataFrame, metric: str) -> dict:
    """Return {val, test}; DataError when the saved score is not that of the saved predictions."""
    place = f"metrics/{row['candidate']}.json"
    val, test = (row["metrics"][part].get(metric) for part in ("val", "test"))
    if val is None or test is None:
        raise DataError(f"{place}: {metric} is not defined on these rows; choose another task.metric")
    measured = metrics.load(metric).compute(frame)
    if abs(measured - test) > 1e-9 * max(1, abs(test)):
        raise DataError(f"{place}: test/{metric} is {test}, the saved predictions give {measured}; {row['command']}")
    return {"val": val, "test": test}


def _command(name: str) -> str:
    return f"dvc repro score@{name}"


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _yaml(path: Path) -> dict:
    if not path.exists():
        raise ConfigError(f"{path}: not there; dvc repro configure")
    return yaml.safe_load(path.read_text(encoding="utf-8"))
