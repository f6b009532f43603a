"""Curriculum: easy rows first, by scores and pacing recomputed here, in an order that a stopped fit takes up."""

import itertools
import math
import random
from collections import Counter

import numpy as np
import polars as pl
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stepladder import compose, records, schema, splits, sweeps
from stepladder.errors import ConfigError, DataError
from stepladder.sources import csv, vader
from tests.conftest import LORA, SIZES, sentences
from tests.test_checkpoints import stopped_after, told_once
from tests.test_sources import vader_archive
from tests.test_strict import LORA as ROW
from tests.test_strict import faults
from tests.test_training import Run

slow = pytest.mark.slow
CHANCE = random.Random(4)
LENGTHS = [CHANCE.randint(3, 120) for _ in range(203)]
SCORES = [CHANCE.randint(0, 60) for _ in range(203)]  # with ties
PACING = {"pacing": "root", "start": 0.1, "duration": 0.5, "steps": None}
SHIPPED = {path.stem: yaml.safe_load(path.read_text()) for path in (compose.CONF / "curriculum").glob("*.yaml")}
SCORED = sorted(SHIPPED.keys() - {"none"})


def sampler(scores=SCORES, lengths=LENGTHS, *, size=8, seed=1, epochs=3, **pacing):
    from stepladder.batches import Batches, Curriculum

    found = Batches(lengths, size, seed=seed)
    found.curriculum = Curriculum(scores, num_steps=len(found) * epochs, batch_size=size, **(PACING | pacing))
    return found


def epoch_of(batches, epoch: int, *, skip: int = 0) -> list[list[int]]:
    batches.epoch, batches.skip = epoch, skip
    return list(batches)


def openable(scores, share: float, size: int) -> set[int]:
    """Return the rows whose score's cumulative density is at most the share, or those that fill a batch."""
    from scipy.stats import rankdata

    densities = rankdata(scores, "max") / len(scores)
    share = max(share, sorted(densities)[min(size, len(scores)) - 1])
    return set(np.flatnonzero(densities <= share).tolist())


def shuffled(lengths: list[int], size: int, *, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of an epoch without a curriculum, as they are documented."""
    import torch

    chance = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(lengths), generator=chance).tolist()
    windows = [sorted(order[i : i + 50 * size], key=lambda row: lengths[row]) for i in range(0, len(order), 50 * size)]
    made = [window[i : i + size] for window in windows for i in range(0, len(window), size)]
    return [made[i] for i in torch.randperm(len(made), generator=chance).tolist()]


@pytest.mark.capability(14)
@slow
def test_the_control_has_the_batches_that_it_had_and_so_has_an_epoch_with_all_rows_open():
    from stepladder.batches import Batches

    control, paced = Batches(LENGTHS, 8, seed=1), sampler()
    for epoch in range(4):
        wanted = shuffled(LENGTHS, 8, seed=1, epoch=epoch)
        assert epoch_of(control, epoch) == wanted
        assert (epoch_of(paced, epoch) == wanted) == (epoch >= 2), "all are open from half of three epochs on"
    assert epoch_of(sampler([7] * 203), 0) == shuffled(LENGTHS, 8, seed=1, epoch=0), "equal scores open together"


@pytest.mark.capability(14)
@slow
@settings(deadline=None, max_examples=60)
@given(st.floats(0, 1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_the_pacing_is_the_formula_of_its_paper(time, start, duration):
    from stepladder.batches import competence

    given = {"start": start, "duration": duration, "steps": None}
    linear = min(1, time * (1 - start) / duration + start)
    root = min(1, math.sqrt(time * (1 - start**2) / duration + start**2))
    assert competence(time, pacing="linear", **given) == pytest.approx(linear, abs=1e-12)
    assert competence(time, pacing="root", **given) == pytest.approx(root, abs=1e-12)
    assert competence(duration, pacing="root", **given) == 1


@slow
def test_steps_give_a_share_from_a_time_on():
    from stepladder.batches import competence

    given = {"pacing": "step", "start": 0.25, "duration": 0.5, "steps": [[0.2, 0.5], [0.4, 1.0]]}
    shares = [competence(time, **given) for time in (0, 0.19, 0.2, 0.39, 0.4, 1)]
    assert shares == [0.25, 0.25, 0.5, 0.5, 1.0, 1.0]


@pytest.mark.capability(14)
@slow
@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 30)), min_size=1, max_size=60),
    size=st.integers(1, 9), epochs=st.integers(1, 3), start=st.floats(0.01, 1), duration=st.floats(0.01, 1),
    pacing=st.sampled_from(["linear", "root"]),
)  # fmt: skip
def test_no_closed_row_is_drawn_and_an_epoch_has_its_rows_and_batches(rows, size, epochs, start, duration, pacing):
    from stepladder.batches import competence

    scores, lengths = map(list, zip(*rows, strict=True))
    given = {"pacing": pacing, "start": start, "duration": duration, "steps": None}
    batches = sampler(scores, lengths, size=size, epochs=epochs, **given)
    for epoch in range(epochs):
        found = epoch_of(batches, epoch)
        assert len(found) == len(batches)
        assert sum(map(len, found)) == len(rows)
        assert all(len(set(batch)) == len(batch) <= size for batch in found)
        if batches.curriculum.num_open(epoch * len(batches)) < len(rows):
            for index, batch in enumerate(found):
                time = (epoch * len(batches) + index) / (epochs * len(batches))
                assert set(batch) <= openable(scores, competence(time, **given), size)


@slow
def test_every_open_row_can_be_drawn():
    from stepladder.batches import competence

    for index in (0, 2, 5):
        drawn = {row for seed in range(300) for row in epoch_of(sampler(seed=seed), 0)[index]}
        assert drawn == openable(SCORES, competence(index / (3 * 26), **PACING), 8)


@slow
def test_rows_come_again_only_when_all_that_are_open_came():
    once = epoch_of(sampler(epochs=1), 0)
    assert sorted(itertools.chain(*once)) == list(range(203)), "rows open faster than they are drawn: each comes once"
    assert [len(batch) for batch in once] == [8] * 25 + [3]
    again = list(itertools.chain(*epoch_of(sampler(epochs=9, pacing="step", steps=[[0.5, 1.0]], start=0.3), 0)))
    rounds = Counter(again)
    assert len(rounds) == len(openable(SCORES, 0.3, 8)) < 80
    assert max(rounds.values()) - min(rounds.values()) <= 1


@slow
def test_an_epoch_begins_with_easy_rows_of_like_length():
    found = epoch_of(sampler(epochs=1), 0)
    assert np.mean([SCORES[row] for batch in found[:6] for row in batch]) < 0.6 * np.mean(SCORES)
    large = [CHANCE.randint(3, 120) for _ in range(4000)]
    batches = epoch_of(sampler(list(range(4000)), large, epochs=1), 0)
    filled = sum(large) / sum(max(large[row] for row in batch) * len(batch) for batch in batches)
    assert filled > 0.85, "random ones fill half"


@slow
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_the_order_is_a_pure_function_of_seed_epoch_and_planned_steps(epoch):
    whole = epoch_of(sampler(), epoch)
    batches = sampler()
    assert [epoch_of(batches, epoch, skip=skip) for skip in (0, 3, 25)] == [whole, whole[3:], whole[25:]]
    assert epoch_of(batches, epoch) == whole, "skip counts once"
    assert whole != epoch_of(sampler(seed=2), epoch)
    assert (whole != epoch_of(sampler(epochs=30), epoch)) == (epoch < 3)


def examples(tiny, records: pl.DataFrame, form: str = "bert", task: str = "classification"):
    from stepladder import models, objectives
    from stepladder.prompts import Prompt
    from stepladder.training import Examples

    kind = {"bert": "supervised", "llama": "response"}[form] if task == "classification" else task
    objective = objectives.load(kind)(
        models.tokenizer(tiny / form), task=task, labels=["bad", "good"], max_length=64, decoding=None,
        prompt=Prompt("Text: {input}\nLabel:"),
    )  # fmt: skip
    return Examples(records, objective.encode(records, train=True)), objective


def scores_of(tiny, name: str, records: pl.DataFrame, form: str = "bert", **changes):
    from stepladder import curriculum

    found, objective = examples(tiny, records, form)
    return curriculum.scored(found, objective, SHIPPED[name] | changes, seed=3).scores


RATED = sentences(40).with_columns(rating=pl.Series([CHANCE.uniform(-4, 4) for _ in range(40)]))


@slow
@pytest.mark.parametrize("form", ["bert", "llama"])
def test_length_and_rarity_are_what_counting_tokens_gives(form, tiny):
    from stepladder import models

    tokenizer = models.tokenizer(tiny / form)
    asked = RATED["input"] if form == "bert" else [f"Text: {text}\nLabel:" for text in RATED["input"]]
    lengths = [len(tokenizer(text)["input_ids"]) for text in asked]
    assert scores_of(tiny, "length", RATED, form).tolist() == lengths
    assert scores_of(tiny, "length", RATED, form, descending=True).tolist() == [-length for length in lengths]
    texts = [tokenizer.tokenize(text) for text in RATED["input"]]
    counts = Counter(itertools.chain(*texts))
    wanted = [-sum(math.log(counts[token] / counts.total()) for token in text) / len(text) for text in texts]
    assert scores_of(tiny, "rarity", RATED, form) == pytest.approx(wanted, rel=1e-9)


@slow
def test_the_rarity_of_raw_text_is_that_of_its_packed_rows(tiny):
    from stepladder import curriculum

    found, objective = examples(tiny, RATED, "llama", "language_modeling")
    scores = curriculum.scored(found, objective, SHIPPED["rarity"], seed=3).scores
    rows = [row["ids"] for row in found.rows]
    counts = Counter(itertools.chain(*rows))
    wanted = [-sum(math.log(counts[token] / counts.total()) for token in row) / len(row) for row in rows]
    assert len(rows) > 5
    assert scores == pytest.approx(wanted, rel=1e-9)


@slow
def test_a_rating_is_taken_as_it_is_or_by_its_distance_from_zero(tiny):
    ratings = RATED["rating"].to_list()
    assert scores_of(tiny, "rating", RATED).tolist() == [-abs(rating) for rating in ratings]
    assert scores_of(tiny, "rating", RATED, absolute=False, descending=False).tolist() == ratings


@slow
def test_the_loss_is_that_of_scikit_learns_cross_validation(tiny):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), LogisticRegression(C=10.0, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=3)
    targets = RATED["target"].to_list()
    shares = cross_val_predict(model, RATED["input"].to_list(), targets, cv=folds, method="predict_proba")
    wanted = [-math.log(row[("bad", "good").index(target)]) for row, target in zip(shares, targets, strict=True)]
    assert scores_of(tiny, "loss", RATED) == pytest.approx(wanted, rel=1e-6)
    with pytest.raises(DataError, match="num_folds=5: label 'good' has 3 train records; lower it"):
        scores_of(tiny, "loss", RATED.head(7))


@slow
def test_no_curriculum_leaves_the_examples_as_they_are(tiny):
    from stepladder import curriculum

    found, objective = examples(tiny, RATED)
    assert curriculum.scored(found, objective, None, seed=3) is found


def test_a_rating_is_a_finite_number_from_the_file_to_the_parts(tmp_path):
    path = tmp_path / "a.csv"
    rows = [f"text {i},{'ab'[i % 2]},{i / 2}" for i in range(30)]
    columns = {"input": "text", "target": "label", "rating": "stars"}
    path.write_text("text,label,stars\n" + "\n".join(rows) + "\n")
    frame, _ = records.clean(
        csv.read(path, columns=columns, delimiter=","), name="x", task="classification", labels=None
    )
    parts = splits.partition(frame, {"val": 0.2, "test": 0.2}, name="stratified", seed=1, column=None)
    found = {row["input"]: row["rating"] for part in parts.values() for row in part.iter_rows(named=True)}
    assert found == {f"text {i}": i / 2 for i in range(30)}
    for value in ("five", "nan", "1e999"):
        path.write_text(f"text,label,stars\nfine,a,{value}\n")
        with pytest.raises(DataError, match=f"a.csv:2:stars: '{value}', expected a finite number"):
            list(csv.read(path, columns=columns, delimiter=","))
    with pytest.raises(DataError, match=r"no column for rating. No column named 'strs'. Did you mean 'stars'\?"):
        list(csv.read(path, columns=columns | {"rating": "strs"}, delimiter=","))
    archive = vader_archive(tmp_path, movie="1\t2.5\tGreat.\r\n2\t-0.5\tBad.")
    assert [row["rating"] for row in vader.read(archive, domains=["movie"], min_score=0.5)] == [2.5, -0.5]


@slow
def test_a_training_on_records_without_ratings_is_refused_with_the_cure(tiny):
    with pytest.raises(DataError, match="score=rating: the train records have no rating; name its column"):
        scores_of(tiny, "rating", sentences(8))
    some = RATED.with_columns(rating=pl.when(pl.col("id") == "r0_3").then(None).otherwise(pl.col("rating")))
    with pytest.raises(DataError, match=r"1 train records have no rating \(r0_3\); fill it in"):
        scores_of(tiny, "rating", some)


RAW = {"level": "finetune", "model": "smollm2", "task": "language_modeling", "objective": "none", "prompt": "none"}
WRITTEN = ROW | {"model": "smollm2", "task": "generation", "objective": "response", "prompt": "zero_shot"}
STEP = {"pacing": "step", "steps": [[0.2, 0.5], [0.4, 1.0]]}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ROW | {"curriculum": "lenght"}, "No curriculum named 'lenght'. Did you mean 'length'?"),
        (ROW | {"curriculum": "length", "set": {"curriculum": {"pace": "root"}}}, "Did you mean 'pacing'?"),
        (ROW | {"curriculum": "length", "set": {"curriculum": {"+strt": 0.1}}}, "Did you mean 'start'?"),
        (ROW | {"curriculum": "length", "set": {"curriculum": {"pacing": "rot"}}}, "expected linear or root or step"),
        (ROW | {"curriculum": "length", "set": {"curriculum": {"start": 0}}}, "expected float (0, 1]"),
        (ROW | {"curriculum": "length", "set": {"curriculum": {"pacing": "step"}}}, "pacing step and steps belong"),
        (
            ROW | {"curriculum": "length", "set": {"curriculum": STEP | {"steps": [[0.2, 0.5], [0.1, 1.0]]}}},
            "expected pairs [time, share] that rise from start=0.1 to share 1.0",
        ),
        (ROW | {"curriculum": "length", "set": {"curriculum": STEP | {"steps": [[0.2, 0.5]]}}}, "to share 1.0"),
        (ROW | {"curriculum": "length", "set": {"curriculum": STEP | {"steps": [[0.2]]}}}, "expected pairs"),
        (ROW | {"curriculum": "length", "set": {"curriculum": STEP | {"duration": 0.3}}}, "goes by curriculum.steps"),
        (RAW | {"curriculum": "length"}, "rows of raw text are packed, several texts in each: length is not theirs"),
        (WRITTEN | {"curriculum": "loss", "decoding": "greedy"}, "it is a classifier's loss; take length or rarity"),
        ({"level": "prompt", "model": "smollm2", "curriculum": "length"}, "level prompt never reads curriculum"),
    ],
)
def test_a_curriculum_that_means_nothing_is_refused_at_configure(row, words, tmp_path):
    found = faults(tmp_path, {"x": row})
    assert len(found) == 1 and "candidates.x" in found[0] and words in found[0]


def test_ratings_that_the_columns_do_not_name_are_refused_at_configure(tmp_path):
    columns = {"input": "text", "target": "label"}
    for named, told in ((columns, 1), (columns | {"rating": "stars"}, 0)):
        given = {"data": "csv", "set": {"data": {"path": "data/raw/a.csv", "columns": named}}}
        found = faults(tmp_path, {"x": ROW | {"curriculum": "rating"}}, **given)
        assert ["add rating to data.columns" in line for line in found] == [True] * told


@pytest.mark.parametrize("row", [{}, {"set": {"curriculum": STEP}}, {"set": {"curriculum": {"descending": True}}}])
@pytest.mark.parametrize("name", SCORED)
def test_each_curriculum_is_accepted_and_composes(name, row, tmp_path):
    given = ROW | {"curriculum": name} | row
    assert faults(tmp_path, {"x": given}) == []
    made = ["level=finetune", "model=minilm", "method=lora", f"curriculum={name}"]
    assert schema.problems("curriculum", compose.compose(made)["curriculum"]) == []


def test_a_sweep_may_choose_between_a_curriculum_and_its_control():
    params = {"seed": 1, "data": "reviews", "datasets": [], "set": {}, "candidates": {"x": ROW}}
    composed = compose.candidate("x", params)
    assert composed["curriculum"] is None
    assert compose.trial(composed, {"curriculum": "length"})["curriculum"] == SHIPPED["length"]
    assert compose.trial(composed, {"curriculum": "none"})["curriculum"] is None
    assert sweeps.problems({"parameters": {"curriculum.start": [0.1, 2]}, "max_rows": None, "max_epochs": 1})


def opened(tiny, state, *, form="bert", method=None, **changes) -> Run:
    """Return a tiny run by length, which keeps a checkpoint after every step it may."""
    from dataclasses import replace

    given = {"max_epochs": 2, "batch_size": 6, "checkpoint_every_s": 0, "num_threads": 1}
    given |= {"curriculum": SHIPPED["length"] | {"duration": 0.8}} | changes
    run = Run(tiny, state, form=form, method=method, settings=given, train=sentences(22))
    run.parts[0] = replace(run.parts[0], scores=run.parts[0].lengths)
    return run


KINDS = {
    "accumulated": {"accumulate": 2, "batch_size": 4},
    "one worker": {"num_workers": 1, "form": "llama", "method": LORA},
    "a number of steps": {"max_steps": 7, "checks_per_epoch": 3, "patience": 9},
}


@pytest.mark.capability(14)
@slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_that_was_stopped_goes_on_with_the_same_rows_to_the_same_bits(kind, tiny, tmp_path, monkeypatch):
    whole = opened(tiny, tmp_path / "whole", **KINDS[kind])
    facts = whole.fit()
    for number in (2, 5):
        first, second = (opened(tiny, tmp_path / str(number), **KINDS[kind]) for _ in range(2))
        stopped_after(first, number, monkeypatch)
        assert second.fit() == facts
        assert all(second.weights()[name].equal(weight) for name, weight in whole.weights().items())
        assert told_once(first, second) == told_once(whole)


@slow
def test_the_rows_of_a_training_are_those_of_its_sampler_and_another_order_is_another_training(tiny, tmp_path):
    run, seen = opened(tiny, tmp_path / "a"), []
    step = run.objective.loss
    run.objective.loss = lambda model, batch: seen.append(batch["row"].tolist()) or step(model, batch)
    facts = run.fit()
    made = sampler(run.parts[0].lengths, run.parts[0].lengths, size=6, seed=5, epochs=2, duration=0.8)
    wanted = epoch_of(made, 0) + epoch_of(made, 1)
    assert seen[-len(wanted) :] == wanted, "those before are the forecast's"
    assert facts["rows_open"] == facts["examples_seen"] // 2 == 22
    control = Run(tiny, tmp_path / "b", settings={"max_epochs": 2, "batch_size": 6}, train=sentences(22))
    assert "rows_open" not in control.fit()
    assert control.told != run.told


@slow
def test_a_training_that_ends_before_all_rows_are_open_says_so(tiny, tmp_path, capsys):
    flipped = sentences(24).with_columns(pl.col("target").replace({"good": "bad", "bad": "good"}))
    run = opened(tiny, tmp_path, max_epochs=30, patience=1, batch_size=4)
    run.parts[1] = examples(tiny, flipped)[0]
    facts = run.fit()
    assert facts["rows_open"] < 22
    said = capsys.readouterr().out
    assert "curriculum: by length, 4 of 22 rows open at first, all after" in said
    assert f"it ended with {facts['rows_open']} of 22 rows open; raise trainer.patience" in said


TRAINED = [("llama", "full", name) for name in SCORED] + [("bert", "frozen", "rarity")]


@pytest.mark.capability(14)
@slow
@pytest.mark.parametrize(("model", "method", "name"), TRAINED)
def test_each_curriculum_trains_to_a_lower_loss(model, method, name, tiny, choose, tmp_path):
    from stepladder import levels

    section = SHIPPED[name] | ({"num_folds": 2} if name == "loss" else {})
    sections = choose("finetune", model, curriculum=section, method={"name": method}, trainer={"max_epochs": 3})
    level, told = levels.load("finetune")(sections, base=tiny / model), []
    facts = level.fit(RATED, sentences(24, seed=1), state=tmp_path, log=lambda *values: told.append(values))
    first = next(value for name, value, *_ in told if name == "train/loss")
    assert facts["best_loss"] < first
    assert facts["best_loss"] < 0.5 * first or method == "frozen", "a head alone on a random backbone learns little"
    assert facts["rows_open"] == 40


@slow
@pytest.mark.parametrize("score", ["rarity", "length"])
def test_rarity_orders_the_corpus_of_a_pretraining_as_well(score, tiny, choose, tmp_path):
    from stepladder import levels

    plan = {"max_tokens": 4096, "batch_size": 4, "learning_rate": 3e-3, "warmup_share": 0.1, "weight_decay": 0.1}
    model = {"vocab_size": 320, "context_length": 128, **SIZES}
    sections = choose("pretrain", "llama", model=model, level={"pretraining": plan}, curriculum=SHIPPED[score])
    corpus = {}
    for part, seed in (("train", 2), ("val", 3)):
        records.write(sentences(60, seed=seed), tmp_path / part)
        corpus[part] = tmp_path / part
    told = []
    facts = levels.load("pretrain")(sections, base=None).fit(
        sentences(24), sentences(16, seed=1), state=tmp_path, log=lambda *values: told.append(values), corpus=corpus
    )
    losses = [value for name, value, *_ in told if name == "pretrain/train/loss"]
    assert losses[-1] < losses[0]
    assert facts["rows_open"] == 24
    assert ("rows_open" in facts["pretraining"]) == (score == "rarity")


def test_words_of_the_command_line_are_checked(tmp_path):
    from stepladder import typed

    typed.check(["level=finetune", "model=minilm", "method=full", "curriculum=none,length"], stage="train", many=True)
    with pytest.raises(ConfigError, match=r"curriculum\.strat: No key named 'strat'. Did you mean 'start'\?"):
        typed.check(["method=full", "curriculum=length", "+curriculum.strat=0.2"], stage="train")
