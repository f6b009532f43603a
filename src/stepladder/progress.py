"""Progress: a bar on a terminal, a line every few seconds elsewhere, so that long work is never silent."""

import sys
import time

from lightning.pytorch.callbacks import Callback, TQDMProgressBar


class Speaker:
    """Prints `what: 120/440, note, 35 s left` at most every `every_s` seconds where there is no terminal."""

    def __init__(self, what: str, total: int, *, every_s: float = 10.0):
        self.what, self.total, self.every_s = what, total, every_s
        self.started = self.last = time.monotonic()

    def tell(self, done: int, note: str) -> None:
        """Say how much is done, if it is time to."""
        now = time.monotonic()
        if sys.stderr.isatty() or now - self.last < self.every_s or not done:
            return
        self.last = now
        left = (now - self.started) / done * max(self.total - done, 0)
        parts = [f"{done:,}/{self.total:,}", *([note] if note else []), f"at most {left:.0f} s left"]
        print(f"{self.what}: {', '.join(parts)}", flush=True)


class Voice(Callback):
    """Says how far training, a validation or a prediction is."""

    def __init__(self, every_s: float):
        self.every_s, self.speakers = every_s, {}

    def on_train_start(self, trainer, learner):
        self._say("training", 0, learner.total_steps)

    def on_train_batch_end(self, trainer, learner, outputs, batch, batch_idx):
        self._say("training", trainer.global_step, learner.total_steps, f"loss {float(outputs['loss']):.3f}")

    def on_validation_start(self, trainer, learner):
        self.speakers.pop("validating", None)

    def on_validation_batch_end(self, trainer, learner, outputs, batch, batch_idx, dataloader_idx=0):
        self._say("validating", batch_idx + 1, trainer.num_val_batches[0])

    def on_predict_batch_end(self, trainer, learner, outputs, batch, batch_idx, dataloader_idx=0):
        self._say("predicting", batch_idx + 1, trainer.num_predict_batches[0])

    def _say(self, what: str, done: int, total: int, note: str = "") -> None:
        if what not in self.speakers:
            self.speakers[what] = Speaker(what, total, every_s=self.every_s)
        self.speakers[what].tell(done, note)


def callbacks(every_s: float) -> list[Callback]:
    """Return what speaks during a fit or a prediction: lines, and on a terminal a progress bar as well."""
    return [Voice(every_s), *([TQDMProgressBar()] if sys.stderr.isatty() else [])]
