"""Elsewhen: trainings under another clock, zone and hash seed, which only a new process can have.

python -m tests.faults.elsewhen <project> lora full     both are trained anew
python -m tests.faults.elsewhen <project> jump          lora is killed and goes on while the clock jumps
"""

import signal
import sys
import time
from functools import partial
from pathlib import Path

from tests.faults import hooks
from tests.faults.workshop import Workshop


def jump(made: Workshop) -> None:
    """Train for a while, let a year pass while another process waits for the lock, and go on an hour before it all."""
    words, clock = ("train", *made.of("lora")), made.path / "clock"
    started = time.time()
    first = made.start(*words, STEPLADDER_FRESH="1")
    first.until(lambda: len(list(made.path.glob("state/train/lora-*/fit/*-*.ckpt"))) > 1)
    first.send(signal.SIGSTOP)
    clock.write_text("+365d")
    assert time.time() - started > 360 * 86400, "the clock did not jump"
    second = made.run(*words, fault=partial(hooks.patience, 0.3))
    assert second.process.exitcode == 75 and "is at it" in second.said, second.said
    first.send(signal.SIGKILL)
    first.wait()
    clock.write_text("-1h")
    last = made.start(*words)
    last.until(lambda: "going on from" in last.said)
    clock.write_text("+3d")
    assert last.wait() == 0, last.said


def main(path: str, *names: str) -> None:
    """Train the candidates of these names anew, or `jump`."""
    made = Workshop(Path(path))
    if names == ("jump",):
        return jump(made)
    for name in names:
        made.works("train", *made.of(name), STEPLADDER_FRESH="1")
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
