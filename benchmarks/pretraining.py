"""Pretraining: a Llama of about 13 M parameters from nothing, by level pretrain and by a plain loop in float32.

python -m benchmarks quick pretraining      ten steps of 4 x 256 tokens, each step's loss compared

The peer is transformers' model with its own loss, AdamW as torch has it and rows in turn. The loop takes the rows, the
rates and the clipping of ours, so that in float32 each step's loss must be ours to 0.001.
"""

import functools
import itertools
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import lightning
import polars as pl
import torch
import transformers

from benchmarks import limits, subjects
from benchmarks.clocks import Clock, within
from benchmarks.rounds import OURS, Contest, Pairing, Run
from stepladder import adapting, compose, models, objectives, records, training, vocabulary
from stepladder.batches import Batches
from stepladder.levels import pretrain

EXACT = f"{OURS}, float32" if limits.BF16 else OURS
LOOP = "HF model in a float32 loop, default AdamW"
LENGTH, BATCH = 256, 4
SIZES = {
    "vocab_size": 8192,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
}
TOLERANCE, ROUNDING = 1e-3, 0.02  # nats a step in float32; share of the loss at bf16


@dataclass(frozen=True)
class Work:
    """The composed candidate for so many steps, and the texts it learns from."""

    sections: dict
    texts: pl.DataFrame
    batch_size: int


def contests(clock: Clock, _stack: ExitStack) -> list[Contest]:
    """Return the one job, against the goals for bf16 and for float32."""
    warm, work = (_work(steps, batch_size, clock.threads) for steps, batch_size in ((4, 1), (8, BATCH)))
    run = functools.partial(ours, clock=clock)
    contenders = {OURS: run, LOOP: functools.partial(loop, clock=clock)}
    pairings = [Pairing(OURS, LOOP, 3.0 if limits.BF16 else 1.6, _agree(OURS))]
    if limits.BF16:
        contenders[EXACT] = lambda given: run(given, precision="32-true")
        pairings.append(Pairing(EXACT, LOOP, 1.6, _agree(EXACT)))
    rate = functools.partial(limits.product_rate, BATCH * LENGTH, 384, 1024, clock=clock)
    return [Contest("pretraining, 13 M", contenders, pairings, warm=warm, work=work, rate=rate)]


def ours(work: Work, *, clock: Clock, precision: str = "auto") -> Run:
    """Pretrain by the level that `dvc repro` uses; seconds of Lightning's fit."""
    losses = []

    def log(name: str, value: float, *_place) -> None:
        losses.extend([value] if name == "pretrain/train/loss" else [])

    sections = {**work.sections, "trainer": {**work.sections["trainer"], "precision": precision}}
    level = pretrain.Level(sections, base=None)
    with (
        tempfile.TemporaryDirectory() as state,
        within(clock, lightning.Trainer, "fit") as inner,
        within(clock, training, "fit") as outer,
    ):
        made = Path(state) / "made"
        corpus = {part: Path(state) / f"{part}.parquet" for part in ("train", "val")}
        records.write(work.texts, corpus["train"])
        records.write(work.texts.head(1), corpus["val"])
        level._pretrain(corpus, made=made, state=Path(state), log=log)
        model = models.causal(made)
    inside, tokens = limits.weights(model) + limits.head(model), len(losses) * work.batch_size * LENGTH
    return Run(inner[0], losses, flops=limits.TRAIN * inside * tokens, beside=outer[0] - inner[0])


def loop(work: Work, *, clock: Clock) -> Run:
    """Pretrain by a plain loop in float32; seconds of the loop."""
    torch.set_num_threads(clock.threads)
    model, batches, plan = _built(work)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.optimizer["learning_rate"], weight_decay=0.1)
    warmup = round(plan.scheduler["warmup_share"] * plan.max_steps)
    schedule = transformers.get_scheduler("cosine", optimizer, warmup, plan.max_steps)
    losses = []
    with clock.running():
        for ids in batches:
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return Run(clock.spent, losses)


def _built(work: Work) -> tuple:
    """Return an untrained model, batches of whole rows in our order, and our settings."""
    section, seed = work.sections["model"], work.sections["seed"]
    learned = vocabulary.learn(work.texts["input"], vocab_size=section["vocab_size"], context_length=LENGTH)
    objective = objectives.load("language_modeling")(learned, task="language_modeling", max_length=LENGTH)
    packed = training.encode(objective, work.texts, train=True)
    asked, optimizer = work.sections["level"]["pretraining"], work.sections["optimizer"]
    plan = adapting.settings(work.sections, asked, LENGTH, optimizer)
    order = itertools.islice(Batches(packed.lengths, work.batch_size, seed=seed), plan.max_steps)
    batches = [torch.tensor([packed.rows[row]["ids"] for row in rows]) for rows in order]
    return models.llama(section, learned, seed=seed).train(), batches, plan


def _work(steps: int, batch_size: int, threads: int) -> Work:
    words = ["level=pretrain", "model=tiny_llama", "corpus=plain_english", f"runtime.num_threads={threads}"]
    words += [f"model.{name}={size}" for name, size in SIZES.items()]
    words += [
        f"level.pretraining.max_tokens={steps * batch_size * LENGTH}",
        f"level.pretraining.batch_size={batch_size}",
    ]
    raw = subjects.rows("train", 4000).with_columns(target=pl.lit(None, pl.String))
    return Work(compose.compose(words), raw, batch_size)


def _agree(mine: str) -> Callable[[dict, dict], tuple[bool, str]]:
    def agree(_warm: dict, timed: dict[str, Run]) -> tuple[bool, str]:
        own, exact, theirs = (timed[name].result for name in (mine, EXACT, LOOP))
        apart = max(abs(a - b) for a, b in zip(exact, theirs, strict=True))
        rounded = statistics.mean(abs(a - b) for a, b in zip(own, theirs, strict=True)) / statistics.mean(theirs)
        said = f"{len(own)} steps: float32 losses within {apart:.1e}, these within {rounded:.1%}, down to {own[-1]:.2f}"
        return apart <= TOLERANCE and rounded <= ROUNDING, said

    return agree
