"""Features: a frozen MiniLM's vectors, and a head trained on them, beside sentence-transformers and a Trainer.

python -m benchmarks quick features     embedding once; then five epochs with a frozen backbone

The vectors must be the peer's to a cosine of 0.999. The heads start equal and go over the same rows in one order in the
warm-up; each step's loss must be the peer's to 0.02, which bf16 vectors may cost.
"""

import functools
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks import limits, rounds, subjects, trainers
from benchmarks.clocks import Clock, within
from benchmarks.rounds import OURS, Contest, Pairing, Run
from benchmarks.subjects import Work
from stepladder import models, pooled, settings, training
from stepladder.levels import finetune

ENCODE = "sentence-transformers encode"
TRAINER = "HF Trainer, 5 epochs, backbone frozen"
EPOCHS = 5
BATCH = 32  # of both: the peer's default
WORDS = ["level=finetune", "model=minilm", "method=frozen", f"trainer.eval_batch_size={BATCH}"]
WORDS += [f"trainer.max_epochs={EPOCHS}", f"trainer.patience={EPOCHS}"]
ALIKE, TOLERANCE = 0.999, 0.02  # cosine; nats a step


def contests(clock: Clock, _stack: ExitStack) -> list[Contest]:
    """Return the embedding alone and the whole fit."""
    sizes = (64, 512, round(512 * limits.SHARE))
    small, many, some = (subjects.work(WORDS, num_rows=number, num_val=2, threads=clock.threads) for number in sizes)
    vectors, peers_vectors, heads, peers_heads = (
        functools.partial(run, clock=clock) for run in (embed, encode, fit, frozen)
    )
    pairs = [Pairing(OURS, ENCODE, 3.6, _same_vectors, rounds.missing("sentence_transformers"))]
    rate = functools.partial(limits.product_rate, 864, 384, 1536, clock=clock)  # 32 rows of 27 tokens
    both = {OURS: heads, TRAINER: peers_heads}
    head = [Pairing(OURS, TRAINER, 10.0, _same_losses)]
    return [
        Contest("embedding, MiniLM", {OURS: vectors, ENCODE: peers_vectors}, pairs, warm=small, work=many, rate=rate),
        Contest("frozen MiniLM and a head", both, head, warm=replace(small, ordered=True), work=some),
    ]


def embed(work: Work, *, clock: Clock) -> Run:
    """Compute the vectors as level finetune does with method frozen; seconds from text to vectors."""
    plan = settings.of(work.sections)
    answerer = finetune.Level(work.sections, base=work.base)._open(work.train)
    with clock.running():
        rows = training.encode(answerer.objective, work.train, train=True)
        found = training.embed(answerer.model, answerer.objective, rows, plan)
    cost = limits.ANSWER * limits.weights(answerer.model) * sum(rows.lengths)
    return Run(clock.spent, found.numpy(), flops=cost)


def encode(work: Work, *, clock: Clock) -> Run:
    """Compute the vectors by sentence-transformers at its defaults; seconds of encode."""
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(clock.threads)
    with models.quiet():
        model = SentenceTransformer(str(work.base), device="cpu")
    with clock.running():
        found = model.encode(work.train["input"].to_list(), show_progress_bar=False)
    return Run(clock.spent, found)


def fit(work: Work, *, clock: Clock) -> Run:
    """Fit by level finetune: the backbone once, then so many epochs of the head; seconds from text to the last step."""
    losses = []

    def log(name: str, value: float, *_place) -> None:
        losses.extend([value] if name == "train/loss" else [])

    with (
        tempfile.TemporaryDirectory() as state,
        within(clock, training, "encode") as read,
        within(clock, training, "embed") as embedded,
        within(clock, training, "fit") as fitted,
    ):
        level = finetune.Level(work.sections, base=work.base)
        level.fit(work.train, work.val, state=Path(state), log=log)
    return Run(sum([*read, *embedded, *fitted]), losses)


def frozen(work: Work, *, clock: Clock) -> Run:
    """Train the same head by the Trainer, which runs the frozen backbone anew in each epoch."""
    torch.set_num_threads(clock.threads)
    answerer = finetune.Level(work.sections, base=work.base)._open(work.train)
    model = Scored(pooled.classifier(work.base, answerer.description["labels"], seed=work.sections["seed"]))
    options = trainers.arguments(work) | ({"train_sampling_strategy": "sequential"} if work.ordered else {})
    with tempfile.TemporaryDirectory() as folder:
        with clock.running():
            encoded = answerer.objective.encode(work.train, train=True)
        read = clock.spent
        encoded = trainers.in_our_order(encoded, work) if work.ordered else encoded
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(folder, **options | {"logging_strategy": "steps", "logging_steps": 1}),
            train_dataset=[{"input_ids": each["ids"], "labels": each["label"]} for each in encoded],
            data_collator=functools.partial(trainers.collate, pad=answerer.tokenizer.pad_token_id),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        with clock.running():
            trainer.train()
    losses = [float(each["loss"]) for each in trainer.state.log_history if "loss" in each]
    return Run(read + clock.spent, losses)


class Scored(torch.nn.Module):
    """A pooled classifier that returns its loss, as the Trainer wants it."""

    def __init__(self, model: pooled.PooledClassifier):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, labels):
        logits = self.model(input_ids, attention_mask).logits
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


def _same_vectors(_warm: dict, timed: dict[str, Run]) -> tuple[bool, str]:
    own, theirs = (
        timed[name].result / np.linalg.norm(timed[name].result, axis=1, keepdims=True) for name in (OURS, ENCODE)
    )
    least = float((own * theirs).sum(1).min())
    return least >= ALIKE, f"least cosine of {len(own)} vectors {least:.5f}"


def _same_losses(warm: dict[str, Run], timed: dict[str, Run]) -> tuple[bool, str]:
    own, theirs = warm[OURS].result, warm[TRAINER].result
    apart = max(abs(a - b) for a, b in zip(own, theirs, strict=False))
    last = [statistics.mean(timed[name].result[-8:]) for name in (OURS, TRAINER)]
    said = f"{len(own)} steps in one order: losses within {apart:.1e}"
    said += f"; mean of the last 8 timed {last[0]:.3f} / {last[1]:.3f}"
    return apart <= TOLERANCE and len(own) == len(theirs), said
