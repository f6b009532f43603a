"""Registry and serving: what is registered answers as it was measured, alone; what does not is refused."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import polars as pl
import pytest
import yaml

from stepladder import records, splits, store, targets
from stepladder.errors import ConfigError, IntegrityError
from stepladder.rules import HEADED
from tests.conftest import LORA, sentences
from tests.test_levels import rated, several

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader:DeprecationWarning"),  # MLflow 3.17 and SQLAlchemy 2.1
    pytest.mark.filterwarnings("ignore:.*inferred as AnyType:UserWarning"),  # of a class inside MLflow
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # within peft
]
ROOT = Path(__file__).parents[1]
MODEL = "stepladder_films"
PREFIX = {"_target_": "peft.PrefixTuningConfig", "num_virtual_tokens": 3}
PROMPT = {"_target_": "peft.PromptTuningConfig", "num_virtual_tokens": 3, "prompt_tuning_init": "RANDOM"}
LAYERS = {"name": "bottleneck", "places": "houlsby", "reduction_factor": 4, "function": "gelu"}
TWO = {"model": {"kind": "encoder_decoder"}}
BEAMS = {"max_new_tokens": 4, "num_beams": 2}
TALK = {"prompt": {"name": "chat"}, "trainer": {"max_length": 200}}
SIZES = {"train": 24, "val": 8, "test": 12}
CANDIDATES = {
    "lora": ("bert", "classification", {"method": LORA}),
    "frozen": ("bert", "classification", {"method": {"name": "frozen"}}),
    "marks": ("bert", "multilabel", {"method": LORA}),
    "numbers": ("bert", "regression", {"method": {"name": "frozen"}}),
    "words": ("llama", "classification", {"method": LORA}),
    "turns": ("chat", "classification", {"method": LORA, "prompt": {"name": "chat"}}),
    "talker": ("chat", "generation", TALK),
    "writer": ("llama", "generation", {"trainer": {"max_length": 40}}),
    "bytes": ("llama", "language_modeling", {}),
    "prefix": ("llama", "classification", {"method": PREFIX}),
    "prompted writer": ("llama", "generation", {"method": PROMPT, "trainer": {"max_length": 40}}),
    "prefixed writer": ("llama", "generation", {"method": PREFIX, "decoding": BEAMS, "trainer": {"max_length": 40}}),
    "prompted head": ("bert", "classification", {"method": PROMPT}),
    "halves": ("t5", "classification", {**TWO, "method": PREFIX}),
    "halves writer": ("t5", "generation", {**TWO, "method": LORA}),
    "leaning": ("llama", "classification", {"prompt": {"content_free": ["N/A", ""]}}),
    "layers": ("bert", "classification", {"method": LAYERS}),
}
ASK = """
import sys
sys.modules["stepladder"] = None
import json, mlflow, pandas
model = mlflow.pyfunc.load_model(sys.argv[1])
texts = pandas.DataFrame({"input": json.loads(sys.argv[2])})
print(json.dumps(model.predict(texts).to_dict("records")))
"""


@pytest.fixture(scope="module")
def place(empty_store, tiny, choose, tmp_path_factory) -> Path:
    """A repository with tiny trained and evaluated candidates."""
    from stepladder import levels

    root = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("DVC_ROOT", str(root))
        for name, (model, task, changes) in CANDIDATES.items():
            parts = {part: data(task, number, seed) for seed, (part, number) in enumerate(SIZES.items())}
            for part, frame in parts.items():
                records.write(frame, Path("data", task, f"{part}.parquet"))
            records.write_json(splits.assign(task, None), Path("inputs", f"{name}.json"))
            kind = "prompt" if name == "leaning" else "finetune"
            sections = choose(kind, model, task=task, **changes)
            sections["task"] |= {"turns": True} if name == "talker" else {}
            records.write_text(yaml.safe_dump(sections), Path("build", f"{name}.yaml"))
            level = levels.load(kind)(sections, base=tiny / model)
            level.fit(parts["train"], parts["val"], state=root / "state", log=lambda *_: None)
            level.save(Path("models", name))
            store.seal(Path("models", name))
            records.write(level.predict(parts["test"]), Path("predictions", "test", f"{name}.parquet"))
    return root


def data(task: str, number: int, seed: int) -> pl.DataFrame:
    frame = sentences(number, seed=seed)
    if task in HEADED:
        return frame.with_columns((several if task == "multilabel" else rated)(frame).alias("target"))
    return frame if task == "classification" else frame.with_columns(target=pl.col("input").str.slice(0, 9))


@pytest.fixture
def runs(empty_store, place, tmp_path, monkeypatch):
    """A new store with a run of each candidate."""
    import mlflow

    from stepladder.tracking import Entry, Tracker

    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("stepladder.provenance.of", lambda *_: {})  # of a whole run; tests of their own have one
    monkeypatch.setattr("stepladder.materials.bill", lambda *_: "{}")
    monkeypatch.setattr("stepladder.report.card.markdown", lambda _: "---\nlicense: mit\n---\n\n# a card\n\n## Data\n")
    told = {"candidates": ["lora"], "data": {"name": "films"}}
    records.write_text(yaml.safe_dump(told), Path("build", "compare", "compare.yaml"))
    one = Tracker(experiment="tiny")
    yield {name: one.tell(Entry(name=name, key=f"{name}-1", params={})) for name in CANDIDATES}
    mlflow.set_tracking_uri(None)


def register(runs: dict, candidate: str, *, passed: bool = True, **rules) -> dict:
    from stepladder import registry

    reason = "it beats the baseline" if passed else "it does not"
    outcome = {"candidate": candidate, "passed": passed, "reason": reason, "conditions": []}
    gate = {"confidence": 0.95, "num_resamples": 200, "min_difference": 0.0, "champion": None, "margin": 0.0} | rules
    board = {"registration": outcome, "task": CANDIDATES[candidate][1], "metric": "accuracy", "gate": gate, "seed": 1}
    records.write_json(board, Path("reports", "leaderboard.json"))
    return registry.register(runs, model=MODEL)


def versions() -> dict[str, list[str]]:
    """Return {candidate: aliases} of the registered versions."""
    from stepladder.tracking import Tracker

    client = Tracker(experiment="tiny").client
    found = client.search_model_versions(f"name = '{MODEL}'")
    return {v.tags["candidate"]: client.get_model_version(MODEL, v.version).aliases for v in found}


def test_the_first_version_is_champion_the_same_is_not_made_twice_and_another_is_challenger(runs, capsys, monkeypatch):
    import mlflow

    from stepladder import registry

    assert register(runs, "lora") == {
        "candidate": "lora", "passed": True, "reason": "it beats the baseline", "conditions": [], "model": MODEL,
    }  # fmt: skip
    assert versions() == {"lora": ["champion"]}
    register(runs, "lora")
    assert versions() == {"lora": ["champion"]}
    assert len(mlflow.MlflowClient().search_model_versions(f"name = '{MODEL}'")) == 1
    assert mlflow.get_run(runs["lora"]).info.status == "FINISHED"
    experiment = mlflow.get_run(runs["lora"]).info.experiment_id
    logged = mlflow.search_logged_models(output_format="list", experiment_ids=[experiment])
    assert [model.status for model in logged] == ["READY"]
    (version,) = mlflow.MlflowClient().search_model_versions(f"name = '{MODEL}'")
    assert version.description == "# a card"
    served = answers(f"models:/{MODEL}@champion", read("lora")["input"].to_list())
    same(served, "lora")
    monkeypatch.setattr(registry, "_check", lambda *_: None)  # seconds; a test of its own refuses and accepts
    register(runs, "frozen")
    assert versions() == {"lora": ["champion"], "frozen": ["challenger"]}
    register(runs, "lora")
    assert versions() == {"lora": ["champion"], "frozen": ["challenger"]}
    out = capsys.readouterr().out
    assert out.count("registered models:/") == 2 and out.count("exporting, logging and asking again: lora\n") == 1


@pytest.mark.capability(32)
def test_a_champion_is_asked_the_same_rows_and_a_challenger_is_promoted_and_rolled_back(runs, monkeypatch, capsys):
    import mlflow

    from stepladder import champion, registry

    monkeypatch.setattr(registry, "_check", lambda *_: None)  # seconds; a test of its own refuses and accepts
    told = read("lora").with_columns(target=pl.lit("good"))
    for name, answer in (("lora", "good"), ("frozen", "bad")):  # by its files the champion answers otherwise
        file = Path("predictions", "test", f"{name}.parquet")
        records.write(pl.read_parquet(file).with_columns(target=pl.lit("good"), answer=pl.lit(answer)), file)
    records.write(told, Path(json.loads(Path("inputs", "lora.json").read_text())["test"]["path"]))
    monkeypatch.setattr(registry, "_asked", lambda uri, rows: championed(rows, "good"))
    assert register(runs, "lora", champion="superior")["conditions"] == []  # there is no champion yet
    for rule, margin, reached in (("superior", 0.0, 0.0), ("non_inferior", 0.3, -0.3)):
        worse = register(runs, "frozen", champion=rule, margin=margin)
        (condition,) = worse["conditions"]
        assert not worse["passed"] and condition["at_least"] == reached and condition["value"] == -1.0
        assert "accuracy over the champion, version 1 is -1 (low)" in worse["reason"]
    shut = register(runs, "frozen", passed=False, champion="superior")
    assert shut["conditions"] == [c | {"at_least": 0.0} for c in worse["conditions"]], "asked although the gate is shut"
    assert shut["reason"].startswith("it does not; the gate is shut: accuracy over the champion") and not shut["passed"]
    assert versions() == {"lora": ["champion"]}
    monkeypatch.setattr(registry, "_asked", lambda uri, rows: championed(rows, "bad"))
    other = register(runs, "frozen", passed=False, champion="superior", min_difference=0.0)
    assert not other["passed"] and other["conditions"][0]["value"] == 0.0
    assert register(runs, "frozen", champion="non_inferior", margin=0.01)["passed"]  # both answer alike
    assert versions() == {"lora": ["champion"], "frozen": ["challenger"]}
    client = mlflow.MlflowClient()
    kept = json.loads(client.get_model_version(MODEL, "2").tags[registry.CONDITIONS])
    assert kept[0]["passed"] and kept[0]["value"] == 0.0
    again = register(runs, "frozen", champion="non_inferior", margin=0.01)
    assert again["conditions"] == kept, "what was registered already is told as it was"
    assert champion.promote(MODEL).endswith("version 2: frozen")
    assert register(runs, "frozen", champion="superior")["conditions"] == [], "it is no challenger of itself"
    assert versions() == {"lora": [], "frozen": ["champion"]}
    assert champion.promote(MODEL, version="1").endswith("version 1: lora")
    assert versions() == {"lora": ["champion"], "frozen": []}
    with pytest.raises(ConfigError, match=r"has no challenger; name a version with --to. Known: .*1 \(lora\)"):
        champion.promote(MODEL)
    with pytest.raises(ConfigError, match=f"{MODEL} has no version '7'. Known: "):
        champion.promote(MODEL, version="7")
    assert versions() == {"lora": ["champion"], "frozen": []}


def championed(rows: pl.DataFrame, answer: str) -> dict[str, list]:
    return {"answer": [answer] * len(rows), "bad": [0.5] * len(rows), "good": [0.5] * len(rows)}


def test_a_champion_of_other_labels_shuts_the_gate_in_a_line(runs, monkeypatch):
    from stepladder import registry

    monkeypatch.setattr(registry, "_check", lambda *_: None)
    register(runs, "lora")
    other = {"ja": [0.5] * 12, "nein": [0.5] * 12}
    monkeypatch.setattr(registry, "_asked", lambda uri, rows: {"answer": ["ja"] * len(rows), **other})
    outcome = register(runs, "frozen", champion="non_inferior", margin=0.01)
    (condition,) = outcome["conditions"]
    assert condition["value"] is None and not outcome["passed"] and versions() == {"lora": ["champion"]}
    assert "version 1 answers other labels than frozen: set gate.champion: null" in outcome["reason"]
    assert "accuracy over the champion, version 1 was not measured, wanted at least -0.01" in outcome["reason"]


@pytest.mark.capability(32)
def test_promote_is_typed_forth_and_back(runs, monkeypatch):
    from stepladder import registry

    monkeypatch.setattr(registry, "_check", lambda *_: None)
    for name in ("lora", "frozen"):
        register(runs, name)
    assert versions() == {"lora": ["champion"], "frozen": ["challenger"]}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for words, line in (([], "version 2: frozen"), (["--to", "1"], "version 1: lora")):
        command = [sys.executable, "-m", "pipelines.promote", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0 and done.stdout == f"models:/{MODEL}@champion is {line}\n", done.stderr
    assert versions() == {"lora": ["champion"], "frozen": []}


@pytest.mark.capability(33)
def test_the_champion_is_served_over_http_and_asked_for_a_file_as_it_was_measured(runs, monkeypatch, tmp_path):
    from stepladder import registry

    monkeypatch.setattr(registry, "_check", lambda *_: None)
    register(runs, "lora")
    rows = read("lora")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command, place = [sys.executable, "-m", "pipelines.serve", "--port", port], f"http://127.0.0.1:{port}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, start_new_session=True)
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{place}/health", timeout=5)
                break
            assert server.poll() is None, server.stderr.read()
            time.sleep(0.5)
        asked = json.dumps({"dataframe_records": rows.select("input").to_dicts()}).encode()
        question = urllib.request.Request(f"{place}/invocations", asked, {"Content-Type": "application/json"})
        same(json.load(urllib.request.urlopen(question, timeout=60))["predictions"], "lora")
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()
    rows.select("input").write_csv(tmp_path / "asked.csv")
    words = ["-m", "pipelines.predict", tmp_path / "asked.csv", tmp_path / "answers.jsonl"]
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"12 rows answered by models:/{MODEL}/1" in done.stdout, done.stderr
    same(pl.read_ndjson(tmp_path / "answers.jsonl").to_dicts(), "lora")


@pytest.mark.capability(32)
def test_a_champion_that_is_asked_in_a_fresh_process_equals_itself(runs, monkeypatch):
    from stepladder import registry

    monkeypatch.setattr(registry, "_check", lambda *_: None)
    register(runs, "lora")
    shutil.copy(Path("predictions", "test", "lora.parquet"), Path("predictions", "test", "frozen.parquet"))
    (condition,) = register(runs, "frozen", champion="non_inferior", margin=0.01)["conditions"]
    assert condition["passed"] and condition["value"] == 0.0


def read(name: str) -> pl.DataFrame:
    return records.read(json.loads(Path("inputs", f"{name}.json").read_text())["test"]["path"])


def answers(uri: str, texts: list[str]) -> list[dict]:
    command = [sys.executable, "-W", "ignore", "-c", ASK, uri, json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def same(served: list[dict], name: str) -> None:
    measured = pl.read_parquet(Path("predictions", "test", f"{name}.parquet"))
    kept = [targets.written(row["answer"]) if isinstance(row["answer"], list) else row["answer"] for row in served]
    assert kept == measured["answer"].to_list()
    if "probabilities" in measured.columns:
        for row, shares in zip(served, measured["probabilities"], strict=True):
            assert {label: row[label] for label in shares} == pytest.approx(shares, abs=1e-4)


@pytest.mark.parametrize("name", [name for name in CANDIDATES if name not in ("lora", "bytes")])
def test_every_form_is_served_as_it_was_measured(name, runs, tmp_path, monkeypatch):
    from stepladder import answering, registry

    for file in registry.CODE:
        shutil.copy(Path(registry.__file__).with_name(file), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    answering.load(Path("models", name)).export(tmp_path / "out")
    same(in_process(tmp_path / "out", read(name)["input"].to_list()), name)


def in_process(folder: Path, texts: list[str]) -> list[dict]:
    """Answer with serving.py as MLflow would, without the seconds of another process."""
    from types import SimpleNamespace

    import pandas

    from stepladder import serving

    model = serving.Answers()
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    return model.predict(None, pandas.DataFrame({"input": texts})).to_dict("records")


@pytest.mark.parametrize("name", ["prefix", "layers", "talker"])
def test_what_cannot_be_merged_is_registered_beside_its_base_with_the_code_it_needs(name, runs):
    register(runs, name)
    assert versions() == {name: ["champion"]}
    same(answers(f"models:/{MODEL}@champion", read(name)["input"].to_list()), name)


@pytest.mark.capability(47)
def test_a_model_that_was_tampered_with_is_refused_and_leaves_no_version(runs):
    from safetensors.torch import load_file, save_file

    file = Path("models", "frozen", "head.safetensors")
    weights = load_file(file)
    file.unlink()
    save_file({key: -weight for key, weight in weights.items()}, file)
    with pytest.raises(IntegrityError, match=r"models/frozen/head.safetensors: expected sha256 \w{64}, found \w{64}"):
        register(runs, "frozen")
    (file.parent / store.MANIFEST).unlink()
    store.seal(file.parent)
    with pytest.raises(IntegrityError, match=r"only 0.0% of 12 answers equal those .*; not registered"):
        register(runs, "frozen")
    assert versions() == {}


def test_a_model_that_cannot_be_opened_again_is_refused_in_one_line(runs, monkeypatch):
    from stepladder import registry

    monkeypatch.setattr(registry, "ASK", "raise ValueError('no such thing')")
    with pytest.raises(IntegrityError, match=r"cannot be opened again .ValueError: no such thing.; not registered"):
        register(runs, "frozen")
    assert versions() == {}


def test_a_registration_that_was_interrupted_before_its_alias_is_completed(runs, monkeypatch):
    import mlflow

    from stepladder import registry

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry, "_check", lambda *_: None)

    with monkeypatch.context() as patch:
        patch.setattr(mlflow.MlflowClient, "set_registered_model_alias", interrupted)
        with pytest.raises(KeyboardInterrupt):
            register(runs, "frozen")
    assert versions() == {"frozen": []}
    register(runs, "frozen")
    assert versions() == {"frozen": ["champion"]}


def test_a_version_that_the_registry_lost_is_named_with_the_command_that_registers_it_again(runs, monkeypatch):
    from stepladder import registry
    from stepladder.tracking import Tracker

    assert registry.lost(runs) is None  # nothing was registered yet
    monkeypatch.setattr(registry, "_check", lambda *_: None)
    outcome = register(runs, "frozen")
    records.write_json(outcome, Path("reports", "registered.json"))
    assert registry.lost(runs) is None
    Tracker(experiment="tiny").client.delete_registered_model(MODEL)
    assert registry.lost(runs) == f"{MODEL} has no version of frozen; to register it again: dvc repro -f -s register"
    records.write_json(outcome | {"passed": False}, Path("reports", "registered.json"))
    assert registry.lost(runs) is None


def test_nothing_is_registered_when_the_gate_says_no_or_there_is_nothing_to_serve(runs):
    assert register(runs, "lora", passed=False) == {
        "candidate": "lora", "passed": False, "reason": "it does not", "conditions": [], "model": MODEL,
    }  # fmt: skip
    outcome = register(runs, "bytes")
    assert not outcome["passed"]
    assert outcome["reason"].startswith("bytes models raw text")
    assert versions() == {}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"form": "remote"}, "writer stands behind an API, whose model is not ours to keep; ask it there; it beats"),
        ({"decoding": {"gguf": "mine.gguf", "sha256": "0" * 64}}, "writer writes by llama.cpp, whose GGUF file no"),
    ],
)
def test_what_no_version_can_hold_is_a_line_of_the_gate(told, words, runs):
    file = Path("models", "writer", "stepladder.json")
    saved = json.loads(file.read_text())
    records.write_json(saved | told, file)
    (file.parent / store.MANIFEST).unlink()
    store.seal(file.parent)
    outcome = register(runs, "writer")
    assert not outcome["passed"] and outcome["reason"].startswith(words)
    assert versions() == {}


def test_a_conversation_is_served_as_it_was_measured(runs, tmp_path, monkeypatch):
    from stepladder import answering, registry
    from tests.test_conversations import talks

    for file in registry.CODE:
        shutil.copy(Path(registry.__file__).with_name(file), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    asked = pl.concat([talks(9, seed=5), talks(2, seed=6).with_columns(input=pl.lit("[{a plain question"))])
    answerer = answering.load(Path("models", "talker"))
    measured = {}
    for room in (200, 130, 100):  # what is too long loses its first turns
        answerer.description["inference"]["max_length"] = answerer.objective.max_length = room
        measured[room] = answerer.predict(asked)["answer"].to_list()
        answerer.export(tmp_path / str(room))
        served = in_process(tmp_path / str(room), asked["input"].to_list())
        assert [row["answer"] for row in served] == measured[room]
    assert measured[200] != measured[100]


def test_a_text_that_is_too_long_is_served_as_it_was_measured(runs, tmp_path):
    from stepladder import answering

    long = read("words").head(3).with_columns(pl.col("input") + pl.lit(" every scene of it" * 30))
    for name in ("lora", "words", "writer"):
        answerer = answering.load(Path("models", name))
        measured = answerer.predict(long)
        answerer.export(tmp_path / name)
        served = in_process(tmp_path / name, long["input"].to_list())
        assert [row["answer"] for row in served] == measured["answer"].to_list()
        if name != "writer":
            for row, shares in zip(served, measured["probabilities"], strict=True):
                assert {label: row[label] for label in shares} == pytest.approx(shares, abs=1e-4)
