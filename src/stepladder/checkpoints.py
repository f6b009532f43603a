"""Checkpoints: a fit that was stopped goes on from its newest whole checkpoint, to the same bits as an unbroken one.

A checkpoint is written beside its target, brought to the disk and renamed; its name ends in the hash of its bytes, such
as 00000120-9f86d081884c7d65.ckpt, so that a torn or altered one is known and passed over. Two are kept.
Order of rows and random states are part of it: PyTorch's note on reproducibility, Lightning's on resumed training.
"""

import time
import zipfile
from pathlib import Path

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.callbacks import Callback

from stepladder import disk, interruption, records, store
from stepladder.batches import Batches
from stepladder.errors import IntegrityError

KEPT = 2
STATES = 3  # numbers a trained weight in a checkpoint: itself and the two moments of Adam
COPIES = 3  # of the trained weights alone: the best, the result and its published copy
DIGITS = 16  # of the sha256
SECONDS = "seconds"  # beside the checkpoints: how long the fit took up to the newest


class Careful(CheckpointIO):
    """Lightning's way to disk and back: complete or absent, and never a pickled object."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        """Write to a file beside the target, bring it to the disk, rename."""
        disk.publish(Path(path), lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path, map_location=None, weights_only=None):
        """Read tensors and plain values."""
        return read(path, map_location=map_location or "cpu")

    def remove_checkpoint(self, path):
        """Remove a file that may be gone already."""
        Path(path).unlink(missing_ok=True)


class Keeper(Callback):
    """Keeps checkpoints in `folder` every so many seconds and when the process is asked to end.

    None is taken just before a validation, which a resumed fit would not repeat.
    """

    def __init__(self, folder: Path, batches: Batches, *, every_s: float):
        self.folder, self.batches, self.every_s = folder, batches, every_s
        self.started = self.last = time.monotonic()
        self.before, self.random = 0.0, None

    def on_fit_start(self, trainer, learner):
        """Refuse to begin where the disk cannot take what the fit will keep: known now, not after hours."""
        trained = sum(weight.numel() * weight.element_size() for weight in learner.parameters() if weight.requires_grad)
        needed = trained * (STATES * (KEPT + 1) + COPIES)
        kept = sum(file.stat().st_size for file in self.folder.rglob("*.ckpt"))
        disk.require_room(self.folder, needed - kept, purpose="training, with its checkpoints and its result,")

    def on_train_start(self, trainer, learner):
        trainer._signal_connector.teardown()  # Lightning ends a terminated fit without a checkpoint, and with code 0

    def on_train_batch_start(self, trainer, learner, batch, batch_idx):
        if self.random is not None:
            _restore(self.random)
            self.random = None

    def on_train_batch_end(self, trainer, learner, outputs, batch, batch_idx):
        due = interruption.asked() or time.monotonic() - self.last >= self.every_s
        loop = trainer.fit_loop.epoch_loop
        ends = loop.batch_progress.is_last_batch or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        if due and not ends:
            self._keep(trainer)
        interruption.leave()

    def on_validation_batch_start(self, trainer, learner, batch, batch_idx, dataloader_idx=0):
        interruption.leave()  # a resumed fit repeats the validation from its beginning

    def on_save_checkpoint(self, trainer, learner, checkpoint):
        processed = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        checkpoint["place"] = {"epoch": trainer.current_epoch, "batches": processed, "random": _states()}

    def on_load_checkpoint(self, trainer, learner, checkpoint):
        place = checkpoint["place"]
        self.batches.epoch, self.batches.skip, self.random = place["epoch"], place["batches"], place["random"]
        self.before = float((self.folder / SECONDS).read_text()) if (self.folder / SECONDS).is_file() else 0.0

    def _keep(self, trainer):
        made = self.folder / "saving"
        trainer.save_checkpoint(made)
        name = f"{trainer.global_step:08d}-{store.sha256(made)[:DIGITS]}.ckpt"
        disk.rename(made, self.folder / name)
        self.last = time.monotonic()
        records.write_text(f"{self.before + self.last - self.started:.3f}\n", self.folder / SECONDS)
        for old in sorted(self.folder.glob("*-*.ckpt"))[:-KEPT]:
            old.unlink()


def newest(folder: Path) -> Path | None:
    """Return the newest checkpoint whose bytes are those of its name, None without one; a damaged one is named."""
    for file in sorted(folder.glob("*-*.ckpt"), reverse=True):
        expected, found = file.stem.partition("-")[2], store.sha256(file)[:DIGITS]
        if expected == found:
            return file
        print(f"{store.shown(file)}: expected sha256 {expected}..., found {found}...; passed over", flush=True)
    return None


def read(path: str | Path, *, map_location: str = "cpu") -> dict:
    """Return a checkpoint; IntegrityError where a part has another checksum (CRC-32) than was written with it."""
    try:
        with zipfile.ZipFile(path) as parts:
            bad = parts.testzip()
    except zipfile.BadZipFile as error:
        bad = str(error)
    if bad:
        raise IntegrityError(f"{store.shown(Path(path))}: damaged ({bad}); STEPLADDER_FRESH=1 begins anew")
    return torch.load(path, map_location=map_location, weights_only=True)


def _states() -> dict:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def _restore(states: dict) -> None:
    torch.set_rng_state(states["cpu"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
