"""C: numbers that are lost end a training within a step, and memory that runs out changes no step."""

import math
import resource
import statistics

import polars as pl
import pytest

from stepladder.errors import DataError, MachineError, NumericsError
from tests.conftest import LORA, OPTIMIZER, sentences
from tests.test_training import Run, distance

pytestmark = pytest.mark.slow

PLACE = r"training step {}, rows \[[\d, ]+\], learning rate [\d.e-]+: "
FAULTS = {  # what is not a number after the third step: what the line says, and of which step
    "loss": ("loss is nan", 3), "infinite loss": ("loss is inf", 3),
    "gradient": ("norm of the gradient is nan", 3), "weight": ("loss is nan", 3),
}  # fmt: skip


def made(tiny, state, **settings) -> Run:
    """Return a run of ten steps that keeps a checkpoint after each of them."""
    given = {"batch_size": 4, "max_epochs": 2, "checkpoint_every_s": 0, "patience": 99, **settings}
    return Run(tiny, state, settings=given, train=sentences(20))


def poison(run: Run, kind: str, monkeypatch, *, step: int = 3, times: int = 1) -> None:
    """Let a number of this kind be lost at a step of the run."""
    plain, learner = run.objective.loss, _learners(monkeypatch)

    def loss(model, batch):
        found = plain(model, batch)
        if not learner or not step <= learner[-1].global_step < step + times:  # the forecast's batches come before
            return found
        if kind == "weight":
            with run._training.torch.no_grad():
                next(iter(model.parameters()))[:] = math.nan
            return plain(model, batch)
        if kind == "gradient":
            found.register_hook(lambda gradient: gradient * math.nan)
            return found
        return found * (math.inf if kind == "infinite loss" else math.nan)

    monkeypatch.setattr(run.objective, "loss", loss)


def _learners(monkeypatch) -> list:
    """Return a list that the learner of a fit is put into when its training starts."""
    from stepladder.learner import Learner

    found = []
    monkeypatch.setattr(Learner, "on_train_start", lambda self: found.append(self), raising=False)
    return found


@pytest.mark.fault("C1")
@pytest.mark.parametrize("kind", FAULTS)
def test_a_number_that_is_lost_ends_training_at_its_step_and_the_next_run_goes_on_before_it(
    kind, tiny, tmp_path, monkeypatch, tally
):
    import torch

    from stepladder import checkpoints

    whole = made(tiny, tmp_path / "whole")
    facts = whole.fit()
    with monkeypatch.context() as patched:
        broken = made(tiny, tmp_path / "broken")
        poison(broken, kind, patched)
        said, step = FAULTS[kind]
        with pytest.raises(NumericsError, match=PLACE.format(step) + said) as error:
            broken.fit()
    assert error.value.code == 7
    kept = torch.load(checkpoints.newest(tmp_path / "broken"), weights_only=True)
    assert kept["global_step"] == 3 and all(weight.isfinite().all() for weight in kept["state_dict"].values())
    again = made(tiny, tmp_path / "broken")
    assert again.fit() == facts
    assert distance(again.weights(), whole.weights()) == 0
    tally(checkpoints_lost=0, resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("C1")
def test_without_the_watch_a_lost_gradient_reaches_the_weights_which_are_then_not_kept(tiny, tmp_path, monkeypatch):
    from stepladder.numerics import Watch

    run = made(tiny, tmp_path)
    poison(run, "gradient", monkeypatch)
    monkeypatch.setattr(Watch, "passes", lambda *_: True)
    with pytest.raises(NumericsError, match=r"after training step 4: weight .* is not finite, and is not kept"):
        run.fit()


@pytest.mark.fault("C1")
def test_a_step_without_numbers_can_be_left_out_and_is_counted(tiny, tmp_path, monkeypatch, capsys):
    run, plain = made(tiny, tmp_path / "a", not_finite="skip"), made(tiny, tmp_path / "b")
    poison(run, "gradient", monkeypatch)
    facts = run.fit()
    assert facts["steps_skipped"] == 1 and facts["num_steps"] == 10
    assert "training step 3, rows" in (said := capsys.readouterr().out) and "the step is left out" in said
    plain.objective.loss, usual = lambda model, batch: usual(model, batch), plain.objective.loss
    with monkeypatch.context() as patched:  # the reference: AdamW does nothing at that step
        import torch

        step, count = torch.optim.AdamW.step, iter(range(99))
        patched.setattr(torch.optim.AdamW, "step", lambda self, closure: (closure(), next(count) == 3 or step(self))[0])
        patched.setattr("stepladder.forecast.of", lambda *_: "")
        plain.fit()
    assert distance(run.weights(), plain.weights()) == 0


@pytest.mark.fault("C1")
def test_leaving_steps_out_ends_when_no_step_is_left(tiny, tmp_path, monkeypatch):
    run = made(tiny, tmp_path, not_finite="skip", max_epochs=4)
    poison(run, "loss", monkeypatch, times=99)
    with pytest.raises(NumericsError, match="loss is nan, and so were the 10 steps before"):
        run.fit()


def lost_at_the_third_step() -> None:
    """Fault of a stage: the loss is NaN from its third step on, after the forecast's batches."""
    from stepladder.learner import Learner

    plain = Learner.training_step

    def training_step(self, batch, index):
        loss = plain(self, batch, index)
        return loss * math.nan if self.global_step >= 3 else loss

    def on_before_optimizer_step(self, optimizer, plain=Learner.on_before_optimizer_step):
        if self.global_step >= 3:
            self.step = (self.step[0] * math.nan, self.step[1])
        plain(self, optimizer)

    Learner.training_step, Learner.on_before_optimizer_step = training_step, on_before_optimizer_step


@pytest.mark.fault("C1")
def test_the_stage_ends_with_7_and_one_line_and_goes_on_when_the_cause_is_gone(finished_workshop, tmp_path, tally):
    workshop = finished_workshop.copy(tmp_path / "project")
    outputs = ("models/lora", "predictions/val/lora.parquet")
    before = workshop.hashes(*outputs)
    stage = workshop.run("train", *workshop.of("lora"), fault=lost_at_the_third_step, STEPLADDER_FRESH="1")
    assert stage.process.exitcode == 7, stage.said
    assert "error[7] training step 3, rows [" in stage.said
    tally(tracebacks=stage.said.count("Traceback"), models_lost=workshop.hashes(*outputs) != before)
    assert "going on from" in workshop.works("train", *workshop.of("lora"))
    assert workshop.hashes(*outputs) == before


@pytest.mark.fault("C2")
@pytest.mark.parametrize(("form", "method"), [("bert", None), ("llama", LORA)])
def test_out_of_memory_halves_what_is_computed_at_once_and_changes_no_step(
    form, method, tiny, tmp_path, monkeypatch, capsys
):
    import torch

    plain = {"_target_": "torch.optim.SGD", "learning_rate": 0.05}  # Adam divides what is rounding by itself
    options = {
        "form": form,
        "method": method,
        "train": sentences(22),
        "settings": {"max_epochs": 2, "optimizer": plain},
    }
    whole, halved = Run(tiny, tmp_path / "whole", **options), Run(tiny, tmp_path / "halved", **options)
    facts = whole.fit()
    plain, learner = halved.objective.loss, _learners(monkeypatch)

    def loss(model, batch):
        if learner and learner[-1].global_step >= 1 and len(batch["row"]) > 2:
            raise torch.OutOfMemoryError("injected")
        return plain(model, batch)

    monkeypatch.setattr(halved.objective, "loss", loss)
    found = halved.fit()
    assert found == facts | {name: pytest.approx(facts[name], abs=1e-6) for name in ("best_loss", "best_score")}
    assert halved.values("train/loss") == pytest.approx(whole.values("train/loss"), abs=1e-6)
    assert distance(halved.weights(), whole.weights()) < 3e-5
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("out of memory")] == [
        f"out of memory: batches are computed in {parts} parts; a step's rows and loss stay" for parts in (2, 4)
    ]


@pytest.mark.fault("C2")
def test_the_parts_that_fitted_are_kept_in_the_checkpoint(tiny, tmp_path, monkeypatch):
    import torch

    from stepladder import checkpoints

    run = made(tiny, tmp_path)
    plain = run.objective.loss

    def loss(model, batch):
        if len(batch["row"]) > 2:
            raise torch.OutOfMemoryError("injected")
        return plain(model, batch)

    monkeypatch.setattr(run.objective, "loss", loss)
    monkeypatch.setattr("stepladder.forecast.of", lambda *_: "")
    run.fit()
    assert torch.load(checkpoints.newest(tmp_path), weights_only=True)["progress"]["parts"] == 2


@pytest.mark.fault("C3")
def test_out_of_memory_with_one_row_ends_with_5_and_advice(tiny, tmp_path, monkeypatch):
    import torch

    run, learner = made(tiny, tmp_path), _learners(monkeypatch)
    plain = run.objective.loss

    def loss(model, batch):
        if learner:
            raise torch.OutOfMemoryError("injected")
        return plain(model, batch)

    monkeypatch.setattr(run.objective, "loss", loss)
    advice = r"one row at a time \(injected\); lower trainer.max_length, .*gradient_checkpointing"
    with pytest.raises(MachineError, match=advice) as error:
        run.fit()
    assert error.value.code == 5


def large(state, *, rows: int = 192):
    """Return a fit of a wider model whose batch of 192 rows of 120 tokens keeps some 600 MB."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from stepladder import training
    from stepladder.objectives import supervised
    from tests.conftest import _word_pieces
    from tests.test_training import plan

    tokenizer = _word_pieces()
    shape = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 384}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **shape)
    model = BertForSequenceClassification(config)
    objective = supervised.Objective(tokenizer, task="classification", labels=["bad", "good"], max_length=120)
    text = " ".join(["film"] * 118)
    train = sentences(rows).with_columns(pl.lit(text).alias("input"))
    parts = [training.Examples(part, objective.encode(part, train=True)) for part in (train, train.head(4))]
    settings = plan(batch_size=rows, max_steps=2, max_length=120)
    return training.fit(
        (model, objective), settings, train=parts[0], val=parts[1], state=state, log=lambda *_: None
    )  # fmt: skip


def fit_within(state, megabytes: int, forecast: bool) -> None:
    """Fit in this process with so much more memory than it has; without a forecast the batches are simply tried."""
    import psutil

    from stepladder import forecast as told

    if not forecast:
        told.of = lambda *_: "no forecast"
    large(state / "warm", rows=4)  # threads and buffers that stay
    size = psutil.Process().memory_info().vms + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    large(state)


@pytest.mark.fault("C2")
@pytest.mark.parametrize(("forecast", "said"), [(True, "batches are computed in"), (False, "out of memory: batches")])
def test_a_real_limit_of_memory_is_met_by_parts_foreseen_or_not(forecast, said, workshop, tmp_path):
    stage = workshop.call(fit_within, tmp_path, 540, forecast)  # oneDNN keeps some for each shape it met
    assert stage.wait() == 0, stage.said
    assert said in stage.said


@pytest.mark.fault("C3")
def test_what_cannot_fit_is_refused_before_training(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("stepladder.forecast.available", lambda _: 1000)
    run = made(tiny, tmp_path)
    with pytest.raises(MachineError, match="the gradients and the optimizer would take") as error:
        run.fit()
    assert error.value.code == 5 and run.told == []


@pytest.mark.fault("C5")
@pytest.mark.parametrize("divergence", [20.0, None])
def test_a_loss_that_grows_out_of_all_proportion_ends_the_training_if_wished(divergence, tiny, tmp_path, monkeypatch):
    run, learner = made(tiny, tmp_path, max_epochs=12, divergence=divergence), _learners(monkeypatch)
    plain, seen = run.objective.loss, []

    def loss(model, batch):
        grown = 1e6 if learner and learner[-1].global_step >= 30 else 1.0
        found = plain(model, batch) * grown
        seen.append(found.item())
        return found

    monkeypatch.setattr(run.objective, "loss", loss)
    if divergence is None:
        assert run.fit()["num_steps"] == 60
        return
    with pytest.raises(NumericsError, match=r"training step 3\d, .*: the last 10 losses have a mean of .* 20 times"):
        run.fit()
    assert statistics.median(seen[3:33]) < 2, "before it was a training like any other"


@pytest.mark.fault("C6")
@pytest.mark.parametrize("rows", [1, 9, 17])
def test_a_remainder_of_rows_is_a_step_of_its_own_mean(rows, tiny, tmp_path):
    plain = {"_target_": "torch.optim.SGD", "learning_rate": 0.05}
    options = {"max_epochs": 2, "optimizer": plain}
    large = Run(tiny, tmp_path / "a", train=sentences(rows), settings={"batch_size": 8, **options})
    small = Run(tiny, tmp_path / "b", train=sentences(rows), settings={"batch_size": 2, "accumulate": 4, **options})
    facts = [run.fit() for run in (large, small)]
    assert [found["num_steps"] for found in facts] == [2 * -(-rows // 8)] * 2
    assert distance(large.weights(), small.weights()) < 1e-5
    assert large.values("train/loss") == pytest.approx(small.values("train/loss"), abs=1e-6)


@pytest.mark.fault("C6")
@pytest.mark.parametrize("method", [None, LORA])
def test_parts_of_unequal_numbers_of_tokens_weigh_by_tokens(method, tiny, tmp_path):
    """Means of means would favour the tokens of short answers: the known fault of gradient accumulation."""
    from stepladder import microbatches, models, objectives

    tokenizer, model = models.tokenizer(tiny / "llama"), models.causal(tiny / "llama")
    objective = objectives.load("language_modeling")(tokenizer, task="language_modeling", max_length=32)
    batch = objective.collate(objective.encode(sentences(6), train=False))
    whole = microbatches.loss(model, objective, batch, 1)
    parts = [objective.loss(model, piece) for piece in microbatches.split(batch, 3)]
    assert microbatches.loss(model, objective, batch, 3).item() == pytest.approx(whole.item(), abs=1e-6)
    assert abs(sum(parts).item() / 3 - whole.item()) > 1e-4


@pytest.mark.fault("C6")
def test_one_class_is_refused_as_data(tiny):
    from stepladder import records

    rows = sentences(6).filter(pl.col("target") == "good").to_dicts()
    with pytest.raises(DataError, match="one label, 'good'; a classification needs at least two") as error:
        records.clean(rows, name="films", task="classification", labels=None)
    assert error.value.code == 3


def test_measuring_what_a_batch_keeps_keeps_nothing_of_it(tiny):
    import gc
    import weakref

    import torch

    from stepladder import forecast
    from stepladder.learner import Learner
    from tests.test_training import opened, plan

    model, objective = opened(tiny, "bert")
    batch = objective.collate(objective.encode(sentences(4), train=True))
    made, plain = [], objective._logits

    def logits(*words):
        made.append(weakref.ref(found := plain(*words)))
        return found

    objective._logits = logits
    assert forecast.saved_bytes(Learner(model, objective, plan()), batch, 1) > 10_000
    gc.collect()
    assert made[0]() is None and torch.is_grad_enabled()


def test_the_optimizer_of_the_tests_is_the_one_whose_memory_is_foreseen(tiny):
    import torch

    from stepladder import forecast

    weight = torch.nn.Parameter(torch.zeros(1000))
    assert forecast._moved_bytes(OPTIMIZER, [weight]) == 3 * 4000  # gradient and two moments
    plain = {"_target_": "torch.optim.SGD", "learning_rate": 0.1}
    assert forecast._moved_bytes(plain, [weight]) == 4000
