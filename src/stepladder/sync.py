"""Sync: make the tracked runs say what the files say; nothing is told twice, and a lost store is told anew."""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import yaml

from stepladder import candidates, leaderboard, runs
from stepladder.tracking import Entry, Tracker, flat

TAGS = ("level", "model", "method", "data")


@contextmanager
def forgiving(cure: str) -> Iterator[None]:
    """Turn a fault of the tracking store into one line on stderr: DVC deletes what a stage that failed has trained."""
    try:
        yield
    except Exception as error:  # MLflow, its database and its file store each raise their own
        print(f"warning: not tracked ({' '.join(str(error).split())}); {cure}", file=sys.stderr, flush=True)


def compared() -> list[str]:
    """Return the names of the candidates that the leaderboard is about."""
    return yaml.safe_load(Path("build", "compare", "compare.yaml").read_text())["candidates"]


def tell(names: list[str], *, scored: bool = True) -> dict[str, str]:
    """Tell the tracking store of these candidates, those of them that are trained; return {name: run id}.

    Not `scored`: what lies in metrics/ belongs to a model before this one.
    """
    entries = [found for name in names if (found := entry(name, scored=scored))]
    if not entries:
        return {}
    runtime = _config(names[0])["runtime"]
    tracker = Tracker(experiment=runtime["experiment"], uri=runtime["tracking_uri"])
    identifiers = {told.name: tracker.tell(told) for told in entries}
    for told in entries:
        for trial in trials(told, parent=identifiers[told.name]):
            tracker.tell(trial)
    return identifiers


def entry(name: str, *, scored: bool = True) -> Entry | None:
    """Return what the files say of a candidate, None before it is trained; scores only where no stage failed."""
    failed = [row["stage"] for row in leaderboard.failed(Path(), [name])]
    if failed and failed[0] not in ("evaluate", "score"):
        return None
    scores = _scores(name) if scored and not failed else {}
    facts_file = Path("models", name, "stepladder.json")
    sections = candidates.tuned(_config(name))
    files = json.loads(Path("inputs", f"{name}.json").read_text())
    facts = json.loads(facts_file.read_text())
    return Entry(
        name=name,
        key=f"{name}-{candidates.key(sections, files)}",
        params=flat({key: value for key, value in sections.items() if key not in candidates.UNTRACKED}),
        history=_history(Path("models", name)),
        metrics=scores | {key: value for key, value in facts.items() if key.startswith("num_")},
        tags=describe(sections) | _revision(name),
        texts={"config.yaml": Path("build", f"{name}.yaml").read_text(), "facts.json": facts_file.read_text()},
        data=parts(files),
    )


def trials(told: Entry, *, parent: str) -> list[Entry]:
    """Return the trials of a candidate's sweep, children of its run: what was tried and what it reached on val."""
    file, metric = Path("reports", "trials", f"{told.name}.parquet"), told.params["task.metric"]
    rows = pl.read_parquet(file).to_dicts() if file.is_file() else []
    return [
        Entry(
            name=f"{told.name}-trial-{number}",
            key=f"{told.key}-trial-{number}",
            params={key: value for key, value in row.items() if key not in ("score", "loss")},
            metrics={f"val/{metric}": row["score"], "val/loss": row["loss"]},
            tags={tag: told.tags[tag] for tag in TAGS} | {"stepladder.trial": str(number)},
            parent=parent,
        )
        for number, row in enumerate(rows)
    ]


def by_hand(sections: dict, files: dict, output: Path, scores: dict[str, float]) -> str:
    """Tell of a run typed by hand, whose files lie in `output`; return the run's id."""
    runtime, tags = sections["runtime"], describe(sections)
    made = Entry(
        name="-".join(tags[part] for part in ("level", "model", "method") if tags[part] != "none"),
        key=f"by_hand-{candidates.key(sections, files)}",
        params=flat({key: value for key, value in sections.items() if key not in candidates.UNTRACKED}),
        history=_history(output / "model"),
        metrics={f"val/{name}": value for name, value in scores.items() if value is not None},
        tags=tags | {"stepladder.output": output.as_posix()},
        texts={"config.yaml": yaml.safe_dump(sections, sort_keys=False)},
        data=parts(files),
    )
    return Tracker(experiment=runtime["experiment"], uri=runtime["tracking_uri"]).tell(made)


def describe(sections: dict) -> dict[str, str]:
    """Return the tags that a person filters by."""
    names = {tag: (sections[tag] or {}).get("name", "none") for tag in TAGS}
    if target := (sections["method"] or {}).get("_target_"):
        names["method"] = target.rsplit(".", 1)[-1].removesuffix("Config").lower()
    return names | {"task": sections["task"]["name"]}


def parts(files: dict) -> dict[str, dict]:
    """Return {part: {"path", "md5"}} of the files a candidate reads; md5 is the hash that DVC knows them by."""
    found = {part: files[part]["path"] for part in ("train", "val", "test")}
    if files["corpus"]:
        found["corpus"] = files["corpus"]["train"]["path"]
    return {part: {"path": path, "md5": _md5(Path(path))} for part, path in found.items()}


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def _config(name: str) -> dict:
    return yaml.safe_load(Path("build", f"{name}.yaml").read_text())


def _history(folder: Path) -> list[dict]:
    file = folder / candidates.HISTORY
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def _scores(name: str) -> dict[str, float]:
    scores = json.loads(Path("metrics", f"{name}.json").read_text())
    found = {f"{part}/{metric}": value for part in ("val", "test") for metric, value in scores[part].items()}
    return {metric: value for metric, value in found.items() if value is not None}


def _revision(name: str) -> dict[str, str]:
    """Return the git commit that the model was trained at; MLflow shows it as the run's source version."""
    found = runs.known(Path(), name).get("train", {}).get("git_revision")
    return {"mlflow.source.git.commit": found} if found else {}
