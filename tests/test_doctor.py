"""Doctor: planted faults stop before the first step with rows and cure, clean data is let pass, each guard counts."""

import json
from pathlib import Path

import polars as pl
import pytest

from stepladder import levels, objectives, records, splits, symptoms
from stepladder.errors import DataError
from tests import test_objectives
from tests.conftest import sentences

pytestmark = pytest.mark.slow

LABELS, SAMPLES = ["bad", "good"], Path(__file__).parents[1] / "samples"


def objective(tiny, name: str = "response", *, task: str = "classification", form: str = "llama", **changes):
    from stepladder import models
    from stepladder.prompts import Prompt

    labels = LABELS if task == "classification" else None
    given = {"max_length": 120, "labels": labels, "reading": {"scale": None}, "prompt": Prompt("Text: {input}\nLabel:")}
    decoding = {"max_new_tokens": 30, "num_beams": 1, "one_line": True}
    return objectives.load(name)(
        models.tokenizer(tiny / form), task=task, **(given | {"decoding": decoding} | changes)
    )  # fmt: skip


def data(task: str = "classification", number: int = 24, *, seed: int = 0) -> pl.DataFrame:
    """Return clean records; answers of a generation are short and not in the text."""
    frame, chosen = sentences(number, seed=seed), {"classification": pl.col("target"), "language_modeling": None}
    written = pl.col("target").replace_strict({"bad": "No, thanks", "good": "Yes, please"})
    return frame.with_columns(target=chosen.get(task, written))


def changed(frame: pl.DataFrame, column: str, values: dict[int, str | None]) -> pl.DataFrame:
    """Return the records with other texts in some rows."""
    old = frame[column].to_list()
    return frame.with_columns(pl.Series(column, [values.get(i, text) for i, text in enumerate(old)], pl.String))


def every(frame: pl.DataFrame, column: str, text: str) -> pl.DataFrame:
    """Return the records with a text made of each one's input and target."""
    rows = frame.select("input", "target").rows(named=True)
    return changed(frame, column, {i: text.format(**row) for i, row in enumerate(rows)})


def endless(given):
    given._written_ids = lambda target: given._answer_ids(target)
    return given


def blind(given):
    given.count = lambda batch: len(batch["answers"])
    return given


def without_end(given):
    given.tokenizer.eos_token = None
    return given


def melting(given):
    given.tokenizer = test_objectives.melting(given.tokenizer)
    given.tokenizer.pad_token = given.tokenizer.eos_token
    return given


NUMBERS = {"name": "regression", "task": "regression", "form": "bert"}
GENERATION, HEAD = {"task": "generation"}, {"name": "supervised", "form": "bert"}
LONG = "a film " * 60
PLANTED = {  # name: (guard, objective, change of the objective, change of train, change of val, words, rows)
    "an input that only looks like one": (
        "empty", {}, None, lambda f: changed(f, "input", {3: "\u200b \u2060"}), None, "have an empty input", "r0_3"),
    "an empty answer": (
        "empty", GENERATION, None, lambda f: changed(f, "target", {5: " "}), None, "have an empty target", "r0_5"),
    "a target that is not there": (
        "empty", {}, None, lambda f: changed(f, "target", {2: None, 7: None}), None, "empty target", "r0_2, r0_7"),
    "garbage": (
        "garbage", {}, None, lambda f: changed(f, "input", {4: "a\x00\x01\x02 film\ufffd"}), None, "encoding", "r0_4"),
    "one input, two labels": (
        "contradictions", {}, None, lambda f: changed(f, "input", {0: "It is ok", 1: "it  IS ok"}), None,
        "another target", "r0_0, r0_1"),
    "val in train": (
        "overlap", {}, None, None, lambda f: changed(f, "input", {1: data()["input"][8].upper()}), "of train", "r1_1"),
    "one class": (
        "classes", {}, None, lambda f: f.with_columns(target=pl.lit("good")), None, "all 24 rows are 'good'", None),
    "a class that train lacks": (
        "classes", {"labels": ["bad", "good", "odd"]}, None, None, lambda f: changed(f, "target", {6: "odd"}),
        "no row of class 'odd'", "r1_6"),
    "one number": (
        "spread", NUMBERS, None, lambda f: f.with_columns(target=pl.lit("4")), None, "all 24 targets are 4", None),
    "a label of val that nobody knows": (
        "strangers", {}, None, None, lambda f: changed(f, "target", {6: "goood"}), "Did you mean 'good'", "r1_6"),
    "a label in the text": (
        "told", {}, None, lambda f: every(f, "input", "{input} Rating: {target}!"), None, "say their own label",
        "r0_0"),
    "an answer in the text": (
        "copied", GENERATION, None, lambda f: every(f, "input", "{input} {target}"), None, "ends with its answer",
        "r0_0"),
    "a row whose loss is masked": (
        "masked", {}, None, lambda f: changed(f, "target", {2: None}), None, "teach nothing", "r0_2"),
    "a batch that leaves the end out": (
        "hidden", GENERATION, blind, None, None, "supervise 24 of the", None),
    "a text that is cut away": (
        "unseen", {"max_length": 9}, None, lambda f: changed(f, "input", {9: "漢" * 40}), None,
        "nothing of their input", "r0_9"),
    "a head that reads no text": (
        "unseen", HEAD | {"max_length": 2}, None, None, None, "nothing of their input", "r0_0, r0_1"),
    "a template that hides the text": (
        "unseen", {"prompt": "Label:"}, None, None, None, "must hold {input}", "r0_0"),
    "answers without an end": (
        "endless", GENERATION, endless, None, None, "answer without an end", "r0_0"),
    "a tokenizer without an end": (
        "nameless", {"task": "language_modeling", "name": "language_modeling"}, without_end, None, None,
        "no end-of-text token", None),
    "an end within an answer": (
        "early", GENERATION, None, lambda f: changed(f, "target", {1: "Yes<|endoftext|> or no"}), None,
        "end within their answer", "r0_1"),
    "an answer that melts into the prompt": (
        "melted", GENERATION | {"prompt": "{input}\nThe"}, melting, lambda f: changed(f, "target", {2: "good"}), None,
        "melts into the prompt", "r0_2"),
    "a language that the tokenizer does not know": (
        "unknown", HEAD, None, lambda f: every(f, "input", "привет мир {input}" * 3).with_columns(
            input=pl.col("input").str.replace_all("[a-z]+", "слово")), None, "unknown to the tokenizer", "r0_0"),
}  # fmt: skip
ODD = {  # what may be meant is told, and trained
    "repeated rows": (
        "duplicates", {}, lambda f: changed(f, "input", {2: f["input"][0]}), "repeat another", "r0_2"),
    "some control characters": (
        "garbage", {}, lambda f: changed(f, "input", {4: LONG[:40] + "\x85"}), "some control characters", "r0_4"),
    "many cut rows": (
        "cut", {}, lambda f: changed(f, "input", {i: f"{i} {LONG}" for i in (0, 1, 2)}), "are cut to 120",
        "r0_0, r0_1"),
    "answers that are too long to be written": (
        "cut", GENERATION, lambda f: every(f, "target", "{target}, " * 12), "more than decoding.max_new", "r0_0"),
    "one class is nearly all": (
        "classes", {}, lambda f: pl.concat([f.filter(pl.col("target") == "good"), data(number=600, seed=4).filter(
            pl.col("target") == "good"), f.filter(pl.col("target") == "bad").head(1)]), "accuracy says little", None),
    "a special token in a text": (
        "controls", {}, lambda f: changed(f, "input", {8: "an end <|endoftext|> of text"}), "special tokens", "r0_8"),
    "several answers to one question": (
        "contradictions", GENERATION, lambda f: changed(f, "input", {0: "ok?", 1: "ok?"}), "another target",
        "r0_0, r0_1"),
    "an answer to be found in the text": (
        "copied", GENERATION, lambda f: every(f, "input", "{input} {target} it said"), "to be found in the text",
        "r0_0"),
}  # fmt: skip


def examined(tiny, options: dict, change, frames: list) -> dict:
    """Return what the doctor says of an objective and clean records with a change in them."""
    from stepladder import doctor
    from stepladder.prompts import Prompt

    options = dict(options)
    if "prompt" in options:
        options["prompt"] = Prompt(options["prompt"])
    made = objective(tiny, **options)
    task = made.task
    parts = [data(task), data(task, 12, seed=1)]
    parts = [part if alter is None else alter(part) for part, alter in zip(parts, frames, strict=True)]
    return doctor.encoded(change(made) if change else made, *parts)[1]


def without(monkeypatch, *names: str) -> None:
    from stepladder import doctor

    if "nameless" in names:
        monkeypatch.setattr(doctor, "nameless", lambda _: [])
    for module in (doctor, symptoms):
        monkeypatch.setattr(module, "GUARDS", tuple(g for g in module.GUARDS if g.__name__ not in names))


BEFORE = {"masked": ("empty",)}  # a guard that sees the same fault first


@pytest.mark.capability(22)
@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_stops_with_its_rows_and_the_cure(name, tiny, monkeypatch):
    guard, options, change, first, second, words, rows = PLANTED[name]
    without(monkeypatch, *BEFORE.get(guard, ()))
    with pytest.raises(DataError) as error:
        examined(tiny, options, change, [first, second])
    (line,) = [line for line in str(error.value).splitlines() if words in line]
    assert error.value.code == 3
    assert rows is None or f"({rows}" in line
    assert "; " in line or "Known: " in line, "what to do"


@pytest.mark.capability(22)
@pytest.mark.parametrize("name", PLANTED)
def test_without_its_guard_a_planted_fault_is_not_seen(name, tiny, monkeypatch):
    guard, options, change, first, second, words, _ = PLANTED[name]
    without(monkeypatch, guard, *BEFORE.get(guard, ()))
    try:
        found = json.dumps(examined(tiny, options, change, [first, second]))
    except Exception as error:
        found = str(error)
    assert words not in found or guard == "strangers", "the objective itself refuses a label that it does not know"


@pytest.mark.parametrize("name", ODD)
def test_what_may_be_meant_is_told_with_its_rows_and_no_more(name, tiny, monkeypatch, capsys):
    guard, options, first, words, rows = ODD[name]
    (warning,) = examined(tiny, options, None, [first, None])["warnings"]
    assert words in warning and (rows is None or f"({rows}" in warning)
    assert f"doctor: warning: {warning}\n" in capsys.readouterr().out
    without(monkeypatch, guard)
    assert examined(tiny, options, None, [first, None])["warnings"] == []


def test_every_guard_is_tested():
    from stepladder import doctor

    tested = {case[0] for case in (*PLANTED.values(), *ODD.values())}
    assert tested == {guard.__name__ for guard in (doctor.nameless, *doctor.GUARDS, *symptoms.GUARDS)}
    assert len(PLANTED) >= 12


def test_all_faults_are_told_at_once(tiny):
    spoil = lambda f: changed(changed(f, "input", {3: " "}), "target", {5: None})  # noqa: E731
    with pytest.raises(DataError, match=r"empty input \(r0_3\)[\s\S]*\n.*empty target \(r0_5\)"):
        examined(tiny, {}, None, [spoil, None])


CLEAN = [{}, GENERATION, HEAD, {"name": "supervised"}, {"name": "language_modeling", "task": "language_modeling"}]


@pytest.mark.parametrize("options", CLEAN, ids=str)
def test_clean_data_is_let_pass_without_a_word(options, tiny):
    assert examined(tiny, options, None, [None, None])["warnings"] == []


SHIPPED = {
    "reviews": ("classification", "csv", {"input": "text", "target": "label", "id": "id"}, {"delimiter": ","}),
    "plain_english": ("generation", "jsonl", None, {}),
    "presidents": ("language_modeling", "jsonl", {"input": "text", "id": "id", "group": "speech"}, {}),
}


@pytest.mark.capability(22)
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_samples_raise_no_false_alarm(name, tiny):
    from stepladder import doctor, vocabulary

    task, source, columns, options = SHIPPED[name]
    rows, _ = records.collect(SAMPLES / f"{name}.{source}", source=source, columns=columns, options=options)
    frame, _ = records.clean(rows, name=name, task=task, labels=None)
    parts = splits.partition(frame, {"val": 0.1, "test": 0.1}, name="hash", seed=42, column=None)
    learned = vocabulary.learn(frame["input"], vocab_size=2000, context_length=256)
    for kind in objectives_of(task):
        made = objective(tiny, kind, task=task, max_length=256)
        made.tokenizer, made.labels = learned, sorted(set(frame["target"])) if task == "classification" else None
        made.label_ids = [made._label_ids(label) for label in made.labels or []] if kind == "response" else []
        made.decoding = {"max_new_tokens": 64, "num_beams": 1, "one_line": True}
        assert doctor.encoded(made, parts["train"], parts["val"])[1]["warnings"] == []


def objectives_of(task: str) -> list[str]:
    names = {"classification": ["supervised", "response"], "generation": ["response"]}
    return names.get(task, ["language_modeling"])


@pytest.mark.parametrize(("options", "told", "shown"), [
    ({}, "24 train rows, 24 predictions from 644 tokens, 0 rows cut; bad 12, good 12", "act 12\\nLabel:[[ bad]]"),
    (HEAD, "24 train rows, 24 predictions from", "doctor: r0_12: [CLS] wooden its long second act 12 [SEP][[bad]]"),
    (GENERATION, "24 train rows, 300 predictions from 920 tokens", "Label:[[ No, thanks<|endoftext|>]]"),
    ({"name": "language_modeling", "task": "language_modeling"}, "5 train rows, 532 predictions", "[[ plot 9<|"),
])  # fmt: skip
def test_the_log_says_in_two_lines_what_is_learnt_from_what(options, told, shown, tiny, capsys):
    examined(tiny, options, None, [None, None])
    first, second = [line for line in capsys.readouterr().out.splitlines() if "cut to" not in line]
    assert first.startswith("doctor: ") and told in first and shown in second
    assert len(second) < 400


def test_the_share_that_is_learnt_is_what_the_loss_is_a_mean_of(tiny):
    from stepladder import doctor

    for options in CLEAN:
        made = objective(tiny, **options)
        (rows, _), found = doctor.encoded(made, data(made.task), data(made.task, 12, seed=1))
        assert found["predicted"] == sum(made.count(made.collate([row])) for row in rows.rows)
        assert found["tokens"] == sum(row["length"] + len(row.get("answer", ())) for row in rows.rows)


def test_a_fit_with_a_fault_stops_before_its_first_step_and_a_sound_one_keeps_the_numbers(tiny, choose, tmp_path):
    level, told = levels.load("finetune")(choose("finetune", "llama"), base=tiny / "llama"), []
    with pytest.raises(DataError, match=r"1 of 24 rows have an empty target \(r0_3\); fill it in or delete them"):
        level.fit(
            changed(data(), "target", {3: " "}), data(number=8, seed=1), state=tmp_path, log=lambda *v: told.append(v)
        )
    assert told == [] and not list(tmp_path.rglob("*.ckpt"))
    facts = level.fit(data(), data(number=8, seed=1), state=tmp_path, log=lambda *_: None)
    level.save(tmp_path / "made")
    saved = json.loads((tmp_path / "made" / "stepladder.json").read_text())["doctor"]
    assert saved == facts["doctor"] and saved["labels"] == {"bad": 12, "good": 12} and saved["rows"] == 24
