"""The leaderboard: rows from files, choices on validation, an honest verdict, and files that people can read."""

import base64
import csv
import itertools
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from stepladder import comparison, leaderboard, ledger, metrics, splits, statistics, store, verdict
from stepladder.errors import ConfigError, DataError
from stepladder.report import evidence, text
from stepladder.report import leaderboard as report

CANDIDATES = {  # level, model, method or prompt, share of right answers, parameters, trained, seconds
    "majority": ("baseline", "majority", None, 0.505, 0, 0, 0.4),
    "tfidf": ("baseline", "tfidf", None, 0.806, 24_310, 24_310, 1.9),
    "zero_shot": ("prompt", "smollm2", "zero_shot", 0.70, 134_515_008, 0, 0.2),
    "few_shot": ("prompt", "smollm2", "few_shot", 0.815, 134_515_008, 0, 0.3),
    "frozen": ("finetune", "minilm", "frozen", 0.79, 22_713_986, 770, 38.2),
    "full": ("finetune", "minilm", "full", 0.871, 22_713_986, 22_713_986, 149.0),
    "lora": ("finetune", "minilm", "lora", 0.862, 23_380_000, 667_394, 151.0),
    "lora_smollm2": ("finetune", "smollm2", "lora", 0.866, 137_000_000, 2_442_240, 118.0),
    "scratch": ("pretrain", "tiny_llama", None, 0.735, 3_867_000, 3_867_000, 122.0),
}

RISKS = {"retention": {"gain": {"value": -0.025, "low": -0.031, "high": -0.018, "p_value": 0.001, "num_items": 200}}}
PRICE = {"currency": "EUR", "machine_hour": 0.36, "gpu_hour": 0.0, "kwh": 0.5, "tokens": []}
SEARCH = {
    "states": {"complete": 3, "pruned": 1}, "best": {"point": {"method.r": 8}, "score": 0.81},
    "importance": {"method.r": 0.75, "optimizer.learning_rate": 0.25}, "untried": ["method.r: 32"],
}  # fmt: skip
LATENCY = [
    {"rows": 1, "calls": 40, "p50": 0.012, "p95": 0.02, "rows_per_second": 80.0},
    {"rows": 4, "calls": 40, "p50": 0.02, "p95": 0.03, "rows_per_second": 190.0},
]


def story(root: Path, *, num_rows: int = 400, num_resamples: int = 200, names: tuple = tuple(CANDIDATES)) -> dict:
    """Write the files that the stages of the default story leave behind; return the configuration of compare."""
    for name in ("reviews", "plain_english"):
        data_set(root, name, num_rows)
    for name in names:
        candidate(root, name, num_rows=num_rows)
    gate = {"confidence": 0.95, "num_resamples": num_resamples, "min_difference": 0.0, "require": {}}
    task = {"name": "classification", "metric": "accuracy"}
    config = {"seed": 42, "data": {"name": "reviews"}, "candidates": list(names), "task": task, "gate": gate}
    config["price"] = PRICE
    save(root / "build/compare/compare.yaml", config)
    return config


def data_set(root: Path, name: str, num_rows: int) -> None:
    """Write the files that the stages of a data set leave behind; of them only the test part is read here."""
    save(root / f"build/data/{name}.yaml", {"data": {"name": name}})
    save(root / f"assets/data/{name}.json", {"name": name, "files": {}})
    for part in ("records", *splits.PARTS):
        save(root / f"data/{name}/{part}.parquet", part)
    frame = answers("test", num_rows, 0.5, 0)
    words = np.random.default_rng(num_rows).integers(1, 30, num_rows)
    inputs = [f"{' '.join(['word'] * count)} {row}" for row, count in enumerate(words)]
    columns = {"input": inputs, "source": ["movie" if row % 3 else "tweets" for row in range(num_rows)]}
    frame = frame.select("id", "target").with_columns(**{key: pl.Series(value) for key, value in columns.items()})
    frame.with_columns(group=pl.lit(None, pl.String)).write_parquet(root / f"data/{name}/test.parquet")


def assigned(root: Path, data: str) -> dict:
    """Return what stage assign notes of the files of `data_set`."""
    paths = {part: f"data/{data}/{part}.parquet" for part in splits.PARTS}
    files = {part: {"path": path, "sha256": store.sha256(root / path)} for part, path in paths.items()}
    return {"data": data, **files, "corpus": None, "mixture": {}}


def candidate(root: Path, name: str, *, num_rows: int = 400, share: float | None = None, data: str = "reviews") -> None:
    level, model, method, default, num_parameters, trained, seconds = CANDIDATES[name]
    seed = list(CANDIDATES).index(name)
    frames = {part: answers(part, num_rows, share or default, seed) for part in ("val", "test")}
    for part, frame in frames.items():
        (root / "predictions" / part).mkdir(parents=True, exist_ok=True)
        frame.write_parquet(root / f"predictions/{part}/{name}.parquet")
    scores = {part: metrics.evaluate(frame, "classification") for part, frame in frames.items()}
    save(root / f"metrics/{name}.json", scores | {"num_rows": {"val": num_rows, "test": num_rows}})
    kind = "prompt" if level == "prompt" else "method"
    section = {"_target_": "peft.LoraConfig", "r": 8} if method == "lora" else {"name": method} if method else None
    save(root / f"build/{name}.yaml", {
        "candidate": name, "level": {"name": level}, "model": {"name": model}, "data": {"name": data}, "method": None,
        "prompt": None, "overrides": [f"level={level}", f"model={model}"], kind: section,
    })  # fmt: skip
    save(root / f"models/{name}/stepladder.json", {
        "level": level, "key": "trained", "num_parameters": num_parameters, "num_trained_parameters": trained,
        "rows_seen": 0 if name == "zero_shot" else 2000 if name == "lora_smollm2" else 7055, "num_train_rows": 7055,
        "base": f"state/store/models/{model}" if level == "prompt" or method == "lora" else None,
    })  # fmt: skip
    (root / f"models/{name}/model.safetensors").write_bytes(bytes(trained // 1000))
    (root / f"state/store/models/{model}").mkdir(parents=True, exist_ok=True)
    (root / f"state/store/models/{model}/model.safetensors").write_bytes(bytes(num_parameters // 1000))
    save(root / f"assets/{name}.json", {"name": model, "folder": f"state/store/models/{model}", "files": {}})
    save(root / f"inputs/{name}.json", assigned(root, data))
    won = {"sections": {"method": section | {"r": 16}}, "key": "searched"} if name == "lora" else {"sections": {}}
    save(root / f"tuned/{name}.yaml", won)
    cost = {"key": "trained", "cpu_seconds": 2.0 * seconds, "gpu_seconds": 0.0, "peak_memory_bytes": 900_000_000}
    cost |= {"energy_kwh": seconds / 1e5, "tokens": 1000 * seconds}
    save(root / f"runs/{name}/train.json", cost | {"seconds": seconds + 9, "fit_seconds": seconds})
    asked = {"seconds": seconds + 5, "examples_per_second": num_rows / (seconds + 1), "latency": LATENCY}
    save(root / f"runs/{name}/evaluate.json", cost | asked)
    save(root / f"reports/probes/{name}.json", RISKS if name == "lora_smollm2" else {})
    if name == "lora":
        spent = {"key": "searched", "seconds": 40.0, "earlier_seconds": 60.0, "trial_seconds": 96.0}
        save(root / f"runs/{name}/sweep.json", cost | spent)
        save(root / f"reports/searches/{name}/search.json", SEARCH)


def answers(part: str, num_rows: int, share: float, seed: int) -> pl.DataFrame:
    """Return predictions of which `share` is right; all candidates share ids, targets and the hardness of rows."""
    ids = [f"{part}_{row}" for row in range(num_rows)]
    common = np.random.default_rng([len(part), num_rows])
    positive, hardness = common.random(num_rows) < 0.52, common.random(num_rows)
    own = np.random.default_rng([seed, len(part)])
    right = np.argsort(np.argsort(0.7 * hardness + 0.3 * own.random(num_rows))) < round(share * num_rows)
    confidence = 0.5 + 0.5 * own.beta(3, 1.5, num_rows)
    chance = np.where(positive == right, confidence, 1 - confidence)
    return pl.DataFrame({
        "id": ids, "source": ["movie"] * num_rows, "target": np.where(positive, "positive", "negative"),
        "answer": np.where(positive == right, "positive", "negative"),
        "probabilities": [{"negative": 1 - value, "positive": value} for value in chance.tolist()],
    })  # fmt: skip


def save(path: Path, value: dict | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write = {".json": json.dumps, ".yaml": yaml.safe_dump}.get(path.suffix, str)
    path.write_text(write(value), encoding="utf-8")


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("story")
    story(folder)
    return folder


@pytest.fixture(scope="module")
def board(root: Path) -> dict:
    return leaderboard.assemble(root, yaml.safe_load((root / "build/compare/compare.yaml").read_text(encoding="utf-8")))


def test_rows_are_ranked_on_validation_and_scored_on_test(board: dict) -> None:
    assert [row["rank"] for row in board["rows"]] == list(range(1, 10))
    values = [row["score"]["val"] for row in board["rows"]]
    assert values == sorted(values, reverse=True)
    full = board["rows"][0]
    assert full["candidate"] == "full" == board["decision"]["winner"] and full["level"] == "finetune"
    assert full["score"]["test"] == full["metrics"]["test"]["accuracy"]
    assert full["score"]["low"] < full["score"]["test"] < full["score"]["high"]
    assert full["difference"]["low"] > 0 and board["decision"]["best_baseline"] == "tfidf"
    assert board["registration"]["passed"] and board["registration"]["candidate"] == "full"
    assert board["verdict"].startswith("Fine-tuning is enough: candidate full reaches accuracy 0.87")


@pytest.mark.capability(29)
def test_every_pair_is_tested_and_the_letters_and_differences_say_the_same(board: dict) -> None:
    names = [row["candidate"] for row in board["rows"]]
    assert [(pair["a"], pair["b"]) for pair in board["pairs"]] == list(itertools.combinations(names, 2))
    letters = {row["candidate"]: set(row["group"]) for row in board["rows"]}
    for pair in board["pairs"]:
        assert pair["p_holm"] >= pair["p_value"] and pair["test"] == "McNemar"
        assert bool(letters[pair["a"]] & letters[pair["b"]]) == (pair["p_holm"] > 0.05)
    worst = board["rows"][-1]
    assert (worst["candidate"], worst["difference"]["b"]) == ("majority", "tfidf")
    assert worst["difference"]["high"] < 0 and worst["difference"]["difference"] < 0
    (pair,) = [pair for pair in board["pairs"] if {pair["a"], pair["b"]} == {"majority", "tfidf"}]
    assert (pair["low"], pair["high"]) == (-worst["difference"]["high"], -worst["difference"]["low"])
    alike = {"a": "x", "b": "y", "difference": 0.0, "low": 0.0, "high": 0.0, "effect": None}
    assert text.gain(comparison.between([alike], "y", "x")["difference"]) == "+0.000"


@pytest.mark.capability(29)
def test_every_metric_of_a_row_has_the_interval_that_it_has_alone(root: Path, board: dict) -> None:
    full = board["rows"][0]
    assert full["intervals"].keys() == full["metrics"]["test"].keys()
    frame = pl.read_parquet(root / "predictions/test/full.parquet").sort("id")
    for metric in ("accuracy", "macro_f1", "roc_auc"):
        expected = statistics.interval(frame, metric, confidence=0.95, num_resamples=200, seed=42)
        assert full["intervals"][metric] == pytest.approx(expected)
    assert (full["score"]["low"], full["score"]["high"]) == tuple(full["intervals"]["accuracy"])


def test_rows_that_differ_in_their_seed_alone_are_one_candidate_at_several_seeds(tmp_path) -> None:
    names = ("tfidf", "full", "lora", "frozen")
    config = story(tmp_path, num_rows=60, num_resamples=50, names=names)
    settings = yaml.safe_load((tmp_path / "build/full.yaml").read_text())
    for seed, name in enumerate(names[1:]):
        own = {"candidate": name, "seed": seed, "overrides": [f"seed={seed}"]}
        save(tmp_path / f"build/{name}.yaml", settings | own | ({"method": {"r": 1}} if name == "frozen" else {}))
    board = leaderboard.assemble(tmp_path, config)
    by_name = {row["candidate"]: row["score"] for row in board["rows"]}
    (spread,) = board["seeds"]
    assert dict(zip(spread["candidates"], spread["seeds"], strict=True)) == {"full": 0, "lora": 1}
    values = [by_name[name]["test"] for name in ("full", "lora")]
    assert spread["test"] == pytest.approx({"mean": np.mean(values), "deviation": np.std(values, ddof=1)})


def test_a_candidate_is_on_the_front_of_a_price_where_none_is_better_for_as_little(board: dict) -> None:
    paid = {row["candidate"]: board["prices"][row["candidate"]] for row in board["rows"]}
    scores = {row["candidate"]: row["score"]["test"] for row in board["rows"]}
    seconds = {name: price["train_seconds"] + (price["sweep_seconds"] or 0) for name, price in paid.items()}
    for name, price in paid.items():
        others = [other for other in paid if scores[other] >= scores[name] and seconds[other] <= seconds[name]]
        assert ("training" in price["best_at_price_of"]) == (others == [name])
    assert "training" in paid["full"]["best_at_price_of"] and "training" not in paid["lora"]["best_at_price_of"]


def test_a_row_says_what_it_cost(board: dict) -> None:
    by_name = {row["candidate"]: row for row in board["rows"]}
    assert by_name["lora_smollm2"]["rows_seen"] == 2000 and by_name["lora"]["method"] == "lora"
    assert by_name["few_shot"]["method"] == "few_shot" and by_name["lora"]["command"] == "dvc repro score@lora"
    price = board["prices"]["lora"]
    assert price["train_seconds"] == 151.0 and price["sweep_seconds"] == 96.0
    assert board["prices"]["full"]["base_bytes"] == 0 and board["prices"]["few_shot"]["base_bytes"] == 137_000


def test_the_ledger_of_a_row_adds_up(board: dict) -> None:
    price = board["prices"]["lora"]
    assert list(price["ledger"]) == ["sweep", "train", "evaluate", "total"]
    sweep, train = price["ledger"]["sweep"], price["ledger"]["train"]
    assert sweep["seconds"] == 100.0, "of an attempt that was stopped, and of the one that went on"
    assert train["money"] == pytest.approx(0.36 * 160 / 3600 + 0.5 * 151 / 1e5)
    assert price["paid"]["money"] == sweep["money"] + train["money"] and price["paid"]["latency"] == 0.02
    entries = [entry for stage, entry in price["ledger"].items() if stage != "total"]
    total = {key: pytest.approx(sum(entry[key] for entry in entries)) for key in ledger.SUMS}
    assert {key: price["ledger"]["total"][key] for key in ledger.SUMS} == total


def test_money_may_shut_the_gate_and_stands_on_the_page(tmp_path) -> None:
    config = story(tmp_path, num_rows=400, num_resamples=200, names=("tfidf", "full"))
    config["gate"]["require"] = {"price.money": {"at_most": 1e-4}}
    board = leaderboard.assemble(tmp_path, config)
    assert not board["registration"]["passed"] and "price.money is 0.0" in board["registration"]["reason"]
    html = report.page(board)
    assert "Money, EUR" in html and "Ledger: each candidate, stage by stage" in html
    (line,) = [line for line in report.table(board) if line["candidate"] == "full"]
    assert line["money"] == board["prices"]["full"]["paid"]["money"] and line["latency"] == 0.02


def test_a_cost_that_was_measured_for_other_settings_is_unknown(tmp_path) -> None:
    config = story(tmp_path, num_rows=40, num_resamples=50, names=("tfidf", "lora"))
    cost = json.loads((tmp_path / "runs/lora/train.json").read_text())
    save(tmp_path / "runs/lora/train.json", cost | {"key": "r=32", "peak_memory_bytes": 10**12})
    save(tmp_path / "tuned/lora.yaml", {"sections": {}})  # the sweep was removed, what it took still lies in runs/
    price = leaderboard.assemble(tmp_path, config)["prices"]["lora"]
    assert price["train_seconds"] is price["sweep_seconds"] is price["made"] is None
    assert list(price["ledger"]) == ["evaluate", "total"] and price["peak_memory_bytes"] == 900_000_000
    assert price["examples_per_second"] > 0


def test_the_comparison_says_that_it_goes_on(tmp_path, capsys) -> None:
    leaderboard.assemble(tmp_path, story(tmp_path, num_rows=40, num_resamples=50, names=("tfidf", "lora")))
    assert capsys.readouterr().out.startswith("comparing 2 candidates, 50 resamples each\n")


def test_an_adapter_counts_the_bytes_of_its_base(tmp_path) -> None:
    config = story(tmp_path, num_rows=40, num_resamples=50, names=("tfidf", "lora"))
    assert leaderboard.assemble(tmp_path, config)["prices"]["lora"]["base_bytes"] == 23_380


def test_only_prices_vary_with_the_machine(root: Path, board: dict, tmp_path) -> None:
    config = story(tmp_path)
    for path in tmp_path.glob("runs/*/*.json"):
        path.unlink()
    other = leaderboard.assemble(tmp_path, config)
    assert other["prices"]["full"]["train_seconds"] is None and other["prices"] != board["prices"]
    machine = {"prices", "worth"}
    assert {key: other[key] for key in other.keys() - machine} == {key: board[key] for key in board.keys() - machine}


def test_the_winner_is_picked_on_validation_even_when_test_says_otherwise(tmp_path) -> None:
    config = story(tmp_path, names=("tfidf", "full", "lora"))
    better = answers("test", 400, 0.95, 6)
    better.write_parquet(tmp_path / "predictions/test/lora.parquet")
    scores = json.loads((tmp_path / "metrics/lora.json").read_text())
    save(tmp_path / "metrics/lora.json", scores | {"test": metrics.evaluate(better, "classification")})
    assert leaderboard.assemble(tmp_path, config)["decision"]["winner"] == "full"


def test_nothing_is_enough_when_nothing_beats_the_baseline(tmp_path) -> None:
    config = story(tmp_path, names=("tfidf", "few_shot", "zero_shot"))
    board = leaderboard.assemble(tmp_path, config)
    assert board["decision"]["enough"] == "baseline" and not board["registration"]["passed"]
    assert board["verdict"].startswith("Stay with the baseline tfidf: it reaches accuracy 0.80")
    assert "few_shot, the best on validation, is not shown to beat it (+0.0" in board["verdict"]
    config = story(tmp_path, names=("tfidf", "zero_shot"))
    board = leaderboard.assemble(tmp_path, config)
    assert board["registration"]["reason"] == "validation picks the baseline tfidf; there is nothing to register"
    assert "is the best on validation, before zero_shot (-0.1" in board["verdict"]
    config = story(tmp_path, names=("tfidf", "majority"))
    assert leaderboard.assemble(tmp_path, config)["verdict"].endswith("and nothing else was compared.")


def test_the_verdict_says_how_sure_it_is_what_it_costs_and_what_would_make_it_sure(board: dict, tmp_path) -> None:
    chance = board["rows"][0]["difference"]["p_holm"]
    assert 0.001 < chance < 0.05 and f"; p = {chance:.3f} after Holm over 36 pairs)" in board["verdict"]
    assert board["worth"].startswith("It costs 78 times the time of training, 52 times the time of an answer, ")
    assert board["worth"].endswith(" the disk of tfidf.") and board["worth"] in report.page(board)
    config = story(tmp_path, num_rows=100, num_resamples=100, names=("tfidf", "few_shot", "zero_shot"))
    other = leaderboard.assemble(tmp_path, config)
    needed = other["rows"][0]["difference"]["rows_needed"]
    assert other["worth"] is None and needed > 100
    words = f"; to be sure of such a difference would take about {float(f'{needed:.2g}'):,.0f} test rows."
    assert other["verdict"].endswith(words)
    unsure = {"difference": 0.02, "low": 0.001, "high": 0.04, "p_holm": 0.3}
    assert (
        verdict._corrected(unsure, 0.95, 2)
        == "p = 0.300 after Holm over 2 pairs, so not sure among so many comparisons"
    )


def test_the_lowest_rung_that_is_not_worse_is_enough(tmp_path) -> None:
    config = story(tmp_path, names=("tfidf", "few_shot", "full"))
    candidate(tmp_path, "few_shot", share=0.868)
    board = leaderboard.assemble(tmp_path, config)
    decision = board["decision"]
    assert (decision["winner"], decision["enough"], decision["sufficient"]) == ("full", "prompt", "few_shot")
    assert board["registration"]["candidate"] == "full"
    assert board["verdict"].startswith("Prompting is enough: candidate few_shot reaches")
    assert "not shown to be worse than full, the best on validation (" in board["verdict"]


def test_a_required_difference_must_be_exceeded(tmp_path) -> None:
    config = story(tmp_path, names=("tfidf", "full"))
    config["gate"]["min_difference"] = 0.5
    board = leaderboard.assemble(tmp_path, config)
    assert not board["registration"]["passed"] and "by more than 0.5" in board["registration"]["reason"]


def test_smaller_is_better_turns_the_order(tmp_path) -> None:
    config = story(tmp_path)
    config["task"]["metric"] = "log_loss"
    board = leaderboard.assemble(tmp_path, config)
    values = [row["score"]["val"] for row in board["rows"]]
    assert values == sorted(values) and board["rows"][0]["difference"]["difference"] > 0


def test_a_table_without_a_baseline_is_refused(tmp_path) -> None:
    config = story(tmp_path, num_rows=40, names=("few_shot", "full"))
    for partial in (False, True):
        with pytest.raises(ConfigError, match="no baseline on data set reviews"):
            leaderboard.assemble(tmp_path, config, partial=partial)


def test_rows_on_another_data_set_stand_apart(tmp_path) -> None:
    config = story(tmp_path, num_rows=60, names=("tfidf", "full", "lora"))
    data_set(tmp_path, "reviews_all", 60)
    candidate(tmp_path, "lora", num_rows=60, data="reviews_all")
    board = leaderboard.assemble(tmp_path, config)
    assert [row["candidate"] for row in board["elsewhere"]] == ["lora"]
    assert "lora" not in [row["candidate"] for row in board["rows"]]
    assert "Measured on other data sets" in report.page(board)


FIRST_MISSING = {
    "build/lora.yaml": "configure",
    "tuned/lora.yaml": "sweep",
    "models/lora/stepladder.json": "train",
    "metrics/lora.json": "score",
    "reports/probes/lora.json": "probe",
}


@pytest.mark.parametrize(("path", "stage"), FIRST_MISSING.items())
def test_a_failed_candidate_is_watermarked_and_registers_nothing(tmp_path, path: str, stage: str) -> None:
    config = story(tmp_path, num_rows=60, num_resamples=50, names=("tfidf", "full", "lora"))
    (tmp_path / path).unlink()
    last = "probe" if stage == "probe" else "score"
    if stage != "sweep":
        with pytest.raises(DataError, match=f"{path}: not there; dvc repro {last}@lora"):
            leaderboard.assemble(tmp_path, config)
    board = leaderboard.assemble(tmp_path, config, partial=True)
    assert board["partial"] and board["failed"][0]["stage"] == stage and not board["registration"]["passed"]
    html = report.page(board)
    assert "PARTIAL" in html and f"failed at {stage}; repeat it: <code>dvc repro {last}@lora</code>" in html


def test_failed_baselines_leave_rows_but_no_verdict(tmp_path) -> None:
    config = story(tmp_path, num_rows=60, num_resamples=50, names=("tfidf", "full"))
    (tmp_path / "metrics/tfidf.json").unlink()
    board = leaderboard.assemble(tmp_path, config, partial=True)
    assert board["verdict"] == "No verdict: every baseline failed." and len(board["rows"]) == 1
    report.write(board, tmp_path / "reports")
    (tmp_path / "metrics/full.json").unlink()
    report.write(leaderboard.assemble(tmp_path, config, partial=True), tmp_path / "reports")


def test_an_outdated_score_is_refused(tmp_path) -> None:
    config = story(tmp_path, num_rows=60, names=("tfidf", "full"))
    answers("test", 60, 0.5, 3).write_parquet(tmp_path / "predictions/test/full.parquet")
    with pytest.raises(DataError, match=r"metrics/full\.json: test/accuracy is .*dvc repro score@full"):
        leaderboard.assemble(tmp_path, config)


def test_the_last_lines_say_verdict_page_and_command(tmp_path) -> None:
    config = story(tmp_path, num_rows=60, num_resamples=50, names=("tfidf", "full", "lora"))
    board = leaderboard.assemble(tmp_path, config)
    report.write(board, tmp_path / "reports")
    lines, code = leaderboard.conclude(tmp_path)
    assert code == 0 and lines == [board["verdict"], "reports/leaderboard.html", leaderboard.MLFLOW]

    candidate(tmp_path, "full", num_rows=60, share=0.9)
    lines, code = leaderboard.conclude(tmp_path)
    assert code == 1 and lines[0].endswith("dvc repro compare") and lines[2] == "reports/partial/leaderboard.html"

    (tmp_path / "models/lora/stepladder.json").unlink()
    lines, code = leaderboard.conclude(tmp_path)
    assert code == 1 and lines[0] == "lora failed at train; repeat it: dvc repro score@lora"
    assert lines[1].startswith("Partial, without lora: ") and len(lines) == 4
    assert (tmp_path / "reports/partial/leaderboard.png").exists()


FAILED_DATA = {
    "assets/data/reviews.json": "fetch_data@reviews",
    "data/reviews/records.parquet": "prepare@reviews",
    "data/reviews/test.parquet": "split@reviews",
    "data/plain_english/train.parquet": "split_other@plain_english",
}


@pytest.mark.parametrize(("path", "stage"), FAILED_DATA.items())
def test_a_failed_stage_of_a_data_set_is_named_and_no_older_verdict_told(tmp_path, path: str, stage: str) -> None:
    config = story(tmp_path, num_rows=60, num_resamples=50, names=("tfidf", "full"))
    report.write(leaderboard.assemble(tmp_path, config), tmp_path / "reports")
    (tmp_path / path).unlink()
    with pytest.raises(DataError, match=f"^{path}: not there, .* repeat it: dvc repro {stage}$"):
        leaderboard.conclude(tmp_path)


def test_data_that_no_candidate_was_told_of_is_no_ground_for_a_verdict(tmp_path) -> None:
    config = story(tmp_path, num_rows=60, num_resamples=50, names=("tfidf", "full"))
    report.write(leaderboard.assemble(tmp_path, config), tmp_path / "reports")
    save(tmp_path / "data/reviews/test.parquet", "other rows")
    with pytest.raises(DataError, match=r"^data/reviews/test\.parquet: not the file .*tfidf\.json.* dvc repro assign$"):
        leaderboard.conclude(tmp_path)


def test_verdict_is_typed_by_hand(tmp_path) -> None:
    board = leaderboard.assemble(tmp_path, story(tmp_path, num_rows=60, num_resamples=50, names=("tfidf", "full")))
    report.write(board, tmp_path / "reports")
    save(tmp_path / "reports/registered.json", board["registration"])
    repository = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pipelines.verdict"]
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "timeout": 60}
    options["env"] = {**os.environ, "PYTHONPATH": f"{repository}{os.pathsep}{repository / 'src'}"}
    result = subprocess.run(command, **options)
    assert result.returncode == 0 and result.stdout.startswith(board["verdict"]), result.stderr
    (tmp_path / "build/compare/compare.yaml").unlink()
    result = subprocess.run(command, **options)
    assert result.returncode == 2
    assert result.stderr == "error[2] build/compare/compare.yaml: not there; dvc repro configure\n"


def test_equal_boards_give_equal_bytes(board: dict, tmp_path) -> None:
    for place in ("one", "two"):
        report.write(json.loads(json.dumps(board)), tmp_path / place)
    for suffix in ("json", "csv", "md", "html", "png"):
        one, two = ((tmp_path / place / f"leaderboard.{suffix}").read_bytes() for place in ("one", "two"))
        assert one == two and len(one) < 500_000


def test_the_csv_has_a_row_for_each_candidate_and_no_formulas(board: dict, tmp_path) -> None:
    board = json.loads(json.dumps(board))
    board["rows"][0]["model"] = "=cmd|' /C calc'!A0"
    report.write(board, tmp_path)
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["candidate"]: row["level"] for row in rows} == {name: row[0] for name, row in CANDIDATES.items()}
    assert rows[0]["model"].startswith("'=") and float(rows[0]["test"]) == board["rows"][0]["score"]["test"]


class Page(HTMLParser):
    """Collect what a page needs to be read without its pictures: tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.capability(49)
def test_the_page_stands_alone_and_can_be_read_aloud(board: dict) -> None:
    board = json.loads(json.dumps(board))
    board["rows"][1]["model"] = "<script>alert(1)</script>"
    html = report.page(board)
    tags = Page(html).tags
    assert "<script>alert" not in html and "&lt;script&gt;alert" in html
    assert ("html", {"lang": "en"}) in tags and "prefers-color-scheme: dark" in html
    places = {attrs["id"] for _, attrs in tags if "id" in attrs}
    assert not [attrs for _, attrs in tags if not attrs.get("src", "data:").startswith("data:")]
    assert all(attrs.get("alt") for tag, attrs in tags if tag == "img")
    assert {attrs["href"].removeprefix("#") for _, attrs in tags if "href" in attrs} <= places
    assert "http" not in html and "url(" not in html
    assert all("scope" in attrs for tag, attrs in tags if tag == "th")
    count = [tag for tag, _ in tags].count
    assert count("table") == count("caption") >= 4 and count("h1") == 1
    assert all("aria-label" in attrs or "aria-hidden" in attrs for tag, attrs in tags if tag == "svg")
    assert board["claim"] in html and board["evidence"][1:] in html


def test_what_probes_measured_stands_in_the_row_and_on_the_page(board: dict) -> None:
    assert {row["candidate"]: row["risks"] for row in board["rows"] if row["risks"]} == {"lora_smollm2": RISKS}
    shown = " ".join(report.page(board).split())
    assert "Beyond the test set" in shown and all(text in shown for text in ("0.025", "0.031", "0.018"))
    without = json.loads(json.dumps(board))
    for row in without["rows"]:
        row["risks"] = {}
    assert "Beyond the test set" not in report.page(without)


def test_a_search_stands_on_the_page_with_what_matters_and_what_is_untried(board: dict, root: Path, tmp_path) -> None:
    assert list(board["searches"]) == ["lora"] and board["searches"]["lora"]["untried"] == ["method.r: 32"]
    drawn = {"lora": board["searches"]["lora"] | {"pictures": {"slices": "slices.svg"}}}
    (tmp_path / "slices.svg").write_text("<svg/>")
    html = " ".join(report.page(board | {"searches": drawn}, root=tmp_path).split())
    for words in ("3 complete, 1 pruned, best validation accuracy 0.810", "method.r 75 %", "Untried: method.r: 32."):
        assert words in html
    assert f'src="data:image/svg+xml;base64,{base64.b64encode(b"<svg/>").decode()}"' in html
    assert "searches" not in re.findall(r"<h2 id=\"(\w+)\"", report.page(board | {"searches": {}}))
    assert {row["candidate"]: row["tuned"] for row in board["rows"] if row["tuned"]} == {"lora": ["method.r=16"]}
    assert '<code>level=finetune model=minilm</code></td> <td class="left"><code>method.r=16</code></td>' in html
    before = leaderboard.inputs(root, leaderboard.configured(root))
    assert "tuned/lora.yaml" in before
    assert "reports/searches/lora/search.json" in before and "reports/searches/full/search.json" not in before


@pytest.mark.capability(49)
def test_the_same_inputs_stand_on_the_page_with_the_answer_of_every_candidate(root: Path, board: dict) -> None:
    names = [row["candidate"] for row in board["rows"]]
    frames = {name: pl.read_parquet(root / f"predictions/test/{name}.parquet") for name in names}
    given = {name: {row["id"]: row for row in frame.to_dicts()} for name, frame in frames.items()}
    agreeing = {
        row: sum(a[row]["answer"] == b[row]["answer"] for a, b in itertools.combinations(given.values(), 2))
        for row in frames["full"]["id"]
    }
    html, least = report.page(board), sorted(agreeing.values())[:5]
    assert [agreeing[one["id"]] for one in board["shared"]] == least and list(board["shared"][0]["answers"]) == names
    for one in board["shared"]:
        for name, answer in one["answers"].items():
            found = given[name][one["id"]]
            assert answer == {"answer": found["answer"], "probabilities": [found["probabilities"][found["answer"]]]}
        assert one["input"] in html and html.count('<th scope="rowgroup"') == 5
    assert html.count('data-of="full"') == 5 and "about which most pairs of candidates disagree" in html


def test_where_a_model_named_no_label_a_dash_stands_among_the_answers(board: dict) -> None:
    board = json.loads(json.dumps(board))
    board["shared"][0]["answers"]["zero_shot"] = {"answer": None, "probabilities": []}
    html = report.page(board)
    assert re.findall(r'data-of="zero_shot"><div><span>([^<]*)</span></div>', html) == [text.DASH]
    assert 'href="#same"' not in report.page(board | {"shared": []})


def test_the_menu_names_the_sections_that_are_there(board: dict) -> None:
    html = report.page(board)
    named = re.findall(r'<a href="#(\w+)">', html)
    assert named and set(named) == set(re.findall(r"<h2 id=\"(\w+)\"", html)) - {"val", "seeds", "elsewhere"}


@pytest.mark.capability(49)
def test_the_page_shows_what_stands_behind_the_table(board: dict) -> None:
    board = json.loads(json.dumps(board))
    board["rows"][0]["curves"] = {
        "train/loss": [[1, 0.7], [2, 0.5]],
        "val/loss": [[2, 0.6]],
        "val/accuracy": [[2, 0.8]],
    }
    html = report.page(board)
    titles = re.findall(r"<h2 id=\"(\w+)\"", html)
    assert {"pairs", "price", "curves", "calibration", "slices", "confusion", "examples"} <= set(titles)
    assert len(titles) == len(set(titles)) and html.count('<svg class="plot"') == 7 + 1 + 9
    assert html.count("source: movie") == len(report.metric_names(board)) and "letters" in html.lower()
    worst = board["rows"][0]["examples"]["worst"][0]
    assert worst["id"] in html and text.score(worst["answer_probability"]) in html
    assert "validation accuracy 0.800" in " ".join(html.split())


def test_the_drawings_lie_inside_their_frames_and_their_names_on_no_other(board: dict) -> None:
    for one in evidence.prices(board):
        for point in one["points"]:
            assert (
                0 <= point["x"] <= evidence.WIDTH and 0 <= min(point["ends"]) <= max(point["ends"]) <= evidence.HEIGHT
            )
        places = [(point["label_x"], point["label_y"]) for point in one["points"]]
        assert len(set(places)) == len(places) == 9
        assert all(len(one["plot"].x.ticks()) >= 1 for one in evidence.prices(board))
    assert evidence.Scale([0.001, 100.0], logarithmic=True).ticks() == pytest.approx([0.001, 0.01, 0.1, 1, 10, 100])


def test_the_markdown_table_has_a_row_for_each_candidate_and_its_letters(board: dict) -> None:
    lines = report.markdown(board).splitlines()
    assert lines[0] == f"{board['verdict']} {board['worth']}"
    table = [line.strip("| ").split(" | ") for line in lines if line.startswith("|")]
    assert {len(line) for line in [table[0], *table[2:]]} == {9} and len(table) == 11
    for row, line in zip(board["rows"], table[2:], strict=True):
        assert line[1] == row["candidate"] and line[6] == row["group"] and line[4] == text.score(row["score"]["test"])


def test_the_page_says_what_validation_picks_and_what_test_decides(board: dict) -> None:
    html = " ".join(report.page(board).split())
    assert "the best baseline and the best of each level are picked on validation" in html
    assert "decides whether the best on validation beats the best baseline, and which level is enough" in html
    assert "Everything is picked" not in html


@pytest.mark.parametrize("ends", [(0.5, 0.9), (45.0, 46.2), (0.87, 0.87), (-0.3, 1e-4), (0.0, 100.0)])
def test_an_axis_has_a_few_round_ticks_inside(ends: tuple) -> None:
    scale = evidence.Scale(list(ends))
    assert 3 <= len(scale.ticks()) <= 8 and all(scale.low <= tick <= scale.high for tick in scale.ticks())
    assert all(0 <= float(scale.at(end).rstrip("%")) <= 100 for end in ends)


def test_numbers_are_written_as_people_read_them() -> None:
    assert [text.count(value) for value in (0, 770, 24_310, 134_515_008)] == ["0", "770", "24.3 k", "135 M"]
    assert [text.seconds(value) for value in (0.42, 42, 150, 3900)] == ["0.4 s", "42 s", "2 min 30 s", "1 h 05 min"]
    assert [text.seconds(value) for value in (0, 0.0025, 0.09)] == ["0.0 s", "2.5 ms", "90 ms"]
    assert [text.chance(value) for value in (None, 1e-9, 0.0312, 1)] == [text.DASH, "<0.001", "0.031", "1.000"]
    assert {text.count(None), text.seconds(None), text.size(None), text.score(None)} == {text.DASH}
    assert [text.size(value) for value in (512, 1_500_000)] == ["512 B", "1.5 MB"]
    assert verdict.number(45.26) == "45.3" and text.gain(-0.0512) == "\N{MINUS SIGN}0.051"
