"""Statistics: intervals equal scipy's, cover as promised, and a difference is found exactly where there is one."""

import numpy as np
import polars as pl
import pytest
import scipy.stats

from stepladder import metrics, statistics
from stepladder.errors import DataError
from tests.test_metrics import classified, rated, several

OPTIONS = {"confidence": 0.95, "num_resamples": 500, "seed": 1}


def answered(right: np.ndarray, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    target = np.random.default_rng(99).random(len(right)) < 0.5
    answer = target == right
    chance = np.where(answer, 1, -1) * rng.uniform(0.01, 0.49, len(right)) + 0.5
    return pl.DataFrame(
        {
            "id": [str(row) for row in range(len(right))],
            "target": np.where(target, "yes", "no"),
            "answer": np.where(answer, "yes", "no"),
            "probabilities": [{"no": 1 - value, "yes": value} for value in chance.tolist()],
        }
    )


def drawn(share: float, num_rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(num_rows) < share


@pytest.fixture(scope="module")
def samples() -> dict[str, pl.DataFrame]:
    """Predictions for each task: of 60 rows, 30 where to compare two texts takes long."""
    rng, words = np.random.default_rng(6), ["a", "cat", "sat", "on", "the", "mat", "dog"]
    true = [rng.choice(words, rng.integers(6, 12)).tolist() for _ in range(30)]
    told = [[word if rng.random() < 0.8 else "owl" for word in row][: rng.integers(5, 12)] for row in true]
    bytes_ = rng.integers(20, 200, 60)
    ids = [str(row) for row in range(60)]
    two = answered(drawn(0.8, 60, 3))
    chance = two["probabilities"].struct.field("yes").round(1)
    return {
        "classification": two,
        "ties": two.with_columns(probabilities=pl.struct(no=1 - chance, yes=chance)),
        "several": classified(1),
        "multilabel": several(),
        "regression": rated(),
        "generation": pl.DataFrame(
            {"id": ids[:30], "target": [" ".join(row) for row in true], "answer": [" ".join(row) for row in told]}
        ),
        "language_modeling": pl.DataFrame({"id": ids, "bits": bytes_ * rng.uniform(1, 3, 60), "num_bytes": bytes_}),
    }


@pytest.mark.capability(29)
@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_has_the_interval_of_scipys_bca(name: str, samples: dict) -> None:
    metric = metrics.load(name)
    for task in (
        metric.TASK,
        *{"roc_auc": ("several", "ties"), "average_precision": ("several", "ties")}.get(name, ()),
    ):
        frame = samples[task]

        def value(index: np.ndarray, axis: int = -1, frame: pl.DataFrame = frame) -> np.ndarray:
            return np.apply_along_axis(lambda rows: metric.compute(frame[rows]), axis, index)

        number = 100 if task == "generation" else 200
        options = {"n_resamples": number, "rng": np.random.default_rng(OPTIONS["seed"]), "vectorized": True}
        expected = scipy.stats.bootstrap((np.arange(len(frame)),), value, **options).confidence_interval
        low, high = statistics.interval(frame, name, **OPTIONS | {"num_resamples": number})
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert low < metric.compute(frame) < high


@pytest.mark.capability(29)
def test_the_interval_of_a_difference_equals_scipys_of_the_rows_differences() -> None:
    for seed in range(5):
        pair = [answered(drawn(share, 150, 2 * seed + place)) for place, share in enumerate((0.83, 0.8))]
        one, other = (metrics.load("accuracy").rows(frame) for frame in statistics.aligned(pair))
        options = {"n_resamples": 500, "rng": np.random.default_rng(OPTIONS["seed"]), "vectorized": True}
        expected = scipy.stats.bootstrap((one - other,), np.mean, **options).confidence_interval
        found = statistics.paired_difference(pair, "accuracy", **OPTIONS)
        assert (found["low"], found["high"]) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_too_many_rows_to_leave_each_out_give_percentiles(samples: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = samples["regression"]
    whole = statistics.interval(frame, "spearman", **OPTIONS)
    monkeypatch.setattr(statistics, "MOST_LEFT_OUT", 59)
    number = statistics.resampled({"it": ("spearman", frame)}, num_resamples=500, seed=1)["it"]
    percentiles = tuple(np.quantile(number.drawn, (0.025, 0.975)))
    assert statistics.interval(frame, "spearman", **OPTIONS) == pytest.approx(percentiles) != pytest.approx(whole)


@pytest.mark.parametrize("most", [60 * 60, 60 * 7])
@pytest.mark.parametrize("name", ["average_precision", "roc_auc", "spearman"])
def test_a_metric_without_each_row_is_that_of_the_others(name: str, most: int, samples: dict, monkeypatch) -> None:
    monkeypatch.setattr(statistics, "BATCH_ELEMENTS", most)
    metric = metrics.load(name)
    for task in {"several", "classification", "ties"} if metric.TASK == "classification" else {"regression"}:
        frame = samples[task]
        alone = [metric.compute(frame.filter(np.arange(len(frame)) != row)) for row in range(len(frame))]
        assert statistics.counted(name, frame)[1]() == pytest.approx(alone, nan_ok=True)


def test_summed_counts_resample_like_the_rows_themselves() -> None:
    frame = answered(drawn(0.7, 60, 5))
    index = np.random.default_rng(0).integers(0, 60, (4, 60))
    times = np.stack([np.bincount(row, minlength=60) for row in index]).astype(float)
    for name in metrics.names("classification"):
        values = [metrics.load(name).compute(frame[row]) for row in index]
        assert statistics.counted(name, frame)[0](times) == pytest.approx(values)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    covered = 0
    for seed in range(200):
        low, high = statistics.interval(answered(drawn(0.8, 120, seed)), "accuracy", **OPTIONS | {"num_resamples": 300})
        covered += low <= 0.8 <= high
    assert 0.90 <= covered / 200 <= 0.99


@pytest.mark.capability(29)
def test_equal_candidates_are_rarely_called_different() -> None:
    called = 0
    for seed in range(150):
        pair = (answered(drawn(0.8, 120, 2 * seed)), answered(drawn(0.8, 120, 2 * seed + 1)))
        result = statistics.paired_difference(pair, "accuracy", **OPTIONS | {"num_resamples": 300})
        called += result["p_value"] <= 0.05
    assert called / 150 <= 0.09


@pytest.mark.capability(29)
def test_a_true_gain_is_found_and_its_sign_is_better() -> None:
    worse = drawn(0.75, 1000, 7)
    better = worse | drawn(0.3, 1000, 8)
    result = statistics.paired_difference((answered(better), answered(worse)), "accuracy", **OPTIONS)
    assert result["difference"] == pytest.approx(better.mean() - worse.mean())
    assert 0 < result["low"] < result["difference"] < result["high"] and result["p_value"] < 0.01
    loss = statistics.paired_difference((answered(better), answered(worse)), "log_loss", **OPTIONS)
    assert loss["low"] > 0


@pytest.mark.capability(29)
def test_the_paired_test_agrees_with_the_exact_mcnemar_test() -> None:
    a, b = np.ones(40, dtype=bool), np.ones(40, dtype=bool)
    a[:3], b[3:14] = False, False
    result = statistics.paired_difference((answered(a), answered(b)), "accuracy", **OPTIONS | {"num_resamples": 20_000})
    assert result["p_value"] == pytest.approx(scipy.stats.binomtest(3, 14).pvalue, abs=0.01)


def test_seeds_decide_and_the_order_of_rows_and_labels_does_not_matter() -> None:
    a, b = answered(drawn(0.8, 80, 1)), answered(drawn(0.7, 80, 2))
    field = pl.col("probabilities").struct.field
    turned = b.with_columns(probabilities=pl.struct(field("yes"), field("no"))).reverse()
    for name in ("macro_f1", "roc_auc"):
        options = OPTIONS | {"num_resamples": 100}
        first = statistics.paired_difference((a, b), name, **options)
        assert first == statistics.paired_difference((a, b), name, **options)
        assert first == pytest.approx(statistics.paired_difference((a, turned), name, **options))
    other = statistics.interval(a, "accuracy", **OPTIONS | {"seed": 2, "num_resamples": 99})
    assert other != statistics.interval(a, "accuracy", **OPTIONS | {"seed": 3, "num_resamples": 99})


def test_a_candidate_does_not_differ_from_itself() -> None:
    frame = answered(drawn(0.8, 50, 1))
    result = statistics.paired_difference((frame, frame), "macro_f1", **OPTIONS | {"num_resamples": 99})
    assert result == {"difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}


def test_rows_that_all_agree_give_a_point_without_a_warning() -> None:
    assert statistics.interval(answered(np.ones(20, dtype=bool)), "accuracy", **OPTIONS) == (1.0, 1.0)


def test_predictions_that_cannot_be_paired_are_refused() -> None:
    frame = answered(drawn(0.8, 20, 1))
    other_labels = frame.with_columns(probabilities=pl.struct(no=0.5, maybe=0.5))
    for other, word in (
        (frame.head(19), "column"),
        (frame.with_columns(id=pl.lit("x") + pl.col("id")), "column id"),
        (frame.with_columns(target=pl.lit("yes")), "column target"),
        (other_labels, "labels"),
    ):
        with pytest.raises(DataError, match=f"cannot be paired.*{word}|{word}.*cannot be paired"):
            statistics.paired_difference((frame, other), "accuracy", **OPTIONS)


def test_one_row_has_no_interval() -> None:
    with pytest.raises(DataError, match="at least 2"):
        statistics.interval(answered(np.ones(1, dtype=bool)), "accuracy", **OPTIONS)
