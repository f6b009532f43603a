"""Trainers: Hugging Face's Trainer, TRL's and a plain Lightning loop, as their users write them, on our examples.

Each takes the weights, rows, steps, rates and clipping of the given work, and returns the seconds of its training call.
"""

import functools
import itertools
import statistics
import tempfile

import lightning
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from benchmarks.clocks import Clock
from benchmarks.rounds import Run
from benchmarks.subjects import Work
from stepladder import methods, models
from stepladder.batches import Batches
from stepladder.levels import finetune
from stepladder.objectives import IGNORED


def hugging_face(work: Work, *, clock: Clock, **options) -> Run:
    """Train by transformers' Trainer, or TRL's with its own defaults; seconds of its train."""
    return trained(work, clock=clock, **options)[1]


def trained(work: Work, *, clock: Clock, trl: bool = False, **options) -> tuple[torch.nn.Module, Run]:
    """Return the model that a Trainer trained, and its run."""
    torch.set_num_threads(clock.threads)
    model, examples, collator = _prepared(work)
    if trl:
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        kinds, examples = (SFTTrainer, SFTConfig), Dataset.from_list(examples)
        options |= {"dataset_kwargs": {"skip_prepare_dataset": True}}
    else:
        kinds = (transformers.Trainer, transformers.TrainingArguments)
    if work.ordered:  # a later sampler of the peer's own choice gives way
        options |= {"train_sampling_strategy": "sequential", "logging_strategy": "steps", "logging_steps": 1}
    with tempfile.TemporaryDirectory() as folder:
        args = kinds[1](output_dir=folder, **{**arguments(work), **options})
        trainer = kinds[0](model=model, args=args, train_dataset=examples, data_collator=collator)
        trainer.remove_callback(transformers.PrinterCallback)
        with clock.running():
            done = trainer.train()
    losses = [float(each["loss"]) for each in trainer.state.log_history if "loss" in each] or [done.training_loss]
    result = {"losses": losses, "mean": statistics.mean(losses), "steps": trainer.state.global_step}
    return model, Run(clock.spent, result)


class Plain(lightning.LightningModule):
    """The loop of a tutorial: the model's own loss and AdamW as torch has it."""

    def __init__(self, model, learning_rate: float):
        super().__init__()
        self.model, self.learning_rate, self.losses = model, learning_rate, []

    def training_step(self, batch, _index):
        loss = self.model(**batch).loss
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate)


def plain_lightning(work: Work, *, clock: Clock) -> Run:
    """Train by a plain Lightning loop: shuffled rows, float32, AdamW."""
    torch.set_num_threads(clock.threads)
    model, examples, collator = _prepared(work)
    loop = Plain(model.train(), work.sections["optimizer"]["learning_rate"])
    size = work.sections["trainer"]["batch_size"]
    loader = DataLoader(examples, size, shuffle=not work.ordered, collate_fn=collator)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, gradient_clip_val=1.0, **quiet)
    with clock.running():
        trainer.fit(loop, loader)
    mean = statistics.mean(loop.losses)
    return Run(clock.spent, {"losses": loop.losses, "mean": mean, "steps": trainer.global_step})


def in_our_order(examples: list[dict], work: Work) -> list[dict]:
    """Return examples in the order in which Stepladder takes them in its first pass."""
    sampler = Batches(
        [each["length"] for each in examples], work.sections["trainer"]["batch_size"], seed=work.sections["seed"]
    )
    return [examples[row] for row in itertools.chain.from_iterable(sampler)]


def _prepared(work: Work) -> tuple:
    """Return the model to train, what its user gives the Trainer, and how that becomes batches."""
    answerer, seed = finetune.Level(work.sections, base=work.base)._open(work.train), work.sections["seed"]
    form, labels = answerer.description["form"], answerer.description["labels"]
    model = models.causal(work.base) if form == "causal" else models.classifier(work.base, labels, seed=seed)
    model = methods.apply(model, work.sections["method"], seed=seed)
    encoded = answerer.objective.encode(work.train, train=True)
    encoded = in_our_order(encoded, work) if work.ordered else encoded
    collator = functools.partial(collate, pad=answerer.tokenizer.pad_token_id)
    return model, [_example(each, form) for each in encoded], collator


def arguments(work: Work) -> dict:
    """Return the Trainer's arguments that mean what the sections mean."""
    optimizer, scheduler, trainer = (work.sections[name] for name in ("optimizer", "scheduler", "trainer"))
    num_steps = -(-len(work.train) // trainer["batch_size"]) * trainer["max_epochs"]
    return {
        "per_device_train_batch_size": trainer["batch_size"],
        "num_train_epochs": trainer["max_epochs"],
        "learning_rate": optimizer["learning_rate"],
        "weight_decay": optimizer["weight_decay"],
        "lr_scheduler_type": scheduler["name"],
        "warmup_steps": round(scheduler["warmup_share"] * num_steps),
        "max_grad_norm": trainer["gradient_clip"],
        "seed": work.sections["seed"],
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "logging_strategy": "no",
        "remove_unused_columns": False,
    }


def _example(encoded: dict, form: str) -> dict:
    """Return what a user gives the Trainer: for a causal model prompt and answer, with a loss on the answer alone."""
    if form != "causal":
        return {"input_ids": encoded["ids"], "labels": encoded["label"]}
    ids = [*encoded["ids"], *encoded["answer"]]
    return {"input_ids": ids, "labels": [IGNORED] * len(encoded["ids"]) + encoded["answer"]}


def collate(rows: list[dict], *, pad: int) -> dict[str, torch.Tensor]:
    """Return a batch padded on the right to its longest row."""
    ids = [torch.tensor(row["input_ids"]) for row in rows]
    batch = {"input_ids": pad_sequence(ids, batch_first=True, padding_value=pad)}
    batch["attention_mask"] = pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
    if isinstance(rows[0]["labels"], int):
        return batch | {"labels": torch.tensor([row["labels"] for row in rows])}
    labels = [torch.tensor(row["labels"]) for row in rows]
    return batch | {"labels": pad_sequence(labels, batch_first=True, padding_value=IGNORED)}
