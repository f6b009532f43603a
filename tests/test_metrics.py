"""Metrics: every file of the folder keeps the contract and equals an independent reference."""

import math
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder import metrics, predictions, targets
from stepladder.errors import ConfigError, DataError

SALT = ["a cat sat on the mat", "", " ", 'line\u2028sep \x85\x1c\r\n"\\', "Ünï çødé 猫", "the the the the"]

LABELS = [("0", "1"), ("no", "perhaps", "yes"), tuple("abcdef")]


def classified(seed: int = 0, num_rows: int = 60, labels: tuple = ("no", "perhaps", "yes")) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.full(len(labels), 0.7), num_rows)
    return pl.DataFrame(
        {
            "id": [str(row) for row in range(num_rows)],
            "target": rng.choice(labels, num_rows),
            "answer": [labels[place] for place in values.argmax(axis=1)],
            "probabilities": [dict(zip(labels, row, strict=True)) for row in values.tolist()],
        }
    )


def generated(answers: list[str], targets: list[str]) -> pl.DataFrame:
    return pl.DataFrame({"id": [str(row) for row in range(len(answers))], "target": targets, "answer": answers})


def modelled() -> pl.DataFrame:
    return pl.DataFrame({"id": ["a", "b", "c"], "bits": [10.0, 40.5, 3.0], "num_bytes": [8, 20, 2]})


def several(seed: int = 0, num_rows: int = 60, labels: tuple = ("art", "law", "sea")) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    values, true = rng.random((num_rows, len(labels))), rng.random((num_rows, len(labels))) < 0.4
    told = [targets.written(np.array(labels)[row].tolist()) for row in true]
    head = pl.DataFrame({"id": [str(row) for row in range(num_rows)], "source": None, "target": told})
    return targets.answered(head, values, list(labels), values >= 0.5)


def rated(seed: int = 0, num_rows: int = 60) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    target = rng.integers(1, 6, num_rows)
    answer = (target + rng.integers(-1, 2, num_rows)).clip(1, 5)
    head = {"id": [str(row) for row in range(num_rows)]}
    return pl.DataFrame(head | {"target": target.astype(float), "answer": answer.astype(float)})


SAMPLES = {
    "regression": rated(),
    "multilabel": several(),
    "classification": classified(),
    "generation": generated(["the cat sat on a mat", "a dog", "yes"], ["the cat sat on the mat", "the dog", "yes"]),
    "language_modeling": modelled(),
}


@pytest.mark.parametrize("name", metrics.names())
def test_every_metric_keeps_the_contract(name: str) -> None:
    metric = metrics.load(name)
    frame = SAMPLES[metric.TASK]
    value = metric.compute(frame)
    assert isinstance(value, float) and math.isfinite(value)
    assert isinstance(metric.GREATER_IS_BETTER, bool)
    assert metric.compute(frame.reverse()) == pytest.approx(value, abs=1e-12)
    assert name in metrics.names(metric.TASK)
    if hasattr(metric, "rows"):
        assert metric.rows(frame).shape == (len(frame),)
        assert metric.rows(frame).mean() == pytest.approx(value, abs=1e-12)
    if hasattr(metric, "counts"):
        totals = metric.counts(frame).sum(axis=0)
        assert metric.combine(totals) == pytest.approx(value, abs=1e-12)
        assert metric.combine(np.stack([[totals] * 3] * 2)) == pytest.approx(np.full((2, 3), value), abs=1e-12)
    if hasattr(metric, "weighted"):
        times = np.random.default_rng(1).multinomial(len(frame), np.full(len(frame), 1 / len(frame)), 5)
        drawn = [metric.compute(frame[np.repeat(np.arange(len(frame)), row)]) for row in times]
        assert metric.weighted(frame, times) == pytest.approx(drawn, abs=1e-12)


def test_the_metrics_of_a_task_are_those_of_its_files() -> None:
    generation = {"bleu", "chrf", "exact_match", "length_error", "rouge_l", "token_f1"}
    assert set(metrics.names("generation")) >= generation
    assert set(metrics.names("language_modeling")) >= {"bits_per_byte", "byte_perplexity"}
    assert set(metrics.names("classification")) >= {
        "accuracy", "average_precision", "balanced_accuracy", "brier", "calibration_error", "log_loss", "macro_f1",
        "mcc", "roc_auc",
    }  # fmt: skip
    assert set(metrics.names("multilabel")) >= {"label_f1", "micro_f1", "subset_accuracy"}
    assert set(metrics.names("regression")) >= {
        "mean_absolute_error", "quadratic_kappa", "r2", "root_mean_squared_error", "spearman",
    }  # fmt: skip
    assert set(metrics.names()) == {name for task in SAMPLES for name in metrics.names(task)}


def test_an_unknown_metric_is_named_with_its_nearest() -> None:
    with pytest.raises(ConfigError, match=r"No metric named 'acuracy'\. Did you mean 'accuracy'\?"):
        metrics.load("acuracy")


@pytest.mark.capability(27)
@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 80), st.sampled_from(LABELS))
def test_classification_equals_scikit_learn(seed: int, num_rows: int, labels: tuple) -> None:
    from sklearn import metrics as reference

    frame = classified(seed, num_rows, labels)
    target, answer, values = frame["target"].to_list(), frame["answer"].to_list(), predictions.matrix(frame)
    ours = metrics.evaluate(frame, "classification")
    assert ours["accuracy"] == pytest.approx(reference.accuracy_score(target, answer))
    assert ours["macro_f1"] == pytest.approx(reference.f1_score(target, answer, average="macro", zero_division=0))
    assert ours["mcc"] == pytest.approx(reference.matthews_corrcoef(target, answer), abs=1e-9)
    assert ours["log_loss"] == pytest.approx(reference.log_loss(target, values, labels=list(labels)))
    recall = reference.recall_score(target, answer, labels=sorted(set(target)), average="macro", zero_division=0)
    assert ours["balanced_accuracy"] == pytest.approx(recall)
    assert ours["brier"] == pytest.approx(reference.brier_score_loss(target, values, labels=list(labels)))
    if len(set(target)) < len(labels):
        assert ours["roc_auc"] is None and ours["average_precision"] is None
        return
    if len(labels) == 2:
        assert ours["roc_auc"] == pytest.approx(reference.roc_auc_score(target, values[:, 1]))
    else:
        assert ours["roc_auc"] == pytest.approx(reference.roc_auc_score(target, values, multi_class="ovr"))
    positives = list(enumerate(labels))[1 if len(labels) == 2 else 0 :]
    areas = [reference.average_precision_score(np.array(target) == name, values[:, at]) for at, name in positives]
    assert ours["average_precision"] == pytest.approx(np.mean(areas))
    if set(answer) <= set(target):  # else scikit-learn warns
        assert ours["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(target, answer))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.sampled_from(LABELS))
def test_several_labels_a_row_equal_scikit_learn(seed: int, num_rows: int, labels: tuple) -> None:
    from sklearn import metrics as reference

    frame = several(seed, num_rows, labels)
    target, answer = (predictions.marked(frame, column) for column in ("target", "answer"))
    present = (target.any(0) | answer.any(0)).nonzero()[0].tolist()
    ours = metrics.evaluate(frame, "multilabel")
    micro = reference.f1_score(target, answer, average="micro", zero_division=1)
    assert ours["micro_f1"] == pytest.approx(micro)
    if present:
        macro = reference.f1_score(target, answer, average="macro", labels=present, zero_division=0)
        assert ours["label_f1"] == pytest.approx(macro)
    assert ours["subset_accuracy"] == pytest.approx(reference.accuracy_score(target, answer))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 80))
def test_numbers_equal_scikit_learn_and_scipy(seed: int, num_rows: int) -> None:
    from scipy.stats import spearmanr
    from sklearn import metrics as reference

    frame = rated(seed, num_rows)
    target, answer = frame["target"].to_numpy(), frame["answer"].to_numpy()
    ours = metrics.evaluate(frame, "regression")
    assert ours["mean_absolute_error"] == pytest.approx(reference.mean_absolute_error(target, answer))
    error = reference.root_mean_squared_error(target, answer)
    assert ours["root_mean_squared_error"] == pytest.approx(error)
    explained = reference.r2_score(target, answer) if len(set(target)) > 1 else None
    assert ours["r2"] == (explained if explained is None else pytest.approx(explained))
    kappa = {"weights": "quadratic", "labels": range(1, 6)}
    if len({*target, *answer}) > 1:
        wanted = reference.cohen_kappa_score(target.astype(int), answer.astype(int), **kappa)
        assert ours["quadratic_kappa"] == pytest.approx(wanted, abs=1e-9)
    if min(len(set(target)), len(set(answer))) > 1:
        assert ours["spearman"] == pytest.approx(spearmanr(target, answer).statistic, abs=1e-9)
    else:
        assert ours["spearman"] is None


def test_the_kappa_of_any_numbers_is_their_concordance() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 50))
    frame = pl.DataFrame({"id": map(str, range(50)), "answer": x, "target": y})
    covariance = np.cov(x, y, bias=True)
    concordance = 2 * covariance[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)  # Lin 1989
    assert metrics.evaluate(frame, "regression")["quadratic_kappa"] == pytest.approx(concordance)
    alike = frame.with_columns(answer=pl.lit(3.0), target=pl.lit(3.0))
    assert metrics.evaluate(alike, "regression")["quadratic_kappa"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("labels", LABELS)
def test_calibration_error_equals_that_of_torchmetrics(labels: tuple) -> None:
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    for seed in range(5):
        frame = classified(seed, 200, labels)
        shares, true = (
            torch.tensor(part) for part in (predictions.matrix(frame), predictions.indices(frame, "target"))
        )
        error = multiclass_calibration_error(shares, true, num_classes=len(labels), n_bins=15, norm="l1")
        assert metrics.load("calibration_error").compute(frame) == pytest.approx(float(error), abs=1e-6)


def test_ties_and_certain_probabilities_give_defined_scores() -> None:
    values = [{"no": 1.0, "yes": 0.0}] * 4
    frame = generated(["no"] * 4, ["no", "no", "yes", "no"]).with_columns(probabilities=pl.Series(values))
    scores = metrics.evaluate(frame, "classification")
    assert scores["mcc"] == 0.0 and scores["roc_auc"] == 0.5 and scores["calibration_error"] == pytest.approx(0.25)
    assert scores["log_loss"] == pytest.approx(-math.log(np.finfo(float).eps) / 4)


def test_labels_keep_the_order_of_the_fields_not_of_the_alphabet() -> None:
    frame = classified(5, 40, ("yes", "no"))
    turned = frame.with_columns(
        probabilities=pl.struct(pl.col("probabilities").struct.field("no"), pl.col("probabilities").struct.field("yes"))
    )
    auc = metrics.load("roc_auc").compute
    assert auc(frame) == pytest.approx(auc(turned)) and predictions.labels(frame) == ["yes", "no"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(SALT) | st.text(max_size=30), st.sampled_from(SALT)), min_size=1, max_size=6))
def test_generation_equals_sacrebleu_and_rouge_score(pairs: list) -> None:
    import sacrebleu
    from rouge_score.rouge_scorer import RougeScorer

    pairs = [(answer.encode("utf-8", "ignore").decode(), target) for answer, target in pairs]
    answers, targets = [answer for answer, _ in pairs], [target for _, target in pairs]
    ours = metrics.evaluate(generated(answers, targets), "generation")
    bleu = sacrebleu.corpus_bleu(answers, [targets])
    assert ours["bleu"] == pytest.approx(bleu.score)
    wanted = pytest.approx(abs(bleu.sys_len / bleu.ref_len - 1)) if bleu.ref_len else None
    assert ours["length_error"] == wanted
    assert ours["chrf"] == pytest.approx(sacrebleu.corpus_chrf(answers, [targets]).score)
    lengths = [RougeScorer(["rougeL"]).score(target, answer)["rougeL"].fmeasure for answer, target in pairs]
    assert ours["rouge_l"] == pytest.approx(np.mean(lengths))


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([*SALT, "A Cat, an owl", "Mat; mat!", "the"])] * 2), min_size=1))
def test_token_f1_equals_that_of_squad_by_torchmetrics(pairs: list) -> None:
    from torchmetrics.functional.text import squad

    answers, true = zip(*pairs, strict=True)
    told = [{"prediction_text": answer, "id": str(row)} for row, answer in enumerate(answers)]
    asked = [{"answers": {"answer_start": [0], "text": [text]}, "id": str(row)} for row, text in enumerate(true)]
    ours = metrics.evaluate(generated(list(answers), list(true)), "generation")["token_f1"]
    assert 100 * ours == pytest.approx(float(squad(told, asked)["f1"]), abs=1e-4)


def test_a_texts_length_counts_both_ways() -> None:
    frame = generated(["a b c", "a"], ["a b", "a b"])
    assert metrics.evaluate(frame, "generation")["length_error"] == 0.0
    assert metrics.evaluate(frame.head(1), "generation")["length_error"] == pytest.approx(0.5)


def test_exact_match_forgives_white_space_at_the_ends_only() -> None:
    frame = generated([" yes\n", "Yes", "y es"], ["yes", "yes", "yes"])
    assert metrics.load("exact_match").compute(frame) == pytest.approx(1 / 3)


@given(st.lists(st.tuples(*[st.text("ab \t\n\r\u2028\x85\u3000", max_size=4)] * 2), min_size=1))
def test_exact_match_equals_the_accuracy_of_stripped_texts_by_scikit_learn(pairs: list) -> None:
    from sklearn.metrics import accuracy_score

    stripped = [[text.strip() for text in texts] for texts in zip(*pairs, strict=True)]
    ours = metrics.load("exact_match").compute(generated(*map(list, zip(*pairs, strict=True))))
    assert ours == pytest.approx(accuracy_score(*stripped))


def test_bits_per_byte_weighs_rows_by_their_bytes() -> None:
    assert metrics.load("bits_per_byte").compute(modelled()) == pytest.approx(53.5 / 30)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_bits_and_perplexity_of_a_byte_equal_the_perplexity_of_torchmetrics_where_each_token_is_a_byte(seed) -> None:
    import torch
    from scipy.special import log_softmax
    from torchmetrics.text import Perplexity

    rng = np.random.default_rng(seed)
    logits, tokens = 2 * rng.normal(size=(6, 20, 256)), rng.integers(0, 256, (6, 20))  # (texts, bytes, vocabulary)
    lengths = rng.integers(1, 21, 6)
    tokens[np.arange(20) >= lengths[:, None]] = -100
    given = np.take_along_axis(log_softmax(logits, axis=-1), tokens[..., None].clip(0), axis=-1)[..., 0]
    bits = -np.where(tokens >= 0, given, 0).sum(axis=1) / np.log(2)
    ours = metrics.evaluate(
        pl.DataFrame({"id": map(str, range(6)), "bits": bits, "num_bytes": lengths}), "language_modeling"
    )
    theirs = float(Perplexity(ignore_index=-100)(torch.tensor(logits), torch.tensor(tokens)))
    assert ours["byte_perplexity"] == pytest.approx(theirs, rel=1e-5)
    assert ours["bits_per_byte"] == pytest.approx(math.log2(theirs), rel=1e-5)


def test_faulty_predictions_are_refused_in_one_line(tmp_path) -> None:
    good = classified()
    faults = {
        "no column answer": good.drop("answer"),
        "no rows": good.head(0),
        "id '0' stands there twice": pl.concat([good, good.head(1)]),
        "target that is no label": good.with_columns(target=pl.lit("maybe")),
        "do not sum to 1": good.with_columns(probabilities=pl.struct(no=0.5, perhaps=0.1, yes=0.1)),
        "not finite": good.with_columns(probabilities=pl.struct(no=float("nan"), perhaps=0.1, yes=0.1)),
    }
    for fault, frame in faults.items():
        frame.write_parquet(tmp_path / "c.parquet")
        with pytest.raises(DataError, match=fault) as caught:
            predictions.read(tmp_path / "c.parquet", "classification")
        assert "\n" not in str(caught.value) and "c.parquet" in str(caught.value)


def test_an_id_on_both_sides_is_refused(tmp_path) -> None:
    for part in ("val", "test"):
        (tmp_path / part).mkdir()
        classified().write_parquet(tmp_path / part / "c.parquet")
    with pytest.raises(DataError, match=r"test/c\.parquet: id '0' is in .*val/c\.parquet too"):
        predictions.read_parts(tmp_path, "c", "classification")


def test_listing_metrics_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "mlflow", "lightning", "sklearn", "scipy", "matplotlib", "nltk", "sacrebleu"]
    code = "import sys; from stepladder import leaderboard, metrics; metrics.names('generation');"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
