"""Sweeps: some short trials in one process, by the stage `sweep`, beside a process for each of them.

python -m benchmarks quick sweeps       three LoRA trials on MiniLM; the scores must be the same

Both run `python -m pipelines.sweep` on the same rows: once with all values, or once for each value. What differs is
what trials share: imports, weights in memory, tokens.
"""

import functools
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from benchmarks import subjects, workspaces
from benchmarks.clocks import Clock
from benchmarks.rounds import OURS, Contest, Pairing, Run
from stepladder import compose, dialects

EACH = "one process a trial"
RATES = [2.5e-4, 5.0e-4, 1.0e-3]
CANDIDATE = "lora"


@dataclass(frozen=True)
class Work:
    """How many rows of train a trial sees, and of val it is judged on."""

    num_train: int
    num_val: int


def contests(clock: Clock, _stack: ExitStack) -> list[Contest]:
    """Return the one job."""
    contenders = {OURS: functools.partial(together, clock=clock), EACH: functools.partial(apart, clock=clock)}
    pairings = [Pairing(OURS, EACH, 2.0, _agree)]
    work = Work(num_train=64, num_val=64)
    warm = replace(work, num_train=16, num_val=16)
    return [Contest(f"sweep of {len(RATES)} short trials", contenders, pairings, warm=warm, work=work)]


def together(work: Work, *, clock: Clock) -> Run:
    """Search all values in one process; its seconds from start to end."""
    return _searched(work, [RATES], clock)


def apart(work: Work, *, clock: Clock) -> Run:
    """Search each value in a process of its own; their seconds from start to end."""
    return _searched(work, [[rate] for rate in RATES], clock)


def _searched(work: Work, grids: list[list[float]], clock: Clock) -> Run:
    with tempfile.TemporaryDirectory() as place:
        folder = workspaces.lay_out(Path(place))
        parts = {part: folder / f"{part}.parquet" for part in ("train", "val")}
        for part, number in (("train", work.num_train), ("val", work.num_val)):
            subjects.rows(part, number).write_parquet(parts[part])
        workspaces.assign(folder, CANDIDATE, parts)
        for number, rates in enumerate(grids):
            (folder / f"build{number}").mkdir()
            built = compose.candidate(CANDIDATE, _params(rates, clock.threads))
            (folder / f"build{number}" / f"{CANDIDATE}.yaml").write_text(dialects.dump(built, "built"))
        tables, seconds = [], 0.0
        for number in range(len(grids)):
            stage = ("pipelines.sweep", "-cd", f"build{number}", "-cn", CANDIDATE)
            with clock.running():
                workspaces.run(folder, *stage, threads=clock.threads)
            seconds += clock.spent
            tables.append(pl.read_parquet(folder / "reports" / "trials" / f"{CANDIDATE}.parquet"))
    return Run(seconds, pl.concat(tables).select("score", "loss").rows())


def _params(rates: list[float], threads: int) -> dict:
    """Return what params.yaml would hold for this search."""
    own = {"sweep": {"parameters": {"optimizer.learning_rate": rates}}, "runtime": {"num_threads": threads}}
    row = {"level": "finetune", "model": "minilm", "method": "lora", "sweep": "lora", "set": own}
    return {"seed": 42, "data": "reviews", "datasets": [], "set": {}, "candidates": {CANDIDATE: row}}


def _agree(_warm: dict, timed: dict[str, Run]) -> tuple[bool, str]:
    own, theirs = sorted(timed[OURS].result), sorted(timed[EACH].result)  # a search begins at its own value
    return own == theirs, f"{len(own)} trials, scores and losses {'the same' if own == theirs else f'{own} / {theirs}'}"
