"""Significance: exact tests, Holm's correction and power equal statsmodels'; letters say what the pairs say."""

import itertools
import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import null_and_power
from benchmarks.null_and_power import GATE, ROOT
from stepladder import metrics, significance, statistics
from tests.test_statistics import answered, drawn

OPTIONS = {"num_resamples": 400, "seed": 1}


def compared(frames: dict, metric: str = "accuracy", **options) -> list[dict]:
    numbers = {name: (metric, frame) for name, frame in frames.items()}
    found = statistics.resampled(numbers, **OPTIONS | options)
    return significance.pairs(frames, found, metric, confidence=0.95, **OPTIONS | options)


@pytest.fixture(scope="module")
def three() -> dict:
    base = drawn(0.7, 400, 1)
    right = {"good": base | drawn(0.4, 400, 2), "close": base ^ drawn(0.03, 400, 3), "base": base}
    return dict(zip(right, statistics.aligned([answered(row) for row in right.values()]), strict=True))


@pytest.mark.capability(29)
def test_accuracy_is_tested_by_mcnemar_and_all_pairs_are_corrected_by_holm(three) -> None:
    from scipy.stats import binomtest

    rows = compared(three)
    assert [(row["a"], row["b"]) for row in rows] == list(itertools.combinations(three, 2))
    right = {name: metrics.load("accuracy").rows(frame) for name, frame in three.items()}
    for row in rows:
        gained, lost = ((right[row[x]] > right[row[y]]).sum() for x, y in (("a", "b"), ("b", "a")))
        assert row["test"] == "McNemar" and row["difference"] == pytest.approx((gained - lost) / 400)
        assert row["p_value"] == pytest.approx(binomtest(int(gained), int(gained + lost)).pvalue)
    ascending = sorted(rows, key=lambda row: row["p_value"])
    steps = [row["p_value"] * (3 - place) for place, row in enumerate(ascending)]  # Holm 1979
    assert [row["p_holm"] for row in ascending] == pytest.approx(np.minimum(np.maximum.accumulate(steps), 1))


@pytest.mark.capability(29)
@pytest.mark.parametrize("metric", ["macro_f1", "log_loss", "roc_auc"])
def test_any_other_metric_is_tested_by_swapping_answers_as_scipy_swaps_them(three, metric: str) -> None:
    from scipy.stats import permutation_test

    frames = {name: frame.head(30) for name, frame in three.items() if name != "base"}
    (row,) = compared(frames, metric, num_resamples=4000)
    pair, compute = [frames[name] for name in ("good", "close")], metrics.load(metric).compute
    both = pair[0].vstack(pair[1])

    def gap(one: np.ndarray, other: np.ndarray) -> float:
        return compute(both[one]) - compute(both[other])

    index = (np.arange(30), np.arange(30) + 30)
    reference = permutation_test(index, gap, permutation_type="samples", vectorized=False, n_resamples=999, rng=0)
    assert row["test"] == "permutation" and row["p_value"] == pytest.approx(reference.pvalue, abs=0.05)
    sign = 1 if metrics.load(metric).GREATER_IS_BETTER else -1
    assert row["difference"] == pytest.approx(sign * gap(*index))


@pytest.mark.capability(29)
def test_a_pair_is_what_the_paired_difference_of_the_two_says(three) -> None:
    (row,) = compared({name: three[name] for name in ("good", "base")}, "macro_f1")
    one = statistics.paired_difference((three["good"], three["base"]), "macro_f1", confidence=0.95, **OPTIONS)
    assert {key: row[key] for key in one} == pytest.approx(one)


@pytest.mark.capability(29)
def test_rows_needed_and_detectable_difference_equal_statsmodels_power() -> None:
    from statsmodels.stats.power import NormalIndPower

    for difference, spread in ((0.03, 0.4), (0.1, 0.9), (-0.5, 2.0)):
        rows = significance.rows_needed(difference, spread, alpha=0.05)
        powers = [NormalIndPower().power(abs(difference) / spread, size, 0.05, ratio=0) for size in (rows - 1, rows)]
        assert powers[0] < 0.8 <= powers[1]
        least = significance.detectable(rows, spread, alpha=0.05)
        assert NormalIndPower().power(least / spread, rows, 0.05, ratio=0) == pytest.approx(0.8, abs=1e-5)
    assert significance.rows_needed(0.0, 0.4, alpha=0.05) is None


def test_few_resamples_of_many_candidates_still_show_a_plain_difference() -> None:
    right = {
        name: drawn(share, 300, place)
        for place, (name, share) in enumerate(zip("abcde", (0.9, 0.5, 0.5, 0.5, 0.5), strict=True))
    }
    frames = dict(zip(right, statistics.aligned([answered(row) for row in right.values()]), strict=True))
    rows = compared(frames, "macro_f1", num_resamples=20)
    assert [row["p_holm"] <= 0.05 for row in rows] == [True] * 4 + [False] * 6


def test_the_spread_of_a_rows_difference_is_that_of_the_rows_themselves(three) -> None:
    (row,) = compared({name: three[name] for name in ("good", "base")}, num_resamples=4000)
    gained = np.subtract(*(metrics.load("accuracy").rows(three[name]) for name in ("good", "base")))
    assert row["effect"] == pytest.approx(gained.mean() / gained.std(), rel=0.05)
    assert row["spread"] == pytest.approx(gained.std(), rel=0.05)
    assert row["detectable"] == pytest.approx(2.8016 * gained.std() / 20, rel=0.05)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**21 - 1))
def test_two_candidates_share_a_letter_exactly_where_they_are_not_shown_to_differ(number: int, bits: int) -> None:
    names = [f"c{place}" for place in range(number)]
    pairs = list(itertools.combinations(names, 2))
    rows = [{"a": a, "b": b, "p_holm": 0.01 if bits >> at & 1 else 0.5} for at, (a, b) in enumerate(pairs)]
    letters = significance.groups(names, rows, confidence=0.95)
    for row in rows:
        assert bool(set(letters[row["a"]]) & set(letters[row["b"]])) == (row["p_holm"] > 0.05)
    assert all(letters.values()) and letters[names[0]].startswith("a")


def test_candidates_that_never_differ_are_one_group_without_a_difference(three) -> None:
    frames = dict.fromkeys(("one", "two"), three["base"])
    (row,) = compared(frames)
    assert (row["p_value"], row["p_holm"], row["effect"], row["rows_needed"]) == (1.0, 1.0, None, None)
    assert significance.groups(list(frames), [row], confidence=0.95) == {"one": "a", "two": "a"}


@pytest.mark.capability(29)
def test_the_gate_promotes_what_is_no_better_at_most_one_time_in_twenty() -> None:
    """A small form of benchmarks/null_and_power.py, whose results at 2,000 rows are kept beside it."""
    gate, end = GATE | {"num_resamples": 300}, null_and_power.outcome
    null = [end(0.0, 200, [seed], challengers=4, gate=gate) for seed in range(300)]
    true = [end(0.15, 200, [seed], challengers=1, gate=gate) for seed in range(50)]
    loose = [end(0.0, 200, [seed], challengers=4, gate=gate | {"confidence": 0.2}) for seed in range(60)]
    shares = [ends.count(null_and_power.PROMOTED) / len(ends) for ends in (null, true, loose)]
    assert shares[0] <= 0.05 < shares[2] and shares[1] >= 0.8


@pytest.mark.capability(29)
def test_the_kept_simulation_is_of_this_gate_and_within_what_is_promised() -> None:
    kept = json.loads((ROOT / "benchmarks/results/null_and_power.json").read_text(encoding="utf-8"))
    again = "the kept numbers are of other code; python -m benchmarks.null_and_power"
    assert kept["code"] == null_and_power.code(), again
    assert kept["gate"] == {key: GATE[key] for key in kept["gate"]} and len(kept["gate"]) == 4
    assert kept["correlation"] == null_and_power.correlation()
    told = {name: [row for row in kept["rows"] if row["metric"] == name] for name in ("accuracy", "macro_f1")}
    found = {(row["gain"], row["test_rows"], row["challengers"]): row for row in told["accuracy"]}
    null = [row for row in kept["rows"] if row["gain"] == 0]
    assert all(row["high"] <= 0.05 and row["simulations"] >= 1500 for row in null)
    assert {row["challengers"] for row in null} == {4, 7}
    claims = [found[null_and_power.CLAIM], *(row for row in told["macro_f1"] if row["gain"])]
    assert len(claims) == 2 and all(row["promoted"] >= 0.8 and row["simulations"] >= 1500 for row in claims)
    shares = [found[gain, 2000, 1]["promoted"] for gain in null_and_power.GAINS]
    assert shares == sorted(shares)


@pytest.mark.capability(29)
def test_a_winner_that_is_worse_than_the_champion_by_the_margin_passes_at_most_one_time_in_twenty() -> None:
    kept = json.loads((ROOT / "benchmarks/results/null_and_power.json").read_text(encoding="utf-8"))["champion"]
    worse = [row for row in kept if row["difference"] == -row["margin"]]
    assert {row["margin"] for row in worse} == {*null_and_power.MARGINS} and GATE["margin"] in null_and_power.MARGINS
    assert all(row["high"] <= 0.05 for row in worse)
    asked = partial(null_and_power.non_inferior, margin=0.1, shared=0.5, gate=GATE | {"num_resamples": 300})
    ends = {true: [asked(true, 300, [seed]) for seed in range(150)] for true in (-0.1, 0.0)}
    assert np.mean(ends[-0.1]) <= 0.07 and np.mean(ends[0.0]) >= 0.7


def test_the_kept_simulation_is_stale_when_what_decides_changes_and_not_when_a_docstring_does(tmp_path, monkeypatch):
    for name in null_and_power.DECIDING:
        file = tmp_path / f"src/stepladder/{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text((ROOT / f"src/stepladder/{name}.py").read_text(encoding="utf-8"), encoding="utf-8")
    code = null_and_power.code()
    monkeypatch.setattr(null_and_power, "ROOT", tmp_path)
    for name, old, new, changes in (
        ("gate", "Return the registration with these conditions", "Give it with these", False),
        ("statistics", "(1 - confidence) / 2", "(1 - confidence) / 3", True),
        ("verdict", 'difference["low"] > min_difference', 'difference["high"] > min_difference', True),
        ("significance", "greater_is_better=", "greater_is_better=not ", True),
    ):
        file = tmp_path / f"src/stepladder/{name}.py"
        text = file.read_text(encoding="utf-8")
        assert old in text
        file.write_text(text.replace(old, new), encoding="utf-8")
        assert (null_and_power.code() != code) == changes
        file.write_text(text, encoding="utf-8")
