"""Train as Lightning's documentation shows it: a Trainer, a ModelCheckpoint, and MLFlowLogger where a store is named.

python train.py --steps 160        model/last.ckpt; a second call goes on from it
"""

import argparse
import math
import os
import time
from pathlib import Path

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset


class Net(lightning.LightningModule):
    """A small classifier with dropout; `wide` makes its checkpoints large, `nan_at` its loss undefined."""

    def __init__(self, options):
        super().__init__()
        self.options = options
        self.net = torch.nn.Sequential(
            torch.nn.Linear(8, options.wide), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(options.wide, 2)
        )

    def training_step(self, batch, _):
        inputs, targets = batch
        loss = torch.nn.functional.cross_entropy(self.net(inputs), targets)
        if self.global_step == self.options.nan_at:
            loss = loss * math.nan
        self.log("loss", loss)
        time.sleep(self.options.pause_s)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=self.options.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Said(Callback):
    """Says where training starts and notes each step in a file, for those who watch from outside."""

    def on_train_start(self, trainer, learner):
        print(f"starts at step {trainer.global_step}", flush=True)

    def on_train_batch_end(self, trainer, learner, *_):
        Path("step").write_text(str(trainer.global_step))


def parser() -> argparse.ArgumentParser:
    """Return the words of the command line."""
    made = argparse.ArgumentParser()
    made.add_argument("--steps", type=int, default=160)
    made.add_argument("--wide", type=int, default=64)
    made.add_argument("--pause_s", type=float, default=0.02)
    made.add_argument("--folder", default="model")
    made.add_argument("--nan_at", type=int, default=-1)
    made.add_argument("--tracking")
    made.add_argument("--asynchronous", action="store_true")
    return made


def fit(options, *, callbacks=(), resume: str | None = None) -> lightning.Trainer:
    """Train and return the trainer."""
    lightning.seed_everything(1, verbose=False)
    rows = torch.randn(256, 8, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(rows, (rows.sum(1) > 0).long())
    logger = False
    if options.tracking:
        from lightning.pytorch.loggers import MLFlowLogger

        logger = MLFlowLogger("bare", tracking_uri=options.tracking, synchronous=not options.asynchronous)
    kept = ModelCheckpoint(options.folder, monitor="loss", save_top_k=2, save_last=True, every_n_train_steps=1)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=1, max_steps=options.steps, logger=logger, callbacks=[kept, Said(), *callbacks],
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    net = Net(options)
    trainer.fit(net, DataLoader(data, batch_size=8, shuffle=True), ckpt_path=resume)
    return trainer


def main() -> None:
    """Go on from the last checkpoint where there is one."""
    options = parser().parse_args()
    last = Path(options.folder, "last.ckpt")
    print("existing before start:", sorted(os.listdir(options.folder)) if last.parent.is_dir() else [], flush=True)
    trainer = fit(options, resume=str(last) if last.is_file() else None)
    finite = all(bool(torch.isfinite(weight).all()) for weight in trainer.lightning_module.parameters())
    best = trainer.checkpoint_callback.best_model_score
    print(f"ended at step {trainer.global_step} of {options.steps}; weights finite: {finite}; best score: {best}")


if __name__ == "__main__":
    main()
