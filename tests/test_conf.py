"""conf/: every file shows how to use it, composes, and cannot be wrong by one letter unnoticed."""

import os
import re
import shutil
from pathlib import Path

import hydra
import pytest
import yaml

from stepladder import compose, dialects, rules, schema, shipped, typed
from stepladder.errors import ConfigError

CONF = compose.CONF
FILES = sorted(CONF.rglob("*.yaml"))
NAMES = [str(path.relative_to(CONF)) for path in FILES]


@pytest.fixture
def conf(tmp_path):
    shutil.copytree(CONF, tmp_path / "conf")
    return tmp_path / "conf"


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


def refused(path: Path, conf: Path) -> bool:
    if shipped.of_file(path, conf):
        return True
    if path.parent.name != "task":  # the labels of a task are words of the data: compared where they meet
        return False
    try:
        typed.check([f"{path.parent.name}={path.stem}"], stage="train", conf=conf)
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_is_wrong_by_one_letter_is_refused(name, conf):
    text = (conf / name).read_text()
    made = mutations(text)
    survivors = []
    for number, mutated in enumerate(made):
        path = conf / name
        path.write_text(mutated)
        os.utime(path, ns=(number, number))  # what was read is kept until the time changes
        survivors += [mutated] if not refused(path, conf) else []
    assert survivors == []
    assert made or name.endswith("none.yaml")


def test_every_file_passes_as_it_is_shipped():
    assert shipped.problems(CONF) == []


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
        stage, words = re.match(r"# python -m pipelines\.(\w+) (.*?)(?:\s{2,}|$)", line).groups()
        words = words.split(" with ")[0].replace("<commit>", "a" * 40).replace("<owner/name>", "a/b")
        words = words.replace(" --cfg job", "").split()
        if path.stem == "none":  # shows the word alone; most sections cannot be none by themselves
            assert words == [f"{path.parent.name}=none"]
            continue
        try:
            typed.check([word for word in words if word != "-m"], stage=stage, many="-m" in words)
        except ConfigError as error:
            assert all("must be given" in line for line in str(error).splitlines())


def test_composing_gives_what_hydra_itself_gives():
    params = dialects.read(CONF.parent / "params.yaml")
    for name in params["candidates"]:
        made = compose.overrides(name, params)
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
