"""Null and power: how often the gate promotes a candidate that is no better, and how often one that is.

python -m benchmarks.null_and_power           some ten minutes; benchmarks/results/null_and_power.{json,png}
python -m benchmarks.null_and_power 100       so many simulated leaderboards a point

A simulated leaderboard: a baseline that answers 80 % right and one or four challengers, one of which may be better, all
on the same rows. Whether a row is answered right hangs on the row and on the candidate, about half each (one-factor
Gaussian), so that the errors of two candidates correlate by .32, as those of full MiniLM and TF-IDF on the movie
sentences do (a gain of .077, its 95 % interval .038 wide). Half as many rows as test has are val. The decision is the
pipeline's own: val picks, test decides, conf/gate. Of four challengers val sometimes picks one that is no better.
"""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from stepladder import metrics, statistics, verdict

ROOT = Path(__file__).parents[1]
GATE = yaml.safe_load((ROOT / "conf/gate/default.yaml").read_text(encoding="utf-8"))
ACCURACY, SHARED, MOST = 0.80, 0.53, 4  # MOST: challengers
NUM_TEST = 2000
CLAIM = (0.03, NUM_TEST, 1)  # gain, test rows, challengers: what is promised, power .8, and simulated more often
GAINS = (0.01, 0.02, 0.03, 0.04, 0.05)
SIZES = (250, 500, 1000, 4000)
BASELINE, REFUSED, PROMOTED = "val picks the baseline", "test refuses the pick", "promoted"
BLUE, GREEN, GREY, RED = "#3b5bdb", "#0b7261", "#667085", "#c92a2a"


def main(number: int) -> None:
    """Simulate the null, gains at 2,000 rows by one and four challengers, and a gain of 3 points at other sizes.

    The null and what is claimed are simulated for macro F1 as well, which is no mean over rows.
    """
    jobs = [(0.0, size, MOST) for size in (NUM_TEST, SIZES[0])]
    jobs += [(gain, NUM_TEST, challengers) for challengers in (1, MOST) for gain in GAINS]
    jobs += [(0.03, size, 1) for size in SIZES]
    jobs = [(*job, "accuracy") for job in jobs] + [(0.0, NUM_TEST, MOST, "macro_f1"), (*CLAIM, "macro_f1")]
    rows = []
    for gain, size, challengers, metric in jobs:
        seeds = range(number * (1 if gain and (gain, size, challengers) != CLAIM else 4))
        outcomes = [outcome(gain, size, [size, round(1000 * gain), seed], challengers, metric=metric) for seed in seeds]
        rows.append({"metric": metric, "gain": gain, "test_rows": size, "challengers": challengers} | told(outcomes))
        print(json.dumps(rows[-1]), flush=True)
    facts = {"accuracy": ACCURACY, "correlation": round(correlation(), 3), "gate": GATE, "rows": rows}
    place = ROOT / "benchmarks/results/null_and_power.json"
    place.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    draw([row for row in rows if row["metric"] == "accuracy"], place.with_suffix(".png"))


def outcome(
    gain: float, num_test: int, seed: list[int], challengers: int, *, metric: str = "accuracy", gate: dict = GATE
) -> str:
    """Return how a leaderboard ends of which the last challenger is better by `gain`: BASELINE, REFUSED or PROMOTED."""
    rng = np.random.default_rng(seed)
    val, test = ([*map(frame, right(rng, size, gain, challengers))] for size in (num_test // 2, num_test))
    names = ["baseline", *(f"challenger {place}" for place in range(challengers))]
    rows = [
        {
            "candidate": name,
            "level": "finetune" if place else "baseline",
            "num_parameters": place,
            "score": {"val": metrics.load(metric).compute(answers)},
        }
        for place, (name, answers) in enumerate(zip(names, val, strict=True))
    ]
    ranked = verdict.ranked(rows, greater_is_better=True)
    if ranked[0]["candidate"] == "baseline":
        return BASELINE  # what test says of it is not asked
    options = {"num_resamples": gate["num_resamples"], "seed": 42}
    pair = {name: (metric, test[names.index(name)]) for name in (ranked[0]["candidate"], "baseline")}
    one, other = statistics.resampled(pair, **options).values()
    gap = one.better_than(other)
    low, high = statistics.ends(gap, gate["confidence"])
    difference = {"difference": float(gap.value), "low": low, "high": high}
    decision = {"winner": ranked[0]["candidate"], "best_baseline": "baseline", "challenger": ranked[0]["candidate"]}
    decided = verdict.registration(decision | {"difference": difference}, min_difference=gate["min_difference"])
    return PROMOTED if decided["passed"] else REFUSED


def right(rng: np.random.Generator, num_rows: int, gain: float, challengers: int) -> np.ndarray:
    """Return where baseline and challengers are right, (candidates, rows); the last one is better by `gain`."""
    from scipy.special import ndtri

    shares = np.full(challengers + 1, ACCURACY)
    shares[-1] += gain
    own, common = rng.normal(size=(len(shares), num_rows)), rng.normal(size=num_rows)
    return np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * own < ndtri(shares)[:, None]


def frame(right: np.ndarray) -> pl.DataFrame:
    """Return predictions that are right in these rows, of two labels in turn."""
    target = np.arange(len(right)) % 2
    words = np.array(["bad", "good"])
    answer = np.where(right, target, 1 - target)
    shares = pl.struct(bad=1.0 - pl.lit(pl.Series(answer)), good=pl.lit(pl.Series(answer)) * 1.0)
    return pl.select(pl.Series("target", words[target]), pl.Series("answer", words[answer]), probabilities=shares)


def correlation() -> float:
    """Return by how much the errors of two candidates correlate over many rows (phi)."""
    return float(np.corrcoef(right(np.random.default_rng(0), 200_000, 0.0, 1))[0, 1])


def told(outcomes: list[str]) -> dict:
    """Return the share of promotions with its exact 95 % interval (Clopper and Pearson 1934), and of val's picks."""
    from scipy.stats import binomtest

    found = binomtest(outcomes.count(PROMOTED), len(outcomes))
    ends, picked = found.proportion_ci(method="exact"), len(outcomes) - outcomes.count(BASELINE)
    shares = {"promoted": found.statistic, "low": ends.low, "high": ends.high}
    shares["promoted_of_picked"] = outcomes.count(PROMOTED) / max(picked, 1)
    return {"simulations": len(outcomes)} | {key: round(float(value), 4) for key, value in shares.items()}


def draw(rows: list[dict], path: Path) -> None:
    """Draw promotions against the true gain at 2,000 rows, and against rows at a gain of 3 points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=120, layout="constrained")
    by_gain, by_size = figure.subplots(1, 2, sharey=True)
    at_most = [row for row in rows if row["test_rows"] == NUM_TEST]
    for challengers, colour in ((1, BLUE), (MOST, GREEN)):
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
