"""Search: the grid picks the best by validation, writes whole sections, and never opens the test file."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
import yaml

from stepladder import (
    by_hand,
    candidates,
    compose,
    dialects,
    doctor,
    examples,
    exporter,
    learner,
    levels,
    records,
    search,
    spaces,
    splits,
    store,
    study,
)
from stepladder.errors import ConfigError
from tests.conftest import LORA, sentences

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for seed, (part, number) in enumerate({"train": 48, "val": 24, "test": 10}.items()):
        frame = sentences(number, seed=seed)
        texts = frame.with_columns(target=pl.col("input").str.slice(0, 9))
        records.write(frame, Path("data", "films", f"{part}.parquet"))
        records.write(texts, Path("data", "texts", f"{part}.parquet"))
    for name, model, data in (("lora", "bert", "films"), ("writer", "llama", "texts")):
        records.write_json(splits.assign(data, None), Path("inputs", f"{name}.json"))
        asset = {"name": model, "folder": str(tiny / model), "files": store.hashes(tiny / model)}
        records.write_json(asset, Path("assets", f"{name}.json"))
    return tmp_path


def trial(config: dict, changes: dict) -> dict:
    """Change dotted keys, as composing again with these words on top does."""
    found = json.loads(json.dumps(config))
    for key, value in changes.items():
        *groups, last = key.split(".")
        section = found
        for group in groups:
            section = section[group]
        section[last] = value
    return found


def lora(choose, parts: dict | None = None, **sweep) -> dict:
    """Return a candidate that searches its learning rate by TPE."""
    given = {"parameters": {"optimizer.learning_rate": "tag(log, interval(1e-4, 1e-2))"}, "sampler": "tpe"}
    given |= {"n_trials": 4, "max_rows": 16, "max_epochs": 1}
    return {**choose("finetune", "bert", **(parts or {})), "candidate": "lora", "sweep": given | sweep}


def table() -> pl.DataFrame:
    return pl.read_parquet("reports/trials/lora.parquet")


@pytest.mark.capability(24)
def test_the_best_on_val_is_written_as_whole_sections_and_test_is_never_read(place, choose, monkeypatch, capsys):
    opened, read = [], records.read
    monkeypatch.setattr(records, "read", lambda path: opened.append(str(path)) or read(path))
    sweep = {
        "parameters": {"optimizer.learning_rate": [1e-12, 0.01], "trainer.gradient_clip": [0.5, None]},
        "max_rows": 32, "max_epochs": 20,
    }  # fmt: skip
    config = {**choose("finetune", "bert", trainer={"patience": 20}), "candidate": "lora", "sweep": sweep}
    search.sweep(config, trial)
    table = pl.read_parquet("reports/trials/lora.parquet")
    assert table.columns == [
        "trial",
        "state",
        "optimizer.learning_rate",
        "trainer.gradient_clip",
        "score",
        "loss",
        "fault",
    ]
    assert len(table) == 4
    best = table.row(table["score"].arg_max(), named=True)
    found = yaml.safe_load(Path("tuned", "lora.yaml").read_text())
    sections, cost = found["sections"], json.loads(Path("runs", "lora", "sweep.json").read_text())
    assert cost["key"] == found["key"]
    assert best["optimizer.learning_rate"] == 0.01
    assert sections == {
        "optimizer": {**config["optimizer"], "learning_rate": 0.01},
        "trainer": {**config["trainer"], "gradient_clip": best["trainer.gradient_clip"]},
    }
    assert sections["trainer"]["max_epochs"] == 1  # the sweep's own, short or long, is not the candidate's
    assert set(opened) == {"data/films/train.parquet", "data/films/val.parquet"}
    assert candidates.tuned(config)["optimizer"]["learning_rate"] == 0.01
    assert "trial 4 of 4: " in capsys.readouterr().out
    assert cost["num_trials"] == 4
    assert cost["trial_seconds"] > 0
    assert not list(Path("state", "sweep").glob("*/fit")), "weights of trials are not kept"


@pytest.mark.capability(24)
def test_a_search_that_was_stopped_tries_no_trial_twice(place, choose, monkeypatch):
    sweep = {"parameters": {"optimizer.learning_rate": [1e-3, 2e-3, 3e-3]}, "max_rows": 16, "max_epochs": 1}
    config = {**choose("finetune", "bert"), "candidate": "lora", "sweep": sweep}
    search.sweep(config, trial)
    whole, tuned = pl.read_parquet("reports/trials/lora.parquet"), Path("tuned", "lora.yaml").read_text()
    shutil.rmtree("state")
    tried, real = [], search._tried

    def dies(config, files, sections, *words):
        tried.append(sections["optimizer"]["learning_rate"])
        if len(tried) == 3:
            raise KeyboardInterrupt
        return real(config, files, sections, *words)

    monkeypatch.setattr(search, "_tried", dies)
    with pytest.raises(KeyboardInterrupt):
        search.sweep(config, trial)
    search.sweep(config, trial)
    assert tried == [3e-3, 1e-3, 2e-3, 2e-3], "the candidate's own is first"
    assert (
        pl.read_parquet("reports/trials/lora.parquet").equals(whole) and Path("tuned", "lora.yaml").read_text() == tuned
    )


def searching(**parameters) -> dict:
    """Return a composed candidate, LoRA on MiniLM, that searches these keys."""
    row = {"level": "finetune", "model": "minilm", "sweep": "lora", "set": {"sweep": {"parameters": parameters}}}
    return compose.candidate("lora", dialects.read(compose.CONF.parent / "params.yaml") | {"candidates": {"lora": row}})


def test_a_winning_option_brings_along_the_sections_that_it_switches(place, monkeypatch):
    monkeypatch.setattr(search, "_tried", lambda config, files, made, *_: float(made["method"] == {"name": "full"}))
    config = searching(method=["lora", "full"])
    search.sweep(config, compose.trial)
    found, won = candidates.tuned(config), compose.compose(["method=full"])
    assert (found["method"], found["optimizer"]) == ({"name": "full"}, won["optimizer"])
    assert {name for name in found if found[name] != config[name]} == {"method", "optimizer"}


def test_a_candidate_without_a_sweep_keeps_what_it_has(place, choose):
    config = {**choose("finetune", "bert"), "candidate": "lora"}
    search.sweep(config, trial)
    assert Path("tuned", "lora.yaml").read_text() == "sections: {}\n"
    assert candidates.tuned(config) == config
    assert pl.read_parquet("reports/trials/lora.parquet").is_empty()
    assert not Path("runs").exists()


def test_a_task_of_texts_is_judged_by_its_metric_though_training_watches_the_loss(place, choose):
    sweep = {"parameters": {"optimizer.learning_rate": [1e-3, 3e-3]}, "max_rows": 16, "max_epochs": 1}
    search.sweep({**choose("finetune", "llama", task="generation"), "candidate": "writer", "sweep": sweep}, trial)
    assert pl.read_parquet("reports/trials/writer.parquet")["score"].is_between(0, 100).all()


@pytest.fixture
def seen(monkeypatch) -> list[dict]:
    """Let a level that learns nothing stand in for each; the sections and the number of train rows of each fit."""
    found = []

    class Level:
        def __init__(self, sections, *, base):
            self.sections = sections

        def fit(self, train, val, *, state, log, corpus, mixture):
            found.append({**self.sections, "num_rows": len(train)})
            self.validated = pl.DataFrame({"target": ["good", "bad"], "answer": ["good", "good"]})
            return {"best_loss": 0.5, "tokens_seen": 0}

    monkeypatch.setattr(levels, "load", lambda name: Level)
    return found


@pytest.mark.parametrize(
    ("limits", "own", "expected"),
    [
        ({"max_rows": None, "max_epochs": None}, None, (48, 1)),
        ({"max_rows": None, "max_epochs": 2}, 16, (16, 2)),
        ({"max_rows": 16, "max_epochs": 1}, 32, (16, 1)),
        ({"max_rows": 32, "max_epochs": 1}, 16, (16, 1)),
    ],
)
def test_a_trial_is_as_long_as_the_sweep_says_and_sees_no_row_beyond_the_candidates(
    place, choose, seen, limits, own, expected
):
    sweep = {"parameters": {"optimizer.learning_rate": [1e-3]}, **limits}
    config = choose("finetune", "bert", data={"max_rows": own})
    search.sweep({**config, "candidate": "lora", "sweep": sweep}, trial)
    assert [(each["num_rows"], each["trainer"]["max_epochs"]) for each in seen] == [expected]


def test_texts_and_lists_are_values_of_one_key_and_reach_the_trials_as_they_are(place, seen):
    modules = ["all-linear", ["query", "it's"]]
    search.sweep(searching(**{"method.target_modules": modules}), compose.trial)
    assert [each["method"]["target_modules"] for each in seen] == modules
    assert len(pl.read_parquet("reports/trials/lora.parquet")) == 2


@pytest.mark.capability(24)
def test_the_candidates_own_values_come_first_then_those_that_are_known_then_the_samplers(place, choose, seen):
    search.sweep(lora(choose, enqueue=[{"optimizer.learning_rate": 5e-3}]), trial)
    rates = table()["optimizer.learning_rate"].to_list()
    assert rates[:2] == [3e-3, 5e-3] and len({*rates}) == 4
    assert [each["optimizer"]["learning_rate"] for each in seen] == rates
    assert candidates.tuned(lora(choose))["optimizer"]["learning_rate"] == 3e-3, "of equals the first"


def test_more_trials_go_on_with_the_study_that_is_there(place, choose, seen):
    search.sweep(lora(choose), trial)
    first = table()
    search.sweep(lora(choose, n_trials=6), trial)
    assert len(seen) == 6 and table()[:4].equals(first)
    search.sweep(lora(choose), trial)
    assert len(seen) == 6 and table().equals(first), "what was tried is not tried again"


def test_what_a_time_limit_ended_is_marked_as_not_reproducible(place, choose, seen):
    search.sweep(lora(choose, max_seconds=1e-6), trial)
    assert yaml.safe_load(Path("tuned", "lora.yaml").read_text())["reproducible"] is False
    assert len(table()) == 1


def test_a_trial_whose_loss_is_lost_is_a_row_and_not_the_end(place, choose):
    rates = {"optimizer.learning_rate": [3e-3, 1e6]}
    search.sweep(lora(choose, parameters=rates, sampler="grid", n_trials=None, max_failure_rate=0.5), trial)
    assert table()["state"].to_list() == ["complete", "failed"]
    assert table()["fault"][0] is None and "learning rate" in table()["fault"][1]
    with pytest.raises(ConfigError, match=r"1 of 2 trials failed; trial 1: .*learning rate .*lower optimizer.learn"):
        search.sweep(lora(choose, parameters=rates, sampler="grid", n_trials=None), trial)


@pytest.mark.capability(24)
def test_a_pruned_trial_ends_after_the_validation_that_condemned_it_and_is_not_fitted_again(place, choose, monkeypatch):
    parts = {"trainer": {"checks_per_epoch": 4, "monitor": "accuracy"}}
    rates = {"optimizer.learning_rate": [1e-12, 0.3, 0.5]}
    config = lora(choose, parts, parameters=rates, sampler="grid", n_trials=None, pruner="halving")
    config["sweep"] |= {"max_rows": None, "max_epochs": 3}
    config["task"] = config["task"] | {"metric": "log_loss"}
    steps, step = [], learner.Learner.training_step
    monkeypatch.setattr(learner.Learner, "training_step", lambda *words: steps.append(1) or step(*words))
    search.sweep(config, trial)
    assert table()["state"].to_list() == ["complete", "pruned", "pruned"]
    assert len(steps) < 18 + 2 * 6, "each of the pruned ones was spared most of its 18 steps"
    num_steps = len(steps)
    search.sweep(config, trial)
    assert len(steps) == num_steps


@pytest.mark.capability(24)
def test_a_run_typed_by_hand_reports_to_its_study_and_may_be_pruned(place, choose, tiny, monkeypatch):
    """What --multirun does in each job: join the study of the sweeper, train, and end where the pruner says so."""
    monkeypatch.setattr(exporter, "beside", lambda *_: contextlib.nullcontext({}))
    plan = study.Plan(seed=0, sampler="grid", pruner="halving", num_checks=8)
    file, space = place / "study.log", spaces.of({"parameters": {"optimizer.learning_rate": [1e-12, 0.3, 0.5]}})
    section = {"name": "bert", "kind": "encoder", "asset": {"kind": "local", "path": str(tiny / "bert")}}
    pace = {"trainer": {"checks_per_epoch": 4, "monitor": "accuracy", "max_epochs": 2, "patience": 9}, "model": section}
    config = {**choose("finetune", "bert", **pace), "candidate": None}
    config["model"]["conversion"], config["task"] = None, config["task"] | {"metric": "log_loss"}

    def jobs(asked):
        for one, point in asked:
            changed, output = trial(config, point), place / f"job{one.number}"
            try:
                joins = by_hand.Trial(str(file), "s", "halving", one.number)
                yield by_hand.train(changed, output, trial=joins)["log_loss"]
            except study.pruned() as stopped:
                assert stopped.status == "KILLED"  # as MLflow is told
                yield stopped

    trials = study.run(study.open_study(file, "s", plan), space, plan, jobs)
    assert [each.state.name for each in trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert len(trials[1].intermediate_values) == 2 < len(trials[0].intermediate_values)
    assert not [path for path in Path("state", "train").iterdir() if path.is_dir()], "nobody goes on with them"
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.pruner=halving: a trial here validates once"):
        by_hand.train(
            choose("finetune", "bert", model=section), place, trial=by_hand.Trial(str(file), "s", "halving", 0)
        )


OPENS = """
import json, sys
opened = set()
sys.addaudithook(lambda event, words: opened.add(str(words[0])) if event == "open" else None)
from pathlib import Path
from tests.test_search import trial
from stepladder import search
search.sweep(json.loads(Path("config.json").read_text()), trial)
print(json.dumps(sorted(opened)))
open("data/films/test.parquet", "rb").close()
print(json.dumps(sorted(opened)))
"""


@pytest.mark.capability(24)
def test_a_process_that_searches_opens_no_file_of_test(place, choose):
    records.write_json(lora(choose, n_trials=1), Path("config.json"))
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", "DVC_ROOT": str(place)}
    command = [sys.executable, "-c", OPENS]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=True)
    searched, control = (set(map(Path, json.loads(line))) for line in done.stdout.splitlines()[-2:])
    test = Path("data", "films", "test.parquet")
    assert {test.with_name("train.parquet"), test.with_name("val.parquet")} <= {*searched}
    assert test not in searched and test in control, "the hook hears it where it is opened"


TEMPLATES = [
    "{input_name}: {input}\n{answer_name}:",
    "{input}",
    "Text: {input}\nLabel: good\n\n{answer_name}",
    "{input} is",
]


@pytest.mark.capability(4, 24)
def test_a_search_over_prompts_finds_one_that_beats_the_first_on_val_and_train_asks_by_it(place, choose):
    records.write_json(splits.assign("films", None), Path("inputs", "writer.json"))  # labels, for a decoder
    space = {"prompt.num_shots": "range(0, 3)", "prompt.template": TEMPLATES}
    sweep = {"parameters": space, "max_rows": None, "max_epochs": None}
    config = {**choose("prompt", "llama", trainer={"max_length": 200}), "candidate": "writer", "sweep": sweep}
    search.sweep(config, trial)
    tried = pl.read_parquet("reports/trials/writer.parquet")
    first, best = tried["score"][0], tried["score"].max()
    assert tried.row(0, named=True)["prompt.template"] == config["prompt"]["template"], "its own is the first"
    assert len(tried) == 12 and best > first
    found = candidates.tuned(config)
    won = tried.row(tried["score"].arg_max(), named=True)
    assert {key: found["prompt"][key] for key in ("template", "num_shots")} == {
        key: won[f"prompt.{key}"] for key in ("template", "num_shots")
    }
    assert candidates.train(config)["accuracy"] == best, "what train asks by it is what the trial was told"


def test_how_much_each_key_mattered_stands_beside_the_sections_that_won(place, choose, monkeypatch):
    monkeypatch.setattr(search, "_tried", lambda config, files, made, *_: 1 - made["optimizer"]["learning_rate"])
    space = {"optimizer.learning_rate": [0.9, 0.1, 0.5], "trainer.gradient_clip": [1.0, 2.0]}
    search.sweep(lora(choose, parameters=space, sampler="grid", n_trials=None), trial)
    found = yaml.safe_load(Path("tuned", "lora.yaml").read_text())
    assert found["sections"]["optimizer"]["learning_rate"] == 0.1
    assert list(found["importance"]) == list(space) and found["importance"]["optimizer.learning_rate"] > 0.9


def test_the_numbers_of_a_baseline_are_searched_and_train_takes_those_that_won(place, choose):
    records.write_json(splits.assign("films", None), Path("inputs", "tfidf.json"))
    records.write_json({"name": "tfidf", "folder": None, "files": {}}, Path("assets", "tfidf.json"))
    space = {"model.C": "tag(log, interval(1e-6, 100.0))", "model.ngram_max": "range(1, 4)"}
    sweep = {"parameters": space, "sampler": "random", "n_trials": 6, "max_rows": None, "max_epochs": None}
    config = {**choose("baseline", "tfidf", model={"C": 1e-6}), "candidate": "tfidf", "sweep": sweep}
    search.sweep(config, trial)
    table = pl.read_parquet("reports/trials/tfidf.parquet")
    best = table.row(table["score"].arg_max(), named=True)
    assert best["model.C"] > 1e-6 and best["score"] > table["score"][0], "the candidate's own is first"
    (section,) = yaml.safe_load(Path("tuned", "tfidf.yaml").read_text())["sections"].values()
    assert section == {**config["model"], "C": best["model.C"], "ngram_max": best["model.ngram_max"]}
    candidates.train(config)
    assert json.loads(Path("models", "tfidf", "stepladder.json").read_text())["model"] == section


STARTS_S = 0.4  # CPU-seconds; .2 is the goal on one core, and a second machine is slower


@pytest.mark.parametrize("method", ["frozen", "lora"])
def test_a_second_trial_begins_its_steps_at_once(place, choose, monkeypatch, method):
    spent, real, began = [], learner.Learner.training_step, {}

    def step(own, *given):
        if began:
            spent.append(time.process_time() - began.pop("at"))
        return real(own, *given)

    def asked(config, changes):
        began["at"] = time.process_time()
        return trial(config, changes)

    monkeypatch.setattr(learner.Learner, "training_step", step)
    chosen = {"name": "frozen"} if method == "frozen" else LORA
    search.sweep(lora(choose, {"method": chosen}, n_trials=3), asked)
    assert len(spent) == 3 and max(spent[1:]) < STARTS_S, spent


def test_trials_on_equal_records_share_their_examples_and_others_do_not(place, choose, monkeypatch):
    looked, real = [], doctor.encoded
    monkeypatch.setattr(doctor, "encoded", lambda *given: looked.append(1) or real(*given))
    search.sweep(lora(choose), trial)
    assert len(looked) == 1
    shared = table()
    for number, change in enumerate(
        ({"max_rows": 24}, {"parameters": {"trainer.max_length": [16, 24]}, "sampler": "grid"})
    ):
        looked.clear()
        search.sweep(lora(choose, **change), trial)
        assert len(looked) == 1 + number, "other rows, or tokens, are looked at anew"
    monkeypatch.setattr(examples, "_asked", lambda *_: None)
    shutil.rmtree("state")
    search.sweep(lora(choose), trial)
    assert table().equals(shared), "the same trials where each makes its own"
