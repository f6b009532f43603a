"""Stop a fit after some steps, go on from its last checkpoint, and compare with an unbroken fit.

python resumed.py 37 90        [false, false]
"""

import json
import sys

import torch
from lightning.pytorch.callbacks import Callback
from train import fit, parser


class StoppedError(Exception):
    """The process is gone."""


class Stop(Callback):
    """Ends the fit as a kill does, after the step's checkpoint."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.step:
            raise StoppedError


def weights(stop: int | None) -> list[torch.Tensor]:
    """Return the weights of a fit that was stopped once, or never."""
    options = parser().parse_args(["--pause_s", "0", "--folder", f"stop-{stop}", "--steps", "200"])
    resume = None
    if stop:
        try:
            fit(options, callbacks=[Stop(stop)])
        except StoppedError:
            resume = f"stop-{stop}/last.ckpt"
    return [weight.detach() for weight in fit(options, resume=resume).lightning_module.parameters()]


if __name__ == "__main__":
    whole = weights(None)
    print(json.dumps([all(map(torch.equal, whole, weights(int(stop)))) for stop in sys.argv[1:]]))
