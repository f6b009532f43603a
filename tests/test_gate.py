"""Gate: each requirement is measured and written down, and a name that measures nothing is refused."""

import json
import math

import pytest

from stepladder import gate, leaderboard, slices
from stepladder.report.leaderboard import page
from tests.test_leaderboard import story
from tests.test_strict import faults

pytestmark = pytest.mark.capability(32)
PASSED = {"candidate": "lora_smollm2", "passed": True, "reason": "it beats the baseline"}


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("gate")
    return leaderboard.assemble(root, story(root, num_resamples=100))


def judged(board: dict, require: dict) -> dict:
    return gate.judged(board | {"gate": board["gate"] | {"require": require}}, PASSED)


@pytest.mark.parametrize(
    ("require", "passes"),
    [
        ({}, True),
        ({"accuracy": {"at_least": 0.1}}, True),
        ({"accuracy": {"at_least": 0.9999}}, False),
        ({"accuracy": {"at_least": 0.1, "by": "low"}, "log_loss": {"at_most": 5.0}}, True),
        ({"log_loss": {"at_most": 0.0001}}, False),
        ({"slices.accuracy": {"at_least": 0.1}}, True),
        ({"slices.accuracy": {"at_least": 0.9999}}, False),
        ({"retention.gain": {"at_least": -0.05, "by": "low"}}, True),
        ({"retention.gain": {"at_least": -0.03, "by": "low"}}, False),  # its value, -0.025, would pass
        ({"retention.gain": {"at_least": -0.03}}, True),
        ({"swaps.gender_flips": {"at_most": 0.05}}, False),  # nobody asked
        ({"price.memory": {"at_most": 1e9}}, True),
        ({"price.memory": {"at_most": 8e8}}, False),
        ({"calibration_error": {"at_least": 0.0, "at_most": 1.0}}, True),
        ({"accuracy": {"at_least": 0.1}, "price.disk": {"at_most": 1.0}}, False),
    ],
)
def test_a_requirement_opens_or_shuts_the_gate_by_what_was_measured(require, passes, board):
    found = judged(board, require)
    assert found["passed"] == passes == all(condition["passed"] for condition in found["conditions"])
    assert [condition["name"] for condition in found["conditions"]] == list(require)
    assert passes == ("the gate is shut" not in found["reason"])


def test_every_condition_is_measured_although_one_fails_and_says_where(board):
    require = {"swaps.gender_flips": {"at_most": 0.05, "by": "high"}, "accuracy": {"at_least": 0.99}}
    found = judged(board, require)
    row = next(row for row in board["rows"] if row["candidate"] == "lora_smollm2")
    assert [condition["value"] for condition in found["conditions"]] == [None, row["metrics"]["test"]["accuracy"]]
    assert "swaps.gender_flips was not measured, wanted at most 0.05" in found["reason"]
    assert f"accuracy is {row['metrics']['test']['accuracy']:g}, wanted at least 0.99" in found["reason"]


def test_the_worst_slice_decides(board):
    held = [part["scores"]["lora_smollm2"]["accuracy"] for part in board["slices"]]
    assert len(held) > 2 and all(part["rows"] >= slices.MIN_ROWS for part in board["slices"])
    for end, by in enumerate(("value", "low", "high")):
        (condition,) = judged(board, {"slices.accuracy": {"at_least": 0.0, "by": by}})["conditions"]
        assert condition["value"] == min(ends[end] for ends in held)


def test_the_leaderboard_judges_and_a_shut_gate_registers_nothing(tmp_path):
    config = story(tmp_path, num_resamples=100)
    assert leaderboard.assemble(tmp_path, config)["registration"]["passed"]
    config["gate"]["require"] = {"accuracy": {"at_least": 1.0}}
    board = leaderboard.assemble(tmp_path, config)
    assert not board["registration"]["passed"] and math.isfinite(board["registration"]["conditions"][0]["value"])
    assert "wanted at least 1" in json.dumps(board["registration"])
    assert "<dd>shut: accuracy is " in page(board) and "wanted at least 1</dd>" in page(board)


@pytest.mark.parametrize(
    ("require", "words"),
    [
        ({"accuracy": {"at_least": 0.8, "by": "low"}, "slices.macro_f1": {"at_least": 0.5}}, None),
        ({"robustness.drop": {"at_least": -0.05, "by": "low"}, "price.disk": {"at_most": 1}}, None),
        ({"retention.gain": {"at_least": -0.05}}, "no candidate is asked by it; add probe: retention to a row"),
        ({"acuracy": {"at_least": 0.8}}, "Did you mean 'accuracy'?"),
        ({"chrf": {"at_least": 0.8}}, "No measure named 'chrf'"),
        ({"price.dis": {"at_most": 1}}, "Did you mean 'disk'?"),
        ({"slices.acuracy": {"at_least": 1}}, "Did you mean 'accuracy'?"),
        ({"retentio.gain": {"at_least": 1}}, "No measure named 'retentio.gain'"),
        ({"accuracy": {}}, "it bounds nothing"),
        ({"accuracy": {"atleast": 1}}, "Did you mean 'at_least'?"),
        ({"macro_f1": {"at_least": 0.8, "by": "low"}}, "macro_f1 has no interval"),
        ({"price.disk": {"at_most": 1, "by": "low"}}, "has no interval"),
    ],
)
def test_a_requirement_that_measures_nothing_is_refused(require, words, tmp_path):
    row = {"level": "baseline", "model": "tfidf", "probe": "robustness"}
    found = faults(tmp_path, {"asked": row}, set={"gate": {"require": require}})
    assert not found if words is None else words in "\n".join(found), found
