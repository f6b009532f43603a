"""Training: resuming within an epoch, kills while a checkpoint is written, a loss that is not a number."""

import json
import random
import re
import signal
import tempfile
from pathlib import Path

from benchmarks.bare_stack.outcomes import NotRunError, Outcome
from benchmarks.bare_stack.processes import python
from benchmarks.bare_stack.stacks import PLAIN, Stack

STOPS = (37, 70, 100)  # steps, none at the end of an epoch
NUM_KILLS = 12
SEED = 12  # of the moments of the kills
ELSEWHERE = Path("/dev/shm")  # another file system than that of the project


def x10(stack: Stack) -> Outcome:
    """Stop within an epoch, with shuffled rows, dropout, AdamW and a schedule, and go on"""
    same = {"bare": _resumed_plain, "ours": _resumed_ours}[stack.name](stack)
    facts = f"weights as those of an unbroken run: {sum(same)} of {len(same)} (stopped at steps {STOPS})"
    return Outcome(
        {f"stopped near step {stop}: bit for bit": held for stop, held in zip(STOPS, same, strict=False)}, facts
    )


def _resumed_plain(stack: Stack) -> list[bool]:
    done = stack.run(*python("resumed.py", *map(str, STOPS)))
    return json.loads(done.last)


def _resumed_ours(stack: Stack) -> list[bool]:
    found = []
    for number, stop in enumerate(STOPS):
        copy = stack.copy(stack.path.with_name(f"stop-{number}"), finished=True)
        running = copy.start(*copy.train)
        copy.reached(stop)
        running.send(signal.SIGKILL)
        running.wait()
        done = copy.run(*copy.train)
        found.append(bool(re.search(copy.starts, done.said)) and copy.same())
    return found


def x12(stack: Stack) -> Outcome:
    """SIGKILL while a checkpoint is written, with TMPDIR on another file system"""
    if not ELSEWHERE.is_dir() or ELSEWHERE.stat().st_dev == stack.path.stat().st_dev:
        raise NotRunError(f"{ELSEWHERE} is not a file system of its own here")
    with tempfile.TemporaryDirectory(dir=ELSEWHERE) as folder:
        chance = random.Random(SEED)
        delays = [str(round(chance.uniform(0.05, 0.8), 3)) for _ in range(NUM_KILLS)]
        script = {"bare": "killed.py", "ours": str(PLAIN / "killed_ours.py")}[stack.name]
        done = stack.run(*python(script, *delays), TMPDIR=folder, PYTHONPATH=str(stack.path))
        left = len([file for file in Path(folder).rglob("*") if file.is_file()])
    if done.code != 0:
        raise RuntimeError(done.said[-500:])
    found = json.loads(done.last)
    facts = "{kills} kills, checkpoints of {size:.1f} MB: {torn} newest unreadable".format(**found)
    facts += f", {left} temporary file(s) left in TMPDIR; {found['more']}"
    demands = {"every newest checkpoint can be read": found["torn"] == 0, "TMPDIR is left clean": left == 0}
    if stack.name == "ours":
        demands["the work ends with the weights of an unbroken run"] = stack.same()
        facts += f", {'weights as unbroken' if stack.same() else 'weights differ'}"
    return Outcome(demands, facts)


def x14(stack: Stack) -> Outcome:
    """The loss is NaN at step 5"""
    if stack.name == "bare":
        done = stack.run(*python("train.py", "--steps", "60", "--nan_at", "5"))
        ended = re.search(r"ended at step (\d+) .*", done.said)
        facts = f"exit code {done.code}; {ended.group(0) if ended else done.last}"
        steps = int(ended.group(1)) if ended else 5
    else:
        done = stack.run(*python(str(PLAIN / "nan_ours.py"), *stack.train[3:]), PYTHONPATH=str(stack.path))
        steps = max(stack.steps(), default=0)
        facts = f"exit code {done.code}; newest checkpoint: step {steps}; {done.error}"
    saved = stack.run(*python(str(PLAIN / "finite.py"), *_saved(stack)))
    finite = json.loads(saved.last)
    bad = [name for name, held in finite.items() if not held]
    demands = {
        "the exit code is not 0": done.code != 0,
        "it stops within a step": steps <= 6,
        "nothing that holds NaN is saved": not bad,
    }
    return Outcome(demands, f"{facts}; files with NaN: {', '.join(bad) or 'none'} of {len(finite)}")


def _saved(stack: Stack) -> list[str]:
    """Return every file of weights that the training left, relative to the project."""
    places = ("model/*.ckpt", "state/train/full-*/fit/*.ckpt", "models/full/*.safetensors")
    found = [file for place in places for file in stack.path.glob(place)]
    return [file.relative_to(stack.path).as_posix() for file in sorted(found)]
