"""Spaces: Hydra's grammar says what is searched; what cannot be searched is refused in words, without Optuna."""

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from stepladder import compose, dialects, errors, shipped, spaces, strict

ROOT = Path(__file__).parents[1]
BRANCHES = {
    "method": "choice(lora, ia3)",
    "method=lora": {"method.r": "choice(4, 8)", "optimizer.learning_rate": [1e-4, 1e-3]},
    "method=ia3": {"optimizer.learning_rate": [1e-2]},
}


@pytest.mark.parametrize(
    ("said", "values", "more"),
    [
        ([0.5, None, "x", [1]], (0.5, None, "x", [1]), {}),
        ("choice(lora,'it is',true,[a,b])", ("lora", "it is", True, ["a", "b"]), {}),
        ("1,2", (1, 2), {}),
        ("range(8, 16, 4)", (8, 12), {"step": 4}),
        ("range(0.1, 0.5, 0.1)", (0.1, 0.2, 0.3, 0.4), {"step": 0.1}),
        ("range(3, 0, -1)", (1, 2, 3), {"step": 1}),
        ("interval(1, 8)", (1.0, 8.0), {"log": False}),
        ("int(interval(1, 8))", (1, 8), {}),
        ("tag(log, interval(1e-5, 1e-3))", (1e-5, 1e-3), {"log": True}),
        ("tag(log, int(interval(1, 64)))", (1, 64), {"log": True}),
    ],
)
def test_a_space_is_said_in_hydras_grammar_or_as_a_list(said, values, more):
    found = spaces.parameter("a.b", said)
    assert found.values == values and list(map(type, found.values)) == list(map(type, values))
    assert all(getattr(found, key) == value for key, value in more.items())
    assert all(map(found.holds, values)) and not found.holds("elsewhere")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (3, "3 is no space; expected a list, choice"),
        ("lora", "is one value"),
        ("choice(", "is not in Hydra's grammar"),
        ("interval(2, 1)", "expected low < high"),
        ("tag(log, interval(0, 1))", "expected 0 < low < high"),
        ("tag(lgo, interval(1, 2))", "Did you mean 'log'?"),
        ("tag(log, choice(1, 2))", "It says how an interval is searched"),
        ("range(2, 1)", "at least one value"),
        ([1, 1], "none that is written as another"),
    ],
)
def test_what_is_no_space_is_refused_with_what_is_one(said, words):
    with pytest.raises(errors.ConfigError) as caught:
        spaces.parameter("a.b", said)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_grid_has_every_point_that_its_options_have():
    points = spaces.grid(spaces.of({"parameters": BRANCHES}))
    pairs = itertools.product((4, 8), (1e-4, 1e-3))
    expected = [{"method": "lora", "method.r": r, "optimizer.learning_rate": rate} for r, rate in pairs]
    assert points == [*expected, {"method": "ia3", "optimizer.learning_rate": 1e-2}]


LORA = {"level": "finetune", "model": "minilm", "method": "lora"}
PROMPT = {"level": "prompt", "model": "smollm2"}


def row(conf: Path, sweep: dict, candidate: dict = LORA) -> list[compose.Word]:
    """Return the words of a candidate with this sweep."""
    name = f"tried_{len(list((conf / 'sweep').iterdir()))}"
    (conf / "sweep" / f"{name}.yaml").write_text(yaml.safe_dump({"max_rows": 10, "max_epochs": 1} | sweep))
    params = dialects.read(ROOT / "params.yaml")
    params["candidates"] = {"x": {**candidate, "sweep": name}}
    return compose.of_candidate("x", params)


@pytest.fixture(scope="module")
def copied(tmp_path_factory) -> Path:
    return shutil.copytree(compose.CONF, tmp_path_factory.mktemp("project") / "conf")


@pytest.fixture
def conf(copied, monkeypatch) -> Path:
    monkeypatch.setattr(compose, "CONF", copied)
    return copied


TPE = {"sampler": "tpe", "n_trials": 5}
RATE = "optimizer.learning_rate"


@pytest.mark.capability(24, 48)
@pytest.mark.parametrize(
    ("sweep", "words"),
    [
        ({"parameters": {RATE: "interval(1e-4, 1e-2)"}}, "a grid wants values"),
        ({"parameters": {RATE: "interval(1e-4, 1e-2)"}, "sampler": "tpe"}, "say how many trials it has"),
        ({"parameters": {RATE: "interval(1e-4, 1e-2)"}, **TPE, "sampler": "tep"}, "expected grid or random or tpe"),
        ({"parameters": {RATE: "interval(1e-4, 100)"}, **TPE}, "100.0 is not allowed; expected float (0, 10]"),
        ({"parameters": {RATE: "interval(1e-5, 1e-4)"}, **TPE}, "own 0.001 lies outside; the first trial is with it"),
        ({"parameters": {"optimizer.learning_rat": [1]}, **TPE}, "Did you mean 'learning_rate'?"),
        ({"parameters": {"method": ["lora", "dorra"]}, **TPE}, "Did you mean 'dora'?"),
        ({"parameters": {"model": ["minilm", "smollm2"]}}, "No section to search in named 'model'"),
        ({"parameters": {"model.conversion": ["gguf", None]}}, "a model that is fetched is no baseline"),
        ({"parameters": {"method": ["lora", "ia3"], "method=ia": {"method.r": [4]}}}, "Did you mean 'ia3'?"),
        ({"parameters": {"method=lora": {"method.r": [4]}}}, "No searched group named 'method'"),
        ({"parameters": {"method": ["lora", "ia3"], "method=ia3": {"method.r": [4]}}}, "'method.r'"),
        ({"parameters": {RATE: "interval(1e-4, 1e-2)"}, **TPE, "pruner": "median"}, "a trial here validates once"),
        ({"parameters": {"method.r": [4, 8]}, **TPE, "sampler": "cmaes"}, "cmaes searches numbers"),
        ({"parameters": BRANCHES, **TPE, "sampler": "gp"}, "gp wants keys that always exist"),
        ({"parameters": {"method.r": [4, 8]}, **TPE, "enqueue": [{"method.r": 5}]}, "5 lies outside"),
        ({"parameters": {"method.r": [4, 8]}, **TPE, "enqueue": [{"method.s": 4}]}, "Did you mean 'method.r'?"),
        ({"parameters": {"method": ["lora", "frozen"], "trainer.gradient_checkpointing": [True]}}, "keeps none"),
    ],
)
def test_a_search_that_cannot_be_is_refused_at_configure_by_its_place(conf, sweep, words):
    lines = strict.faults(row(conf, sweep), "params.yaml: candidates.x")
    assert any(words in line for line in lines), lines
    assert all(line.startswith("params.yaml: candidates.x.sweep: sweep.") for line in lines)


def test_all_faults_of_a_search_are_told_at_once(conf):
    sweep = {"parameters": {RATE: "interval(1e-4, 100)", "method.rr": [1], "method": "choice("}, **TPE}
    assert len(strict.faults(row(conf, sweep), "")) == 3


@pytest.mark.parametrize(
    "sweep",
    [
        {"parameters": BRANCHES},
        dialects.read(ROOT / "conf" / "sweep" / "methods.yaml"),
        {"parameters": {"method": ["lora", "dora"], RATE: "tag(log, interval(1e-4, 1e-2))"}, **TPE},
        {"parameters": {RATE: "interval(1e-4, 1e-2)", "method.r": "int(interval(2, 9))"}, **TPE, "sampler": "cmaes"},
    ],
)
def test_a_sound_search_passes_and_is_composed_with_the_sections_of_its_options(conf, sweep):
    words = row(conf, sweep)
    (name,) = (word.value for word in words if word.key == "sweep")
    assert strict.faults(words, "") == [] and shipped.of_file(conf / "sweep" / f"{name}.yaml") == []
    made = compose.complete(compose.overrides(words))
    options = {each.key: each.choices for each in spaces.of(made["sweep"])}.get("method", ())
    assert set(made["options"].get("method", {})) == {*options}


def test_a_search_is_checked_without_optuna_and_torch():
    lines = ["import sys", "from pathlib import Path", "from stepladder import strict"]
    lines += ["strict.params(Path('params.yaml'))", "print(*{name.partition('.')[0] for name in sys.modules})"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", "; ".join(lines)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "hydra" in done.stdout.split() and not {"optuna", "torch", "sklearn", "mlflow"} & {*done.stdout.split()}


def test_prompts_are_searched_at_level_prompt_where_nothing_is_trained(conf):
    sweep = dialects.read(ROOT / "conf" / "sweep" / "prompts.yaml")
    assert strict.faults(row(conf, sweep, PROMPT), "") == []
    assert len(spaces.grid(spaces.of(sweep))) == 9
    (line,) = strict.faults(row(conf, sweep | {"max_epochs": 1}, PROMPT), "")
    assert "level prompt trains nothing; leave it null" in line
    blind = sweep | {"parameters": {"prompt.template": ["{inptu}"]}}
    assert any("Did you mean 'input'?" in line for line in strict.faults(row(conf, blind, PROMPT), ""))
