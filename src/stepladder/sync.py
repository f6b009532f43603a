"""Sync: make the tracked runs say what the files say; nothing is told twice, and a lost store is told anew."""

import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
import yaml
from filelock import FileLock, Timeout

from stepladder import candidates, leaderboard, metrics, runs, store, study, tracking
from stepladder.errors import RemoteError
from stepladder.tracking import Entry, Tracker, flat

TAGS = ("level", "model", "method", "data")
NOTED = ("trial", "state", "score", "loss", "fault")  # of a row of trials, beside what was chosen
PLACE = "stepladder.place"  # where a run is worked on: host and root


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
    return {name: run for name, run, _ in each(names, scored=scored)}


def each(names: list[str], *, scored: bool = True) -> Iterator[tuple[str, str, int]]:
    """Tell of one candidate after the other; yield its name, its run's id and how many values were new.

    Raises RemoteError with what is left when the store does not answer.
    """
    entries = [told for name in names if (told := entry(name, scored=scored))]
    for number, told in enumerate(entries):
        try:
            tracker = tracking.of(_config(told.name)["runtime"])
            run = tracker.tell(told)
            if found := search(told, parent=run):
                parent = tracker.tell(found)
                for trial in trials(told, parent=parent):
                    tracker.tell(trial)
        except RemoteError as error:
            left = sum(len(other.history) for other in entries[number:])
            count = f"{number} of {len(entries)} runs told, at most {left:,} values left"
            raise RemoteError(f"{error}; {count}") from None
        yield told.name, run, tracker.num_told


def abandoned(names: list[str]) -> Iterator[str]:
    """End the runs begun here that nobody works on any more, as killed; yield their names."""
    configs = [_config(name)["runtime"] for name in names if Path("build", f"{name}.yaml").is_file()]
    for experiment, uri in sorted({(runtime["experiment"], runtime["tracking_uri"]) for runtime in configs}, key=str):
        tracker = Tracker(experiment=experiment, uri=uri)
        for run in tracker.running({PLACE: _here()}):
            if end(tracker, run, status="KILLED"):
                yield run.name


def end(tracker: Tracker, begun: Entry, *, status: str) -> bool:
    """End a run that has no result with all that its journal holds; False where a process works on it."""
    try:
        with FileLock(f"{journal(begun.key).parent}.lock", timeout=0):
            tracker.tell(grown(begun), status=status)
    except Timeout:
        return False
    return True


def begun(sections: dict, files: dict, output: Path | None = None) -> Entry:
    """Return what is known of a training when it begins; `output` is the folder of one that was typed by hand."""
    told = _named(sections, files, output)
    return replace(told, tags={**told.tags, PLACE: _here()})


def grown(begun: Entry) -> Entry:
    """Return the entry with what the journal of its training holds by now."""
    return replace(begun, history=_points(journal(begun.key)))


def journal(key: str) -> Path:
    """Return where a training writes its values as it goes: in the folder of `work.at`."""
    return store.root() / "state" / "train" / key / candidates.HISTORY


def entry(name: str, *, scored: bool = True) -> Entry | None:
    """Return what the files say of a candidate, None before it is trained; scores only where no stage failed."""
    failed = [row["stage"] for row in leaderboard.failed(Path(), [name])]
    if failed and failed[0] not in ("evaluate", "score", "probe"):
        return None
    sections, files = candidates.tuned(_config(name)), json.loads(Path("inputs", f"{name}.json").read_text())
    scores, tags = (
        _scores(name) if scored and failed in ([], ["probe"]) else {},
        _commit(runs.known(Path(), name).get("train")),
    )
    return _finished(_named(sections, files), sections, files, Path("models", name), scores=scores, tags=tags)


def search(told: Entry, *, parent: str) -> Entry | None:
    """Return the study of a candidate's sweep, a child of its run, with the best that was reached; None without one."""
    rows, metric = _rows(told), told.params["task.metric"]
    scores = [row["score"] for row in rows if row["state"] == "complete"]
    if not scores:
        return None
    best = max(scores) if metrics.load(metric).GREATER_IS_BETTER else min(scores)
    numbers = {f"num_{state}": sum(row["state"] == state for row in rows) for state in study.STATES.values()}
    named = {"name": f"{told.name}-sweep", "key": f"{told.key}-sweep", "params": flat(_config(told.name)["sweep"])}
    reached, shown = {f"val/{metric}": best, **numbers}, texts(Path("reports", "searches", told.name))
    return Entry(**named, metrics=reached, texts=shown, tags=_searched(told), parent=parent)


def trials(told: Entry, *, parent: str) -> list[Entry]:
    """Return the trials of a candidate's sweep, children of its study: what was tried and what it reached on val."""
    metric, tags = told.params["task.metric"], _searched(told)
    return [
        Entry(
            name=f"{told.name}-trial-{row['trial']}",
            key=f"{told.key}-trial-{row['trial']}",
            params={key: value for key, value in row.items() if key not in NOTED and value is not None},
            metrics={
                f"val/{name}": row[key] for name, key in ((metric, "score"), ("loss", "loss")) if row[key] is not None
            },
            tags=tags | {"stepladder.trial": str(row["trial"]), "stepladder.state": row["state"]},
            parent=parent,
        )
        for row in _rows(told)
    ]


def _rows(told: Entry) -> list[dict]:
    file = Path("reports", "trials", f"{told.name}.parquet")
    return pl.read_parquet(file).to_dicts() if file.is_file() else []


def _searched(told: Entry) -> dict[str, str]:
    return {tag: told.tags[tag] for tag in TAGS} | _commit(runs.known(Path(), told.name).get("sweep"))


def by_hand(sections: dict, files: dict, output: Path, scores: dict[str, float]) -> str:
    """Tell of a run typed by hand, whose files lie in `output`; return the run's id."""
    tags = _commit({"git_revision": runs.revision()})
    val = {f"val/{metric}": value for metric, value in scores.items()}
    named = _named(sections, files, output)
    made = _finished(named, sections, files, output / "model", scores=val, tags=tags)
    return tracking.of(sections["runtime"]).tell(made)


def texts(folder: Path) -> dict[str, str]:
    """Return {name: content} of what a folder says and shows of a search."""
    files = [folder / "search.json", *sorted(folder.glob("*.svg"))]
    return {file.name: file.read_text(encoding="utf-8") for file in files if file.is_file()}


def typed(runtime: dict, name: str, trials: list, *, params: dict, metrics: dict[str, float], shown: dict) -> None:
    """Tell of a study that was typed, with the best that was reached; it becomes the parent of its trials' runs."""
    states = [study.STATES[trial.state.name] for trial in trials]
    numbers = {f"num_{state}": states.count(state) for state in study.STATES.values()}
    tracker = tracking.of(runtime)
    parent = tracker.tell(Entry(name=name, key=f"{name}-sweep", params=params, metrics=metrics | numbers, texts=shown))
    tracker.adopt(parent, [trial.user_attrs["output"] for trial in trials if "output" in trial.user_attrs])


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
    found |= {name: chosen["train"]["path"] for name, chosen in files["mixture"].items()}
    return {part: {"path": path, "md5": _md5(Path(path))} for part, path in found.items()}


def _named(sections: dict, files: dict, output: Path | None = None) -> Entry:
    """Return the run of a training by its name, key, parameters and tags."""
    words = describe(sections)
    by_hand = "-".join(words[part] for part in ("level", "model", "method") if words[part] != "none")
    return Entry(
        name=sections["candidate"] or by_hand,
        key=f"{sections['candidate'] or 'by_hand'}-{candidates.key(sections, files)}",
        params=flat({key: value for key, value in sections.items() if key not in candidates.UNTRACKED}),
        tags=words | ({tracking.OUTPUT: output.as_posix()} if output else {}),
    )


def _finished(named: Entry, sections: dict, files: dict, folder: Path, *, scores: dict, tags: dict) -> Entry:
    """Return the whole entry of a run: what the model in `folder` and the sections that it was trained with say."""
    facts = json.loads((folder / "stepladder.json").read_text())
    numbers = scores | {key: value for key, value in facts.items() if key.startswith("num_")}
    return replace(
        named,
        history=_points(folder / candidates.HISTORY),
        metrics={key: value for key, value in numbers.items() if value is not None},
        tags=named.tags | tags,
        texts={"config.yaml": yaml.safe_dump(sections, sort_keys=False), "facts.json": json.dumps(facts, indent=2)},
        data=parts(files),
    )


def _md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest()


def _config(name: str) -> dict:
    return yaml.safe_load(Path("build", f"{name}.yaml").read_text())


def _points(file: Path) -> list[dict]:
    return [json.loads(line) for line in candidates.told_once(file).splitlines()] if file.is_file() else []


def _here() -> str:
    return f"{platform.node()}:{store.root()}"


def _scores(name: str) -> dict[str, float | None]:
    scores = json.loads(Path("metrics", f"{name}.json").read_text())
    found = {f"{part}/{metric}": value for part in ("val", "test") for metric, value in scores[part].items()}
    file = Path("reports", "probes", f"{name}.json")
    risks = json.loads(file.read_text()) if file.is_file() else {}
    return found | {f"{probe}/{key}": told["value"] for probe, given in risks.items() for key, told in given.items()}


def _commit(cost: dict | None) -> dict[str, str]:
    """Return the tag of the git commit that a stage ran at; MLflow shows it as the run's source version."""
    found = (cost or {}).get("git_revision")
    return {"mlflow.source.git.commit": found} if found else {}
