"""Rounds: contenders of one job in turn; what their seconds and results say becomes rows of the table.

{"job": "full, MiniLM", "peer": "HF Trainer", "ours": 5.1, "theirs": 14.9, "ratio": 2.92, "goal": 4.0, ...}

A first, smaller round warms up and is dropped from the clock; its results are compared, because in it all contenders
take the rows in one order. Ratios are taken within a round, and their median is reported: what else the machine does
meanwhile slows both sides of a ratio.
"""

import importlib.util
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

from stepladder import store

OURS = "Stepladder"
INSTALL = "pip install -r benchmarks/requirements.txt"
MISSING, FAILED = "not installed", "failed"


@dataclass(frozen=True)
class Run:
    """One turn of a contender: seconds of the work that is compared, what came of it, and its useful matrix FLOPs."""

    seconds: float
    result: object = None
    flops: float = 0.0
    beside: float = 0.0  # seconds around the compared work, such as a forecast; a cost a fit, not a step


@dataclass(frozen=True)
class Pairing:
    """A row to be: ours against a peer, with the ratio that is wanted; `agree` says whether the work was equal.

    `agree` is asked twice the same: with the results of ours and of the peer in the warm-up, by contender's name.
    """

    ours: str
    peer: str
    goal: float
    agree: Callable[[dict[str, Run], dict[str, Run]], tuple[bool, str]]
    absent: str | None = None  # why this peer cannot be run here


@dataclass(frozen=True)
class Contest:
    """A job and those who do it; each contender is called with `warm` once and with `work` in every round.

    `checks` run in the warm-up alone. `rate` measures the machine's limit in FLOP/s, None where there is none to reach.
    """

    job: str
    contenders: dict[str, Callable[[object], Run]]
    pairings: list[Pairing]
    warm: object = None
    work: object = None
    checks: dict[str, Callable[[object], Run]] = field(default_factory=dict)
    rate: Callable[[], float] | None = None


def missing(package: str) -> str | None:
    """Return how to install a peer's package that is not there, None for one that is."""
    there = importlib.util.find_spec(package) is not None
    return None if there else f"{MISSING}: {package}; {INSTALL}"


def play(contest: Contest, *, number: int, small: bool = False) -> list[dict]:
    """Return one row a pairing after `number` rounds; a peer that is missing or fails has a row that says so.

    With `small`, every round is over the warm-up's work.
    """
    said = {pairing.peer: pairing.absent for pairing in contest.pairings if pairing.absent}
    for peer, reason in said.items():
        print(f"{contest.job}: {peer}: {reason}", flush=True)
    alive = {name: run for name, run in contest.contenders.items() if name not in said}
    warm = _turns(contest.job, "warm-up", {**alive, **contest.checks}, contest.warm, said)
    timed, rates = [], []
    work = contest.warm if small else contest.work
    for turn in range(1, number + 1):
        there = {name: run for name, run in alive.items() if name not in said}
        timed.append(_turns(contest.job, f"round {turn} of {number}", there, work, said))
        rates += [contest.rate()] if contest.rate else []
    return [_row(contest.job, pairing, warm, timed, max(rates, default=0.0), said) for pairing in contest.pairings]


def _turns(job: str, title: str, contenders: dict, work, said: dict[str, str]) -> dict[str, Run]:
    """Return what each contender did in this round; one that fails is noted in `said` and does not end the others."""
    done = {}
    for name, run in contenders.items():
        started = time.perf_counter()
        try:
            with tempfile.TemporaryDirectory() as folder, _nothing_kept(Path(folder)):
                done[name] = run(work)
        except Exception as error:
            traceback.print_exc()
            said[name] = f"{FAILED}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            print(f"{job}, {title}: {name} {said[name]}", flush=True)
            continue
        wall = time.perf_counter() - started
        print(f"{job}, {title}: {name} {done[name].seconds:.2f} s ({wall:.1f} s in all)", flush=True)
    return done


def _nothing_kept(folder: Path):
    """Let a turn make the tokens and features that an earlier one has kept already."""
    return mock.patch.object(store, "kept", lambda kind: folder / kind)


def _row(job: str, pairing: Pairing, warm: dict, timed: list[dict], limit: float, said: dict[str, str]) -> dict:
    found = {"job": job, "ours_is": pairing.ours, "peer": pairing.peer, "goal": pairing.goal}
    stopped = said.get(pairing.ours) or said.get(pairing.peer)
    if stopped:
        return {**found, "ratio": None, "equal_work": None, "missing": stopped}
    ours, theirs = ([turn[name] for turn in timed] for name in (pairing.ours, pairing.peer))
    ratios = [peer.seconds / own.seconds for own, peer in zip(ours, theirs, strict=True)]
    equal, evidence = _judged(pairing, warm, timed[-1])
    seconds = statistics.median(run.seconds for run in ours)
    share = ours[0].flops / seconds / limit if limit and ours[0].flops else None
    return {
        **found,
        "ours": round(seconds, 3),
        "theirs": round(statistics.median(run.seconds for run in theirs), 3),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "equal_work": equal,
        "evidence": evidence,
        "share_of_limit": share and round(share, 3),
        "limit_gflops": round(limit / 1e9, 1) or None,
        "beside": round(statistics.median(run.beside for run in ours), 3),
    }


def _judged(pairing: Pairing, warm: dict[str, Run], timed: dict[str, Run]) -> tuple[bool, str]:
    """Return whether the work was equal and why; without one of those that the judge asks for it is not shown."""
    try:
        return pairing.agree(warm, timed)
    except KeyError as error:
        return False, f"not shown: {error.args[0]} did not run"
