"""Progress: a bar on a terminal, a line every few seconds elsewhere, so that long work is never silent."""

import sys
import time


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


def bar(kind) -> list:
    """Return a progress bar of class `kind` on a terminal, nothing elsewhere."""
    return [kind()] if sys.stderr.isatty() else []
