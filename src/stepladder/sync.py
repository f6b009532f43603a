"""Sync: make the tracked runs say what the files say; nothing is told twice, and a lost store is told anew."""

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import yaml

from stepladder import candidates, leaderboard, runs, tracking
from stepladder.tracking import Entry, flat

TAGS = ("level", "model", "method", "data")


@contextmanager
def forgiving(cure: str) -> Iterator[None]:
    """Turn a fault of the tracking store into one line on stderr: DVC deletes what a stage that failed has trained."""
    try:
        yield
    except Exception as error:  # MLflow, its database and its file store each raise their own
        print(f"warning: not tracked ({' '.join(str(error).split())}); {cure}", file=sys.stderr, flush=True)


def tell(names: list[str], *, scored: bool = True) -> dict[str, str]:
    """Tell the tracking store of these candidates, those of them that are trained; return {name: run id}.

    Not `scored`: what lies in metrics/ belongs to a model before this one.
    """
    found = {}
    for name in names:
        if told := entry(name, scored=scored):
            tracker = tracking.of(_config(name)["runtime"])
            found[name] = tracker.tell(told)
            for trial in trials(told, parent=found[name]):
                tracker.tell(trial)
    return found


def entry(name: str, *, scored: bool = True) -> Entry | None:
    """Return what the files say of a candidate, None before it is trained; scores only where no stage failed."""
    failed = [row["stage"] for row in leaderboard.failed(Path(), [name])]
    if failed and failed[0] not in ("evaluate", "score"):
        return None
    sections, files = candidates.tuned(_config(name)), json.loads(Path("inputs", f"{name}.json").read_text())
    scores, tags = _scores(name) if scored and not failed else {}, _commit(runs.known(Path(), name).get("train"))
    return _entry(sections, files, Path("models", name), name=name, scores=scores, tags=tags)


def trials(told: Entry, *, parent: str) -> list[Entry]:
    """Return the trials of a candidate's sweep, children of its run: what was tried and what it reached on val."""
    file, metric = Path("reports", "trials", f"{told.name}.parquet"), told.params["task.metric"]
    rows = pl.read_parquet(file).to_dicts() if file.is_file() else []
    commit = _commit(runs.known(Path(), told.name).get("sweep"))
    return [
        Entry(
            name=f"{told.name}-trial-{number}",
            key=f"{told.key}-trial-{number}",
            params={key: value for key, value in row.items() if key not in ("score", "loss")},
            metrics={f"val/{metric}": row["score"], "val/loss": row["loss"]},
            tags={tag: told.tags[tag] for tag in TAGS} | {"stepladder.trial": str(number)} | commit,
            parent=parent,
        )
        for number, row in enumerate(rows)
    ]


def by_hand(sections: dict, files: dict, output: Path, scores: dict[str, float]) -> str:
    """Tell of a run typed by hand, whose files lie in `output`; return the run's id."""
    names = describe(sections)
    name = "-".join(names[part] for part in ("level", "model", "method") if names[part] != "none")
    tags = {"stepladder.output": output.as_posix()} | _commit({"git_revision": runs.revision()})
    val = {f"val/{metric}": value for metric, value in scores.items()}
    made = _entry(sections, files, output / "model", name=name, scores=val, tags=tags)
    return tracking.of(sections["runtime"]).tell(made)


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


def _entry(sections: dict, files: dict, folder: Path, *, name: str, scores: dict, tags: dict) -> Entry:
    """Return what the model in `folder` and the sections that it was trained with say."""
    facts = json.loads((folder / "stepladder.json").read_text())
    numbers = scores | {key: value for key, value in facts.items() if key.startswith("num_")}
    return Entry(
        name=name,
        key=f"{sections['candidate'] or 'by_hand'}-{candidates.key(sections, files)}",
        params=flat({key: value for key, value in sections.items() if key not in candidates.UNTRACKED}),
        history=_history(folder),
        metrics={key: value for key, value in numbers.items() if value is not None},
        tags=describe(sections) | tags,
        texts={"config.yaml": yaml.safe_dump(sections, sort_keys=False), "facts.json": json.dumps(facts, indent=2)},
        data=parts(files),
    )


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def _config(name: str) -> dict:
    return yaml.safe_load(Path("build", f"{name}.yaml").read_text())


def _history(folder: Path) -> list[dict]:
    file = folder / candidates.HISTORY
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def _scores(name: str) -> dict[str, float | None]:
    scores = json.loads(Path("metrics", f"{name}.json").read_text())
    return {f"{part}/{metric}": value for part in ("val", "test") for metric, value in scores[part].items()}


def _commit(cost: dict | None) -> dict[str, str]:
    """Return the tag of the git commit that a stage ran at; MLflow shows it as the run's source version."""
    found = (cost or {}).get("git_revision")
    return {"mlflow.source.git.commit": found} if found else {}
