"""strict: what a person types wrongly is refused at once, all of it: place, value, what is allowed, nearest name."""

import os
import re
import subprocess
import sys
import time

import pytest

from stepladder import compose, dialects, schema, shipped, signatures, strict, typed
from stepladder.errors import ConfigError

ROOT = compose.CONF.parent
BASE = {
    "seed": 42,
    "data": "reviews",
    "datasets": ["plain_english"],
    "set": {},
    "candidates": {"majority": {"level": "baseline", "model": "majority"}},
}
LORA = {"level": "finetune", "model": "minilm", "method": "lora"}
HALVES = LORA | {"model": "local_encoder_decoder", "set": {"model": {"asset": {"path": "state/t5"}}}}
SMOLLM = {
    "level": "finetune",
    "model": "smollm2",
    "method": "lora_combined",
    "objective": "response",
    "prompt": "zero_shot",
}
ADAPT = {"level": "adapt", "model": "minilm", "corpus": "plain_english"}
HEADED = LORA | {"model": "smollm2", "objective": "supervised", "prompt": "none"}
PROMPT = {"level": "prompt", "model": "smollm2"}
RAW = {"task": "language_modeling", "objective": "none", "prompt": "none"}
SCRATCH = {"level": "pretrain", "model": "tiny_llama", "corpus": "plain_english"}
GADGETS = [
    "os.system", "logging.os.system", "builtins.eval", "subprocess.run", "runpy.run_path", "shutil.rmtree",
    "timeit.timeit", "doctest.testmod", "pandas.read_pickle", "joblib.load", "numpy.load", "torch.hub.load",
    "git.cmd.Git.execute",
    "pathlib.Path.write_text", "shutil.copyfile", "pandas.eval", "urllib.request.urlopen", "pickle.loads",
    "importlib.import_module", "functools.partial", "hydra.utils.instantiate", "peft.PeftModel.from_pretrained",
    "torch.optim.AdamW.__init__.__globals__", "peft.LoraConfig",
]  # fmt: skip


def faults(tmp_path, rows=None, **changes) -> list[str]:
    """Return the lines about a params.yaml with these rows beside the baseline; empty when it is accepted."""
    table = BASE | {"candidates": BASE["candidates"] | (rows or {})} | changes
    return faults_of(tmp_path, dialects.OmegaConf.to_yaml(dialects.OmegaConf.create(table)))


def faults_of(tmp_path, text: str) -> list[str]:
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        strict.params(path)
    except ConfigError as error:
        assert error.code == 2
        return [line.replace(f"{tmp_path}/", "") for line in str(error).splitlines()]
    return []


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"task": "genration"}, "set.task: No task named 'genration'. Did you mean 'generation'?"),
        ({"decoding": "beam"}, "set.decoding: no candidate reads it"),
        ({"prompt": "few_shot"}, ""),
    ],
)
def test_a_choice_for_all_is_checked_once_and_must_have_a_reader(tmp_path, choice, told):
    found = faults(tmp_path, {"zero_shot": PROMPT}, set=choice)
    assert [told in line for line in found] == ([True] if told else [])


def test_a_task_that_a_candidate_cannot_do_is_told_of_that_candidate(tmp_path):
    found = faults(tmp_path, {"zero_shot": PROMPT, "lora": LORA}, set={"task": "generation"})
    assert found and all("candidates.lora" in line for line in found)


def typed_faults(*words, stage="train", many=False) -> list[str]:
    try:
        typed.check(list(words), stage=stage, many=many)
    except ConfigError as error:
        return str(error).splitlines()
    return []


@pytest.fixture(scope="module", autouse=True)
def sound_conf():
    """The files of conf/ are looked at in test_conf.py, not in each test here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shipped, "problems", list)
        yield


def test_the_shipped_table_is_accepted():
    assert set(strict.params(ROOT / "params.yaml")["candidates"]) >= {"majority", "zero_shot", "lora", "scratch"}


@pytest.mark.capability(48)
def test_all_faults_are_told_at_once_one_line_each(tmp_path):
    rows = {
        "a": LORA | {"method": "lroa"},
        "b": LORA | {"set": {"method": {"rr": 3, "lora_dropout": 1.5}}},
        "Cc": PROMPT,
        "d": PROMPT | {"prmpt": "few_shot"},
    }
    assert {line.split(": ")[1] for line in faults(tmp_path, rows)} == {
        "candidates.Cc",
        "candidates.d.prmpt",
        "candidates.a.method",
        "candidates.b.set.method.rr",
        "candidates.b.set.method.lora_dropout",
    }


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        (LORA | {"method": "ful"}, "method", "Did you mean 'full'"),
        (LORA | {"metod": "full"}, "metod", "Did you mean 'method'"),
        (LORA | {"model": 3}, "model", "expected the name of an option"),
        (LORA | {"set": {"method": {"rr": 3}}}, "set.method.rr", "Did you mean 'r'"),
        (LORA | {"set": {"method": {"r": 0}}}, "set.method.r", "int [1, 4096]"),
        (LORA | {"set": {"method": {"r": "16"}}}, "set.method.r", "'16' is not allowed"),
        (LORA | {"set": {"method": {"use_dora": True}}}, "set.method.use_dora", "write +use_dora"),
        (LORA | {"set": {"method": {"+r": 4}}}, "set.method.r", "without the +"),
        (LORA | {"set": {"optimzer": {"eps": 1}}}, "set.optimzer.eps", "Did you mean 'optimizer'"),
        (LORA | {"set": {"optimizer": {"learning_rate": True}}}, "set.optimizer.learning_rate", "True is not allowed"),
        (LORA | {"set": {"optimizer": {"lr": 0.1}}}, "set.optimizer.lr", "No key named 'lr'"),
        (LORA | {"set": {"trainer": {"monitor": "chrf"}}}, "set.trainer.monitor", "scores generation"),
        (LORA | {"set": {"data": {"options": {"min_score": 1.0}}}}, "set.data.options.min_score", "same for all"),
        (LORA | {"set": {"split": {"val": 0.2}}}, "set.split.val", "same for all"),
        (LORA | {"prompt": "zero_shot"}, "prompt", "an encoder wants"),
        (LORA | {"corpus": "plain_english"}, "corpus", "no phase reads it; take level: adapt"),
        (LORA | {"level": "adapt"}, "level", "phase adapt reads a corpus"),
        (LORA | {"method": "lora_combined"}, "method", "heads of several adapters cannot be combined"),
        (SMOLLM | {"set": {"method": {"density": None}}}, "set.method.density", "keeps a share of the weights"),
        (SMOLLM | {"set": {"method": {"combination": "tie"}}}, "set.method.combination", "'tie' is not allowed"),
        (ADAPT | {"set": {"level": {"phases": ["finetune", "adapt"]}}}, "set.level.phases", "the order is [adapt, f"),
        (ADAPT | {"set": {"level": {"phases": ["finetune"]}}}, "corpus", "no phase reads it"),
        (LORA | {"set": {"objective": {"name": "masked"}}}, "set.objective.name", "answers no task"),
        (LORA | {"model": "distil_minilm", "method": "prefix"}, "method", "DistilBERT has no place for a prefix"),
        (HEADED | {"method": "p_tuning"}, "method", "a learnt prompt has none of; take prefix"),
        (HEADED | {"method": "prompt_tuning"}, "method", "or objective: response"),
        (
            LORA | {"method": "prefix", "set": {"trainer": {"gradient_checkpointing": True}}},
            "set.trainer.gradient_checkpointing",
            "a prefix keeps none",
        ),
        (
            LORA | {"model": "smollm2", "method": "prefix", "set": {"trainer": {"packing": "documents"}}},
            "set.trainer.packing",
            "take joined",
        ),
        (HALVES | {"objective": "supervised", "prompt": "none"}, "objective", "answers by writing; it wants objective"),
        (HALVES | {"method": "frozen"}, "method", "objective: supervised, prompt: none"),
        (
            LORA | {"model": "smollm2", "set": {"objective": {"name": "seq2seq"}}},
            "set.objective.name",
            "model.kind: encoder_decoder",
        ),
        (LORA | {"method": "ia3", "optimizer": "adamw_lora_plus"}, "optimizer", "LoRA alone has a B"),
        (
            LORA | {"method": "houlsby", "set": {"method": {"places": "holsby"}}},
            "set.method.places",
            "houlsby or pfeiffer",
        ),
        (LORA | {"data": "presidents"}, "data", "neither data nor in datasets"),
        (
            LORA | {"sweep": "lora", "set": {"optimizer": {"learning_rate": 0.1}}},
            "set.optimizer.learning_rate",
            "sweep",
        ),
        (LORA | {"method": "full", "set": {"method": {"r": 3}}}, "set.method.r", "No key named 'r'"),
        (LORA | {"model": "smollm2", "method": "frozen"}, "method", "objective: supervised, prompt: none"),
        (LORA | {"objective": "none"}, "objective", "an encoder wants objective: supervised"),
        (LORA | {"model": "smollm2", "objective": "none"}, "objective", "classification wants objective: response"),
        (SCRATCH | {"objective": "none", "prompt": "none"}, "objective", "classification wants objective: response"),
        (
            LORA | {"model": "smollm2", "set": {"objective": {"name": "language_modeling"}}},
            "set.objective.name",
            "classification wants objective: response",
        ),
        (LORA | RAW, "task", "wants a decoder"),
        (LORA | RAW | {"model": "smollm2", "method": "frozen"}, "method", "trains its head alone"),
        ({"level": "baseline", "model": "tfidf", "task": "language_modeling"}, "model", "take model: majority"),
        (LORA | {"model": "tfidf"}, "model", "level finetune works with encoder or decoder"),
        (PROMPT | {"method": "lora"}, "method", "level prompt never reads method"),
        (PROMPT | {"set": {"method": {"r": 3}}}, "set.method.r", "never reads method"),
        (PROMPT | {"trainer": "default"}, "trainer", "trainer: inference"),
        (PROMPT | {"model": "minilm"}, "model", "works with decoder"),
        (PROMPT | {"set": {"prompt": {"template": "{input}{inptu}"}}}, "set.prompt.template", "Did you mean 'input'"),
        (PROMPT | {"set": {"prompt": {"template": "{input"}}}, "set.prompt.template", "is no template"),
        (PROMPT | {"set": {"prompt": {"separator": "x"}}}, "set.prompt.separator", "num_shots is 0"),
        (PROMPT | {"set": {"prompt": {"num_shots": 2}}}, "set.prompt.num_shots", "few_shot has at least 1"),
        (
            {"level": "finetune", "model": "smollm2", "method": "lora", "prompt": "calibrated"},
            "prompt",
            "level finetune with task classification is none",
        ),
        (PROMPT | {"set": {"data": {"max_rows": 10}}}, "set.data.max_rows", "never reads a train row"),
        (PROMPT | {"set": {"data": {"canaries": 5}}}, "set.data.canaries", "trains on no row"),
        (LORA | RAW | {"model": "smollm2", "set": {"data": {"canaries": 0}}}, "set.data.canaries", "int [1, 1000]"),
        (PROMPT | {"decoding": "greedy"}, "decoding", "generates nothing"),
        (SCRATCH | {"corpus": "plain_englsh"}, "corpus", "neither data nor in datasets"),
        (SCRATCH | {"set": {"model": {"hidden_size": 255}}}, "set.model.hidden_size", "no multiple"),
        (
            SCRATCH | {"set": {"level": {"pretraining": {"max_token": 1}}}},
            "set.level.pretraining.max_token",
            "'max_tokens'",
        ),
        ({"level": "pretrain", "model": "tiny_llama"}, None, "level pretrain needs corpus"),
        ({"level": "baseline", "model": "tfidf", "method": "lora"}, "method", "level baseline never reads method"),
        ({"model": "tfidf"}, "level", "is missing"),
        (["level"], None, "expected keys: level, model"),
    ],
)
def test_a_fault_in_a_row_names_its_place_and_the_cure(tmp_path, row, place, words):
    lines = faults(tmp_path, {"x": row})
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"params.yaml: candidates.x{'.' + place if place else ''}: ")
    assert words in lines[0]


@pytest.mark.parametrize(
    "row",
    [
        LORA | {"set": {"method": {"+use_dora": True, "target_modules": ["query", "value"]}}},
        LORA | {"model": "smollm2", "set": {"trainer": {"batch_size": 4}, "data": {"max_rows": 100}}},
        LORA | {"model": "smollm2", "method": "frozen", "objective": "supervised", "prompt": "none"},
        LORA | RAW | {"model": "smollm2"},
        LORA | {"set": {"data": {"canaries": 20}}},
        LORA | RAW | {"model": "smollm2", "method": "full"},
        SCRATCH | RAW,
        {"level": "baseline", "model": "majority", "task": "language_modeling"},
        PROMPT | {"data": "plain_english"},
        PROMPT | {"prompt": "few_shot", "set": {"prompt": {"num_shots": 2, "separator": "\n"}, "seed": 7}},
        PROMPT | {"set": {"task": {"labels": {"negative": "bad", "positive": "good"}}}},
        SCRATCH | {"set": {"model": {"hidden_size": 64}}},
    ],
)
def test_a_row_that_means_something_is_accepted_and_composes(tmp_path, row):
    assert faults(tmp_path, {"x": row}) == []
    table = BASE | {"candidates": {"x": row}}
    assert compose.candidate("x", table)["candidate"] == "x"


@pytest.mark.parametrize("name", ["config", "data", "compare", "a-b", "Ab", "a b", "é", "a/b", "x;rm"])
def test_a_name_that_clashes_or_has_odd_letters_is_refused(tmp_path, name):
    assert f"candidates.{name}" in faults(tmp_path, {name: PROMPT})[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": "reviewz"}, "Did you mean 'reviews'"),
        ({"datasets": ["reviews"]}, "reviews is the scored data set already (data:)"),
        ({"datasets": ["plain_englsh"]}, "Did you mean 'plain_english'"),
        ({"datasets": "plain_english"}, "expected list of"),
        ({"datasets": None}, "expected list of option or []"),
        ({"seed": -1}, "int [0, 4294967295]"),
        ({"seed": 1.5}, "int [0, 4294967295]"),
        ({"sed": 1}, "Did you mean 'seed'"),
        ({"candidates": {}}, "none has level: baseline"),
        ({"candidates": {"x": PROMPT}}, "add 'majority: {level: baseline"),
        ({"set": {"trainer": {"max_epochs": 1}}}, "no candidate reads it"),
        ({"set": {"data": {"option": {"x": 1}}}}, "Did you mean 'options'"),
        ({"set": {"data": {"options": {"min_scor": 1.0}}}}, "min_scor"),
        ({"set": {"data": {"options": {"min_score": "high"}}}}, "expected float"),
        ({"set": {"split": {"val": 0.9}}}, "leave no training data"),
        ({"data": "csv"}, "data.path: must be given"),
    ],
)
def test_a_fault_in_the_table_is_refused(tmp_path, changes, words):
    assert any(words in line for line in faults(tmp_path, **changes))


def test_two_lines_make_own_data_work(tmp_path):
    rows = {"zero": PROMPT, "lora": LORA, "scratch": SCRATCH}
    assert faults(tmp_path, rows, data="csv", set={"data": {"path": "data/raw/mine.csv"}}) == []


@pytest.mark.parametrize(
    "path", ["/home/me/mine.csv", "mine.csv", "../mine.csv", "data/raw/../mine.csv", "data/rawer/a.csv"]
)
def test_a_file_that_dvc_does_not_track_is_refused_in_the_table_and_fine_by_hand(tmp_path, path):
    (line,) = faults(tmp_path, data="csv", set={"data": {"path": path}})
    assert line.startswith(f"params.yaml: set.data.path: {path!r} ") and "put it into data/raw/" in line
    assert typed_faults("data=csv", f"data.path={path}") == []


@pytest.mark.parametrize("path", ["data/raw", "data/raw/a/b c.csv", "./samples/reviews.csv", "data/raw/../raw/a.csv"])
def test_a_file_that_dvc_tracks_is_accepted(tmp_path, path):
    assert faults(tmp_path, data="csv", set={"data": {"path": path}}) == []


def shipped_table_with(leaf: str) -> str:
    lines = [line for line in (ROOT / "params.yaml").read_text().splitlines() if not line.startswith("set:")]
    return "\n".join([*lines, f"set: {leaf}", ""])


def test_a_table_without_set_is_refused_since_dvc_tracks_that_key(tmp_path):
    text = shipped_table_with("{}")
    assert faults_of(tmp_path, text) == faults_of(tmp_path, text.replace("set: {}", "set:")) == []
    told = faults_of(tmp_path, text.replace("set: {}", ""))
    assert told == ["params.yaml: set: is missing; expected keys or {} or null"]


@pytest.mark.parametrize("word", ["no", "on", "010", "12:30", "0o10", "2024-01-01", "09"])
def test_a_word_that_dvc_and_hydra_read_differently_wants_quotes(tmp_path, word):
    told = faults_of(tmp_path, shipped_table_with(f"{{task: {{input_name: {word}}}}}"))
    assert len(told) == 1 and f"quote it: '{word}'" in told[0]


@pytest.mark.parametrize("word", ["no", "on", "010", "12:30", "09"])
def test_a_quoted_word_is_text_for_both(tmp_path, word):
    assert faults_of(tmp_path, shipped_table_with(f"{{task: {{input_name: '{word}'}}}}")) == []


@pytest.mark.parametrize("word", ["1e-4", "1.0e-4", "0.0001"])
def test_a_small_number_in_any_spelling_is_the_same_for_both(tmp_path, word):
    assert faults_of(tmp_path, shipped_table_with(f"{{optimizer: {{eps: {word}}}}}")) == []


def test_a_common_key_may_mean_nothing_to_some_candidates(tmp_path):
    assert faults_of(tmp_path, shipped_table_with("{data: {max_rows: 500}, trainer: {max_epochs: 1}}")) == []


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n" * 3,
        "seed: 1\nseed: 2\n",
        "seed: !!python/object/apply:os.system ['true']\n",
        "seed: !!int '1'\n",
        "a: " + "[" * 5000,
        "a: " + "[" * 5000 + "]" * 5000,
        "a: 1\n" + "# " + "x" * 10_000_000,
        "- a\n- b\n",
        "a: {<<: {b: 1}}\n",
        "? [a]\n: b\n",
        "a: 1\n---\nb: 2\n",
        "a: [1\n",
        "\x00",
        "",
        "{1: a, 01: b}\n",
        "a: .nan\n",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_hostile_yaml_is_refused_in_a_second(tmp_path, text):
    start = time.process_time()
    lines = faults_of(tmp_path, text)
    assert lines and all(line.startswith("params.yaml") for line in lines)
    assert time.process_time() - start < 1.5


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "a${b}", "${now:}"])
def test_interpolation_is_refused(tmp_path, value):
    lines = faults(tmp_path, {"x": PROMPT | {"set": {"task": {"input_name": value}}}})
    assert "${...} is not read here" in lines[0]
    assert "refused" in typed_faults(f"task.input_name='{value}'")[0]


@pytest.mark.parametrize("target", GADGETS)
def test_no_class_can_be_named_by_a_person(tmp_path, target):
    rows = {
        "a": LORA | {"set": {"method": {"_target_": target}}},
        "b": LORA | {"set": {"method": {"+x": {"_target_": target}}}},
        "c": LORA | {"set": {"optimizer": {"+_target_": target}}},
        "d": LORA | {"set": {"task": {"labels": {"_target_": target}}}},
        "e": LORA | {"method": {"_target_": target}},
    }
    told = faults(tmp_path, rows)
    for name in rows:
        assert any(f"candidates.{name}." in line and "conf/ alone names classes" in line for line in told)
    for word in ("method._target_={}", "++method._target_={}", "+x={{_target_:{}}}", "hydra.launcher._target_={}"):
        assert "conf/ alone names classes" in typed_faults(word.format(target))[0]


@pytest.mark.parametrize("target", GADGETS[:-1])
def test_no_other_class_can_be_named_in_a_file_of_conf_or_build(tmp_path, target):
    (tmp_path / "optimizer").mkdir()
    file = tmp_path / "optimizer" / "adamw.yaml"
    file.write_text(f"_target_: {target}\nlearning_rate: 1\n")
    assert "No _target_ named" in shipped.of_file(file)[0]
    (tmp_path / "x.yaml").write_text(f"method: {{_target_: {target}}}\n")
    with pytest.raises(ConfigError, match="No _target_ named"):
        strict.composed_file(tmp_path / "x.yaml")


def test_a_model_of_the_hub_says_what_must_be_given(tmp_path):
    told = faults(tmp_path, {"x": LORA | {"model": "hub"}})
    assert all("must be given" in line for line in told)
    assert {line.split(": ")[2] for line in told} >= {"model.kind", "model.asset.id", "model.asset.revision"}


HUB = {"id": "owner/name", "revision": "a" * 40}


@pytest.mark.parametrize("changes", [{"asset": HUB}, {"asset": None, "path": "data/raw/snapshot"}])
def test_a_data_set_of_the_hub_is_named_or_lies_in_a_folder(tmp_path, changes):
    assert faults(tmp_path, {"lora": LORA}, data="hub", set={"data": changes}) == []
    composed = compose.dataset("hub", BASE | {"data": "hub", "set": {"data": changes}})["data"]
    assert composed["path"] == changes.get("path")
    assert composed["asset"] == (
        changes["asset"] and {"kind": "hub", "sha256": None, "licence": "see the data card"} | HUB
    )


@pytest.mark.parametrize("stage", ["fetch", "prepare", "split", "train"])
def test_a_data_set_of_the_hub_is_typed(stage):
    named = [f"data.asset.{key}={value}" for key, value in HUB.items()]
    assert typed_faults("data=hub", *named, stage=stage) == []
    told = typed_faults("data=hub", stage=stage)
    assert all("must be given" in line for line in told) and len(told) == 2


@pytest.mark.parametrize(
    "word",
    ["hydra.searchpath=[/tmp]", "+hydra.callbacks.x.y=1", "hydra.job_logging.x=1", "hydra.job.env_set.A=1",
     "hydra/callbacks=x", "hydra/job_logging=none", "hydra.output_subdirr=x"],
)  # fmt: skip
def test_settings_of_hydra_that_can_run_code_are_refused(word):
    assert "No key named" in typed_faults(word)[0]


@pytest.mark.parametrize(
    "word", ["hydra.run.dir=x", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.verbose=true"]
)
def test_settings_of_hydra_that_place_and_launch_pass(word):
    assert typed_faults(word) == []


def test_a_command_line_with_sweeps_is_checked_value_by_value():
    lines = typed_faults("method=lora,ful", "method.r=4,0", "optimizer.learning_rate=1e-3,100", many=True)
    assert any("'ful'" in line for line in lines)
    assert any("method.r: 0 is not allowed" in line for line in lines)
    assert any("learning_rate: 100 is not allowed" in line for line in lines)
    assert typed_faults("method=glob(*,exclude=none)", "trainer.patience=range(1,4)", many=True) == []
    assert "several values want -m" in typed_faults("seed=1,2")[0]


@pytest.mark.parametrize("word", ["~method", "method@x=lora", "x", "=1", "method.r=[", "-x=1"])
def test_a_word_of_another_form_is_refused(word):
    assert len(typed_faults(word)) == 1


@pytest.mark.parametrize(
    ("stage", "word", "section"),
    [
        ("prepare", "method=lora", "method"),
        ("prepare", "corpus=reviews", "corpus"),
        ("split", "trainer.max_epochs=1", "trainer"),
        ("fetch", "level=prompt", "level"),
        ("fetch", "seed=7", "seed"),
        ("train", "sweep=lora", "sweep"),
        ("train", "gate.confidence=0.9", "gate"),
        ("train", "price.kwh=0.3", "price"),
        ("train", "candidate=lora", "candidate"),
    ],
)
def test_a_word_that_a_stage_never_reads_is_refused(stage, word, section):
    (line,) = typed_faults(word, stage=stage)
    assert line.startswith(f"command line: {word.split('=')[0]}: {stage} never reads {section}; it reads ")


def test_a_stage_is_asked_for_nothing_that_it_never_reads():
    assert typed_faults("data=presidents", "split=time", stage="prepare") == []
    assert typed_faults("data=presidents", "runtime.num_workers=1", stage="fetch") == []
    assert "model.kind: must be given" in typed_faults("model=hub", stage="fetch")[0]
    assert "-1 is not allowed" in typed_faults("runtime.num_workers=-1", stage="prepare")[0]


def test_a_public_key_that_is_not_there_is_refused_before_anything_is_trained():
    (line,) = typed_faults("level=finetune", "model=minilm", "method=full", "runtime.public_key=keys/public.pem")
    assert line == "command line: runtime.public_key: keys/public.pem: no such file; openssl ec -pubout makes one"
    assert typed_faults("level=finetune", "model=minilm", "method=full", "runtime.public_key=LICENSE") == []


@pytest.mark.parametrize("stage", ["assign", "sweep", "evaluate", "score", "probe", "compare", "register"])
def test_a_stage_that_reads_a_composed_file_says_what_to_type(stage):
    stages = dialects.yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    command = stages[stage].get("do", stages[stage])["cmd"].replace("${key}", "<candidate>")
    assert typed_faults("method=lora", stage=stage) == [f"{stage} reads a composed file; type: {command}"]


def test_a_stage_without_its_composed_file_ends_before_it_writes_anything(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipelines.sweep"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])
    assert done.stderr.startswith("error[2] sweep reads a composed file; ") and done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    folder = tmp_path_factory.mktemp("composed") / "build"
    compose.write(folder, dialects.read(ROOT / "params.yaml"))
    return folder


def test_words_behind_a_composed_file_are_refused_except_how_it_runs(build):
    typed.check_composed(["runtime.num_workers=2", "hydra.verbose=true"], build / "lora.yaml", stage="train")
    with pytest.raises(ConfigError, match="composed already"):
        typed.check_composed(["method.r=3"], build / "lora.yaml", stage="train")
    with pytest.raises(ConfigError, match="Did you mean 'num_workers'"):
        typed.check_composed(["runtime.num_worker=3"], build / "lora.yaml", stage="train")


@pytest.mark.parametrize(
    ("stage", "file"),
    [("sweep", "data/reviews"), ("train", "compare/compare"), ("compare", "lora"), ("prepare", "compare/compare")],
)
def test_a_composed_file_of_another_kind_is_refused(build, stage, file):
    with pytest.raises(ConfigError, match=rf"{file}.yaml is not for {stage}; type: python -m pipelines.{stage} -cd"):
        typed.check_composed([], build / f"{file}.yaml", stage=stage)


def test_every_rule_of_the_table_can_be_read():
    for section in schema.table()["sections"]:
        assert schema.problems(section, object())


def test_every_class_of_the_allow_list_is_a_peft_config_or_an_optimizer():
    assert {"peft.LoraConfig", "torch.optim.AdamW"} <= set(schema.targets())
    assert all(name.startswith(("peft.", "torch.optim.")) for name in schema.targets())
    assert not any({"megatron_core", "auto_mapping"} & set(types) for types in schema.targets().values())


@pytest.mark.slow
def test_the_committed_signatures_are_those_of_the_installed_libraries():
    assert schema.targets() == signatures.generate()


TOY = """
import os, signal, sys
from pipelines import stage
@stage
def main(config):
    if config["seed"] == 3:
        from stepladder.errors import DataError
        raise DataError("x.csv:3: no target")
    if config["seed"] == 4:
        os.kill(os.getpid(), signal.SIGTERM)
    if config["seed"] == 5:
        raise KeyboardInterrupt
    if config["seed"] == 6:
        raise OSError(28, "No space left on device")
    if config["seed"] == 7:
        raise ValueError("two\\nlines")
    print("ran", config["candidate"], config["seed"], config["method"], type(config).__name__)
main()
"""


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with a stage `train.py` of a few lines and a composed build/."""
    folder = tmp_path_factory.mktemp("toy")
    (folder / "train.py").write_text(TOY)  # a stage is called as its file is
    compose.write(folder / "build", dialects.read(ROOT / "params.yaml"))

    def run(*words, options=()):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, *options, *(() if "-c" in options else ("train.py",)), *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)

    run.folder = folder
    return run


def test_a_composed_file_runs_and_writes_to_logs_alone(toy):
    before = set(os.listdir(toy.folder))
    done = toy("-cd", "build", "-cn", "majority")
    assert (done.returncode, done.stdout) == (0, "ran majority 42 None dict\n")
    assert set(os.listdir(toy.folder)) - before <= {"logs"}
    assert [path.name for path in (toy.folder / "logs/train/majority").iterdir()] == ["train.log"]


def test_a_file_that_is_not_composed_yet_ends_with_the_command_to_type(toy):
    done = toy("-cd", "build", "-cn", "majorty")
    assert (done.returncode, done.stderr) == (2, "error[2] build/majorty.yaml is not there; run: dvc repro configure\n")


EACH = """
import os, runpy, sys
from stepladder import typed
typed.check([], stage="train")
for seed in sys.argv[1:]:
    if not (child := os.fork()):  # what is imported and read is so once
        sys.argv = ["train.py", f"seed={seed}"]
        runpy.run_path("train.py")
    print(f"code {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}", file=sys.stderr, flush=True)
"""


def test_a_fault_ends_with_one_line_and_its_code(toy):
    done = toy("3", "4", "5", "6", "7", options=["-c", EACH])
    told, *rest = re.split(r"code (\d+)\n", done.stderr)
    codes, (terminated, interrupted, full, bug, _) = rest[::2], rest[1::2]
    assert codes == ["3", "143", "75", "5", "1"]
    assert (told, terminated, interrupted) == ("error[3] x.csv:3: no target\n", "", "")
    assert full.startswith("error[5] .: no space left on device; ") and full.count("\n") == 1
    assert bug.startswith("error[1] ValueError at train.py:") and "This is a bug" in bug and bug.count("\n") == 1


def test_a_grid_goes_on_behind_a_failing_job_and_fails_in_the_end(toy):
    done = toy("-m", "seed=3,1")
    assert done.returncode == 3
    assert "ran None 1" in done.stdout
    assert "error[3] x.csv:3: no target" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"], ["method=lroa"]])
def test_help_and_faults_are_told_without_heavy_imports(toy, words):
    done = toy(*words, options=["-X", "importtime"])
    imported = {
        line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines() if "import time:" in line
    }
    assert not imported & {"torch", "peft", "transformers", "mlflow", "lightning", "sklearn", "polars"}
    assert done.returncode == (2 if words == ["method=lroa"] else 0)
