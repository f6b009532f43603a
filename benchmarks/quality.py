"""Quality: after whole epochs over all rows, is the validation accuracy as good as by Hugging Face's Trainer?

python -m benchmarks.quality            hours; benchmarks/results/quality.{json,md}
python -m benchmarks.quality 1 500      so many seeds and rows

Both train from the same weights with the same rates, epochs and batch size, each in its own order and precision, once a
seed, and answer all of val by one function. Paired over the rows of all seeds: by how much, between what bounds, and a
two-sided p-value (Fisher-Pitman permutation, as in the leaderboard).
"""

import json
import sys
import tempfile
from pathlib import Path

import polars as pl
import transformers

from benchmarks import limits, subjects, table, trainers
from benchmarks.clocks import Clock
from benchmarks.rounds import OURS
from benchmarks.subjects import Work
from stepladder import statistics, training
from stepladder.levels import finetune

JOBS = {  # words, rows of train, epochs as params.yaml has them
    "full, MiniLM": (["model=minilm", "method=full", "trainer.batch_size=16"], 7056, 2),
    "LoRA, SmolLM2": (
        ["model=smollm2", "method=lora", "trainer.batch_size=16", "optimizer.learning_rate=1e-3"],
        1000,
        1,
    ),
}
THREADS = 2
PEER = "HF Trainer, bf16" if limits.BF16 else "HF Trainer"


def main(num_seeds: int, max_rows: int | None) -> None:
    """Train every job by both, once a seed, and write the page after each job."""
    rows = []
    for job, (words, num_rows, epochs) in JOBS.items():
        found = {OURS: [], PEER: []}
        for seed in range(1, num_seeds + 1):
            said = [*words, "level=finetune", f"trainer.max_epochs={epochs}", f"seed={seed}"]
            number = min(num_rows, max_rows or num_rows)
            work = subjects.work(said, num_rows=number, num_val=1000, threads=THREADS)
            for name, train in ((OURS, ours), (PEER, theirs)):
                answers = train(work)
                found[name].append(answers.with_columns(pl.format("{}-{}", pl.lit(seed), "id").alias("id")))
                print(f"{job}, seed {seed}: {name} {_accuracy(answers):.4f}", flush=True)
        rows.append({"job": job, "peer": PEER, "num_rows": number, **_row(found), **table.circumstances()})
        _write(rows)


def ours(work: Work) -> pl.DataFrame:
    """Return what the level that `dvc repro` uses answers on val after its training."""
    level = finetune.Level(work.sections, base=work.base)
    with tempfile.TemporaryDirectory() as state:
        level.fit(work.train, work.val, state=Path(state), log=lambda *_: None)
    return level.predict(work.val)


def theirs(work: Work) -> pl.DataFrame:
    """Return what the Trainer's model answers on val, by the same function as ours."""
    model, _ = trainers.trained(work, clock=Clock(THREADS), bf16=limits.BF16)
    answerer = finetune.Level(work.sections, base=work.base)._open(work.train)
    return training.predict(model, answerer.objective, work.val, answerer.settings)


def _row(found: dict[str, list[pl.DataFrame]]) -> dict:
    """Return the accuracies by seed and the paired difference over the rows of all seeds."""
    pair = tuple(pl.concat(found[name]) for name in (OURS, PEER))
    paired = statistics.paired_difference(pair, "accuracy", confidence=0.95, num_resamples=9999, seed=0)
    own, theirs = ([round(_accuracy(answers), 4) for answers in found[name]] for name in (OURS, PEER))
    return {
        "ours": own,
        "theirs": theirs,
        **{key: round(value, 4) for key, value in paired.items()},
        "not_worse": paired["high"] >= 0,
    }


def _accuracy(answers: pl.DataFrame) -> float:
    return float((answers["answer"] == answers["target"]).mean())


def _write(rows: list[dict]) -> None:
    table.RESULTS.mkdir(exist_ok=True)
    lines = ["| job | peer | rows | ours, by seed | theirs | difference | 95 % | p | not worse |", "|---" * 9 + "|"]
    for row in rows:
        own, peer = (" ".join(f"{value:.3f}" for value in row[key]) for key in ("ours", "theirs"))
        bounds = f"{row['low']:+.3f} to {row['high']:+.3f}"
        cells = [row["job"], row["peer"], str(row["num_rows"]), own, peer, f"{row['difference']:+.4f}", bounds]
        cells += [f"{row['p_value']:.2f}", "yes" if row["not_worse"] else "**no**"]
        lines.append("| " + " | ".join(cells) + " |")
    head = f"{rows[-1]['date']}, accuracy on the same val rows, paired over the rows of all seeds."
    (table.RESULTS / "quality.json").write_text(json.dumps(rows, indent=1) + "\n")
    (table.RESULTS / "quality.md").write_text("\n".join([head, "", *lines, ""]))


if __name__ == "__main__":
    given = [int(word) for word in sys.argv[1:]]
    transformers.logging.set_verbosity_error()
    main(given[0] if given else 3, given[1] if len(given) > 1 else None)
