"""Training: equal to plain loops of PyTorch and peft, exact in what it restores, loud when a loss is not finite."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from stepladder import metrics
from stepladder.errors import ConfigError, DataError, MachineError, NumericsError
from tests.conftest import LORA, OPTIMIZER, TRAINER, sentences

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "losses.json"
LABELS = ["bad", "good"]


def plan(**changes):
    """Return tiny settings."""
    from stepladder.settings import Settings

    sections = {"optimizer": OPTIMIZER, "scheduler": {"name": "linear", "warmup_share": 0.2}, "seed": 5}
    return Settings(**{**TRAINER, **sections, **changes})


class Run:
    """One tiny fit with everything that it told."""

    def __init__(self, tiny: Path, state: Path, *, method: dict | None = None, form: str = "bert", **changes):
        from stepladder import methods, training
        from stepladder.training import Examples

        self.settings = plan(**changes.pop("settings", {}))
        self.model, self.objective = opened(tiny, form)
        if method:
            self.model = methods.apply(self.model, method, seed=self.settings.seed, base=changes.get("base"))
        self.before = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
        train, val = changes.get("train", sentences(24)), changes.get("val", sentences(16, seed=1))
        self.parts = [Examples(part, self.objective.encode(part, train=part is train)) for part in (train, val)]
        self.told, self.state = [], state
        self._training = training

    def fit(self) -> dict:
        facts, self.answers = self._training.fit(
            (self.model, self.objective), self.settings, train=self.parts[0], val=self.parts[1], state=self.state,
            log=lambda *values: self.told.append(values),
        )  # fmt: skip
        return facts

    def values(self, name: str) -> list[float]:
        return [value for told, value, _, _ in self.told if told == name]

    def weights(self) -> dict:
        return {name: weight.detach().clone() for name, weight in self.model.named_parameters()}


def opened(tiny: Path, form: str):
    from stepladder import models, objectives
    from stepladder.prompts import Prompt

    tokenizer = models.tokenizer(tiny / form)
    kind = "response" if form == "llama" else "supervised"
    objective = objectives.load(kind)(
        tokenizer, task="classification", labels=LABELS, max_length=64, decoding=None,
        prompt=Prompt("Text: {input}\nLabel:"),
    )  # fmt: skip
    if kind == "response":
        return models.causal(tiny / form), objective
    model = models.classifier(tiny / form, LABELS, seed=3)
    for module in model.modules():  # a plain loop draws other dropout masks
        if type(module).__name__ == "Dropout":
            module.p = 0.0
    return model, objective


def distance(one: dict, other: dict) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


def plain_loop(run: Run, *, epochs: int) -> tuple[dict, list[float]]:
    """Return the weights and losses of a loop in PyTorch alone, over the same batches in the same order."""
    import torch
    import transformers

    from stepladder.batches import Batches

    rows, objective, model, settings = run.parts[0].rows, run.objective, run.model, run.settings
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in trained if w.ndim > 1], "weight_decay": OPTIMIZER["weight_decay"]},
        {"params": [w for w in trained if w.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=OPTIMIZER["learning_rate"])
    sampler = Batches([row["length"] for row in rows], settings.batch_size, seed=settings.seed)
    total = epochs * len(sampler)
    schedule = transformers.get_scheduler(
        "linear", optimizer, num_warmup_steps=round(0.2 * total), num_training_steps=total
    )
    losses = []
    model.train()
    for sampler.epoch in range(epochs):
        for batch in sampler:
            loss = objective.loss(model, objective.collate([rows[i] for i in batch]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, settings.gradient_clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return run.weights(), losses


@pytest.mark.parametrize(("form", "method"), [("bert", None), ("llama", None), ("distilbert", LORA), ("llama", LORA)])
def test_training_equals_a_plain_loop_over_the_same_batches(form, method, tiny, tmp_path):
    options = {"form": form, "method": method, "settings": {"max_epochs": 2}, "val": sentences(24)}
    ours, theirs = Run(tiny, tmp_path, **options), Run(tiny, tmp_path, **options)
    facts = ours.fit()
    wanted, losses = plain_loop(theirs, epochs=facts["best_epoch"] + 1)
    assert facts["best_epoch"] == 1, "the loop ends with the last weights, so the last must be the best"
    assert ours.values("train/loss") == pytest.approx(losses, abs=1e-5)
    found = ours.weights()
    for name in [name for name in wanted if name.endswith("key.bias")]:  # moves no attention: its gradient is rounding
        del found[name], wanted[name]
    assert distance(found, wanted) < 3e-5
    assert distance(ours.weights(), ours.before) > 1e-3


@pytest.mark.capability(7)
def test_lora_equals_the_trainer_of_transformers_with_peft_step_by_step(tiny, tmp_path):
    import peft
    import torch
    import transformers

    from stepladder import models
    from stepladder.batches import Batches

    ours = Run(tiny, tmp_path / "ours", form="bert", method=LORA, settings={"max_epochs": 2}, val=sentences(24))
    facts, records, tokenizer = ours.fit(), sentences(24), models.tokenizer(tiny / "bert")
    rows = [
        {**tokenizer(text), "labels": LABELS.index(target)} for text, target in records.select("input", "target").rows()
    ]
    torch.manual_seed(5)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear")

    class InOrder(transformers.Trainer):
        """Trainer over the batches of our sampler."""

        def get_train_dataloader(self):
            lengths = [len(row["input_ids"]) for row in rows]
            sampler = Batches(lengths, TRAINER["batch_size"], seed=5)
            epochs = iter([list(sampler) for sampler.epoch in range(2)])

            class Epochs:
                def __iter__(self):
                    return iter(next(epochs))

                def __len__(self):
                    return len(sampler)

            collate = transformers.DataCollatorWithPadding(tokenizer)
            return torch.utils.data.DataLoader(rows, batch_sampler=Epochs(), collate_fn=collate)

    total = facts["num_steps"]
    options = transformers.TrainingArguments(
        tmp_path / "theirs", num_train_epochs=2, learning_rate=OPTIMIZER["learning_rate"], weight_decay=0.01,
        lr_scheduler_type="linear", warmup_steps=round(0.2 * total), max_grad_norm=TRAINER["gradient_clip"],
        logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True, optim="adamw_torch",
    )  # fmt: skip
    with models.quiet():
        theirs = InOrder(peft.get_peft_model(opened(tiny, "bert")[0], config), options)
        theirs.remove_callback(transformers.PrinterCallback)
        theirs.train()
    losses = [told["loss"] for told in theirs.state.log_history if "loss" in told]
    assert len(losses) == total == 6
    assert ours.values("train/loss") == pytest.approx(losses, abs=1e-5)
    assert distance(ours.weights(), dict(theirs.model.named_parameters())) < 3e-5


@pytest.mark.parametrize(("form", "method"), [("bert", LORA), ("llama", LORA), ("bert", {"name": "full"})])
def test_frozen_weights_in_bf16_change_no_number_of_a_mixed_run(form, method, tiny, tmp_path):
    from stepladder import models

    options = {"form": form, "method": method, "settings": {"max_epochs": 2, "precision": "bf16-mixed"}}
    plain, light = Run(tiny, tmp_path, **options), Run(tiny, tmp_path, **options)
    models.lighten(light.model, "32-true")
    assert {str(weight.dtype) for weight in light.model.parameters()} == {"torch.float32"}
    models.lighten(light.model, "bf16-mixed")
    held = {str(weight.dtype) for weight in light.model.parameters() if not weight.requires_grad}
    assert held == (set() if method == {"name": "full"} else {"torch.float32", "torch.bfloat16"})
    assert {str(weight.dtype) for weight in light.model.parameters() if weight.requires_grad} == {"torch.float32"}
    plain.fit()
    light.fit()
    assert plain.told == light.told
    assert plain.answers.equals(light.answers)
    trained = [name for name, weight in plain.model.named_parameters() if weight.requires_grad]
    assert all(plain.weights()[name].equal(light.weights()[name]) for name in trained)


def test_our_lora_has_the_weights_that_peft_makes(tiny, tmp_path):
    import peft
    import torch

    from stepladder import models

    ours = Run(tiny, tmp_path, form="bert", method=LORA)
    torch.manual_seed(5)
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, lora_dropout=0.0, target_modules="all-linear")
    with models.quiet():
        theirs = peft.get_peft_model(opened(tiny, "bert")[0], config)
    assert distance(ours.weights(), dict(theirs.named_parameters())) == 0
    names = {name for name, weight in theirs.named_parameters() if weight.requires_grad}
    assert names == {name for name, weight in ours.model.named_parameters() if weight.requires_grad}


def test_two_runs_of_the_same_seed_give_identical_weights_with_dropout(tiny, tmp_path):
    runs = [Run(tiny, tmp_path / str(i), settings={"max_epochs": 2, "seed": seed}) for i, seed in enumerate((5, 5, 6))]
    for run in runs:
        for module in run.model.modules():
            if type(module).__name__ == "Dropout":
                module.p = 0.2
        run.fit()
    assert distance(runs[0].weights(), runs[1].weights()) == 0
    assert runs[0].told == runs[1].told
    assert distance(runs[0].weights(), runs[2].weights()) > 1e-3


def test_the_first_losses_of_a_tiny_run_are_the_golden_ones(tiny, tmp_path, request):
    found = {}
    for form in ("bert", "llama"):
        run = Run(tiny, tmp_path / form, form=form, settings={"max_epochs": 2})
        run.fit()
        found[form] = {name: run.values(name) for name in ("train/loss", "val/loss")}
    if request.config.getoption("--update-golden"):
        before = json.loads(GOLDEN.read_text()) if GOLDEN.is_file() else None
        GOLDEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        print(f"{GOLDEN}: {before} -> {found}")
    golden = json.loads(GOLDEN.read_text())
    for form, losses in golden.items():
        for name, values in losses.items():
            assert found[form][name] == pytest.approx(values, abs=2e-4), "run with --update-golden to accept"


@pytest.mark.capability(25)
def test_the_best_weights_by_the_watched_metric_come_back_not_the_last(tiny, tmp_path):
    flipped = sentences(16).with_columns(pl.col("target").replace({"good": "bad", "bad": "good"}))
    run = Run(tiny, tmp_path, val=flipped, settings={"max_epochs": 4, "patience": 9, "batch_size": 4})
    facts = run.fit()
    losses = run.values("val/loss")
    assert losses[-1] > min(losses) + 0.1, "training on the opposite must make it worse"
    assert facts["best_score"] == pytest.approx(min(losses))
    assert facts["best_epoch"] == losses.index(min(losses))
    again = run._training.predict(run.model, run.objective, flipped, run.settings)
    assert metrics.load("log_loss").compute(again) == pytest.approx(min(losses), rel=1e-5)
    assert run.answers.equals(again), "the validation that chose the weights has answered val already"


@pytest.mark.capability(27)
@pytest.mark.parametrize("monitor", ["accuracy", "log_loss"])
def test_any_metric_of_the_task_can_be_watched_the_right_way_round(monitor, tiny, tmp_path):
    run = Run(tiny, tmp_path, settings={"max_epochs": 3, "monitor": monitor})
    facts = run.fit()
    best = (max if monitor == "accuracy" else min)(run.values(f"val/{monitor}"))
    assert facts["monitor"] == f"val/{monitor}"
    assert facts["best_score"] == pytest.approx(best, rel=1e-6)
    assert facts["best_step"] in {step for name, value, step, _ in run.told if value == best}


@pytest.mark.capability(27)
@pytest.mark.parametrize("name", metrics.names("classification"))
def test_every_metric_can_be_watched_and_perfect_answers_are_its_best(name: str) -> None:
    from stepladder import training

    shares = {"perfect": (1.0, 0.0), "good": (0.7, 0.3), "bad": (0.2, 0.8)}  # of the target, of the other label
    values = {}
    for kind, (own, other) in shares.items():
        told = [{label: own if label == target else other for label in LABELS} for target in LABELS * 5]
        told[0] = dict(zip(LABELS, list(told[0].values())[:: 1 if kind == "perfect" else -1], strict=True))
        answers = [max(row, key=row.get) for row in told]
        frame = pl.DataFrame({"target": LABELS * 5, "answer": answers, "probabilities": told})
        values[kind] = metrics.load(name).compute(frame)
    watched, mode = training._watched(name, "classification")
    best = {"max": max, "min": min}[mode]
    assert watched == f"val/{name}" and values["perfect"] == best(values.values()) != values["bad"]


@pytest.mark.capability(25)
def test_early_stopping_stops_after_so_many_checks_without_a_better_value(tiny, tmp_path):
    flipped = sentences(24).with_columns(pl.col("target").replace({"good": "bad", "bad": "good"}))
    run = Run(tiny, tmp_path, val=flipped, settings={"max_epochs": 30, "patience": 2, "batch_size": 4})
    run.fit()
    losses = run.values("val/loss")
    assert len(losses) == losses.index(min(losses)) + 3 < 30


@pytest.mark.parametrize("name", ["linear", "cosine", "constant_with_warmup"])
def test_the_learning_rate_warms_up_and_follows_the_schedule_of_transformers(name, tiny, tmp_path):
    import torch
    import transformers

    run = Run(tiny, tmp_path, settings={"max_epochs": 3, "scheduler": {"name": name, "warmup_share": 0.3}})
    run.fit()
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=OPTIMIZER["learning_rate"])
    schedule = transformers.get_scheduler(name, optimizer, num_warmup_steps=3, num_training_steps=9)
    wanted = []
    for _ in range(9):
        optimizer.step()
        schedule.step()
        wanted.append(optimizer.param_groups[0]["lr"])
    assert run.values("train/learning_rate") == pytest.approx(wanted)


@pytest.mark.parametrize("clip", [0.01, None])
def test_gradient_clipping_bounds_the_norm_that_the_optimizer_sees(clip, tiny, tmp_path, monkeypatch):
    import torch

    seen, step = [], torch.optim.AdamW.step

    def watched(self, closure=None):
        if closure is None:  # the forecast's
            return step(self)
        loss = closure()
        grads = [w.grad for group in self.param_groups for w in group["params"] if w.grad is not None]
        seen.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads])).item())
        step(self)
        return loss

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    Run(tiny, tmp_path, settings={"gradient_clip": clip}).fit()
    assert len(seen) == 3
    assert max(seen) <= 0.0101 if clip else min(seen) > 0.1


def test_a_loss_that_is_not_finite_ends_with_step_rows_and_exit_code_7(tiny, tmp_path):
    run = Run(tiny, tmp_path)
    run.model.classifier.weight.data[:] = float("nan")
    with pytest.raises(NumericsError, match=r"training step 0, rows \[\d+, .*learning rate 0: loss is nan;") as error:
        run.fit()
    assert error.value.code == 7


def test_a_validation_loss_that_is_not_finite_is_no_end_of_training_but_an_error(tiny, tmp_path):
    run = Run(tiny, tmp_path)
    unseen = 4  # [MASK]
    run.parts[1].rows[3]["ids"].append(unseen)
    run.model.base_model.embeddings.word_embeddings.weight.data[unseen] = float("nan")
    assert all(unseen not in row["ids"] for row in run.parts[0].rows)
    with pytest.raises(NumericsError, match="validation after step 3: loss is nan"):
        run.fit()


@pytest.mark.parametrize(("monitor", "words"), [("acuracy", "mean 'accuracy'"), ("chrf", "No metric of class")])
def test_an_unknown_monitor_is_refused_before_training_starts(monitor, words, tiny, tmp_path):
    run = Run(tiny, tmp_path, settings={"monitor": monitor})
    with pytest.raises(ConfigError, match=f"trainer.monitor: .*{words}"):
        run.fit()
    assert run.told == []
    assert distance(run.weights(), run.before) == 0


def test_a_monitor_that_val_leaves_undefined_is_one_clear_line(tiny, tmp_path):
    good = sentences(16).filter(pl.col("target") == "good")
    with pytest.raises(DataError, match="monitor=roc_auc: not defined on these 8 val records"):
        Run(tiny, tmp_path, val=good, settings={"monitor": "roc_auc"}).fit()


def test_accumulated_batches_give_the_weights_of_one_large_batch(tiny, tmp_path):
    # Adam would divide rounding errors by themselves where a gradient is zero, as that of BERT's key biases is
    rows, plain = sentences(16), {"_target_": "torch.optim.SGD", "learning_rate": 0.05, "momentum": 0.9}
    options = {"optimizer": plain, "max_epochs": 3}
    large = Run(tiny, tmp_path / "a", train=rows, settings={"batch_size": 16, **options})
    small = Run(tiny, tmp_path / "b", train=rows, settings={"batch_size": 4, "accumulate": 4, **options})
    facts = [run.fit() for run in (large, small)]
    assert distance(large.weights(), small.weights()) < 1e-5
    assert [f["num_steps"] for f in facts] == [3, 3]
    assert large.values("val/loss") == pytest.approx(small.values("val/loss"), abs=1e-5)
    assert large.values("train/loss") == pytest.approx(small.values("train/loss"), abs=1e-5)


def test_fits_that_are_alike_are_tried_once(tiny, tmp_path, monkeypatch, capsys):
    """As the trials of a search over rates are; another batch size is another thing."""
    from stepladder import forecast

    tried, seconds = [], forecast._seconds
    monkeypatch.setattr(forecast, "_seconds", lambda *given: tried.append(1) or seconds(*given))
    told = []
    for number, settings in enumerate(({}, {"seed": 0}, {"batch_size": 4})):
        Run(tiny, tmp_path / str(number), settings=settings).fit()
        lines = capsys.readouterr().out.splitlines()
        told.append((len(tried), next(line for line in lines if line.startswith("to train: "))))
    assert [number for number, _ in told] == [1, 1, 2]
    assert told[0][1].split(" s and")[0] == told[1][1].split(" s and")[0] != told[2][1].split(" s and")[0]


@pytest.mark.parametrize(("form", "method"), [("bert", None), ("llama", LORA)])
def test_gradient_checkpointing_keeps_less_and_changes_no_loss(form, method, tiny, tmp_path):
    import torch

    from stepladder import forecast
    from stepladder.learner import Learner

    runs = [Run(tiny, tmp_path / str(on), form=form, method=method, settings={"gradient_checkpointing": on})
            for on in (False, True)]  # fmt: skip
    for run in runs:
        run.fit()
        assert not run.model.is_activation_checkpointing, "it answers without"
    assert runs[0].told == runs[1].told
    assert distance(runs[0].weights(), runs[1].weights()) == 0
    kept, model = [], runs[0].model.train()
    learner, batch = (
        Learner(model, runs[0].objective, runs[0].settings),
        runs[0].objective.collate(runs[0].parts[0].rows),
    )
    for on in (False, True):
        if on:
            model.activation_checkpointing_enable({"use_reentrant": False})
        with torch.random.fork_rng():
            kept.append(forecast.saved_bytes(learner, batch, 1))
    assert kept[1] < 0.7 * kept[0]


@pytest.mark.story
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_training_has_the_losses_of_a_plain_one(tiny, tmp_path):
    runs = [Run(tiny, tmp_path / str(on), settings={"compile": on}) for on in (False, True)]
    for run in runs:
        run.fit()
        assert run.model._compiled_call_impl is None, "it answers without"
    for name in ("train/loss", "val/loss"):
        assert runs[1].values(name) == pytest.approx(runs[0].values(name), abs=1e-5)


def test_compiling_without_a_compiler_is_one_clear_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(MachineError, match=r"trainer.compile: true needs a C\+\+ compiler"):
        Run(tiny, tmp_path, settings={"compile": True}).fit()


@pytest.mark.parametrize("kind", ["sdpa", "eager"])
def test_attention_of_every_kind_has_the_same_losses(kind, tiny, tmp_path):
    runs = [Run(tiny, tmp_path / name, form="llama", settings={"attention": name}) for name in ("auto", kind)]
    for run in runs:
        run.fit()
    assert runs[1].model.config._attn_implementation == kind
    assert runs[1].values("train/loss") == pytest.approx(runs[0].values("train/loss"), abs=1e-5)


def test_a_fixed_number_of_steps_is_validated_on_the_way_and_restored(tiny, tmp_path):
    flipped = sentences(16).with_columns(pl.col("target").replace({"good": "bad", "bad": "good"}))
    changes = {"max_steps": 20, "checks_per_epoch": 4, "patience": 4, "batch_size": 6, "accumulate": 2}
    run = Run(tiny, tmp_path, val=flipped, settings=changes)
    facts = run.fit()
    checks = [(value, step) for name, value, step, _ in run.told if name == "val/loss"]
    assert [step for _, step in checks] == [5, 10, 15, 20]
    assert facts["num_steps"] == 20
    assert (pytest.approx(facts["best_score"]), facts["best_step"]) == min(checks)
    assert facts["examples_seen"] == 240


def test_epochs_are_walked_in_their_own_order_and_counted(tiny, tmp_path):
    from stepladder.batches import Batches

    run, seen = Run(tiny, tmp_path, settings={"max_epochs": 3}), []
    collate = run.objective.collate

    def watched(examples):
        seen.append([example["row"] for example in examples])
        return collate(examples)

    run.objective.collate = watched
    facts = run.fit()
    sampler, wanted = Batches(run.parts[0].lengths, 8, seed=5), []
    for sampler.epoch in range(3):
        wanted += list(sampler)
    wanted = [[run.parts[0].rows[i]["row"] for i in batch] for batch in wanted]
    assert [batch for batch in seen[1:] if batch in wanted] == wanted, "the first one is the forecast's"
    assert facts["examples_seen"] == 72
    assert facts["tokens_seen"] == 3 * sum(run.parts[0].lengths)


def test_predictions_come_in_the_order_of_the_records_whatever_the_batch(tiny, tmp_path):
    run, records = Run(tiny, tmp_path), sentences(23, seed=4)
    first = run._training.predict(run.model, run.objective, records, plan(eval_batch_size=1))
    other = run._training.predict(run.model, run.objective, records[::-1], plan(eval_batch_size=8))[::-1]
    assert first["id"].to_list() == records["id"].to_list()
    assert first["answer"].to_list() == other["answer"].to_list()
    assert first["probabilities"].struct.unnest().to_numpy() == pytest.approx(
        other["probabilities"].struct.unnest().to_numpy(), abs=1e-6
    )


def test_texts_are_written_at_validation_only_when_a_text_metric_is_watched(tiny, tmp_path):
    from stepladder import models, objectives, training
    from stepladder.prompts import Prompt
    from stepladder.training import Examples

    told = {}
    for monitor in ("loss", "chrf"):
        tokenizer, decoding = models.tokenizer(tiny / "llama"), {"max_new_tokens": 3, "num_beams": 1, "one_line": True}
        objective = objectives.load("response")(
            tokenizer, task="generation", labels=None, max_length=64, prompt=Prompt("{input}\n:"), decoding=decoding
        )
        parts = [Examples(part, objective.encode(part, train=True)) for part in (sentences(8), sentences(6, seed=1))]
        values, chosen = [], (models.causal(tiny / "llama"), objective)
        training.fit(
            chosen, plan(monitor=monitor), train=parts[0], val=parts[1], state=tmp_path / monitor,
            log=lambda *told, values=values: values.append(told[:2]),
        )  # fmt: skip
        told[monitor] = dict(values)
    assert "val/chrf" in told["chrf"]
    assert "val/chrf" not in told["loss"]
    assert told["loss"]["val/loss"] == pytest.approx(told["chrf"]["val/loss"], rel=1e-5)


SILENT = """
import sys
sys.path[:0] = [{tests!r}]
import pathlib
import test_training
run = test_training.Run(pathlib.Path({tiny!r}), pathlib.Path({state!r}), settings=dict(log_every_s=0))
run.fit()
run._training.predict(run.model, run.objective, test_training.sentences(8), run.settings)
"""


def test_without_a_terminal_only_our_own_lines_are_said(tiny, tmp_path):
    code = SILENT.format(tests=str(Path(__file__).parent), tiny=str(tiny), state=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    known = {"to train", "training", "validating", "predicting"}
    told = {line.split(":")[0] for line in done.stdout.splitlines() if not line.startswith("float32 products by")}
    assert told == known


def test_a_speaker_says_how_much_is_done_and_left(monkeypatch):
    from stepladder import progress

    clock = iter([0.0, 4.0, 10.0, 12.0, 25.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with contextlib.redirect_stdout(io.StringIO()) as said:
        speaker = progress.Speaker("training", 1200, every_s=10)
        for done, note in ((100, "early"), (250, "loss 0.5"), (300, "early"), (1100, "")):
            speaker.tell(done, note)
    assert said.getvalue().splitlines() == [
        "training: 250/1,200, loss 0.5, at most 38 s left",
        "training: 1,100/1,200, at most 2 s left",
    ]
