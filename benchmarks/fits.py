"""Fits: one pass of training by Stepladder and by Hugging Face's Trainer, over the same rows, steps and rates.

make bench                      after `make run`; benchmarks/results/latest.{json,md}
python -m benchmarks.fits 3     so many rounds, after one that warms up and is dropped

One thread, CPU seconds of the training call, peers in turn within each round; ratios are medians over the rounds. What
is trained is then asked the same held-out rows by one function in float32: equal work shows in equal losses.
"""

import functools
import importlib.metadata
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from stepladder import compose, methods, models, training
from stepladder.levels import finetune
from stepladder.objectives import IGNORED

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NUM_HELD_OUT = 200
TOLERANCE = 0.05  # nats between the held-out losses of equal work: the rows come in another order
JOBS = {  # words of the candidate, rows of one pass, goals against each peer
    "full, MiniLM": {
        "words": ["model=minilm", "method=full", "trainer.batch_size=16"],
        "num_rows": 960,
        "goals": {"HF Trainer": 4.0, "HF Trainer, bf16": 1.7, "HF Trainer, bf16, grouped by length": 1.2},
    },
    "LoRA, SmolLM2": {
        "words": ["model=smollm2", "method=lora", "trainer.batch_size=8", "optimizer.learning_rate=5e-4"],
        "num_rows": 192,
        "goals": {"HF Trainer": 4.0, "HF Trainer, bf16": 1.8, "HF Trainer, bf16, grouped by length": 1.2},
    },
}
PEERS = {
    "HF Trainer": {},
    "HF Trainer, bf16": {"bf16": True},
    "HF Trainer, bf16, grouped by length": {"bf16": True, "train_sampling_strategy": "group_by_length"},
}


def main(rounds: int) -> None:
    """Run every job against its peers and write the table."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = [row for name, job in JOBS.items() for row in compare(name, job, rounds)]
    write(rows)


def compare(name: str, job: dict, rounds: int) -> list[dict]:
    """Return one row a peer: seconds of both, their ratio and whether they learned the same."""
    sections, base = chosen(job["words"])
    train = pl.read_parquet("data/reviews/train.parquet").sample(job["num_rows"], seed=1)
    val = pl.read_parquet("data/reviews/val.parquet").sample(NUM_HELD_OUT, seed=1)
    runners = {"ours": functools.partial(ours, sections, base, train, val)}
    for peer, options in PEERS.items():
        runners[peer] = functools.partial(theirs, sections, base, train, val, options)
    seconds, losses = {peer: [] for peer in runners}, {}
    for number in range(rounds + 1):
        for peer, run in runners.items():
            spent, losses[peer] = run()
            print(f"{name}, round {number}: {peer} {spent:.1f} CPU-s, held-out loss {losses[peer]:.3f}", flush=True)
            if number:
                seconds[peer].append(spent)
    return [row(name, peer, seconds, losses, job["goals"][peer]) for peer in PEERS]


def row(name: str, peer: str, seconds: dict, losses: dict, goal: float) -> dict:
    """Return a row of the table; the ratio is the median of those of the rounds."""
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds[peer], strict=True)]
    return {
        "job": name,
        "peer": peer,
        "ours": round(statistics.median(seconds["ours"]), 2),
        "theirs": round(statistics.median(seconds[peer]), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "goal": goal,
        "equal_work": abs(losses["ours"] - losses[peer]) <= TOLERANCE,
        "held_out_loss": {"ours": round(losses["ours"], 4), "theirs": round(losses[peer], 4)},
        "clock": "CPU seconds",
        "threads": torch.get_num_threads(),
    }


def chosen(words: list[str]) -> tuple[dict, Path]:
    """Return the composed sections of a candidate that passes once over the rows, and the folder of its base."""
    given = ["level=finetune", "trainer.max_epochs=1", "method.lora_dropout=0.0", "runtime.num_threads=1"]
    made = compose.compose([*(word for word in given if "lora" not in word or "method=lora" in words), *words])
    name = next(word.partition("=")[2] for word in words if word.startswith("model="))
    candidate = {"minilm": "full", "smollm2": "lora_smollm2"}[name]
    return made, ROOT / json.loads(Path("assets", f"{candidate}.json").read_text())["folder"]


def ours(sections: dict, base: Path, train: pl.DataFrame, val: pl.DataFrame) -> tuple[float, float]:
    """Train by the level that `dvc repro` uses; return CPU seconds of training.fit and the held-out loss."""
    spent, fit = [], training.fit

    def timed(*words, **parts):
        started = time.process_time()
        found = fit(*words, **parts)
        spent.append(time.process_time() - started)
        return found

    training.fit = timed
    try:
        with tempfile.TemporaryDirectory() as folder:
            level = finetune.Level(sections, base=base)
            level.fit(train, val.head(8), state=Path(folder), log=lambda *_: None)
    finally:
        training.fit = fit
    return spent[0], held_out(level.answerer.model, level.answerer.objective, val)


def theirs(sections: dict, base: Path, train: pl.DataFrame, val: pl.DataFrame, options: dict) -> tuple[float, float]:
    """Train by Hugging Face's Trainer from the same weights; return CPU seconds of train() and the held-out loss."""
    answerer, seed = finetune.Level(sections, base=base)._open(train), sections["seed"]
    form, labels = answerer.description["form"], answerer.description["labels"]
    model = models.causal(base) if form == "causal" else models.classifier(base, labels, seed=seed)
    model = methods.apply(model, sections["method"], seed=seed)
    examples = [example(each, form) for each in answerer.objective.encode(train, train=True)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model,
            args=arguments(sections, folder, len(train), options),
            train_dataset=examples,
            data_collator=functools.partial(collate, pad=answerer.tokenizer.pad_token_id),
        )
        started = time.process_time()
        trainer.train()
        spent = time.process_time() - started
    return spent, held_out(model, answerer.objective, val)


def arguments(sections: dict, folder: str, num_rows: int, options: dict) -> transformers.TrainingArguments:
    """Return the Trainer's arguments that mean what the sections mean."""
    optimizer, scheduler, trainer = (sections[name] for name in ("optimizer", "scheduler", "trainer"))
    num_steps = -(-num_rows // trainer["batch_size"])
    return transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=trainer["batch_size"],
        num_train_epochs=1,
        learning_rate=optimizer["learning_rate"],
        weight_decay=optimizer["weight_decay"],
        lr_scheduler_type=scheduler["name"],
        warmup_steps=round(scheduler["warmup_share"] * num_steps),
        max_grad_norm=trainer["gradient_clip"],
        seed=sections["seed"],
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        remove_unused_columns=False,
        **options,
    )


def example(encoded: dict, form: str) -> dict:
    """Return what a user gives the Trainer: for a causal model prompt and answer, with a loss on the answer alone."""
    if form != "causal":
        return {"input_ids": encoded["ids"], "labels": encoded["label"]}
    ids = [*encoded["ids"], *encoded["answer"]]
    return {"input_ids": ids, "labels": [IGNORED] * len(encoded["ids"]) + encoded["answer"]}


def collate(rows: list[dict], *, pad: int) -> dict[str, torch.Tensor]:
    """Return a batch padded on the right to its longest row."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    batch = {"input_ids": pad_sequence(ids, batch_first=True, padding_value=pad)}
    batch["attention_mask"] = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
    if isinstance(rows[0]["labels"], int):
        return batch | {"labels": torch.tensor([row["labels"] for row in rows])}
    labels = [torch.tensor(row["labels"]) for row in rows]
    return batch | {"labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED)}


@torch.inference_mode()
def held_out(model, objective, val: pl.DataFrame) -> float:
    """Return the mean loss of held-out rows in float32, by one function for all."""
    model.eval().float()
    examples = objective.encode(val, train=False)
    batches = [examples[i : i + 25] for i in range(0, len(examples), 25)]
    return statistics.mean(float(objective.loss(model, objective.collate(batch))) for batch in batches)


def write(rows: list[dict]) -> None:
    """Write the rows with date and versions, and the table that people read."""
    RESULTS.mkdir(exist_ok=True)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "peft", "lightning")}
    (RESULTS / "latest.json").write_text(json.dumps(rows, indent=1) + "\n")
    lines = ["| job | peer | ours | theirs | ratio | rounds | goal | equal work |", "|---|---|---|---|---|---|---|---|"]
    for each in rows:
        equal = "{}: {ours:.3f} / {theirs:.3f}".format("yes" if each["equal_work"] else "no", **each["held_out_loss"])
        spread = f"{min(each['ratios'])} to {max(each['ratios'])}"
        cells = [each["job"], each["peer"], f"{each['ours']} s", f"{each['theirs']} s", f"**{each['ratio']}**"]
        lines.append("| " + " | ".join([*cells, spread, str(each["goal"]), equal]) + " |")
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    head = f"{datetime.now(UTC).date()}, one thread, CPU seconds of the training, {said}; equal work by held-out loss."
    (RESULTS / "latest.md").write_text("\n".join([head, "", *lines, ""]))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
