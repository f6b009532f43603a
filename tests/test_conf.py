"""conf/: every file shows how to use it, composes, and cannot be wrong by one letter unnoticed."""

import re
import shutil
from pathlib import Path

import hydra
import pytest
import yaml

from stepladder import compose, dialects, rules, schema, shipped, strict, typed
from stepladder.compose import Word
from stepladder.errors import ConfigError

CONF = compose.CONF
FILES = sorted(CONF.rglob("*.yaml"))
NAMES = [str(path.relative_to(CONF)) for path in FILES]


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    return shutil.copytree(CONF, tmp_path_factory.mktemp("copy") / "conf")


@pytest.fixture
def conf(copied, monkeypatch):
    """A copy of conf/ that is read in its place; a test puts back what it changes."""
    monkeypatch.setattr(compose, "CONF", copied)
    yield copied
    forget()


def forget():
    """Read the files of conf/ again."""
    compose._composed.cache_clear()
    compose._loader.cache_clear()


def keys_of(node) -> list[yaml.Node]:
    """Return the node of every key, at any depth."""
    if isinstance(node, yaml.MappingNode):
        return [found for key, item in node.value for found in (key, *keys_of(item))]
    return [found for item in node.value for found in keys_of(item)] if isinstance(node, yaml.SequenceNode) else []


def mutations(text: str) -> list[str]:
    """Return the text with one key wrong by one letter, for each key: a letter replaced, and one dropped."""
    made = []
    for node in keys_of(yaml.compose(text)):
        start, end = node.start_mark.index, node.end_mark.index
        last = end - 2 if text[end - 1] in "'\"" else end - 1
        made.append(text[:last] + ("x" if text[last] != "x" else "y") + text[last + 1 :])
        made += [text[:last] + text[last + 1 :]] if end - start > 2 else []
    return made


def refused(path: Path) -> bool:
    if shipped.of_file(path):
        return True
    if path.parent.name != "task":  # the labels of a task are words of the data: compared where they meet
        return False
    forget()
    words = [Word("conf", "task", path.stem)]
    return strict.faults(words, "conf") != []


@pytest.mark.capability(48)
@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_is_wrong_by_one_letter_is_refused(name, conf):
    text = (conf / name).read_text()
    made, survivors = mutations(text), []
    for mutated in made:
        (conf / name).write_text(mutated)
        survivors += [mutated] if not refused(conf / name) else []
    (conf / name).write_text(text)
    assert survivors == []
    assert made or name.endswith("none.yaml")


def test_every_file_passes_as_it_is_shipped():
    assert shipped.problems() == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_shows_its_name_and_its_command(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#") and line != shipped.GLOBAL]
    name = path.relative_to(CONF.parent).as_posix()
    assert head[0].startswith(f"# {name} - ")
    assert re.match(r"# (python -m pipelines\.\w+|dvc repro)", head[1])


@pytest.mark.parametrize("path", [path for path in FILES if path.parent != CONF], ids=lambda path: str(path))
def test_the_command_in_a_file_is_accepted(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("# python -m pipelines.")]
    for line in lines:
        absent = " is not installed: pip install"
        words = re.match(r"# python -m pipelines\.\w+ (.*?)(?:\s{2,}|$)", line)[1]
        words = words.split(" with ")[0].replace("<commit>", "a" * 40).replace("<owner/name>", "a/b")
        words = words.replace(" --cfg job", "").split()
        if path.stem == "none":  # shows the word alone; most sections cannot be none by themselves
            assert words == [f"{path.parent.name}=none"]
            continue
        said, found = typed._words([word for word in words if word != "-m"], "-m" in words)
        if path.parent.name in ("level", "method", "model"):  # these switch other groups
            found += strict.faults([first for first, *_ in said], "command")
        for word in (word for sweep in said for word in sweep):
            found += [
                text for _, text in (schema.leaf(word.key, word.value) if "." in word.key else strict._option(word))
            ]
        assert all("must be given" in line or absent in line for line in found)


@pytest.mark.parametrize("turn", range(max(len(shipped.options(group)) for group in compose.GROUPS)))
def test_hydra_composes_every_file(turn):
    known = {group: shipped.options(group) for group in compose.GROUPS}
    chosen = {group: options[turn % len(options)] for group, options in known.items()}
    found = compose.compose([f"{group}={option}" for group, option in chosen.items()])
    for group, option in chosen.items():
        assert (found[group] is None) == (option == "none")
        assert all("must be given" in text for _, text in schema.problems(group, found[group]) if found[group])


def test_composing_gives_what_hydra_itself_gives():
    params = dialects.read(CONF.parent / "params.yaml")
    for name in ("tfidf", "few_shot", "lora", "scratch"):
        made = compose.overrides(compose.of_candidate(name, params))
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            theirs = compose.plain(hydra.compose("config", overrides=made))
        assert compose.compose(made) == theirs


@pytest.mark.parametrize("level", sorted(schema.table()["uses"]))
def test_a_level_switches_off_what_it_never_reads(level):
    model = {"baseline": "tfidf", "prompt": "smollm2", "finetune": "minilm", "pretrain": "tiny_llama"}[level]
    corpus = ["corpus=plain_english"] if level == "pretrain" else []
    found = compose.compose([f"level={level}", f"model={model}", *corpus])
    assert rules.of_candidate(found) == []
    assert list(found)[: len(schema.table()["sections"])] == list(schema.table()["sections"])


def test_a_method_brings_its_own_optimizer():
    for method, optimizer in {"full": "adamw", "frozen": "adamw_frozen", "lora": "adamw_lora"}.items():
        expected = dialects.read(CONF / "optimizer" / f"{optimizer}.yaml")
        assert compose.compose([f"method={method}"])["optimizer"] == expected


def test_the_command_line_wins_over_every_group():
    found = compose.compose(["level=finetune", "method=lora", "optimizer=adamw"])
    assert found["optimizer"]["learning_rate"] == 5e-5


ADDED = {  # group: a shipped file that a person copies, and what they change in it
    "data": ("sample_reviews", {"name: sample_reviews": "name: added"}),
    "model": ("smollm2", {"name: smollm2": "name: added"}),
    "method": ("lora", {"peft.LoraConfig": "peft.IA3Config", "  r: 8": "  # ", "  lora_": "  # "}),
    "prompt": ("zero_shot", {"{input_name}: {input}": "{input} is"}),
    "trainer": ("default", {"max_epochs: 3": "max_epochs: 7"}),
    "gate": ("default", {"0.95": "0.9"}),
}


def test_a_person_adds_each_kind_of_thing_as_one_file(conf, tmp_path):
    for group, (shown, changes) in ADDED.items():
        text = (conf / group / f"{shown}.yaml").read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        (conf / group / "added.yaml").write_text(text)
    row = "{level: finetune, model: added, method: added, prompt: added, trainer: added, data: added}"
    text = f"""seed: 1
data: reviews
datasets: [added]
set: {{gate: added, split: time}}
candidates: {{majority: {{level: baseline, model: majority}}, x: {row}}}
"""
    (tmp_path / "params.yaml").write_text(text)
    table = strict.params(tmp_path / "params.yaml")
    found = compose.candidate("x", table)
    assert found["data"]["name"] == found["model"]["name"] == "added"
    assert (found["method"]["_target_"], found["trainer"]["max_epochs"]) == ("peft.IA3Config", 7)
    assert found["prompt"]["template"].startswith("{input} is") and found["gate"]["confidence"] == 0.9
    assert compose.comparison(table)["gate"]["confidence"] == 0.9
    assert compose.dataset("reviews", table)["split"]["name"] == "time" != found["split"]["name"]
    for group in ADDED:
        (conf / group / "added.yaml").unlink()


def test_a_further_data_set_whose_file_dvc_does_not_track_is_refused(conf, tmp_path):
    text = (conf / "data" / "csv.yaml").read_text().replace("name: csv", "name: added").replace("???", "/tmp/a.csv")
    (conf / "data" / "added.yaml").write_text(text)
    (tmp_path / "params.yaml").write_text("""seed: 1
data: reviews
datasets: [added]
set: {}
candidates: {majority: {level: baseline, model: majority}}
""")
    with pytest.raises(
        ConfigError, match=r"params.yaml: datasets.added: data.path: '/tmp/a.csv' lies outside data/raw/"
    ):
        strict.params(tmp_path / "params.yaml")
    (conf / "data" / "added.yaml").unlink()


def test_faults_of_conf_are_told_along_with_those_of_a_person(conf, tmp_path):
    (conf / "scheduler" / "added.yaml").write_text("name: linear\nwarmup_shar: 0.1\n")
    (tmp_path / "params.yaml").write_text("sed: 1\n")
    with pytest.raises(ConfigError, match=r"Did you mean 'warmup_share'[\s\S]*params.yaml: sed: "):
        strict.params(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match=r"Did you mean 'warmup_share'[\s\S]*method: No method"):
        typed.check(["method=lroa", "x"], stage="train")
    (conf / "scheduler" / "added.yaml").unlink()
