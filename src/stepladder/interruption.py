"""Interruption: a stage that is asked to end does so at once, or, in the midst of a fit, after the step at hand.

SIGTERM   143   from `kill`, a scheduler, or the kernel when DVC dies
SIGHUP    143   from a terminal that is gone; under nohup it is not heard
SIGINT     75   from Ctrl-C; whatever comes second does not wait for the step
SIGUSR1    75   from Slurm, some time before a job's end (--signal=USR1@120): the job is put back into the queue
Python runs a signal's handler between two instructions of the main thread: what must not be torn is written beside
its target and renamed (signal, PEP 475).
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

CODES = {signal.SIGTERM: 143, signal.SIGHUP: 143, signal.SIGINT: 75, signal.SIGUSR1: 75}
UNHEARD = (signal.SIG_DFL, signal.default_int_handler)


class _Ear:
    """What this process was asked; signals are the process's own, and so is this."""

    heard: int | None = None
    waits = False


def asked() -> bool:
    """Return whether the process was asked to end."""
    return _Ear.heard is not None


def leave() -> None:
    """End the process with the code of what was asked; without that, do nothing."""
    if _Ear.heard is not None:
        raise SystemExit(CODES[_Ear.heard])


@contextmanager
def listening() -> Iterator[None]:
    """Hear what no one else hears; SIGUSR1 means an end under Slurm alone."""
    numbers = [number for number in CODES if number != signal.SIGUSR1 or "SLURM_JOB_ID" in os.environ]
    ours = [number for number in numbers if signal.getsignal(number) in UNHEARD]
    for number in ours:
        signal.signal(number, _hear)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)  # nothing is left that could end in order


@contextmanager
def patient() -> Iterator[None]:
    """Let what is inside finish what it has in hand: it looks at `asked`, and may `leave`.

    Once it was asked, any end is that end: a loader's worker that heard the same signal fails the step.
    """
    _Ear.waits = True
    try:
        yield
    finally:
        _Ear.waits = False
        leave()


def requeue() -> None:
    """Ask Slurm to run the job again where it told of the job's end; one that it preempts it requeues by itself."""
    if _Ear.heard != signal.SIGUSR1:
        return
    names = ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
    job = "_".join(os.environ[name] for name in names if name in os.environ) or os.environ["SLURM_JOB_ID"]
    try:
        code = subprocess.run(["scontrol", "requeue", job], check=False).returncode
    except OSError as error:
        code = error
    print(f"scontrol requeue {job}: {'done' if code == 0 else f'failed ({code}); submit it again'}", flush=True)


def _hear(number: int, frame) -> None:
    first, _Ear.heard = _Ear.heard is None, number
    if not (first and _Ear.waits):
        leave()
