"""Fits: one pass of training by Stepladder and by what a user would pick instead, over the same rows, steps and rates.

python -m benchmarks quick fits         full MiniLM, and LoRA on SmolLM2

The warm-up goes over few rows in one order without dropout: in float32 each step's loss must be the peer's to 0.001,
and at our own precision the losses must be the peer's to 5 %.
"""

import functools
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import lightning

from benchmarks import limits, rounds, subjects, trainers
from benchmarks.clocks import Clock, within
from benchmarks.rounds import OURS, Contest, Pairing, Run
from benchmarks.subjects import Work
from stepladder import models, training
from stepladder.levels import finetune

TOLERANCE, ROUNDING = 1e-3, 0.05  # nats a step in float32; share of the loss at bf16
EXACT = f"{OURS}, float32" if limits.BF16 else OURS
COMMON = ["level=finetune", "trainer.max_epochs=1"]
NUM_VAL = 2  # rows of the check at the end of a fit, which the peers do not make
HF, HALF = "HF Trainer", "HF Trainer, bf16"
GROUPED = f"{HALF if limits.BF16 else HF}, grouped by length"


def contests(clock: Clock, stack: ExitStack) -> list[Contest]:
    """Return the two jobs; `stack` closes what they opened."""
    return [_minilm(clock, stack), _smollm2(clock, stack)]


def _minilm(clock: Clock, stack: ExitStack) -> Contest:
    words = [*COMMON, "model=minilm", "method=full", "trainer.batch_size=16"]
    given = subjects.work(words, num_rows=round(320 * limits.SHARE), num_val=NUM_VAL, threads=clock.threads)
    warm = stack.enter_context(subjects.ordered(given, 64))
    contenders = _contenders(given, limits.TRAIN, clock)
    contenders |= {"plain Lightning loop": functools.partial(trainers.plain_lightning, clock=clock)}
    pairings = _pairings(mixed=4.0, exact=2.3, half=1.7, grouped=1.2)
    pairings.append(_pairing("plain Lightning loop", 4.0 if limits.BF16 else 2.3))
    rate = functools.partial(limits.product_rate, 432, 384, 1536, clock=clock)  # 16 rows of 27 tokens
    return Contest("full, MiniLM", contenders, pairings, warm=warm, work=given, rate=rate)


def _smollm2(clock: Clock, stack: ExitStack) -> Contest:
    words = [*COMMON, "model=smollm2", "method=lora", "trainer.batch_size=8", "optimizer.learning_rate=5e-4"]
    given = subjects.work(words, num_rows=round(64 * limits.SHARE), num_val=NUM_VAL, threads=clock.threads)
    warm = stack.enter_context(subjects.ordered(given, 16))
    options = {"trl": True} if limits.BF16 else {"trl": True, "bf16": False}
    trl = "TRL SFTTrainer, defaults" if limits.BF16 else "TRL SFTTrainer, defaults but float32"
    contenders = _contenders(given, limits.ADAPT, clock)
    contenders |= {trl: functools.partial(trainers.hugging_face, clock=clock, **options)}
    pairings = _pairings(mixed=4.0, exact=2.4, half=1.8, grouped=1.2)
    pairings.append(_pairing(trl, 3.0, rounds.missing("trl")))
    rate = functools.partial(limits.product_rate, 240, 576, 1536, clock=clock)  # 8 rows of 30 tokens
    return Contest("LoRA, SmolLM2", contenders, pairings, warm=warm, work=given, rate=rate)


def _contenders(given: Work, factor: int, clock: Clock) -> dict[str, Callable[[Work], Run]]:
    """Return ours, at our own precision and in float32, and Hugging Face's Trainer at its defaults and best flags."""
    run = functools.partial(ours, clock=clock, cost=_cost(given, factor))
    hugging_face = functools.partial(trainers.hugging_face, clock=clock)
    return {
        OURS: run,
        EXACT: lambda work: run(work.at("32-true")),
        HF: hugging_face,
        HALF: functools.partial(hugging_face, bf16=True),
        GROUPED: functools.partial(hugging_face, bf16=limits.BF16, train_sampling_strategy="group_by_length"),
    }


def _pairings(*, mixed: float, exact: float, half: float, grouped: float) -> list[Pairing]:
    """Return the rows against Hugging Face's Trainer; a machine without bf16 units is held to the goals in float32."""
    found = [
        _pairing(HF, mixed if limits.BF16 else exact),
        _pairing(HALF, half, limits.NO_BF16),
        _pairing(GROUPED, grouped),
    ]
    return found + ([Pairing(EXACT, HF, exact, _agree(EXACT, HF))] if limits.BF16 else [])


def _pairing(peer: str, goal: float, absent: str | None = None) -> Pairing:
    return Pairing(OURS, peer, goal, _agree(OURS, peer), absent)


def ours(work: Work, *, clock: Clock, cost: Callable[[Work], float]) -> Run:
    """Train by the level that `dvc repro` uses; seconds of Lightning's fit, and beside those of the rest."""
    losses = []

    def log(name: str, value: float, *_place) -> None:
        losses.extend([value] if name == "train/loss" else [])

    with (
        tempfile.TemporaryDirectory() as state,
        within(clock, lightning.Trainer, "fit") as inner,
        within(clock, training, "fit") as outer,
    ):
        facts = finetune.Level(work.sections, base=work.base).fit(work.train, work.val, state=Path(state), log=log)
    result = {"losses": losses, "mean": statistics.mean(losses), "steps": facts["num_steps"]}
    return Run(inner[0], result, flops=cost(work), beside=outer[0] - inner[0])


def _hugging_face(named: dict[str, dict], clock: Clock) -> dict[str, Callable[[Work], Run]]:
    return {name: functools.partial(trainers.hugging_face, clock=clock, **options) for name, options in named.items()}


def _cost(given: Work, factor: int) -> Callable[[Work], float]:
    """Return a function that counts the useful FLOPs of one pass; a language model's head sees the answers alone."""
    answerer = finetune.Level(given.sections, base=given.base)._open(given.train)
    causal = answerer.description["form"] == "causal"
    model = models.causal(given.base) if causal else answerer.model
    inside, head = limits.weights(model), limits.head(model) if causal else 0

    def cost(work: Work) -> float:
        encoded = answerer.objective.encode(work.train, train=True)
        answers = [max(0, len(each.get("answer", ()))) for each in encoded]
        tokens = sum(each["length"] + max(0, answer - 1) for each, answer in zip(encoded, answers, strict=True))
        return factor * (inside * tokens + head * sum(answers))

    return cost


def _agree(mine: str, peer: str) -> Callable[[dict, dict], tuple[bool, str]]:
    """Return a judge of equal work: as many steps, and in the warm-up the same losses."""

    def agree(warm: dict[str, Run], timed: dict[str, Run]) -> tuple[bool, str]:
        own, exact, others, plain = (warm[name].result["losses"] for name in (mine, EXACT, peer, HF))
        apart = max(abs(a - b) for a, b in zip(exact, plain, strict=True))
        rounded = statistics.mean(abs(a - b) for a, b in zip(own, others, strict=True)) / statistics.mean(others)
        steps = timed[mine].result["steps"], timed[peer].result["steps"]
        means = timed[mine].result["mean"], timed[peer].result["mean"]
        said = f"{len(own)} steps in one order: float32 losses within {apart:.1e}, these within {rounded:.1%}"
        said += f"; {steps[0]} / {steps[1]} steps timed, mean loss {means[0]:.3f} / {means[1]:.3f}"
        return apart <= TOLERANCE and rounded <= ROUNDING and steps[0] == steps[1], said

    return agree
