"""Calibration: the temperature is scikit-learn's and torch's, it changes no answer, and curves are what rows say."""

import numpy as np
import polars as pl
import pytest

from stepladder import calibration, metrics, predictions

LABELS = ("no", "perhaps", "yes")


def sure(sharpness: float, num_rows: int = 400, seed: int = 0) -> pl.DataFrame:
    """Return predictions whose logits are `sharpness` times those that the targets were drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(num_rows, 3)) * 1.5
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    target = [LABELS[rng.choice(3, p=row)] for row in shares]
    told = np.exp(sharpness * logits)
    told /= told.sum(axis=1, keepdims=True)
    return pl.DataFrame({
        "id": [str(row) for row in range(num_rows)], "target": target,
        "answer": [LABELS[place] for place in told.argmax(axis=1)],
        "probabilities": [dict(zip(LABELS, row, strict=True)) for row in told.tolist()],
    })  # fmt: skip


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_equals_scikit_learns(sharpness: float) -> None:
    from sklearn.calibration import _TemperatureScaling

    val = sure(sharpness)
    reference = _TemperatureScaling().fit(predictions.matrix(val), predictions.indices(val, "target"))
    found = calibration.temperature(val)
    assert found == pytest.approx(1 / reference.beta_, rel=1e-5) and found == pytest.approx(sharpness, rel=0.2)
    expected = reference.predict(predictions.matrix(val))
    assert predictions.matrix(calibration.tempered(val, found)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_the_temperature_equals_that_of_torchs_optimizer() -> None:
    import torch

    val = sure(2.0)
    logits = torch.tensor(predictions.matrix(val)).log()
    true, scale = torch.tensor(predictions.indices(val, "target")), torch.zeros((), dtype=torch.float64)
    scale.requires_grad_()
    optimizer = torch.optim.LBFGS([scale], line_search_fn="strong_wolfe", max_iter=100, tolerance_grad=1e-10)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(logits / scale.exp(), true)
        value.backward()
        return value

    optimizer.step(loss)
    assert calibration.temperature(val) == pytest.approx(scale.exp().item(), rel=1e-4)


def test_a_temperature_from_val_calibrates_test_and_changes_no_answer() -> None:
    val, test = sure(3.0, 1000, 1), sure(3.0, 1000, 2)
    found = calibration.of(val, test)
    assert found["temperature"] > 2.5
    for name in ("calibration_error", "log_loss", "brier"):
        assert found["after"][name] < found["before"][name] == metrics.load(name).compute(test)
    scaled = predictions.matrix(calibration.tempered(test, found["temperature"]))
    assert (scaled.argmax(axis=1) == predictions.matrix(test).argmax(axis=1)).all()
    assert scaled.sum(axis=1) == pytest.approx(np.ones(1000))


def test_the_bins_of_the_reliability_diagram_add_up_to_the_calibration_error() -> None:
    test = sure(2.0)
    parts = calibration.reliability(test)
    assert sum(part["rows"] for part in parts) == len(test)
    assert all(part["low"] < part["confidence"] <= part["high"] for part in parts)
    error = sum(part["rows"] * abs(part["accuracy"] - part["confidence"]) for part in parts) / len(test)
    assert error == pytest.approx(metrics.load("calibration_error").compute(test))


def test_abstention_keeps_the_surest_answers_and_ties_count_by_their_share() -> None:
    test = sure(1.0, 2000, 3)
    curve = calibration.abstention(test)
    assert [point["coverage"] for point in curve] == pytest.approx(np.arange(1, 21) / 20)
    assert curve[-1]["accuracy"] == pytest.approx(metrics.load("accuracy").compute(test))
    half = curve[9]
    surest = test.filter(predictions.matrix(test).max(axis=1) >= half["threshold"])
    assert len(surest) == 1000 and half["accuracy"] == pytest.approx(metrics.load("accuracy").compute(surest))
    assert curve[0]["accuracy"] > half["accuracy"] > curve[-1]["accuracy"]
    constant = test.with_columns(probabilities=pl.struct(no=0.2, perhaps=0.5, yes=0.3), answer=pl.lit("perhaps"))
    share = metrics.load("accuracy").compute(constant)
    assert [point["accuracy"] for point in calibration.abstention(constant)] == pytest.approx([share] * 20)
