"""Kill a fit so many seconds after its first checkpoint, once for each word, and count what cannot be read.

python killed.py 0.3 0.5        {"kills": 2, "torn": 1, "size": 12.1, "more": "..."}
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
from train import fit, parser


def killed(number: int, delay: float) -> Path:
    """Fit in a child, kill it, return its last checkpoint."""
    last = Path(f"kill-{number}", "last.ckpt")
    child = os.fork()
    if not child:
        fit(parser().parse_args(["--pause_s", "0", "--wide", "100000", "--folder", str(last.parent)]))
        os._exit(0)
    while not last.is_file():
        time.sleep(0.001)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return last


def readable(file: Path) -> bool:
    """Return whether torch can load a checkpoint."""
    try:
        torch.load(file, weights_only=True)
    except Exception:
        return False
    return True


if __name__ == "__main__":
    torch.set_num_threads(1)
    files = [killed(number, float(delay)) for number, delay in enumerate(sys.argv[1:])]
    torn = sum(not readable(file) for file in files)
    size = max(file.stat().st_size for file in files) / 1e6
    named = sum(not readable(file) for each in files for file in each.parent.glob("epoch*.ckpt"))
    print(json.dumps({"kills": len(files), "torn": torn, "size": size, "more": f"{named} other unreadable file(s)"}))
