"""Kill Stepladder's training so many seconds after it began to write, again and again in one work, then let it end.

PYTHONPATH=. python killed_ours.py 0.3 0.5        in a project; {"kills": 2, "torn": 0, "size": 0.3, "more": "..."}
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import yaml

import pipelines  # noqa: F401  puts the project's own src/ first
from stepladder import candidates, checkpoints
from stepladder.levels import finetune  # noqa: F401  imported once for all children


def begun() -> int:
    """Return the process id of a child that trains the candidate."""
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        candidates.train(yaml.safe_load(Path("build/full.yaml").read_text()))
        os._exit(0)
    return child


def kept() -> list[Path]:
    """Return the checkpoints that lie there, the newest last."""
    return sorted(Path("state/train").glob("full-*/fit/*-*.ckpt"))


def killed(delay: float) -> bool:
    """Train, kill after the next checkpoint, and return whether the newest file is whole and loads."""
    before, child = kept(), begun()
    while kept() == before:
        time.sleep(0.001)
    time.sleep(delay / 2)  # twelve of them, and the pass of this model is not over
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    last = kept()[-1]
    if checkpoints.newest(last.parent.resolve()) != last.resolve():
        return False
    torch.load(last, weights_only=True)
    return True


if __name__ == "__main__":
    torch.set_num_threads(1)
    whole = [killed(float(delay)) for delay in sys.argv[1:]]
    size, step = kept()[-1].stat().st_size / 1e6, int(kept()[-1].name[:8])
    os.waitpid(begun(), 0)
    left = len(list(Path("state/train").rglob("*.tmp"))) + len(list(Path("state/train").rglob("saving")))
    more = f"one work went on through all kills to step {step}; {left} temporary file(s) left in state/ at its end"
    print(json.dumps({"kills": len(whole), "torn": whole.count(False), "size": size, "more": more}))
