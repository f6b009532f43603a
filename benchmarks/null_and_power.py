"""Null and power: how often the gate promotes a candidate that is no better, and how often one that is.

python -m benchmarks.null_and_power           some ten minutes; benchmarks/results/null_and_power.{json,png}
python -m benchmarks.null_and_power 100       so many simulated leaderboards a point

A simulated leaderboard: a baseline that answers 80 % right and one, four or seven challengers (as in params.yaml), one
of which may be better, all on the same rows. Whether a row is answered right hangs on the row and on the candidate,
about half each (one-factor Gaussian), so that the errors of two candidates correlate by .32, as those of full MiniLM
and TF-IDF on the movie sentences do (a gain of .077, its 95 % interval .038 wide). Half as many rows as test has are
val. The decision is the pipeline's own: val picks, test decides, conf/gate. Of several challengers val sometimes picks
one that is no better.

The champion of the registry is asked the same test rows, and a winner that is non_inferior passes where the lower end
of the interval lies above -margin. The two correlate by .32, or by .8 as a model and itself trained anew.
"""

import ast
import hashlib
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from stepladder import metrics, statistics, verdict

ROOT = Path(__file__).parents[1]
GATE = yaml.safe_load((ROOT / "conf/gate/default.yaml").read_text(encoding="utf-8"))
DECIDING = {  # module -> its functions that decide; what they call in their module decides too
    "statistics": ("resampled", "ends"),
    "significance": ("pairs",),
    "verdict": ("ranked", "registration"),
    "gate": ("with_conditions",),
}
ACCURACY, SHARED, ALIKE = 0.80, 0.53, 0.96  # of what a row's answer hangs on: other models, one that is trained anew
CHALLENGERS = (1, 4, 7)
NUM_TEST = 2000
CLAIM = (0.03, NUM_TEST, 1)  # gain, test rows, challengers: what is promised, power .8, and simulated more often
GAINS = (0.01, 0.02, 0.03, 0.04, 0.05)
SIZES = (250, 500, 1000, 4000)
MARGINS = (GATE["margin"], 0.03)
CHAMPIONS = [(margin, true, size, shared) for shared in (SHARED, ALIKE) for margin in MARGINS
             for true, size in ((-margin, NUM_TEST), (0.0, NUM_TEST), (0.0, 4 * NUM_TEST))
             if size == NUM_TEST or margin == GATE["margin"]]  # fmt: skip
BASELINE, REFUSED, PROMOTED = "val picks the baseline", "test refuses the pick", "promoted"
BLUE, GREEN, GREY, RED, VIOLET = "#3b5bdb", "#0b7261", "#667085", "#c92a2a", "#7048e8"


def main(number: int) -> None:
    """Simulate the null, gains at 2,000 rows by one to seven challengers, a gain of 3 points at other sizes, champions.

    The null and what is claimed are simulated for macro F1 as well, which is no mean over rows.
    """
    statistics._draws = cache(lambda *words, draw=statistics._draws: [*draw(*words)])  # the seed is 42 each time
    jobs = [(0.0, NUM_TEST, challengers) for challengers in CHALLENGERS[1:]] + [(0.0, SIZES[0], CHALLENGERS[-1])]
    jobs += [(gain, NUM_TEST, challengers) for challengers in CHALLENGERS for gain in GAINS]
    jobs += [(0.03, size, 1) for size in SIZES]
    jobs = [(*job, "accuracy") for job in jobs] + [(0.0, NUM_TEST, 4, "macro_f1"), (*CLAIM, "macro_f1")]
    gate = {key: GATE[key] for key in ("confidence", "num_resamples", "min_difference", "margin")}
    facts = {"code": code(), "accuracy": ACCURACY, "correlation": correlation(), "gate": gate}
    facts |= {"rows": [simulated(*job, number) for job in jobs]}
    facts |= {"champion": [asked(*job, number) for job in CHAMPIONS]}
    place = ROOT / "benchmarks/results/null_and_power.json"
    place.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    draw([row for row in facts["rows"] if row["metric"] == "accuracy"], place.with_suffix(".png"))


def simulated(gain: float, size: int, challengers: int, metric: str, number: int) -> dict:
    """Return what becomes of so many leaderboards; four times as many of the null and of what is claimed."""
    seeds = range(number * (1 if gain and (gain, size, challengers) != CLAIM else 4))
    outcomes = [outcome(gain, size, [size, round(1000 * gain), seed], challengers, metric=metric) for seed in seeds]
    row = {"metric": metric, "gain": gain, "test_rows": size, "challengers": challengers}
    row |= told([end == PROMOTED for end in outcomes], "promoted") | {"promoted_of_picked": picked(outcomes)}
    print(json.dumps(row), flush=True)
    return row


def asked(margin: float, true: float, size: int, shared: float, number: int) -> dict:
    """Return how often a winner passes beside a champion; four times as many where it is worse by the margin."""
    seeds = range(number * (4 if true else 1))
    begun = [size, round(1000 * (true + 1)), round(1000 * shared)]
    passed = [non_inferior(true, size, [*begun, seed], margin=margin, shared=shared) for seed in seeds]
    row = {"margin": margin, "difference": true, "test_rows": size, "correlation": correlation(shared)}
    row |= told(passed, "passed")
    print(json.dumps(row), flush=True)
    return row


def code() -> str:
    """Return the sha256 of what decides in the pipeline; docstrings do not count."""
    digest = hashlib.sha256()
    for module, entries in DECIDING.items():
        source = (ROOT / f"src/stepladder/{module}.py").read_text(encoding="utf-8")
        known, found, waiting = dict(_named(ast.parse(source))), set(), [*entries]
        while waiting:
            if (name := waiting.pop()) not in found:
                found.add(name)
                waiting += [node.id for node in ast.walk(known[name]) if getattr(node, "id", None) in known]
        for name in sorted(found):
            digest.update(f"{module}.{name}\n{_without_docstrings(known[name], source)}\n".encode())
    return digest.hexdigest()


def _named(tree: ast.Module):
    """Yield name and node of each function, class and constant of a module."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, node
        elif isinstance(node, ast.Assign):
            yield from ((target.id, node) for target in node.targets if isinstance(target, ast.Name))


def _without_docstrings(node: ast.AST, source: str) -> str:
    inner = [each for each in ast.walk(node) if isinstance(each, (ast.FunctionDef, ast.ClassDef))]
    texts = [each.body[0] for each in inner if ast.get_docstring(each) is not None]
    told = {line for text in texts for line in range(text.lineno, text.end_lineno + 1)}
    lines = enumerate(source.splitlines(), start=1)
    return "\n".join(line for at, line in lines if node.lineno <= at <= node.end_lineno and at not in told)


def outcome(
    gain: float, num_test: int, seed: list[int], challengers: int, *, metric: str = "accuracy", gate: dict = GATE
) -> str:
    """Return how a leaderboard ends of which the last challenger is better by `gain`: BASELINE, REFUSED or PROMOTED."""
    rng = np.random.default_rng(seed)
    shares = [ACCURACY] * challengers + [ACCURACY + gain]
    val, test = (right(rng, size, shares) for size in (num_test // 2, num_test))
    scored = metrics.load(metric).compute
    names = ["baseline", *(f"challenger {place}" for place in range(challengers))]
    rows = [
        {
            "candidate": name,
            "level": "finetune" if place else "baseline",
            "num_parameters": place,
            "score": {"val": scored(frame(answers))},
        }
        for place, (name, answers) in enumerate(zip(names, val, strict=True))
    ]
    ranked = verdict.ranked(rows, greater_is_better=True)
    winner = ranked[0]["candidate"]
    if winner == "baseline":
        return BASELINE  # what test says of it is not asked
    difference = gap([frame(test[names.index(name)]) for name in (winner, "baseline")], metric, gate)
    decision = {"winner": winner, "best_baseline": "baseline", "challenger": winner, "difference": difference}
    decided = verdict.registration(decision, min_difference=gate["min_difference"])
    return PROMOTED if decided["passed"] else REFUSED


def non_inferior(
    true: float, num_test: int, seed: list[int], *, margin: float, shared: float, gate: dict = GATE
) -> bool:
    """Return whether a winner passes as not inferior to a champion that it is better than by `true`."""
    answers = right(np.random.default_rng(seed), num_test, [ACCURACY, ACCURACY + true], shared)
    return gap([frame(answers[place]) for place in (1, 0)], "accuracy", gate)["low"] > -margin


def gap(pair: list[pl.DataFrame], metric: str, gate: dict) -> dict[str, float]:
    """Return by how much the first is better than the second, with its interval, as compare and register tell it."""
    options = {"num_resamples": gate["num_resamples"], "seed": 42}
    one, other = statistics.resampled({place: (metric, each) for place, each in enumerate(pair)}, **options).values()
    gain = one.better_than(other)
    low, high = statistics.ends(gain, gate["confidence"])
    return {"difference": float(gain.value), "low": low, "high": high}


def right(rng: np.random.Generator, num_rows: int, shares: list[float], shared: float = SHARED) -> np.ndarray:
    """Return where candidates that are right in these shares are so, (candidates, rows)."""
    from scipy.special import ndtri

    own, common = rng.normal(size=(len(shares), num_rows)), rng.normal(size=num_rows)
    return np.sqrt(shared) * common + np.sqrt(1 - shared) * own < ndtri(np.array(shares))[:, None]


def frame(right: np.ndarray) -> pl.DataFrame:
    """Return predictions that are right in these rows, of two labels in turn."""
    target, other = _words(len(right))
    good = (right == (np.arange(len(right)) % 2 == 1)).astype(float)
    shares = pl.DataFrame({"bad": 1.0 - good, "good": good}).to_struct("probabilities")
    answer = target.zip_with(pl.Series(right), other).alias("answer")
    return pl.DataFrame([target.alias("target"), answer, shares])


@cache
def _words(num_rows: int) -> tuple[pl.Series, pl.Series]:
    """Return the label of each row and the other one."""
    labels = ["bad", "good"] * (num_rows // 2 + 1)
    return pl.Series(labels[:num_rows]), pl.Series(labels[1 : num_rows + 1])


@cache
def correlation(shared: float = SHARED) -> float:
    """Return by how much the errors of two candidates correlate over many rows (phi)."""
    pair = right(np.random.default_rng(0), 200_000, [ACCURACY] * 2, shared)
    return round(float(np.corrcoef(pair)[0, 1]), 3)


def told(held: list[bool], name: str) -> dict:
    """Return how often it held, as a share with its exact 95 % interval (Clopper and Pearson 1934)."""
    from scipy.stats import binomtest

    found = binomtest(sum(held), len(held))
    ends = found.proportion_ci(method="exact")
    shares = {name: found.statistic, "low": ends.low, "high": ends.high}
    return {"simulations": len(held)} | {key: round(float(value), 4) for key, value in shares.items()}


def picked(outcomes: list[str]) -> float:
    """Return the share of promotions among the leaderboards whose val picks a challenger."""
    return round(outcomes.count(PROMOTED) / max(len(outcomes) - outcomes.count(BASELINE), 1), 4)


def draw(rows: list[dict], path: Path) -> None:
    """Draw promotions against the true gain at 2,000 rows, and against rows at a gain of 3 points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    by_gain, by_size = figure.subplots(1, 2, sharey=True)
    at_most = [row for row in rows if row["test_rows"] == NUM_TEST]
    for challengers, colour in zip(CHALLENGERS, (BLUE, GREEN, VIOLET), strict=True):
        chosen = [row for row in at_most if row["challengers"] == challengers]
        _curve(by_gain, "gain", chosen, colour, f"{challengers} challenger{'s' if challengers > 1 else ''}")
    _curve(by_size, "test_rows", [row for row in rows if row["gain"] == 0.03 and row["challengers"] == 1], BLUE, None)
    by_gain.legend(frameon=False)
    by_gain.set(xlabel=f"true gain in accuracy ({NUM_TEST:,} test rows)", ylim=(0, 1.02))
    by_gain.set_ylabel("share of leaderboards that promote")
    by_size.set(xlabel="test rows (true gain .03, one challenger)", xscale="log")
    by_size.set_xticks([*SIZES, NUM_TEST], [f"{size:,}" for size in (*SIZES, NUM_TEST)])
    by_size.minorticks_off()
    figure.suptitle("The gate: at most 5 % false promotions (red), power .8 (grey)")
    figure.savefig(path, metadata={"Software": None})


def _curve(axes, key: str, rows: list[dict], colour: str, label: str | None) -> None:
    rows = sorted(rows, key=lambda row: row[key])
    shares = [row["promoted"] for row in rows]
    errors = [[abs(row[end] - row["promoted"]) for row in rows] for end in ("low", "high")]
    axes.errorbar([row[key] for row in rows], shares, yerr=errors, color=colour, marker="o", capsize=3, label=label)
    for level, line in ((0.8, GREY), (0.05, RED)):
        axes.axhline(level, color=line, lw=1, ls=(0, (3, 3)))
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 400)
