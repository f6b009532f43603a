"""compose: rows become complete files that DVC and Hydra read alike; fingerprints follow the code behind a name."""

import shutil

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from ruamel.yaml import YAML

from stepladder import compose, dialects, fingerprints, leftovers, spaces
from stepladder.errors import ConfigError

SALT = st.text(st.sampled_from("ab '\"\\\n\r\t{}[]:,=#$\u2028\x85\x1cäé0"), max_size=12)


@pytest.fixture(scope="module")
def params():
    return dialects.read(compose.CONF.parent / "params.yaml")


def test_files_are_read_alike_by_dvc_and_omegaconf_and_have_the_same_bytes_each_time(tmp_path, params):
    first = {path.name: path.read_bytes() for path in compose.write(tmp_path / "a", params)}
    second = {path.name: path.read_bytes() for path in compose.write(tmp_path / "b", params)}
    assert first == second
    for path in (tmp_path / "a").rglob("*.yaml"):
        theirs = YAML(typ="safe").load(path.read_text())
        assert theirs == OmegaConf.to_container(OmegaConf.load(path))
    names = sorted(path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*.yaml"))
    data = ["compare/compare.yaml", "data/plain_english.yaml", "data/reviews.yaml"]
    assert names == sorted([f"{name}.yaml" for name in params["candidates"]] + data)


def test_every_composed_file_has_the_same_top_level_keys(params):
    keys = [list(compose.candidate(name, params)) for name in params["candidates"]]
    assert all(each == keys[0] for each in keys)
    assert {"candidate", "seed", "corpus", "overrides", "options", "tasks", "code", *compose.GROUPS} == set(keys[0])


def test_a_trial_is_composed_inside_a_running_hydra_as_it_is_outside(params):
    lora = compose.candidate("lora", params)
    outside = compose.trial(lora, {"optimizer.learning_rate": 0.0007})
    compose._loader.cache_clear()
    with hydra.initialize_config_dir(str(compose.CONF.resolve()), version_base="1.3"):
        assert compose.trial(lora, {"optimizer.learning_rate": 0.0007}) == outside


def test_a_value_in_set_reaches_its_section_and_no_other_row(params):
    assert compose.candidate("lora", params)["method"]["r"] == 16
    assert compose.candidate("lora_smollm2", params)["method"]["r"] == 8
    rows = params["candidates"]["lora_smollm2"]["set"]["data"]["max_rows"]
    assert compose.candidate("lora_smollm2", params)["data"]["max_rows"] == rows
    assert compose.candidate("full", params)["data"]["max_rows"] is None


def test_a_seed_of_its_own_trains_a_candidate_anew_and_splits_no_data_anew(params):
    table = params | {"candidates": {"again": params["candidates"]["full"] | {"seed": 7}}}
    assert compose.candidate("again", table)["seed"] == 7
    assert compose.dataset("reviews", table)["seed"] == params["seed"] == compose.candidate("full", params)["seed"]


def test_the_common_set_goes_to_rows_that_have_the_key_and_to_the_scored_data_set(params):
    table = params | {"set": {"trainer": {"max_epochs": 1}, "data": {"options": {"min_score": 1.0}}}}
    assert compose.candidate("frozen", table)["trainer"]["max_epochs"] == 1
    assert "max_epochs" not in compose.candidate("zero_shot", table)["trainer"]
    assert compose.dataset("reviews", table)["data"]["options"]["min_score"] == 1.0
    assert "min_score" not in compose.dataset("plain_english", table)["data"]["options"]


def test_the_common_set_chooses_the_task_and_the_split_of_the_scored_data_set_and_a_row_its_own(params):
    rows = {name: params["candidates"][name] for name in ("majority", "zero_shot")}
    rows["labels"] = rows["zero_shot"] | {"task": "classification"}
    table = params | {"set": {"task": "generation", "split": "stratified"}, "candidates": rows}
    assert compose.candidate("zero_shot", table)["task"]["metric"] == "chrf"
    assert compose.candidate("zero_shot", table)["decoding"]["num_beams"] == 1
    assert compose.candidate("majority", table)["decoding"] is None
    assert compose.candidate("labels", table)["task"]["metric"] == "accuracy"
    assert compose.dataset("reviews", table)["task"] == compose.comparison(table)["task"]
    assert compose.dataset("reviews", table)["split"]["name"] == "stratified"
    assert compose.dataset("plain_english", table)["split"]["name"] == "hash"


def test_a_map_in_set_replaces_the_one_that_is_there(params):
    table = params | {"set": {"task": {"labels": {"negative": "bad", "positive": "good"}}}}
    assert compose.candidate("zero_shot", table)["task"]["labels"] == {"negative": "bad", "positive": "good"}


def test_labels_that_look_like_numbers_stay_text(params):
    table = params | {"set": {"task": {"labels": {"0": "bad", "1": "good"}}}}
    assert compose.candidate("zero_shot", table)["task"]["labels"] == {"0": "bad", "1": "good"}


def test_a_trial_is_the_candidate_with_words_on_top(params):
    base = compose.candidate("lora", params)
    changed = compose.trial(base, {"optimizer.learning_rate": 0.002})
    assert changed["optimizer"]["learning_rate"] == 0.002
    assert changed["method"] == base["method"]
    assert compose.trial(base, {})["overrides"] == base["overrides"]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("lora", {"optimizer.learning_rate": 7e-4, "trainer.gradient_clip": None, "data.max_rows": 100}),
        ("lora", {"method.target_modules": ["query", "value"], "optimizer.betas": [0.8, 0.9]}),
        ("lora", {"trainer.monitor": "loss"}),
        ("zero_shot", {"prompt.template": "It's {input}:\n{answer_name}"}),
        ("tfidf", {"model.C": 3.0, "model.ngram_max": 1}),
    ],
)
def test_values_are_put_where_hydra_would_put_them(params, name, changes, monkeypatch):
    base = compose.candidate(name, params)
    quick = compose.trial(base, changes)
    monkeypatch.setattr(compose, "_put", lambda *_: None)
    assert compose.trial(base, changes) == quick
    assert quick["overrides"] != base["overrides"]


def test_a_key_that_is_not_there_is_refused_by_hydra(params):
    with pytest.raises(ConfigError, match="learning_rat"):
        compose.trial(compose.candidate("lora", params), {"optimizer.learning_rat": 1e-3})


def test_a_trial_with_another_option_starts_from_its_file(params):
    changed = compose.trial(compose.candidate("lora", params), {"method": "full"})
    assert changed["method"] == {"name": "full"}
    assert changed["optimizer"]["learning_rate"] == 5e-5


@settings(max_examples=30, deadline=None)
@given(SALT.filter(lambda text: "${" not in text))
def test_a_text_that_a_sweep_chooses_reaches_the_trial(params, text):
    changed = compose.trial(compose.candidate("zero_shot", params), {"prompt.template": text, "prompt": "few_shot"})
    assert (changed["prompt"]["template"], changed["prompt"]["name"]) == (text, "few_shot")


def test_options_hold_the_sections_that_a_sweep_may_choose(tmp_path, params, monkeypatch):
    conf = tmp_path / "conf"
    shutil.copytree(compose.CONF, conf)
    monkeypatch.setattr(compose, "CONF", conf)
    text = "parameters: {method: [lora, full]}\nmax_rows: 10\nmax_epochs: 1\n"
    (conf / "sweep" / "methods.yaml").write_text(text)
    table = params | {"candidates": {"x": {"level": "finetune", "model": "minilm", "sweep": "methods"}}}
    options = compose.candidate("x", table)["options"]
    assert options["method"]["full"] == {"name": "full"}
    assert options["optimizer"]["method=full"]["learning_rate"] == 5e-5


@example("\\\n")
@given(
    st.recursive(
        SALT | st.integers() | st.booleans() | st.none(), lambda inner: st.lists(inner, max_size=3), max_leaves=5
    )
)
def test_a_value_survives_hydras_grammar(value):
    override = OverridesParser.create().parse_override(f"key={compose.literal(value)}")
    assert spaces.plain(override.value()) == value


def test_a_key_that_hydras_grammar_cannot_say_is_refused():
    with pytest.raises(ConfigError, match="write the section as a file"):
        compose.literal({"a:b": 1})


@pytest.mark.parametrize(
    "value", ["no", "010", "12:30", "1e-4", "0o10", "2024-01-01", "null", "~", "a: b", "'", "\u2028"]
)
def test_a_text_is_written_so_that_both_read_it_back_or_refused(value):
    try:
        text = dialects.dump({"key": value}, "x.yaml")
    except ConfigError as error:
        assert "key" in str(error)
    else:
        assert YAML(typ="safe").load(text) == OmegaConf.to_container(OmegaConf.create(text)) == {"key": value}


def package(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_fingerprint_follows_imports_also_those_inside_functions(tmp_path):
    files = {
        "levels/a.py": "def f():\n    from stepladder import deep\n",
        "deep.py": "import stepladder.deeper\n",
        "deeper.py": "x = 1\n",
        "other.py": "x = 1\n",
    }
    root = package(tmp_path, files)
    before = fingerprints.plugin("levels", "a", root)
    package(root, {"other.py": "x = 2\n"})
    assert fingerprints.plugin("levels", "a", root) == before
    package(root, {"deeper.py": "x = 2  # changed\n"})
    assert fingerprints.plugin("levels", "a", root) != before


def test_modules_that_change_no_output_are_left_out_of_a_fingerprint(tmp_path):
    root = package(tmp_path, {"levels/a.py": "from stepladder import tracking\n", "tracking.py": "x = 1\n"})
    assert {path.name for path in fingerprints.closure(root / "levels/a.py", root)} == {"a.py"}


def test_metrics_are_those_whose_task_constant_is_the_task(tmp_path):
    root = package(
        tmp_path, {"metrics/a.py": 'TASK = "x"\n', "metrics/b.py": 'TASK = "y"\n', "metrics/_c.py": 'TASK = "x"\n'}
    )
    assert list(fingerprints.metrics("x", root)) == ["a"]


def test_a_plug_in_that_is_not_there_is_named_with_the_nearest(tmp_path):
    root = package(tmp_path, {"objectives/supervised.py": ""})
    with pytest.raises(ConfigError, match="Did you mean 'supervised'"):
        fingerprints.plugin("objectives", "supervisd", root)
    assert fingerprints.plugin("objectives", None, root) is None


def test_leftovers_of_unknown_names_go_and_what_is_not_ours_stays(tmp_path):
    ours = ["build/old.yaml", "models/old/stepladder.json", "predictions/val/old.parquet", "assets/data/old.json"]
    kept = [
        "build/lora.yaml",
        "models/mine/weights.bin",
        "build/.gitignore",
        "data/raw/old.csv",
    ]
    package(tmp_path, dict.fromkeys(ours + kept, "x"))
    lines = leftovers.remove(tmp_path, candidates=["lora"], datasets=["reviews"])
    assert len(lines) == len(ours)
    assert all((tmp_path / name).exists() for name in kept)
    assert not any((tmp_path / name).exists() for name in ours)
    assert not (tmp_path / "models/old").exists()
