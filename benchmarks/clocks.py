"""Clocks: seconds of the CPU at one thread, of the wall at more; of this process and of those it waited for.

A CPU's seconds do not count waiting for other work on the machine, so they may be compared while it is busy.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Clock:
    """Counts seconds in `spent` while it runs, by the kind that suits the number of threads."""

    threads: int
    spent: float = field(default=0.0, compare=False)

    @property
    def name(self) -> str:
        """Return what is counted."""
        return "CPU seconds" if self.threads == 1 else "wall seconds"

    def now(self) -> float:
        """Return the seconds that have passed since some moment."""
        if self.threads > 1:
            return time.perf_counter()
        used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        return sum(each.ru_utime + each.ru_stime for each in used)

    @contextmanager
    def running(self) -> Iterator["Clock"]:
        """Count from zero what is done inside."""
        self.spent, started = 0.0, self.now()
        yield self
        self.spent = self.now() - started


@contextmanager
def within(clock: Clock, owner, name: str) -> Iterator[list[float]]:
    """Yield a list of the seconds of each call of `owner.name` inside, however deep; the call itself stays as it is."""
    original, spent = getattr(owner, name), []

    def timed(*words, **parts):
        started = clock.now()
        try:
            return original(*words, **parts)
        finally:
            spent.append(clock.now() - started)

    setattr(owner, name, timed)
    try:
        yield spent
    finally:
        setattr(owner, name, original)
