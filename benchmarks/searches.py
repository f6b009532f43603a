"""Searches: what twenty trials are worth on test rows, by TPE and by chance, against the settings as they are shipped.

python -m benchmarks.searches                  three data sets, three seeds; benchmarks/results/searches.{json,md}
python -m benchmarks.searches frozen           of these candidates alone; the others' rows stay

Stages sweep, train and evaluate run as `dvc repro` runs them. Paired over the test rows of all seeds: by how much the
searched settings are better, and the lower end of a one-sided 95 % interval; not inferior above a margin of a point.
Compute: the share of the seconds of random search after which TPE has what random search found in the end.
"""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks import subjects, table, workspaces
from stepladder import compose, dialects, records, splits, statistics

DOMAINS = ("movie", "amazon", "tweets")
SEEDS = (1, 2, 3)
CANDIDATES = {
    "frozen": {"level": "finetune", "model": "minilm", "method": "frozen", "sweep": "head"},
}
KINDS = {"default": None, "tpe": "tpe", "random": "random"}
MARGIN, CONFIDENCE = 0.01, 0.95  # one-sided
RESULTS = table.RESULTS / "searches.json"


def main(chosen: list[str]) -> None:
    """Search each candidate on each data set, and write the page after each."""
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else []
    rows = [row for row in kept if row["candidate"] not in chosen]
    for name in chosen:
        for domain in DOMAINS:
            rows.append({"candidate": name, "data": domain, **row(name, domain), **table.circumstances()})
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
            RESULTS.with_suffix(".md").write_text(markdown(rows))
            print(markdown(rows[-1:]), flush=True)


def row(name: str, domain: str) -> dict:
    """Return what is told of a candidate on a data set: test scores by seed, what a search gains, what it takes."""
    answers, trials = {kind: [] for kind in KINDS}, {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as place:
        folder = workspaces.lay_out(Path(place))
        parts = data_set(folder, domain)
        for seed in SEEDS:
            for kind, sampler in KINDS.items():
                found, tried = answered(folder, name, parts, seed, sampler)
                answers[kind].append(found.with_columns(pl.format("{}-{}", pl.lit(seed), "id").alias("id")))
                trials[kind].append(tried)
    pooled = {kind: pl.concat(frames) for kind, frames in answers.items()}
    gains = {kind: gain(pooled[kind], pooled["default"]) for kind in ("tpe", "random")}
    scores = {kind: [_accuracy(frame) for frame in frames] for kind, frames in answers.items()}
    shares = [share(tpe, random) for tpe, random in zip(trials["tpe"], trials["random"], strict=True)]
    return {"scores": scores, "gains": gains, "share_of_random": shares, "num_test": len(answers["tpe"][0])}


def data_set(folder: Path, domain: str) -> dict[str, Path]:
    """Write train, val and test of one domain of the rated sentences; documents stay on one side."""
    archive = records.locate("reviews", path=None, assets=subjects.ROOT / "assets" / "data" / "reviews.json")
    rows, _ = records.collect(archive, source="vader", columns=None, options={"domains": [domain], "min_score": 0.5})
    frame, _ = records.clean(rows, name=domain, task="classification", labels=None)
    parts = splits.partition(frame, {"val": 0.1, "test": 0.25}, name="hash", seed=42, column=None)
    for part, rows in parts.items():
        records.write(rows, folder / f"{part}.parquet")
    return {part: folder / f"{part}.parquet" for part in parts}


def answered(folder: Path, name: str, parts: dict, seed: int, sampler: str | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what the candidate answers on test after a search by this sampler, or as it is, and its trials."""
    own = {"sweep": {"sampler": sampler}} if sampler else {}
    row = CANDIDATES[name] | {"seed": seed, "set": own} | ({} if sampler else {"sweep": "none"})
    params = {"seed": 42, "data": "reviews", "datasets": [], "set": {}, "candidates": {name: row}}
    (folder / "build").mkdir(exist_ok=True)
    (folder / "build" / f"{name}.yaml").write_text(dialects.dump(compose.candidate(name, params), "built"))
    workspaces.assign(folder, name, parts)
    for stage in ("sweep", "train", "evaluate"):
        workspaces.run(folder, f"pipelines.{stage}", "-cd", "build", "-cn", name, threads=1)
    timed = folder / "runs" / name / "sweep.json"
    tried = pl.read_parquet(folder / "reports" / "trials" / f"{name}.parquet")
    seconds = json.loads(timed.read_text())["trial_seconds"] if sampler else 0.0
    return pl.read_parquet(folder / "predictions" / "test" / f"{name}.parquet"), tried.with_columns(all=seconds)


def gain(found: pl.DataFrame, default: pl.DataFrame) -> dict:
    """Return by how much the searched settings are better, and the one-sided lower end."""
    options = {"confidence": 2 * CONFIDENCE - 1, "num_resamples": 4000, "seed": 0}
    paired = statistics.paired_difference((found, default), "accuracy", **options)
    told = {key: round(paired[key], 4) for key in ("difference", "low")}
    return told | {"not_inferior": paired["low"] > -MARGIN, "better": paired["low"] > 0}


def share(tpe: pl.DataFrame, random: pl.DataFrame) -> float | None:
    """Return after which share of random search's time TPE had its best, trials taken as long as their mean."""
    reached = (tpe["score"].fill_null(-np.inf) >= random["score"].max()).arg_true()
    if not len(reached):
        return None
    each = tpe["all"][0] / len(tpe)
    return round((reached[0] + 1) * each / random["all"][0], 3)


def markdown(rows: list[dict]) -> str:
    """Return the rows as a table of Markdown."""
    lines = [
        "| candidate | data | test rows | shipped | TPE | random | TPE gains | above, 95 % | random | share of time |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        scores = {kind: f"{np.mean(found):.3f}" for kind, found in row["scores"].items()}
        tpe, random = row["gains"]["tpe"], row["gains"]["random"]
        verdict = "better" if tpe["better"] else "not inferior" if tpe["not_inferior"] else "**inferior**"
        shares = ", ".join("not reached" if each is None else f"{each:.2f}" for each in row["share_of_random"])
        cells = [row["candidate"], row["data"], f"{row['num_test']:,} x {len(SEEDS)}", *scores.values()]
        cells += [f"{tpe['difference']:+.4f}", f"{tpe['low']:+.4f}, {verdict}", f"{random['difference']:+.4f}", shares]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _accuracy(answers: pl.DataFrame) -> float:
    return float((answers["target"] == answers["answer"]).mean())


if __name__ == "__main__":
    main(sys.argv[1:] or list(CANDIDATES))
