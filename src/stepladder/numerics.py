"""Numerics: a training whose loss, gradient or weights are lost ends within a step, or leaves that step out."""

import math
import statistics

from stepladder.errors import NumericsError

RECENT, KNOWN = 10, 100  # losses that are compared, and those before them
SKIPS = 10  # steps left out in a row


class Watch:
    """Looks at every step before it moves a weight; `skipped` counts the steps that were left out.

    `not_finite` is stop or skip; `divergence` says how many times the median of the losses before the mean of the last
    ten may be, None for any.
    """

    def __init__(self, *, not_finite: str, divergence: float | None):
        self.not_finite, self.divergence = not_finite, divergence
        self.losses, self.skipped, self.in_a_row = [], 0, 0

    def passes(self, loss: float, norm: float, place: str) -> bool:
        """Return whether a step of this loss and this norm of the gradient may be taken.

        Raises NumericsError, which begins with `place`, when training is to end.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.in_a_row = 0
            self._follow(loss, place)
            return True
        fault = f"norm of the gradient is {norm}" if math.isfinite(loss) else f"loss is {loss}"
        if self.not_finite == "stop":
            raise NumericsError(f"{place}: {fault}; lower optimizer.learning_rate, or set trainer.not_finite: skip")
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.in_a_row > SKIPS:
            raise NumericsError(
                f"{place}: {fault}, and so were the {SKIPS} steps before; lower optimizer.learning_rate"
            )
        print(f"{place}: {fault}; the step is left out (trainer.not_finite: skip)", flush=True)
        return False

    def _follow(self, loss: float, place: str) -> None:
        self.losses = [*self.losses, loss][-RECENT - KNOWN :]
        before, recent = self.losses[:-RECENT], self.losses[-RECENT:]
        if self.divergence and len(before) >= RECENT:
            mean, median = statistics.fmean(recent), statistics.median(before)
            if mean > self.divergence * median:
                raise NumericsError(
                    f"{place}: the last {RECENT} losses have a mean of {mean:.3g}, more than {self.divergence:g} times "
                    f"the median {median:.3g} of those before; lower optimizer.learning_rate or raise "
                    "trainer.divergence"
                )

    def state_dict(self) -> dict:
        return {"losses": self.losses, "skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)
