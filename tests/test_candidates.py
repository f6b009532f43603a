"""Candidates: samples and keys are stable, and a fitted folder appears whole; what a stage cost is noted beside."""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from stepladder import candidates, latency, ledger, levels, records, runs, splits, store, work
from stepladder.errors import DataError, IntegrityError
from tests.conftest import sentences


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own with a prepared data set."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for seed, (part, number) in enumerate({"train": 24, "val": 12, "test": 10}.items()):
        records.write(sentences(number, seed=seed), Path("data", "films", f"{part}.parquet"))
    records.write_json(splits.assign("films", None), Path("inputs", "tfidf.json"))
    records.write_json({"name": "tfidf", "files": {}}, Path("assets", "tfidf.json"))
    return tmp_path


def test_a_sample_is_so_many_rows_in_their_order_and_added_rows_replace_but_never_shuffle():
    frame = sentences(60)
    first = candidates.sample(frame, 20, 1)
    assert len(first) == 20
    assert first["id"].to_list() == [name for name in frame["id"] if name in set(first["id"])]
    assert first.equals(candidates.sample(frame, 20, 1))
    assert not first.equals(candidates.sample(frame, 20, 2))
    for number in range(61, 75):
        after = candidates.sample(sentences(60).vstack(sentences(number, seed=3)[60:]), 20, 1)
        new = set(after["id"]) - set(first["id"])
        assert all(name.startswith("r3_") for name in new)
    assert set(candidates.sample(frame[::-1], 20, 1)["id"]) == set(first["id"])


@pytest.mark.parametrize("limit", [None, 60, 100])
def test_a_sample_of_all_rows_is_all_rows(limit):
    frame = sentences(60)
    assert candidates.sample(frame, limit, 1) is frame


@pytest.mark.capability(47)
def test_a_key_follows_settings_and_data_and_nothing_else(choose):
    sections, files = choose("finetune", "bert"), {"train": {"path": "a", "sha256": "1"}}
    key = candidates.key(sections, files)
    for name in candidates.UNTRACKED:
        assert candidates.key({**sections, name: {"other": 1}}, files) == key
    for name in ("seed", "trainer", "method", "task", "level"):
        assert candidates.key({**sections, name: {"other": 1}}, files) != key
    assert candidates.key(sections, {"train": {"path": "a", "sha256": "2"}}) != key
    assert candidates.key({**sections, "code": {"level": "1"}}, files) != key
    assert candidates.key({**sections, "code": {"metrics": "1"}}, files) == key
    assert candidates.key({**sections, "sweep": {"other": 1}}, files, more=("sweep",)) != key
    assert candidates.key(dict(reversed(copy.deepcopy(sections).items())), files) == key


def test_tuned_sections_stand_in_place_of_the_composed_ones_whole(place):
    config = {"candidate": "lora", "method": {"name": "full"}, "optimizer": {"learning_rate": 1}}
    assert candidates.tuned(config) == config
    records.write_text("sections:\n  optimizer:\n    betas: 2\n", Path("tuned", "lora.yaml"))
    assert candidates.tuned(config) == {**config, "optimizer": {"betas": 2}}
    assert candidates.tuned({**config, "candidate": None}) == {**config, "candidate": None}


def test_missing_inputs_name_the_command_that_makes_them(place):
    with pytest.raises(DataError, match=r"inputs/lora\.json: missing; make it with: dvc repro train@lora"):
        candidates.inputs({"candidate": "lora"})


def test_training_leaves_model_predictions_and_costs_and_evaluation_the_test_answers(place, choose):
    config = {**choose("baseline", "tfidf"), "candidate": "tfidf"}
    scores = candidates.train(config)
    candidates.evaluate(config)
    saved = json.loads(Path("models", "tfidf", "stepladder.json").read_text())
    assert saved["num_train_rows"] == saved["rows_seen"] == 24
    assert Path("models", "tfidf", "history.jsonl").read_text() == ""
    assert pl.read_parquet("predictions/val/tfidf.parquet")["id"].to_list() == sentences(12, seed=1)["id"].to_list()
    assert pl.read_parquet("predictions/test/tfidf.parquet")["id"].to_list() == sentences(10, seed=2)["id"].to_list()
    assert 0 <= scores["accuracy"] <= 1
    for stage, number in {"train": 24, "evaluate": 10}.items():
        cost = json.loads(Path("runs", "tfidf", f"{stage}.json").read_text())
        assert cost["stage"] == stage
        assert cost["num_rows"] == number
        assert cost["seconds"] > 0
        assert cost["key"] == saved["key"] == candidates.key(config, splits.assign("films", None))
    models = {path: path.read_bytes() for path in Path("models").rglob("*") if path.is_file()}
    shutil.rmtree("state")
    candidates.train(config)
    assert {path: path.read_bytes() for path in models} == models  # byte for byte


def test_a_metered_candidate_tells_its_energy_tokens_and_the_time_of_one_row(place, choose, monkeypatch) -> None:
    monkeypatch.setattr(latency, "CALLS", (3, 3))
    sections = choose("baseline", "tfidf")
    config = {**sections, "candidate": "tfidf", "runtime": sections["runtime"] | {"meter": True}}
    candidates.train(config)
    candidates.evaluate(config)
    trained, asked = (json.loads(Path("runs/tfidf", f"{stage}.json").read_text()) for stage in ("train", "evaluate"))
    assert trained["energy_kwh"] > 0 and asked["energy_kwh"] > 0 and trained["tokens"] == asked["tokens"] == 0
    assert asked["latency"][0]["rows"] == 1 and 0 < asked["latency"][0]["p50"] <= asked["latency"][0]["p95"]
    assert list(ledger.of(runs.known(Path(), "tfidf"), {"machine_hour": 1, "gpu_hour": 0, "kwh": 0, "tokens": []})) == [
        "train",
        "evaluate",
        "total",
    ]


def test_finished_work_is_published_again_until_dvc_knows_it_and_damaged_work_is_done_again(
    place, choose, monkeypatch, capsys
):
    config = {**choose("baseline", "tfidf"), "candidate": "tfidf"}
    fitted, fit = [], candidates.fit
    monkeypatch.setattr(candidates, "fit", lambda *words, **parts: fitted.append(1) or fit(*words, **parts))
    candidates.train(config)
    before, seconds = Path("models", "tfidf", "stepladder.json").read_bytes(), cost("tfidf")["fit_seconds"]
    shutil.rmtree("models")
    candidates.train(config)
    assert len(fitted) == 1 and cost("tfidf")["fit_seconds"] == seconds
    assert Path("models", "tfidf", "stepladder.json").read_bytes() == before
    (state,) = (path for path in Path("state", "train").iterdir() if path.is_dir())
    (state / "result" / "val.parquet").chmod(0o644)
    (state / "result" / "val.parquet").write_bytes(b"other")
    candidates.train(config)
    assert len(fitted) == 2 and "val.parquet: expected sha256" in capsys.readouterr().out
    candidates.train({**config, "seed": 9})
    monkeypatch.setenv("STEPLADDER_FRESH", "1")
    candidates.train(config)
    assert len(fitted) == 4
    work.clear()
    assert len(list(Path("state", "train").glob("*/result"))) == 2, "DVC knows of nothing"
    md5 = hashlib.md5(Path("predictions", "val", "tfidf.parquet").read_bytes()).hexdigest()
    known = {"train@tfidf": {"outs": [{"path": "predictions/val/tfidf.parquet", "md5": md5}]}}
    Path("dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": known}))
    work.clear()
    assert not list(Path("state", "train").iterdir())


def test_work_begun_with_other_versions_is_refused_by_their_names(place, choose):
    config = {**choose("baseline", "tfidf"), "candidate": "tfidf"}
    candidates.train(config)
    (file,) = Path("state", "train").glob("*/versions.json")
    records.write_json(json.loads(file.read_text()) | {"torch": "1.0.0"}, file)
    with pytest.raises(IntegrityError, match=r"other versions \(torch 1\.0\.0 -> .*STEPLADDER_FRESH=1 begins anew"):
        candidates.train(config)


def test_work_that_begins_anew_says_what_differs_from_the_newest_of_its_name(place, choose, capsys):
    config = {**choose("baseline", "tfidf"), "candidate": "tfidf", "code": {"level": "a" * 64}}
    records.write_json({"name": "other", "files": {}}, Path("assets", "other.json"))
    shutil.copy("inputs/tfidf.json", "inputs/other.json")
    first = store.sha256(Path("data/films/train.parquet"))

    def anew(changed: dict) -> list[str]:
        capsys.readouterr()
        candidates.train(changed)
        return [line for line in capsys.readouterr().out.splitlines() if "anew" in line]

    assert anew(config) == anew(config) == [], "the first of its name, and the same again"
    slower = {**config, "model": {**config["model"], "C": 0.5}, "code": {"level": "b" * 64}}
    assert anew({**slower, "candidate": "other"}) == [], "of another name"
    assert anew({**slower, "runtime": slower["runtime"] | {"num_threads": 2}}) == [
        "train@tfidf begins anew: model.C 1.0 -> 0.5; code.level aaaaaa -> bbbbbb"
    ]
    assert anew(config) == [], "the first goes on"
    records.write(sentences(26, seed=5), Path("data", "films", "train.parquet"))
    records.write_json(splits.assign("films", None), Path("inputs", "tfidf.json"))
    second = store.sha256(Path("data/films/train.parquet"))
    assert anew(slower) == [f"train@tfidf begins anew: inputs.train.sha256 {first[:6]} -> {second[:6]}"]


def test_changes_are_counted_beyond_the_first_and_name_what_is_not_there():
    old, new = {"a": {"b": None, "c": [1]}, "d": {"e": "x"}}, {"a": {"b": None, "c": [1, 2]}, "d": None}
    assert work.changes(old, new) == "a.c [1] -> [1, 2]; d.e x -> nothing; d nothing -> null"
    assert work.changes(old, old) == ""
    many = work.changes(dict.fromkeys(map(str, range(11)), 0), dict.fromkeys(map(str, range(11)), 1))
    assert many.startswith("0 0 -> 1; ") and many.endswith("7 0 -> 1; and 3 more")


def test_a_history_that_was_told_twice_or_cut_is_whole_again(tmp_path):
    lines = [{"name": "train/loss", "value": 0.5, "step": 1}, {"name": "val/loss", "value": 0.4, "step": 1}]
    lines = [json.dumps(line) for line in [*lines, {"name": "train/loss", "value": 0.3, "step": 2}]]
    (tmp_path / "told").write_text("\n".join([lines[0], lines[1], lines[2][:9], lines[1], lines[2]]) + "\n")
    assert candidates.told_once(tmp_path / "told") == "\n".join(lines) + "\n"


def test_what_is_told_after_half_a_line_is_not_lost(place, choose, monkeypatch):
    level = levels.load("baseline")
    learn = level.fit

    def fit(self, train, val, *, state, log, corpus=None, mixture=None):
        log("val/loss", 0.5, 1, 0)
        return learn(self, train, val, state=state, log=log)

    monkeypatch.setattr(level, "fit", fit)
    sections, state = choose("baseline", "tfidf"), place / "work"
    state.mkdir()
    (state / "history.jsonl").write_text('{"name": "tra')
    files = candidates.Inputs(splits.assign("films", None), None, {})
    candidates.fit(sections, files, made=state / "made", state=state)
    told = (state / "made" / "model" / "history.jsonl").read_text()
    assert [json.loads(line)["value"] for line in told.splitlines()] == [0.5]


def cost(name: str) -> dict:
    return json.loads(Path("runs", name, "train.json").read_text())


def test_a_fit_that_fails_leaves_the_finished_folder_alone(place, choose):
    config = {**choose("baseline", "tfidf"), "candidate": "tfidf"}
    candidates.train(config)
    before = Path("models", "tfidf", "stepladder.json").read_bytes()
    with pytest.raises(KeyError):
        candidates.train({**config, "model": {"name": "tfidf"}})
    assert Path("models", "tfidf", "stepladder.json").read_bytes() == before


def test_training_reads_neither_the_test_file_nor_anything_but_train_and_val(place, choose, monkeypatch):
    opened, read = [], records.read
    monkeypatch.setattr(records, "read", lambda path: opened.append(str(path)) or read(path))
    candidates.train({**choose("baseline", "tfidf"), "candidate": "tfidf"})
    assert opened == ["data/films/train.parquet", "data/films/val.parquet"]


def test_costs_hold_what_was_added_and_are_not_written_for_a_stage_that_failed(tmp_path):
    with runs.measured(tmp_path / "c" / "train.json") as cost, runs.timed(cost, "fit_seconds"):
        cost["num_trials"] = 3
    found = json.loads((tmp_path / "c" / "train.json").read_text())
    assert found["num_trials"] == 3
    assert 0 <= found["fit_seconds"] <= found["seconds"]
    assert found["peak_memory_bytes"] > 1e7
    assert {"host", "git_revision", "versions", "threads", "started", "cpu_seconds"} <= set(found)
    with pytest.raises(ZeroDivisionError), runs.measured(tmp_path / "d" / "train.json"):
        raise ZeroDivisionError
    assert not (tmp_path / "d").exists()
