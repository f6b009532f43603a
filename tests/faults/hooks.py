"""Hooks: what is planted in a stage before it begins; functions of a module, so that they reach its process."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial, wraps
from pathlib import Path


def at_call(place: object, name: str, number: int, before: Callable[[], None]) -> None:
    """Run `before` in front of the call of this number of the function `name` of `place`."""
    real, calls = getattr(place, name), iter(range(1, 1_000_000))

    @wraps(real)
    def called(*words, **options):
        if next(calls) == number:
            before()
        return real(*words, **options)

    setattr(place, name, called)


def signalled(hook: str, numbers: Iterable[int], *, at: int, group: bool = False) -> None:
    """Let the stage be sent these signals in a hook of its training; with `group` all of its processes hear them."""
    from stepladder import progress

    if group:
        os.setsid()
    send = partial(os.killpg, os.getpid()) if group else partial(os.kill, os.getpid())
    at_call(progress.Voice, hook, at, lambda: [send(number) for number in numbers])


def signalled_while_saving(numbers: Iterable[int], *, at: int) -> None:
    """Let signals arrive when half of a checkpoint is written."""
    import torch

    real = torch.save

    def saves(checkpoint, file):
        calls.append(None)
        if len(calls) == at:
            file.write(b"half of it")
            for number in numbers:
                os.kill(os.getpid(), number)
        real(checkpoint, file)

    calls = []
    torch.save = saves


def impatient(hook: str, numbers: Iterable[int], *, at: int) -> None:
    """As `signalled`, with a training that does not finish its step."""
    from stepladder import interruption

    interruption.patient = nullcontext
    signalled(hook, numbers, at=at)


def unheard(hook: str, numbers: Iterable[int], *, at: int) -> None:
    """As `signalled`, under nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signalled(hook, numbers, at=at)


def killed_while_publishing(*, in_place: bool) -> None:
    """Die when an output is written and not yet renamed; `in_place`: when half of it stands under its own name."""
    from stepladder import disk

    def halves(path, fill, real=disk.publish):
        if "predictions" not in path.parts:  # but what a run cost, or what is kept for other stages
            return real(path, fill)
        with path.open("wb") as file:
            fill(file)
            file.truncate(file.tell() // 2)
        return os.kill(os.getpid(), signal.SIGKILL)

    def rename(path, target, real=disk.rename):
        if "predictions" in target.parts:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, target)

    if in_place:
        disk.publish = halves
    else:
        disk.rename = rename


def patience(seconds: float) -> None:
    """Wait so long for another process at the same work."""
    from stepladder import work

    work.PATIENCE_S = seconds


def clock(file: Path, *, seconds: float = 20.0) -> None:
    """Let the wall clock be off by what stands in a file, in seconds; wait so long for another process."""
    real = time.time
    time.time = lambda: real() + float(file.read_text())
    patience(seconds)
