"""Verdict: which rung of the ladder is enough, by how much and how sure; picked on validation, decided on test.

"Fine-tuning is enough: candidate full reaches accuracy 0.871 on 2,015 untouched test rows, 0.065 better than the best
baseline tfidf (95 % interval +0.051 to +0.079; p < 0.001 after Holm over 36 pairs)." "It costs 78 times the time of
training, 2,900 times the time of an answer of tfidf."
"""

from collections.abc import Callable

LADDER = ("baseline", "prompt", "finetune", "pretrain")  # cheapest to build and to keep first
RUNGS = {"prompt": "Prompting", "finetune": "Fine-tuning", "pretrain": "Training from scratch"}

PAID = {  # what a candidate costs
    "training": "time of training",
    "answering": "time of an answer",
    "latency": "time of an answer asked alone",
    "money": "money before the first answer",
    "energy": "energy before the first answer",
    "memory": "memory",
    "disk": "disk",
}
RATIOS = ("training", "answering", "memory", "disk")  # that the verdict tells in words

Compare = Callable[[str, str], dict]  # names of two candidates -> a row of significance.pairs, seen from the first


def number(value: float | None, *, signed: bool = False) -> str:
    """Return a score as people read it, 0.871 or 45.3; - for None."""
    if value is None:
        return "-"
    return f"{value:{'+' if signed else ''}.{3 if abs(value) < 10 else 1}f}"


def ranked(rows: list[dict], *, greater_is_better: bool) -> list[dict]:
    """Return rows from best to worst on validation; ties go to the lower rung, then to fewer parameters."""
    sign = -1 if greater_is_better else 1

    def key(row: dict) -> tuple:
        return (sign * row["score"]["val"], LADDER.index(row["level"]), row["num_parameters"] or 0, row["candidate"])

    return sorted(rows, key=key)


def decide(rows: list[dict], compare: Compare, *, min_difference: float) -> dict:
    """Return {winner, best_baseline, challenger, difference, enough, sufficient, gap} from rows ranked on validation.

    winner: the first row; challenger: the first that is no baseline; difference: challenger to best baseline on test.
    enough: the lowest level whose best row beats the best baseline on test and is not shown to be worse than the winner
    (gap: that row to the winner), "baseline" where none does; sufficient: the candidate of that row.
    """
    baseline = next(row for row in rows if row["level"] == "baseline")
    challenger = next((row for row in rows if row["level"] != "baseline"), None)
    decision = {"winner": rows[0]["candidate"], "best_baseline": baseline["candidate"], "challenger": None,
                "difference": None, "enough": "baseline", "sufficient": baseline["candidate"], "gap": None}  # fmt: skip
    if challenger is None:
        return decision
    decision |= {"challenger": challenger["candidate"], "difference": challenger["difference"]}
    if rows[0] is not challenger or challenger["difference"]["low"] <= min_difference:
        return decision
    return decision | _lowest_rung(rows, challenger, compare, min_difference)


def registration(decision: dict, *, min_difference: float) -> dict:
    """Return {candidate, passed, reason}: the best on validation is registered if it beats the best baseline."""
    winner, baseline, difference = decision["winner"], decision["best_baseline"], decision["difference"]
    if winner != decision["challenger"]:
        reason = f"validation picks the baseline {baseline}; there is nothing to register"
        return {"candidate": winner, "passed": False, "reason": reason}
    passed = difference["low"] > min_difference
    verb = "beats" if passed else "does not beat"
    measured = f"{number(difference['difference'], signed=True)}, {_interval(difference)}"
    reason = f"{winner} {verb} the best baseline {baseline} on test by more than {min_difference:g} ({measured})"
    return {"candidate": winner, "passed": passed, "reason": reason}


def sentence(
    decision: dict, rows: list[dict], *, metric: str, confidence: float, num_rows: int, num_pairs: int
) -> tuple[str, str]:
    """Return the two halves of the verdict in plain words: the claim and its evidence, with what would make it sure."""
    by_name = {row["candidate"]: row for row in rows}
    sufficient, baseline = by_name[decision["sufficient"]], decision["best_baseline"]
    score = f"{metric.replace('_', ' ')} {number(sufficient['score']['test'])}"
    reached = f"reaches {score} on {num_rows:,} untouched test rows"
    if decision["enough"] == "baseline":
        return (
            f"Stay with the baseline {baseline}",
            f"it {reached}, and {_nothing_better(decision, confidence, num_rows)}",
        )
    difference = sufficient["difference"]
    sure = f"{_interval(difference, confidence)}; {_corrected(difference, confidence, num_pairs)}"
    evidence = (
        f"candidate {sufficient['candidate']} {reached}, {number(difference['difference'])} better than "
        f"the best baseline {baseline} ({sure})"
    )
    if decision["gap"]:
        gap = f"{number(decision['gap']['difference'], signed=True)}, {_interval(decision['gap'], confidence)}"
        evidence += f"; it is not shown to be worse than {decision['winner']}, the best on validation ({gap})"
        evidence += _wanted(decision["gap"], num_rows)
    return f"{RUNGS[decision['enough']]} is enough", evidence


def worth(name: str, baseline: str, prices: dict[str, dict]) -> str | None:
    """Return how many times the baseline's prices a candidate costs, in words; None where it is not known.

    prices: {candidate: {"paid": {a key of PAID: cost or None}}}
    """
    paid = [(PAID[kind], prices[name]["paid"][kind], prices[baseline]["paid"][kind]) for kind in RATIOS]
    ratios = [f"{_times(cost / base)} the {words}" for words, cost, base in paid if cost and base]
    if name == baseline or not ratios:
        return None
    return f"It costs {', '.join(ratios)} of {baseline}."


def _lowest_rung(rows: list[dict], winner: dict, compare: Compare, min_difference: float) -> dict:
    for level in LADDER[1:]:
        row = next((row for row in rows if row["level"] == level), None)
        if row is winner:
            return {"enough": level, "sufficient": row["candidate"]}
        if row and row["difference"]["low"] > min_difference:
            gap = compare(row["candidate"], winner["candidate"])
            if gap["high"] >= 0:
                return {"enough": level, "sufficient": row["candidate"], "gap": gap}
    raise AssertionError("the winner stands on some level")


def _nothing_better(decision: dict, confidence: float, num_rows: int) -> str:
    challenger, difference = decision["challenger"], decision["difference"]
    if challenger is None:
        return "nothing else was compared"
    measured = f"{number(difference['difference'], signed=True)} on test, {_interval(difference, confidence)}"
    if decision["winner"] != challenger:
        return f"is the best on validation, before {challenger} ({measured})"
    return f"{challenger}, the best on validation, is not shown to beat it ({measured}){_wanted(difference, num_rows)}"


def _corrected(difference: dict, confidence: float, num_pairs: int) -> str:
    """Return the p-value after correction for all pairs, and a warning where it is too large."""
    chance = difference["p_holm"]
    told = (
        f"p {'< 0.001' if chance < 0.001 else f'= {chance:.3f}'} after Holm over {num_pairs} pair{'s'[: num_pairs - 1]}"
    )
    return told if chance <= 1 - confidence else f"{told}, so not sure among so many comparisons"


def _wanted(difference: dict, num_rows: int) -> str:
    """Return how many rows would show a difference that these rows do not show, power .8."""
    needed = difference["rows_needed"]
    if needed is None or needed <= num_rows:
        return ""
    return f"; to be sure of such a difference would take about {float(f'{needed:.2g}'):,.0f} test rows"


def _times(ratio: float) -> str:
    return f"{float(f'{ratio:.2g}'):,.{0 if ratio >= 10 else 1 if ratio >= 1 else 3}f} times"


def _interval(difference: dict, confidence: float | None = None) -> str:
    ends = f"{number(difference['low'], signed=True)} to {number(difference['high'], signed=True)}"
    return f"{confidence * 100:g} % interval {ends}" if confidence else f"interval {ends}"
