"""Learner: one model and one objective as Lightning sees them, and what tells the log of their training."""

import io
import math
from collections.abc import Callable
from functools import cached_property

import lightning
import polars as pl
import torch
import transformers
from lightning.pytorch.callbacks import Callback

from stepladder import adapters, attention, dropout, methods, metrics, microbatches
from stepladder.errors import DataError, NumericsError
from stepladder.numerics import Watch
from stepladder.settings import Settings

Log = Callable[[str, float, int, int], None]  # name, value, step, epoch
PROGRESS = ("examples_seen", "tokens_seen", "best_score", "best_step", "best_loss", "parts", "answer_parts")


class Learner(lightning.LightningModule):
    """One model, one objective; validation answers all rows and computes the task's metrics from them."""

    strict_loading = False  # a checkpoint holds what is trained

    def __init__(
        self,
        model,
        objective,
        settings: Settings,
        *,
        total_steps: int = 0,
        val: pl.DataFrame | None = None,
        further: dict | None = None,
    ):
        super().__init__()
        attention.prefer(model, settings.attention)
        dropout.prefer(model)
        self.model, self.objective, self.settings = model, objective, settings
        self.total_steps, self.val, self.rows, self.values = total_steps, val, [], {}
        self.best_score = self.best_step = self.best_loss = self.best_predictions = None
        self.further, self.further_losses = further or {}, {}  # parts of a mixture, and their last losses
        self.examples_seen = self.tokens_seen = 0
        self.parts, self.answer_parts = settings.accumulate, 1  # that a batch is computed in
        self.watch = Watch(not_finite=settings.not_finite, divergence=settings.divergence)
        self.step = None  # loss and rows of the batch that a step is about to be taken for
        self.trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        silent = objective.task in (None, "generation")  # no task to answer, or one whose answers are slow to write
        self.unwritten = silent and settings.monitor == "loss"
        adapters.begin(model, total_steps)

    @cached_property
    def weights(self) -> list[torch.nn.Parameter]:
        """All weights of the model: walking through its modules takes as long as a head's step."""
        return list(self.parameters())

    def on_train_epoch_start(self):
        self.trainer.train_dataloader.batch_sampler.epoch = self.current_epoch
        if self.settings.layers_per_epoch:
            methods.thaw(self.model, layers_per_epoch=self.settings.layers_per_epoch, epoch=self.current_epoch)

    def training_step(self, batch, _index):
        loss, self.parts = microbatches.within_memory(
            lambda parts: self.loss(batch, parts), parts=self.parts, rows=len(batch["row"])
        )
        if (penalty := adapters.penalty(self.model)) is not None:
            loss = loss + penalty
        self.step = loss.detach(), batch["row"].tolist()
        for read in self.seen:
            self.examples_seen += len(read["row"])
            self.tokens_seen += int(read["attention_mask"].sum()) if "attention_mask" in read else 0
            self.tokens_seen += sum(map(len, read.get("answers", ())))
        return loss

    def loss(self, batch: dict, parts: int) -> torch.Tensor:
        """Return the loss of a step, gradients included: of its batch, and of each further data set by its weight."""
        loss, step = microbatches.loss(self.model, self.objective, batch, parts, self.weights), self.global_step
        self.seen = [batch]
        for name, part in self.further.items():
            drawn = part.batch(step, loss.device)
            own = microbatches.loss(self.model, part.objective, drawn, min(parts, len(drawn["row"])), self.weights)
            loss, self.further_losses[name] = loss + part.weight * own, own.detach()
            self.seen.append(drawn)
        return loss

    def on_before_optimizer_step(self, optimizer):
        weights = [weight for weight in self.weights if weight.grad is not None]
        if self.settings.gradient_clip:
            norm = torch.nn.utils.clip_grad_norm_(weights, self.settings.gradient_clip)
        else:
            norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        loss, rows = self.step
        loss, norm = torch.stack([loss, norm]).tolist()  # one wait for the device
        rate = optimizer.param_groups[0]["lr"]
        place = f"training step {self.global_step}, rows {rows}, learning rate {rate:.3g}"
        if not self.watch.passes(loss, norm, place):
            for weight in weights:
                weight.grad = None  # which leaves the weight and its moments as they are

    def optimizer_step(self, *given):
        super().optimizer_step(*given)
        adapters.stepped(self.model, self.global_step)  # a checkpoint of this step is written later

    def validation_step(self, batch, _index):
        self.rows += self._answered(self.objective.losses if self.unwritten else self.objective.answer, batch)

    def on_validation_epoch_end(self):
        values = {"val/loss": sum(row["loss"] for row in self.rows) / sum(row["tokens"] for row in self.rows)}
        if not math.isfinite(values["val/loss"]):
            raise NumericsError(f"validation after step {self.global_step}: loss is {values['val/loss']}")
        predictions = None
        if not self.unwritten:
            predictions = self.objective.predictions(self.val, self.rows)
            scores = metrics.evaluate(predictions, self.objective.task)
            values |= {f"val/{name}": value for name, value in scores.items() if value is not None}
        watched = self.settings.monitor
        if f"val/{watched}" not in values:
            raise DataError(f"trainer.monitor={watched}: not defined on these {len(self.val)} val records")
        self.rows, self.values = [], values
        self.log(f"val/{watched}", values[f"val/{watched}"])
        self._keep(values[f"val/{watched}"], predictions)

    def _keep(self, score: float, predictions: pl.DataFrame | None):
        """Remember the answers of the validation whose weights will be restored: the first of the best."""
        best, watched = self.best_score, self.settings.monitor
        upwards = watched != "loss" and metrics.load(watched).GREATER_IS_BETTER
        if best is None or (score > best if upwards else score < best):
            self.best_score, self.best_step, self.best_predictions = score, self.global_step, predictions
            self.best_loss = self.values["val/loss"]

    def predict_step(self, batch, _index):
        return self._answered(self.objective.answer, batch)

    def _answered(self, answer: Callable, batch: dict) -> list[dict]:
        rows, self.answer_parts = microbatches.within_memory(
            lambda parts: microbatches.answers(self.model, answer, batch, parts),
            parts=self.answer_parts,
            rows=len(batch["row"]),
        )
        return rows

    def configure_optimizers(self):
        optimizer = build(self.settings.optimizer, self.model)
        warmup = round(self.settings.scheduler["warmup_share"] * self.total_steps)
        schedule = transformers.get_scheduler(
            self.settings.scheduler["name"], optimizer, num_warmup_steps=warmup, num_training_steps=self.total_steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint):
        trained = {name: weight for name, weight in self.named_parameters() if name in self.trained}
        for name, weight in trained.items():
            if not weight.isfinite().all():
                lost = f"after training step {self.global_step}: weight {name} is not finite, and is not kept"
                raise NumericsError(f"{lost}; lower optimizer.learning_rate")
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in trained}
        checkpoint["progress"] = {name: getattr(self, name) for name in PROGRESS}
        checkpoint["watch"] = self.watch.state_dict()
        checkpoint["answers"] = _packed(self.best_predictions)
        checkpoint["adapter"] = adapters.state_dict(self.model)

    def on_load_checkpoint(self, checkpoint):
        for name in PROGRESS:
            setattr(self, name, checkpoint["progress"][name])
        self.watch.load_state_dict(checkpoint["watch"])
        self.best_predictions = _unpacked(checkpoint["answers"])
        adapters.load_state_dict(self.model, checkpoint["adapter"])


def build(section: dict, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of the section over those of the model's weights that are trained."""
    options = dict(section)
    kind = getattr(torch.optim, options.pop("_target_").removeprefix("torch.optim."))
    options["lr"] = options.pop("learning_rate")
    if "loraplus_lr_ratio" in options:
        return adapters.two_rates(model, kind, options)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    decay = options.pop("weight_decay", 0.0)
    groups = [  # no decay on biases and norms (Loshchilov & Hutter 2019 as in transformers' Trainer)
        {"params": [w for w in trained if w.ndim > 1], "weight_decay": decay},
        {"params": [w for w in trained if w.ndim <= 1], "weight_decay": 0.0},
    ]
    return kind([group for group in groups if group["params"]], **options)


class Embedder(lightning.LightningModule):
    """Runs the backbone alone."""

    def __init__(self, model):
        super().__init__()
        attention.prefer(model)
        self.model = model

    def predict_step(self, batch, _index):
        return batch["row"].tolist(), self.model.embed(batch["input_ids"], batch["attention_mask"]).float().cpu()


class Recorder(Callback):
    """Tells the log the training loss, the learning rate and the validation values."""

    def __init__(self, log: Log):
        self.tell, self.losses = log, []

    def state_dict(self):
        return {"losses": self.losses}

    def load_state_dict(self, state):
        self.losses = state["losses"]

    def on_train_batch_end(self, trainer, learner, outputs, batch, batch_idx):
        self.losses.append(float(outputs["loss"]))
        step, epoch = trainer.global_step, trainer.current_epoch
        if step % max(1, learner.total_steps // 50) == 0:
            self.tell("train/loss", sum(self.losses) / len(self.losses), step, epoch)
            self.tell("train/learning_rate", trainer.optimizers[0].param_groups[0]["lr"], step, epoch)
            for name, loss in learner.further_losses.items():
                self.tell(f"train/{name}_loss", float(loss), step, epoch)
            self.losses = []

    def on_validation_end(self, trainer, learner):
        for name, value in sorted(learner.values.items()):
            self.tell(name, value, trainer.global_step, trainer.current_epoch)


def _packed(frame: pl.DataFrame | None) -> torch.Tensor | None:
    """Return a table as a tensor of bytes, which a checkpoint without pickled objects may hold."""
    if frame is None:
        return None
    frame.write_ipc(buffer := io.BytesIO())
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def _unpacked(packed: torch.Tensor | None) -> pl.DataFrame | None:
    return None if packed is None else pl.read_ipc(io.BytesIO(packed.numpy().tobytes()))
