"""Levels: each fits, saves, loads and predicts the same, and leaves folders that others' libraries open alone."""

import json
import pkgutil

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from stepladder import levels, records, targets
from stepladder.errors import ConfigError, DataError, IntegrityError
from tests import elsewhere
from tests.conftest import LORA, SIZES, sentences

pytestmark = pytest.mark.slow

HEAD = {"objective": {"name": "supervised"}, "prompt": None}
PRETRAIN = {
    "model": {"vocab_size": 320, "context_length": 128, **SIZES},
    "level": {"pretraining": {
        "max_tokens": 4096, "batch_size": 4, "learning_rate": 3e-3, "warmup_share": 0.1, "weight_decay": 0.1,
    }},
}  # fmt: skip
TWO = {"model": {"kind": "encoder_decoder"}}
CASES = {
    "majority": ("baseline", "majority", "classification", {}),
    "majority writes": ("baseline", "majority", "generation", {}),
    "majority models": ("baseline", "majority", "language_modeling", {}),
    "tfidf": ("baseline", "tfidf", "classification", {}),
    "tfidf writes": ("baseline", "tfidf", "generation", {}),
    "majority marks": ("baseline", "majority", "multilabel", {}),
    "tfidf marks": ("baseline", "tfidf", "multilabel", {}),
    "full marks": ("finetune", "bert", "multilabel", {"trainer": {"monitor": "micro_f1"}}),
    "lora marks": ("finetune", "bert", "multilabel", {"method": LORA}),
    "frozen marks": ("finetune", "bert", "multilabel", {"method": {"name": "frozen"}}),
    "decoder marks": ("finetune", "llama", "multilabel", {"method": LORA}),
    "scratch marks": ("pretrain", "llama", "multilabel", PRETRAIN),
    "median": ("baseline", "majority", "regression", {}),
    "tfidf numbers": ("baseline", "tfidf", "regression", {}),
    "full numbers": ("finetune", "bert", "regression", {"trainer": {"monitor": "mean_absolute_error"}}),
    "lora numbers": ("finetune", "bert", "regression", {"method": LORA}),
    "frozen numbers": ("finetune", "bert", "regression", {"method": {"name": "frozen"}}),
    "decoder numbers": ("finetune", "llama", "regression", {"method": LORA}),
    "prompt": ("prompt", "llama", "classification", {"prompt": {"num_shots": 1}, "trainer": {"max_length": 256}}),
    "prompt calibrated": (
        "prompt",
        "llama",
        "classification",
        {"prompt": {"num_shots": 1, "content_free": ["N/A", ""]}, "trainer": {"max_length": 256}},
    ),
    "prompt chats": (
        "prompt",
        "chat",
        "classification",
        {"prompt": {"name": "chat"}, "trainer": {"max_length": 256}},
    ),
    "prompt writes": ("prompt", "llama", "generation", {}),
    "prompt models": ("prompt", "llama", "language_modeling", {}),
    "full": ("finetune", "bert", "classification", {}),
    "lora": ("finetune", "bert", "classification", {"method": LORA}),
    "frozen": ("finetune", "bert", "classification", {"method": {"name": "frozen"}}),
    "distil full": ("finetune", "distilbert", "classification", {}),
    "distil lora": ("finetune", "distilbert", "classification", {"method": LORA}),
    "decoder full": ("finetune", "llama", "classification", {}),
    "decoder lora": ("finetune", "llama", "classification", {"method": LORA}),
    "decoder head": ("finetune", "llama", "classification", HEAD),
    "decoder head lora": ("finetune", "llama", "classification", {**HEAD, "method": LORA}),
    "decoder head frozen": ("finetune", "llama", "classification", {**HEAD, "method": {"name": "frozen"}}),
    "halves full": ("finetune", "t5", "classification", TWO),
    "halves lora": ("finetune", "t5", "classification", {**TWO, "method": LORA}),
    "halves write": ("finetune", "t5", "generation", TWO),
    "halves prompted": (
        "prompt",
        "t5",
        "classification",
        {**TWO, "prompt": {"num_shots": 1}, "trainer": {"max_length": 256}},
    ),
    "full writes": ("finetune", "llama", "generation", {}),
    "lora writes by chrf": ("finetune", "llama", "generation", {"method": LORA, "trainer": {"monitor": "chrf"}}),
    "full models": ("finetune", "llama", "language_modeling", {}),
    "lora models": ("finetune", "llama", "language_modeling", {"method": LORA}),
    "scratch": ("pretrain", "llama", "classification", PRETRAIN),
    "scratch writes": ("pretrain", "llama", "generation", PRETRAIN),
    "scratch models": ("pretrain", "llama", "language_modeling", PRETRAIN),
}
FACTS = {"level", "num_parameters", "num_trained_parameters", "rows_seen", "examples_seen", "tokens_seen"}


def data(task: str, number: int, *, seed: int = 0) -> pl.DataFrame:
    frame = sentences(number, seed=seed)
    answers = {"classification": pl.col("target"), "generation": pl.col("input").str.slice(0, 12)}
    answers |= {"multilabel": several(frame), "regression": rated(frame)}
    return frame.with_columns(answers.get(task, pl.lit(None, pl.String)).alias("target"))


def several(frame: pl.DataFrame) -> pl.Series:
    """Return targets of up to three labels, by words that stand in the input; some rows have none."""
    words = {"bad": "dull|flat|noisy|wooden", "plot": "the plot", "music": "music"}
    marks = frame.select(pl.col("input").str.contains(pattern).alias(label) for label, pattern in words.items())
    return pl.Series([targets.written(k for k, yes in row.items() if yes) for row in marks.iter_rows(named=True)])


def rated(frame: pl.DataFrame) -> pl.Expr:
    """Return targets from 1 to 5: how many phrases of the middle of the input, good or bad."""
    words = pl.col("input").str.count_matches("film|music|plot|scene").clip(0, 2)
    return (3 + pl.when(target="good").then(words).otherwise(-words.cast(pl.Int64))).cast(pl.String)


@pytest.fixture(scope="module")
def made(tiny, choose, tmp_path_factory):
    """Return a function from a case to its fitted level, folder, facts, history and base; each is fitted once."""
    known = {}

    def fitted(name: str) -> tuple:
        if name not in known:
            level, model, task, changes = CASES[name]
            folder, told = tmp_path_factory.mktemp("level"), []
            base = None if level in ("baseline", "pretrain") else tiny / model
            one = levels.load(level)(choose(level, model, task=task, **changes), base=base)
            corpus = {part: folder / f"{part}.parquet" for part in ("train", "val")} if level == "pretrain" else None
            for seed, (part, number) in enumerate({"train": 60, "val": 10}.items() if corpus else (), start=5):
                records.write(data(task, number, seed=seed), corpus[part])
            parts = data(task, 24), data(task, 12, seed=1)
            facts = one.fit(*parts, state=folder / "state", log=lambda *values: told.append(values), corpus=corpus)
            one.save(folder / "made")
            known[name] = one, folder / "made", facts, told, base
        return known[name]

    return fitted


def test_every_level_is_among_the_cases():
    assert {case[0] for case in CASES.values()} == {module.name for module in pkgutil.iter_modules(levels.__path__)}


@pytest.mark.parametrize("name", CASES)
def test_a_level_predicts_the_same_before_it_is_saved_and_after_it_is_loaded(name, made):
    from stepladder import metrics, predictions

    level, folder, facts, told, _ = made(name)
    _, _, task, changes = CASES[name]
    records = data(task, 9, seed=2)
    first = level.predict(records)
    again = levels.load(facts["level"]).load(folder).predict(records)
    merged = changes.get("method") == LORA  # as it is served
    assert_frame_equal(first, again, check_exact=not merged, rel_tol=1e-5, abs_tol=1e-5)
    assert first["id"].to_list() == records["id"].to_list()
    assert set(predictions.COLUMNS[task]) <= set(first.columns)
    scores = metrics.evaluate(first, task)
    assert scores
    assert set(facts) >= FACTS
    saved = json.loads((folder / "stepladder.json").read_text())
    assert {key: saved[key] for key in facts} == facts
    if merged:
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["target_modules"] == sorted(config["target_modules"]), "the same bytes in every process"
        assert not (folder / "README.md").exists()
    if facts["level"] in ("finetune", "pretrain"):
        names = {told_name for told_name, *_ in told}
        assert {"train/loss", "train/learning_rate", "val/loss"} <= names
        assert ("val/chrf" in names) == (changes.get("trainer", {}).get("monitor") == "chrf")
        assert (task == "language_modeling") == ("val/bits_per_byte" in names)
        assert facts["rows_seen"] == 24


@pytest.mark.parametrize("name", CASES)
def test_what_a_level_answered_on_val_while_it_was_fitted_is_what_it_predicts(name, made):
    level = made(name)[0]
    _, _, task, changes = CASES[name]
    unwritten = task == "generation" and changes.get("trainer", {}).get("monitor", "loss") == "loss"
    assert (level.validated is None) == (CASES[name][0] in ("baseline", "prompt") or unwritten)
    if level.validated is not None:
        again = level.predict(data(task, 12, seed=1))  # rows of kept features stand in another order
        assert_frame_equal(level.validated, again, check_exact=False, abs_tol=1e-6, rel_tol=0)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case[0] == "finetune"])
def test_the_number_of_trained_parameters_is_the_one_that_the_method_says(name, made):
    level, _, facts, _, base = made(name)
    _, model, _, changes = CASES[name]
    method = changes.get("method", {"name": "full"})
    whole, num = level.answerer.model, len(level.answerer.description["labels"] or ["number"])
    expected = sum(weight.numel() for weight in whole.parameters())
    if method == {"name": "frozen"}:
        expected = 32 * num + num
    elif method == LORA:
        expected = sum(4 * sum(shape) for shape in adapted(base)) + head(model, num, level.answerer.description["form"])
    assert facts["num_trained_parameters"] == expected
    assert facts["num_parameters"] == sum(weight.numel() for weight in whole.parameters())


def adapted(base) -> list:
    """Return the shapes of all linear layers of the backbone."""
    import torch
    from transformers import AutoModel

    from stepladder import models

    with models.opening(base):
        backbone = AutoModel.from_pretrained(base)
    return [module.weight.shape for module in backbone.modules() if isinstance(module, torch.nn.Linear)]


def head(model: str, num: int, form: str) -> int:
    if form in ("causal", "seq2seq"):
        return 0
    return {"bert": 32 * num + num, "llama": 32 * num, "distilbert": 32 * num + num + 32 * 32 + 32}[model]


def test_frozen_moves_the_head_and_nothing_else(made, tiny):
    from safetensors.torch import load_file

    level, folder, _, _, _ = made("frozen")
    before = load_file(tiny / "bert" / "model.safetensors")
    after = level.answerer.model.base_model.state_dict()
    assert all((after[name] == weight).all() for name, weight in before.items())
    assert sorted(path.name for path in folder.iterdir()) == ["head.safetensors", "stepladder.json"]


@pytest.mark.parametrize("name", ["full", "lora", "frozen", "decoder full", "decoder head lora", "scratch"])
def test_a_fit_leaves_finite_weights_and_counts_what_it_saw(name, made):
    level, _, facts, _, _ = made(name)
    assert facts["examples_seen"] == 24
    assert all(weight.isfinite().all() for weight in level.answerer.model.parameters())
    if name != "scratch":
        assert facts["tokens_seen"] > 0 or name == "frozen"


def test_saved_folders_answer_the_same_where_stepladder_cannot_be_imported(made):
    trained = [name for name, case in CASES.items() if case[0] in ("finetune", "pretrain")]
    cases = [name for name in trained if CASES[name][2] == "classification"]
    records = data("classification", 5, seed=2)
    answered = elsewhere.ask({name: made(name)[1] for name in cases}, records["input"].to_list())
    for name in cases:
        ours = made(name)[0].predict(records)["probabilities"].struct.unnest().to_numpy()
        assert ours == pytest.approx(answered[name], abs=1e-5), name


def test_the_exported_form_needs_no_other_folder_and_answers_the_same(made, tmp_path):
    from stepladder import answering

    records = data("classification", 5, seed=2)
    for name in ("lora", "frozen", "decoder lora", "decoder head lora"):
        level, folder, _, _, _ = made(name)
        answering.load(folder).export(tmp_path / name)
        description = answering.read(tmp_path / name)
        assert (description["base"], description["adapter"]) == (None, False)
        alone = answering.load(tmp_path / name).predict(records)["probabilities"].struct.unnest().to_numpy()
        assert alone == pytest.approx(level.predict(records)["probabilities"].struct.unnest().to_numpy(), abs=1e-5)


def test_saving_says_nothing_about_shards(made, tmp_path, capfd):
    for name in ("full", "lora", "scratch"):
        made(name)[0].save(tmp_path / name)
    assert capfd.readouterr() == ("", "")


def test_a_folder_without_a_description_is_no_finished_model(tmp_path):
    from stepladder import answering

    with pytest.raises(IntegrityError, match=r"stepladder\.json: missing; this is no finished model"):
        answering.load(tmp_path)


@pytest.mark.capability(3)
def test_few_shot_examples_come_from_train_and_are_written_down(made):
    _, folder, facts, _, _ = made("prompt")
    shots = json.loads((folder / "stepladder.json").read_text())["prompt"]["shots"]
    assert facts["rows_seen"] == len(shots) == 2
    assert {text for text, _ in shots} <= set(data("classification", 24)["input"])


def short(number: int) -> pl.DataFrame:
    texts = pl.Series([f"fine {i}" if i % 2 else f"dull {i}" for i in range(number)])
    return data("classification", number).with_columns(texts.alias("input"))


@pytest.mark.parametrize(("length", "kept"), [(240, 2), (64, 1)])
def test_as_many_examples_are_shown_as_leave_half_of_the_room(tiny, choose, tmp_path, capsys, length, kept):
    sections = choose("prompt", "llama", prompt={"num_shots": 2}, trainer={"max_length": length})
    level = levels.load("prompt")(sections, base=tiny / "llama")
    facts = level.fit(short(20), short(8), state=tmp_path, log=print)
    assert facts["rows_seen"] == 2 * kept
    told = f"few-shot: {kept} of 2 examples a class fit into half of {length} tokens"
    assert (told in capsys.readouterr().out) == (kept < 2)


def test_not_one_example_that_fits_is_refused_with_the_cure(tiny, choose, tmp_path):
    sections = choose("prompt", "llama", prompt={"num_shots": 2}, trainer={"max_length": 24})
    with pytest.raises(ConfigError, match=r"not one example a class fits into half of trainer\.max_length=24 tokens"):
        levels.load("prompt")(sections, base=tiny / "llama").fit(short(20), short(8), state=tmp_path, log=print)


def test_what_a_model_answers_to_nothing_is_divided_out(tiny, choose, tmp_path):
    def shares(empty: list[str], texts: pl.DataFrame):
        sections = choose("prompt", "llama", prompt={"content_free": empty}, trainer={"max_length": 256})
        level = levels.load("prompt")(sections, base=tiny / "llama")
        level.fit(short(20), short(8), state=tmp_path, log=print)
        answers = level.predict(texts)
        return answers["answer"].to_list(), answers["probabilities"].struct.unnest().to_numpy()

    asked, nothing = short(12), short(2).with_columns(input=pl.Series(["N/A", ""]))
    before, plain = shares([], asked)
    after, calibrated = shares(["N/A", ""], asked)
    _, prior = shares([], nothing)
    expected = plain / prior.mean(0)  # the diagonal matrix of arXiv:2102.09690, section 3
    assert calibrated == pytest.approx(expected / expected.sum(1, keepdims=True), abs=1e-5)
    assert before != after, "no answer changed, so this would not be seen"
    _, level = shares(["N/A"], nothing.head(1))
    assert level == pytest.approx(0.5, abs=1e-5)


def test_answers_have_several_lines_where_those_of_train_have(tiny, choose, tmp_path):
    for target, one_line in (("a\nb", False), ("a b", True)):
        train = data("generation", 6).with_columns(pl.lit(target).alias("target"))
        level = levels.load("prompt")(choose("prompt", "llama", task="generation"), base=tiny / "llama")
        level.fit(train, train, state=tmp_path, log=print)
        assert level.answerer.description["decoding"]["one_line"] is one_line


def test_a_count_that_no_word_reaches_is_one_line(choose):
    few = data("classification", 2).with_columns(input=pl.Series(["one text", "other words"]))
    sections = choose("baseline", "tfidf", model={"min_count": 3})
    with pytest.raises(
        DataError, match=r"no word stands in so many texts of train \(model\.min_count=3\); set it to 1"
    ):
        levels.load("baseline")(sections, base=None).fit(few, few, state=None, log=None)


@pytest.mark.parametrize("model", ["bert", "llama"])
def test_no_text_is_longer_than_the_model_reads_and_what_is_cut_is_told(tiny, choose, tmp_path, capsys, model):
    train = data("classification", 6).with_columns(
        pl.when(pl.col("id") == "r0_0").then(pl.lit("a film " * 200)).otherwise(pl.col("input")).alias("input")
    )
    sections = choose("finetune", model, trainer={"max_length": 2000})
    level = levels.load("finetune")(sections, base=tiny / model)
    facts = level.fit(train, data("classification", 8, seed=1), state=tmp_path, log=lambda *_: None)
    limit = {"bert": 128, "llama": 256}[model]
    said = capsys.readouterr().out
    assert f"trainer.max_length=2000 is lowered to the model's {limit} tokens" in said
    assert f"1 of 6 inputs are cut to {limit} tokens" in said
    assert facts["rows_cut"] == 1
    assert level.answerer.description["inference"]["max_length"] == limit
    assert len(level.predict(train)) == 6


def test_nothing_is_said_of_cuts_where_a_text_just_fits(tiny, choose, tmp_path, capsys):
    from stepladder import models

    train = data("classification", 6)
    longest = max(map(len, models.tokenizer(tiny / "bert")(train["input"].to_list())["input_ids"]))
    for length, cut in ((longest, 0), (longest - 1, 1)):
        level = levels.load("finetune")(choose("finetune", "bert", trainer={"max_length": length}), base=tiny / "bert")
        facts = level.fit(train, short(4), state=tmp_path, log=lambda *_: None)
        assert (facts["rows_cut"] >= cut) and (facts["rows_cut"] == 0) == (cut == 0)
        assert ("are cut" in capsys.readouterr().out) == bool(cut)


@pytest.mark.capability(18)
def test_pretraining_reports_bits_per_byte_and_learns(made, choose, tmp_path):
    _, _, facts, told, _ = made("scratch")
    before = facts["pretraining"]
    losses = [value for name, value, *_ in told if name == "pretrain/val/loss"]
    assert losses[-1] < losses[0]
    assert 0 < before["bits_per_byte"] < 8
    measured = [value for name, value, *_ in told if name == "pretrain/val/bits_per_byte"]
    assert before["bits_per_byte"] == pytest.approx(min(measured), rel=1e-4)
    assert before["num_texts"] == 62
    assert facts["num_trained_parameters"] == facts["num_parameters"]
    without = levels.load("pretrain")(choose("pretrain", "llama", **PRETRAIN), base=None)
    frame = data("classification", 4)
    with pytest.raises(ConfigError, match="corpus: level=pretrain needs one"):
        without.fit(frame, frame, state=tmp_path, log=print, corpus=None)


def test_the_majority_of_train_is_the_answer_and_its_shares_are_the_probabilities(choose):
    level = levels.load("baseline")(choose("baseline", "majority"), base=None)
    train = data("classification", 5)  # three bad, two good
    level.fit(train, train, state=None, log=None)
    found = level.predict(data("classification", 3, seed=1))
    assert found["answer"].to_list() == ["bad"] * 3
    assert found["probabilities"][0] == pytest.approx({"bad": 0.6, "good": 0.4})


def test_the_bytes_of_train_give_bits_to_every_text(choose):
    import math

    level = levels.load("baseline")(choose("baseline", "majority", task="language_modeling"), base=None)
    train = pl.DataFrame({"id": ["a"], "input": ["aab"], "target": [None], "source": [None]})
    level.fit(train, train, state=None, log=None)
    found = level.predict(train.with_columns(pl.lit("aé").alias("input")))
    assert found["num_bytes"].to_list() == [3]
    assert found["bits"][0] == pytest.approx(-math.log2(3 / 259) - 2 * math.log2(1 / 259))


def test_a_prompted_model_in_bf16_keeps_float32_positions_and_answers_nearly_the_same(tiny, choose, tmp_path):
    import torch

    found, train = {}, data("classification", 40)
    for precision in ("32-true", "bf16-true"):
        level = levels.load("prompt")(choose("prompt", "llama", trainer={"precision": precision}), base=tiny / "llama")
        level.fit(train, train, state=tmp_path, log=print)
        found[precision] = level.predict(train)["probabilities"].struct.unnest().to_numpy()
        level.save(tmp_path / precision)
        again = levels.load("prompt").load(tmp_path / precision)
        assert again.answerer.model.dtype == {"32-true": torch.float32, "bf16-true": torch.bfloat16}[precision]
        assert again.answerer.model.model.rotary_emb.inv_freq.dtype == torch.float32
        assert again.predict(train)["probabilities"].struct.unnest().to_numpy() == pytest.approx(found[precision])
    assert found["bf16-true"] == pytest.approx(found["32-true"], abs=0.1)
    assert (found["bf16-true"] != found["32-true"]).any()


@pytest.mark.parametrize(("able", "trained", "chosen"), [
    (True, True, "bf16-mixed"), (True, False, "bf16-true"), (False, True, "32-true"), (False, False, "32-true"),
])  # fmt: skip
def test_precision_follows_the_device_and_whether_weights_are_trained(monkeypatch, able, trained, chosen):
    from stepladder import settings

    monkeypatch.setattr(settings.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(settings.torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able, "amx_bf16": False})
    assert settings.resolve("auto", trained=trained) == chosen
    assert settings.resolve("32-true", trained=trained) == "32-true"


def test_an_unknown_level_names_the_nearest():
    with pytest.raises(ConfigError, match="Did you mean 'finetune'"):
        levels.load("fintune")
