"""Searches: what twenty trials are worth on test rows, by TPE and by chance, against the settings as they are shipped.

python -m benchmarks.searches                  three data sets, three seeds; benchmarks/results/searches.{json,md}
python -m benchmarks.searches tfidf frozen/tweets      of these candidates, or data sets, alone; the others' rows stay

Stages sweep, train and evaluate do their work in this process. A seed divides the rows anew (45 % train, 15 % val, 40 %
test, documents whole; at most 2,000 rows are trained on, 500 where all weights are), trains and searches; shipped
settings and both searches of a seed share train, val and test.

By how much searched settings are better is told over rows: what is drawn anew (BCa, statistics.ends) is a row, or a
document where rows are sentences of one, with all answers to it by all seeds, so that neither seeds nor neighbours are
counted as rows of their own. The lower end is that of a one-sided 95 % interval; not inferior: above minus a point.

Compute is counted as random search's: the share of its CPU-seconds, and of the passes over train that its trials made,
after which TPE, whose pruner ends trials that fall behind, has a score on val as good as random search's best.
"""

import itertools
import json
import os
import sys
import tempfile
from contextlib import chdir, redirect_stdout
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import clocks, subjects, table, workspaces
from stepladder import candidates, compose, records, search, splits, statistics, study

DOMAINS = ("tweets", "amazon", "movie")
SEEDS = (1, 2, 3)
SHARES = {"val": 0.15, "test": 0.4}
CANDIDATES = {
    "tfidf": {"level": "baseline", "model": "tfidf", "sweep": "tfidf"},
    "frozen": {"level": "finetune", "model": "minilm", "method": "frozen", "sweep": "head"},
    "full": {"level": "finetune", "model": "minilm", "method": "full", "sweep": "full"},
}
KINDS = {"default": None, "tpe": {}, "random": {"sampler": "random", "pruner": "none"}}  # changes of the sweep
MAX_ROWS = 2000  # of train, which only the films have more of: what a slow core does in an hour
FEW = {"full": 500}  # where a rate for thousands of rows is not the best
MARGIN, CONFIDENCE = 0.01, 0.95  # one-sided
NUM_RESAMPLES = 4000
RESULTS = table.RESULTS / "searches.json"
HEADER = (
    "candidate", "data", "test rows", "shipped", "TPE", "random", "TPE gains", "above, 95 %", "random gains",
    "above, 95 %", "CPU-s of random", "of TPE", "share to random's best: CPU-s", "passes",
)  # fmt: skip


def main(chosen: list[str]) -> None:
    """Search each candidate on each data set, or `chosen` of them, and write the page after each."""
    for name, domain in itertools.product(CANDIDATES, DOMAINS):
        if not chosen or {name, f"{name}/{domain}"} & {*chosen}:
            found = {"candidate": name, "data": domain, **row(name, domain), **table.circumstances()}
            kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
            rows = [each for each in kept if (each["candidate"], each["data"]) != (name, domain)] + [found]
            rows.sort(key=lambda each: [each["candidate"], DOMAINS.index(each["data"])])
            RESULTS.write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
            RESULTS.with_suffix(".md").write_text(markdown(rows))
            print(markdown([found]), flush=True)


def row(name: str, domain: str) -> dict:
    """Return what is told of a candidate on a data set: test scores by seed, what a search gains, what it takes."""
    answers, trials = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as place:
            folder = workspaces.lay_out(Path(place))
            parts = data_set(folder, domain, seed)
            groups = pl.read_parquet(parts["test"]).select("id", unit=pl.coalesce("group", "id"))
            workspaces.assign(folder, name, parts)
            for kind, own in KINDS.items():
                found, tried = answered(folder, name, seed, own)
                answers[kind].append(found.join(groups, on="id", validate="1:1"))
                trials[kind].append(tried)
                print(f"{name} {domain} seed {seed} {kind}: {_accuracy(found):.4f} on test", flush=True)
    spent = {kind: [sum(each["seconds"] for each in some) for some in trials[kind]] for kind in KINDS}
    return {
        "scores": {kind: [_accuracy(frame) for frame in frames] for kind, frames in answers.items()},
        "gains": {kind: gain(answers[kind], answers["default"]) for kind in ("tpe", "random")},
        "seconds": {kind: [round(each, 1) for each in spent[kind]] for kind in ("tpe", "random")},
        "shares": [shares(*pair) for pair in zip(trials["tpe"], trials["random"], strict=True)],
        "num_test": len(pl.concat(answers["tpe"]).unique("id")),
        "trials": {kind: trials[kind] for kind in ("tpe", "random")},
    }


def data_set(folder: Path, domain: str, seed: int) -> dict[str, Path]:
    """Write train, val and test of one domain of the rated sentences; documents stay on one side."""
    archive = records.locate("reviews", path=None, assets=subjects.ROOT / "assets" / "data" / "reviews.json")
    rows, _ = records.collect(archive, source="vader", columns=None, options={"domains": [domain], "min_score": 0.5})
    frame, _ = records.clean(rows, name=domain, task="classification", labels=None)
    parts = splits.partition(frame, SHARES, name="hash", seed=seed, column=None)
    for part, rows in parts.items():
        records.write(rows, folder / f"{part}.parquet")
    return {part: folder / f"{part}.parquet" for part in parts}


def answered(folder: Path, name: str, seed: int, own: dict | None) -> tuple[pl.DataFrame, list[dict]]:
    """Return what the candidate answers on test after its search with these changes, or without one, and its trials."""
    before, root = {*folder.glob("state/sweep/*/study.log")}, os.environ.get("DVC_ROOT")
    os.environ["DVC_ROOT"] = str(folder)
    try:
        with chdir(folder), (folder / "said").open("a") as said, redirect_stdout(said):
            seconds = searched(name, seed, own)
            for stage in (candidates.train, candidates.evaluate):
                stage(built(name, seed, own))
    finally:
        os.environ.pop("DVC_ROOT") if root is None else os.environ.update(DVC_ROOT=root)
    found = pl.read_parquet(folder / "predictions" / "test" / f"{name}.parquet")
    logs = {*folder.glob("state/sweep/*/study.log")} - before
    finished = [each for log in logs for each in study.finished(study.open_study(log, name, study.Plan(seed)))]
    return found, told(finished, seconds)


def searched(name: str, seed: int, own: dict | None) -> list[float]:
    """Search as stage sweep does; return the CPU-seconds of each trial."""
    with clocks.within(clocks.Clock(1), search, "_tried") as seconds:
        search.sweep(built(name, seed, own), compose.trial)
    return seconds


def built(name: str, seed: int, own: dict | None) -> dict:
    """Return the composed candidate with these changes of its sweep, or without one, as stage configure writes it."""
    row = CANDIDATES[name] | {"seed": seed} | ({"sweep": "none"} if own is None else {"set": {"sweep": own}})
    params = {"seed": seed, "data": "reviews", "datasets": [], "candidates": {name: row}}
    common = {"runtime": {"log_every_s": 3600.0, "num_threads": 1}, "data": {"max_rows": FEW.get(name, MAX_ROWS)}}
    return compose.candidate(name, params | {"set": common})


def told(trials: list, seconds: list[float]) -> list[dict]:
    """Return {score, seconds, passes, pruned} of finished trials in their order: passes over the train rows."""
    return [
        {
            "score": trial.value if trial.state.name == "COMPLETE" else None,
            "seconds": round(spent, 2),
            "passes": len(trial.user_attrs.get("steps", [])) or 1,  # a baseline reads its rows once
            "pruned": trial.state.name == "PRUNED",
        }
        for trial, spent in zip(trials, seconds, strict=True)
    ]


def gain(found: list[pl.DataFrame], default: list[pl.DataFrame]) -> dict:
    """Return by how much the searched settings are better, and the one-sided lower end; each frame is of a seed."""
    keys, better = ["id", "unit", "target"], []
    for one, other in zip(found, default, strict=True):
        pair = one.join(other, on=keys, validate="1:1")
        right = [(pl.col(column) == pl.col("target")).cast(pl.Int8) for column in ("answer", "answer_right")]
        better.append(pair.select("unit", better=right[0] - right[1]))
    sums = pl.concat(better).group_by("unit", maintain_order=True).agg(pl.col("better").sum(), rows=pl.len())
    counts = sums.select("better", "rows").to_numpy().astype(float)  # (units, 2)
    draws = np.random.default_rng(0).multinomial(len(counts), np.full(len(counts), 1 / len(counts)), NUM_RESAMPLES)
    value, drawn, without = (_ratio(each) for each in (counts.sum(0), draws @ counts, counts.sum(0) - counts))
    low, _ = statistics.ends(statistics.Resampled(value, drawn, without), 2 * CONFIDENCE - 1)
    ends = {"difference": round(float(value), 4), "low": round(low, 4), "units": len(counts)}
    return ends | {"not_inferior": low > -MARGIN, "better": low > 0}


def shares(tpe: list[dict], random: list[dict]) -> dict[str, float | None]:
    """Return after which share of random search's seconds, and of its passes, TPE had its best; None: never."""
    goal = max(each["score"] for each in random if each["score"] is not None)
    reached = next((i for i, each in enumerate(tpe) if each["score"] is not None and each["score"] >= goal), None)
    spent = {unit: sum(each[unit] for each in tpe[: (reached or 0) + 1]) for unit in ("seconds", "passes")}
    whole = {unit: sum(each[unit] for each in random) for unit in spent}
    return {unit: None if reached is None else round(spent[unit] / whole[unit], 3) for unit in spent}


def markdown(rows: list[dict]) -> str:
    """Return the rows as a table of Markdown."""
    return "\n".join(["| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|", *map(_line, rows)]) + "\n"


def _line(row: dict) -> str:
    scores = {kind: f"{np.mean(found):.4f}" for kind, found in row["scores"].items()}
    cells = [row["candidate"], row["data"], f"{row['num_test']:,}", *scores.values()]
    for kind in ("tpe", "random"):
        found = row["gains"][kind]
        verdict = "better" if found["better"] else "not inferior" if found["not_inferior"] else "**not shown**"
        cells += [f"{found['difference']:+.4f}", f"{found['low']:+.4f}, {verdict}"]
    cells += [f"{sum(row['seconds'][kind]):.0f}" for kind in ("random", "tpe")]
    for unit in ("seconds", "passes"):
        found = [each[unit] for each in row["shares"]]
        cells.append(", ".join("never" if each is None else f"{each:.2f}" for each in found))
    return "| " + " | ".join(cells) + " |"


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def _accuracy(answers: pl.DataFrame) -> float:
    return float((answers["target"] == answers["answer"]).mean())


if __name__ == "__main__":
    main(sys.argv[1:])
