"""The studies' tables: what they say of a leaderboard is what stands in it."""

from pathlib import Path

import pytest

from stepladder import leaderboard
from studies.domains import table as domains
from studies.forgetting import table as forgetting
from studies.methods import table as methods
from tests.test_leaderboard import story

GAIN = {"value": -0.02, "low": -0.03, "high": -0.01, "num_items": 100}
RISKS = {
    "retention": {"base_bits_per_byte": GAIN | {"value": 1.1}, "gain": GAIN},
    "openbookqa": {"base_accuracy": GAIN | {"value": 0.3}, "accuracy_gain": GAIN | {"value": 0.01, "high": 0.04}},
}


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> dict:
    root = tmp_path_factory.mktemp("study")
    return leaderboard.assemble(root, story(root, names=("tfidf", "zero_shot", "full", "lora")))


def test_what_was_forgotten_stands_beside_what_was_learnt(board, tmp_path):
    for row in board["rows"]:
        least = {"gain": GAIN | {"value": -0.001, "low": -0.002, "high": 0.0}} if row["candidate"] == "lora" else {}
        row["risks"] = RISKS | {"retention": RISKS["retention"] | least} if row["level"] == "finetune" else {}
    rows = forgetting.table(board)
    assert [row["method"] for row in rows] == ["lora", "full"], "what forgot least comes first"
    scores = {row["candidate"]: row["score"]["test"] for row in board["rows"]}
    assert rows[1]["test_accuracy"] == scores["full"] and rows[1]["zero_shot_accuracy"] == scores["zero_shot"]
    shown = forgetting.markdown(rows, 400)
    assert "| full | 0.870 | -0.0200 | -0.0300 to -0.0100 | +0.010 |" in shown and "400 test rows, 1.1000 bits" in shown
    forgetting.picture(rows, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"


def test_what_a_method_made_another_model_forget_stands_in_its_row():
    row = {"accuracy": 0.8, "interval": (0.7, 0.9), "difference": None, "num_seeds": 3, "deviation": 0.01,
           "num_trained_parameters": 770, "cpu_seconds": 14.2}  # fmt: skip
    forgotten = [{"method": "lora", "bits_per_byte": RISKS["retention"], "openbookqa": RISKS["openbookqa"]}]
    rows = methods.with_forgetting([row | {"method": "lora"}, row | {"method": "frozen"}], forgotten)
    _, _, lora, frozen = methods.markdown(rows).splitlines()
    assert lora.endswith("| 770 | 14 | -0.020 (-0.030 to -0.010) | +0.010 (-0.030 to +0.040) |")
    assert frozen.endswith("| 770 | 14 | - | - |")


def test_each_domain_has_its_score_and_the_union_its_lead(board, monkeypatch):
    monkeypatch.setattr(domains, "CONTROL", "full")
    rows = {row["candidate"]: row for row in domains.table(board)}
    assert set(rows["lora"]["domains"]) == {"movie", "tweets"} and rows["full"]["union_gain"] is None
    gain = rows["tfidf"]["union_gain"]["difference"]
    assert gain == pytest.approx(rows["full"]["score"]["test"] - rows["tfidf"]["score"]["test"])
    assert domains.markdown(list(rows.values())).count("\n") == 2 + len(rows)


@pytest.mark.parametrize("file", sorted(Path("studies").glob("*/params.yaml")), ids=lambda file: file.parent.name)
def test_a_study_is_refused_by_no_rule(file):
    from stepladder import strict

    assert "tfidf" in strict.params(file)["candidates"]
