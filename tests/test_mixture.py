"""Mixture: a step is the gradient of a weighted sum, a head is cut to its own task, a stop changes nothing."""

import itertools
import json

import polars as pl
import pytest

from stepladder import compose, levels
from tests.conftest import LORA, sentences
from tests.test_checkpoints import stopped_after
from tests.test_curriculum import shuffled
from tests.test_strict import BASE, faults
from tests.test_strict import LORA as ROW

pytestmark = pytest.mark.capability(13)
slow = pytest.mark.slow

LABELLED = {"mixture": {"weights": {"reviews_all": 1.0}}}
WRITER = ROW | {"model": "smollm2", "objective": "response", "prompt": "zero_shot"}
ASKED = {"labels": None, "instruction": None, "input_name": "Text", "answer_name": "Label"}
TASKS = {
    "shop": {"name": "classification", "metric": "accuracy", "labels": None, **{k: ASKED[k] for k in list(ASKED)[1:]}},
    "stars": {"name": "regression", "metric": "mean_absolute_error", "labels": None, "scale": None},
    "speeches": {"name": "language_modeling", "metric": "bits_per_byte", **ASKED},
    "verses": {"name": "generation", "metric": "chrf", **ASKED, "instruction": "Say it plainly."},
}


def shop(number: int, *, seed: int) -> pl.DataFrame:
    """Return sentences with three labels of their own."""
    names = pl.Series("target", [("cheap", "dear", "fair")[i % 3] for i in range(number)])
    return sentences(number, seed=seed).with_columns(names)


def frames(*names: str) -> dict:
    """Return train and val of further data sets."""
    found = {"shop": lambda n, seed: shop(n, seed=seed)}
    found["stars"] = lambda n, seed: sentences(n, seed=seed).with_columns(
        target=pl.Series([str(1 + i % 5) for i in range(n)])
    )
    found["speeches"] = lambda n, seed: sentences(n, seed=seed).with_columns(target=pl.lit(None, pl.String))
    found["verses"] = lambda n, seed: sentences(n, seed=seed).with_columns(pl.col("input").alias("target"))
    return {name: (found[name](14, 5), found[name](9, 6)) for name in names}


@pytest.fixture
def mixed(tiny, choose, tmp_path):
    """Return a function that gives a level about to be fitted on a mixture, as an object with `fit`."""

    class Mixed:
        def __init__(self, model: str, weights: dict, state: str = "state", **changes):
            changes = {"trainer": {"max_epochs": 2}} | changes
            mixture = {"weights": weights, "batch_size": 4} if weights else None
            tasks = {name: TASKS[name] for name in weights}
            self.level = levels.load("finetune")(
                choose("finetune", model, mixture=mixture, tasks=tasks, **changes), base=tiny / model
            )
            self.state, self.told, self.frames = tmp_path / state, [], frames(*weights)

        def fit(self) -> dict:
            options = {"state": self.state, "log": lambda *values: self.told.append(values)}
            return self.level.fit(sentences(40), sentences(16, seed=1), mixture=self.frames, **options)

        def weights(self) -> dict:
            model = self.level.answerer.model
            return {name: weight.detach().clone() for name, weight in model.named_parameters()}

    return Mixed


def drawn(rows: list[dict], size: int, *, steps: int, seed: int) -> list[list[dict]]:
    """Return the batches of a data set at each step of a training, as they are documented."""
    lengths = [row["length"] for row in rows]
    epochs = (shuffled(lengths, size, seed=seed, epoch=epoch) for epoch in itertools.count())
    endless = itertools.chain.from_iterable(epochs)
    return [[rows[row] for row in batch] for batch in itertools.islice(endless, steps)]


def causal_loss(model, rows: list[dict]):
    """Return transformers' own loss of texts, or of answers behind their prompts: a mean over all their tokens."""
    import torch

    total, count = 0.0, 0
    for row in rows:
        answer = row.get("answer", [])
        ids = torch.tensor([[*row["ids"], *answer]])
        wanted = ids.clone()
        wanted[:, : len(row["ids"]) if answer else 1] = -100
        number = int((wanted != -100).sum())
        total, count = total + model(ids, labels=wanted).loss * number, count + number
    return total / count


@pytest.fixture
def gradients(monkeypatch) -> list[dict]:
    """Return the gradients of each step of the fits that follow."""
    from stepladder.learner import Learner

    seen = []

    def keep(learner, optimizer):
        seen.append({name: weight.grad.clone() for name, weight in learner.model.named_parameters()})

    monkeypatch.setattr(Learner, "on_before_optimizer_step", keep)
    return seen


@slow
def test_a_step_is_the_gradient_of_the_weighted_sum_of_transformers_own_losses(mixed, gradients):
    import torch

    run = mixed("llama", {"speeches": 0.3, "verses": 0.5}, optimizer={"learning_rate": 0.0, "weight_decay": 0.0})
    run.fit()
    model, objective = run.level.answerer.model, run.level.answerer.objective
    from stepladder import mixture

    parts, _ = mixture.parts(run.level.sections, run.frames, run.level.answerer)
    own = drawn(objective.encode(sentences(40), train=True), 8, steps=10, seed=7)
    others = {name: drawn(list(part.rows), 4, steps=10, seed=7) for name, part in parts.items()}
    assert len(gradients) == 10
    for step in (0, 4, 9):  # the last ones lie in the second and third pass over the further data
        model.zero_grad()
        loss = causal_loss(model, own[step])
        for name, weight in (("speeches", 0.3), ("verses", 0.5)):
            loss = loss + weight * causal_loss(model, others[name][step])
        loss.backward()
        for name, weight in model.named_parameters():
            assert torch.allclose(weight.grad, gradients[step][name], atol=2e-5), (step, name)


@slow
@pytest.mark.parametrize(
    ("model", "method"), [("bert", {"name": "full"}), ("bert", LORA), ("distilbert", LORA), ("llama", LORA)]
)
def test_a_head_learns_each_data_set_and_is_cut_to_its_own(model, method, mixed, tmp_path):
    import transformers

    run = mixed(model, {"shop": 1.0, "stars": 0.2}, method=method, objective={"name": "supervised"}, prompt=None)
    facts = run.fit()
    assert set(facts["mixture"]) == {"shop", "stars"}
    shop_losses = [value for name, value, *_ in run.told if name == "train/shop_loss"]
    assert min(shop_losses) < shop_losses[0]
    rows = sentences(16, seed=1)
    expected = run.level.predict(rows)
    run.level.save(tmp_path / "made")
    again = levels.load("finetune").load(tmp_path / "made").predict(rows)
    shares = [frame["probabilities"].struct.unnest() for frame in (expected, again, run.level.validated)]
    assert shares[0].columns == ["bad", "good"]
    for other in shares[1:]:
        assert other.to_numpy() == pytest.approx(shares[0].to_numpy(), abs=1e-5)
    if method["name" if "name" in method else "_target_"] == "full":
        opened = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "made")
        assert opened.config.id2label == {0: "bad", 1: "good"} and opened.classifier.weight.shape == (2, 32)


@slow
def test_a_wide_head_learns_what_a_head_for_each_data_set_would(mixed, gradients, monkeypatch):
    """The first step beside a linear layer for each data set over transformers' backbone."""
    import torch

    monkeypatch.setattr("stepladder.dropout.prefer", lambda model: model.apply(undropped))
    run = mixed("bert", {"shop": 0.7}, method={"name": "full"}, optimizer={"learning_rate": 0.0, "weight_decay": 0.0})
    run.level.further = run.frames
    answerer = run.level._open(sentences(40))
    model, objective, places = answerer.model, answerer.objective, (slice(0, 2), slice(2, 5))
    heads = [(model.classifier.weight[place], model.classifier.bias[place]) for place in places]
    rows = [drawn(objective.encode(sentences(40), train=True), 8, steps=1, seed=7)[0]]
    objective.labels = ["cheap", "dear", "fair"]
    rows.append(drawn(objective.encode(run.frames["shop"][0], train=True), 4, steps=1, seed=7)[0])
    losses = []
    for head, chosen in zip(heads, rows, strict=True):
        batch = objective.collate(chosen)
        pooled = model.bert(batch["input_ids"], batch["attention_mask"]).pooler_output
        losses.append(torch.nn.functional.cross_entropy(torch.nn.functional.linear(pooled, *head), batch["labels"]))
    (losses[0] + 0.7 * losses[1]).backward()
    run.fit()
    told = {name: value for name, value, step, _ in run.told if step == 1}
    assert told["train/shop_loss"] == pytest.approx(losses[1].item(), abs=1e-5)
    assert told["train/loss"] == pytest.approx((losses[0] + 0.7 * losses[1]).item(), abs=1e-5)
    for name, weight in model.named_parameters():
        assert torch.allclose(weight.grad, gradients[0][name], atol=2e-5), name


def undropped(module) -> None:
    import torch

    if isinstance(module, torch.nn.Dropout):
        module.p = 0.0


@slow
@pytest.mark.parametrize(("model", "weights"), [("llama", {"speeches": 0.5, "verses": 0.5}), ("bert", {"shop": 1.0})])
def test_a_mixture_that_was_stopped_goes_on_to_the_same_bits(model, weights, mixed, monkeypatch):
    whole = mixed(model, weights, "whole", method=LORA)
    whole.fit()
    for number in (2, 7):
        broken = mixed(model, weights, f"broken{number}", method=LORA)
        with monkeypatch.context() as patched:
            patched.setattr("stepladder.checkpoints.Keeper.every_s", 0, raising=False)
            broken.level.sections["runtime"] = broken.level.sections["runtime"] | {"checkpoint_every_s": 0.0}
            stopped_after(broken, number, patched)
        again = mixed(model, weights, f"broken{number}", method=LORA)
        again.fit()
        found, expected = again.weights(), whole.weights()
        assert all(bool((found[name] == expected[name]).all()) for name in expected)
        told = {(name, step): value for run in (broken, again) for name, value, step, _ in run.told}
        assert told == {(name, step): value for name, value, step, _ in whole.told}


@slow
def test_replay_keeps_what_a_model_knew_of_raw_text(mixed):
    from stepladder import objectives, training

    texts = frames("speeches")["speeches"][1]
    nats = {}
    for weights in ({}, {"speeches": 2.0}):
        run = mixed("llama", weights, f"replay{len(weights)}", trainer={"max_epochs": 8})
        run.fit()
        answerer = run.level.answerer
        measure = objectives.load("language_modeling")(answerer.tokenizer, task="language_modeling", max_length=64)
        found = training.predict(answerer.model, measure, texts, answerer.settings)
        nats[len(weights)] = found["bits"].sum()
    assert nats[1] < 0.9 * nats[0], nats


def test_the_tasks_of_further_data_are_composed_along_and_their_rows_are_files_of_the_candidate():
    row = WRITER | {"mixture": "multitask", "set": {"mixture": {"weights": {"plain_english": 0.2, "presidents": 0.1}}}}
    params = BASE | {"datasets": ["plain_english", "presidents"], "candidates": {"both": row}}
    found = compose.candidate("both", params)
    assert found["mixture"] == {"weights": {"plain_english": 0.2, "presidents": 0.1}, "batch_size": 4}
    assert {name: task["name"] for name, task in found["tasks"].items()} == {
        "plain_english": "generation", "presidents": "language_modeling",
    }  # fmt: skip
    assert json.dumps(compose.trial(found, {"method.r": 4})["tasks"]) == json.dumps(found["tasks"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (WRITER | {"mixture": "multitask"}, None),
        (WRITER | {"mixture": "replay"}, "presidents is neither data nor in datasets; add it to datasets"),
        (WRITER | {"mixture": "multi"}, "Did you mean 'multitask'?"),
        (WRITER | {"mixture": {"weights": {}}}, "mixture"),
        (ROW | {"mixture": "multitask"}, "a head learns classification or multilabel or regression, and plain_english"),
        (
            ROW | {"method": "frozen", "mixture": "multitask", "set": LABELLED},
            "a frozen backbone learns nothing from other data",
        ),
        (WRITER | {"method": "lora_combined", "mixture": "multitask"}, "an adapter for each source learns"),
        (WRITER | {"mixture": "multitask", "set": {"mixture": {"weights": {"reviews": 1.0}}}}, "own data"),
        (WRITER | {"mixture": "multitask", "set": {"mixture": {"weights": {"verses": 1.0}}}}, "No data set named"),
        (WRITER | {"mixture": "multitask", "set": {"mixture": {"weights": {"plain_english": 0}}}}, "(0, 100]"),
        ({"level": "prompt", "model": "smollm2", "mixture": "multitask"}, "level prompt never reads mixture"),
    ],
)
def test_a_mixture_that_a_model_cannot_learn_is_refused(row, words, tmp_path):
    found = faults(tmp_path, {"both": row}, datasets=["plain_english", "reviews_all"])
    assert (not found) if words is None else (len(found) == 1 and words in found[0]), found
