"""Scoring: which label a language model holds for likelier, by Stepladder and by the LM Evaluation Harness.

python -m benchmarks quick scoring      zero-shot and eight-shot with SmolLM2-135M, answers compared

Both are asked for the log-likelihood of ` negative` and ` positive` after the same prompts. In the warm-up ours is
asked in float32 as well, where each score must be the peer's to 0.001; at bf16 an answer may differ where the peer's
own two scores are nearer to each other than bf16 tells apart.
Source: Gao et al. 2021, doi.org/10.5281/zenodo.5371628.
"""

import functools
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch

from benchmarks import limits, rounds, subjects
from benchmarks.clocks import Clock, within
from benchmarks.rounds import OURS, Contest, Pairing, Run
from benchmarks.subjects import Work
from stepladder import generation, models, settings, training
from stepladder.levels import prompt

EXACT = f"{OURS}, float32"
SAME, DEFAULT = f"lm-eval HFLM, {'bf16' if limits.BF16 else 'float32'}", "lm-eval HFLM, float32"
BATCH = 16  # of both; the peer holds the scores of all tokens at all positions, 1 GB for 16 prompts of 8 shots
TOLERANCE, NOISE = 1e-3, 0.25  # nats in float32; nats between two scores that bf16 may swap


def contests(clock: Clock, _stack: ExitStack) -> list[Contest]:
    """Return scoring without and with eight examples before each question."""
    shots = ["prompt=few_shot", "prompt.num_shots=4"]  # of each of the two labels
    few = (4, 24)  # rows in the warm-up, and timed
    return [
        _contest("zero-shot label scoring", [], (16, 96), goals=(1.5, 5.0), clock=clock),
        _contest("8-shot label scoring", shots, few, goals=(7.0, 25.0), clock=clock),
    ]


def _contest(job: str, words: list[str], sizes: tuple[int, int], *, goals: tuple, clock: Clock) -> Contest:
    words = ["level=prompt", "model=smollm2", f"trainer.eval_batch_size={BATCH}", *words]
    warm, work = (subjects.work(words, num_rows=500, num_val=number, threads=clock.threads) for number in sizes)
    run, peer = (functools.partial(each, clock=clock) for each in (ours, harness))
    absent = rounds.missing("lm_eval")
    pairings = [Pairing(OURS, SAME, goals[0], _agree(SAME), absent)]
    contenders = {OURS: run, SAME: functools.partial(peer, dtype=_dtype())}
    checks = {EXACT: lambda given: run(given.at("32-true"))}
    if limits.BF16:
        pairings.append(Pairing(OURS, DEFAULT, goals[1], _agree(DEFAULT), absent))
        contenders[DEFAULT] = functools.partial(peer, dtype=torch.float32)
    rate = functools.partial(limits.product_rate, 448, 576, 1536, clock=clock)  # 16 rows of 28 tokens
    return Contest(job, contenders, pairings, warm=warm, work=work, checks=checks, rate=rate)


def ours(work: Work, *, clock: Clock) -> Run:
    """Ask by the level that `dvc repro` uses; seconds of its predict, from text to answers."""
    level = _opened(work)
    with within(clock, training, "predict") as spent:
        answers = level.predict(work.val)
    shares = answers["probabilities"].struct.unnest().to_numpy()  # (rows, labels)
    return Run(spent[0], np.log(shares), flops=_flops(level, work))


def harness(work: Work, *, dtype: torch.dtype, clock: Clock) -> Run:
    """Ask by lm-eval's HFLM; seconds of its loglikelihood, from text to scores."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(clock.threads)
    objective = _opened(work).answerer.objective
    model = models.causal(work.base, dtype=dtype)
    asked = HFLM(model, tokenizer=models.tokenizer(work.base), batch_size=BATCH, device="cpu")
    pairs = [
        (objective.prompt.question(text), objective.prompt.answer(label))
        for text in work.val["input"]
        for label in objective.labels
    ]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    with clock.running():
        found = asked.loglikelihood(requests, disable_tqdm=True)
    scores = np.array([score for score, _ in found]).reshape(-1, len(objective.labels))
    return Run(clock.spent, scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))


def _opened(work: Work) -> prompt.Level:
    level = prompt.Level(work.sections, base=work.base)
    with tempfile.TemporaryDirectory() as state:
        level.fit(work.train, work.val, state=Path(state), log=lambda *_: None)
    return level


def _dtype() -> torch.dtype:
    return settings.dtype(settings.resolve("auto", trained=False))


def _flops(level: prompt.Level, work: Work) -> float:
    """Return what must be computed: a prefix that all prompts share, once, the rest of each, one position's scores."""
    model, prompts = (
        level.answerer.model,
        [each["ids"] for each in level.answerer.objective.encode(work.val, train=False)],
    )
    shared = len(generation.common_prefix(prompts))
    shared = shared if shared >= generation.MIN_PREFIX else 0
    tokens = shared + sum(len(ids) - shared for ids in prompts)
    return limits.ANSWER * (limits.weights(model) * tokens + limits.head(model) * len(prompts))


def _agree(peer: str) -> Callable[[dict, dict], tuple[bool, str]]:
    def agree(warm: dict[str, Run], timed: dict[str, Run]) -> tuple[bool, str]:
        exact = DEFAULT if DEFAULT in warm else peer
        apart = float(np.abs(warm[EXACT].result - warm[exact].result).max())
        own, theirs = timed[OURS].result, timed[peer].result
        differ = own.argmax(1) != theirs.argmax(1)
        sure = np.abs(np.diff(theirs, axis=1))[:, 0] > NOISE
        said = f"{len(own) - differ.sum()} of {len(own)} answers the same, none of the {sure.sum()} clear ones differs"
        said = said if not (differ & sure).any() else f"{(differ & sure).sum()} of {sure.sum()} clear answers differ"
        return apart <= TOLERANCE and not (differ & sure).any(), f"{said}; float32 scores within {apart:.1e}"

    return agree
