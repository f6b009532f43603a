"""Exporter: a process beside a training that tells MLflow what the journal holds as it grows, then how it ended.

The training writes its journal and nothing else: no library, lock or network of the tracking is in its process. The
exporter reads two lines of JSON on its input: what is trained, and at the end {"status", "scores"}; an input that ends
without the second line is the death of the training. It writes [values told, fault] a line.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from stepladder import candidates, records, store

TIMEOUT_S = 3  # for an answer of the store
ENVIRONMENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(TIMEOUT_S)}
EVERY_S, LONGEST_S = 2.0, 60.0  # between two tellings; between two attempts where nothing answers
SHARE = 0.1  # of its time that a store may take, so that a slow one is asked less often
STARTING_S, PATIENCE_S = 30, 20  # that a finished training waits at most: for the imports; for the last telling
MAIN = "from stepladder import exporter; exporter.main()"
WAITING = Path("state", "untracked")
CURE = "what was trained is kept; to track it: python -m pipelines.sync"


@contextmanager
def beside(sections: dict, files: dict, output: Path | None = None) -> Iterator[dict]:
    """Track the training inside; yield a dict that takes the `scores` of one that was typed by hand, into `output`.

    Whatever happens to the store costs the training one line on stderr.
    """
    started, ended = time.monotonic(), {"status": "KILLED", "scores": {}}
    job = {"sections": sections, "files": files, "output": output and str(output)}
    with tempfile.TemporaryFile("w+") as said:
        process = start(said)
        _say(process, job)
        try:
            yield ended
            ended["status"] = "FINISHED"
        except Exception as error:
            ended["status"] = getattr(error, "status", "FAILED")
            raise
        finally:
            _say(process, ended)
            with suppress(OSError):
                process.stdin.close()
        _wait(process, max(PATIENCE_S, STARTING_S - (time.monotonic() - started)))
        if process.returncode:
            _warn(job | ended, said)


def start(said: TextIO) -> subprocess.Popen:
    """Start the exporter, which writes into `said`: a new interpreter, which imports MLflow as the training begins."""
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-c", MAIN],
        stdin=subprocess.PIPE,
        stdout=said,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,  # Ctrl-C is for the training
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
    )


def late() -> Iterator[str]:
    """Tell of the runs typed by hand that ended without the store; yield their folders."""
    for file in sorted((store.root() / WAITING).glob("*.json")):
        job = json.loads(file.read_text())
        if Path(job["output"], "model").is_dir():
            _end(job)
            yield job["output"]
        file.unlink()


def main() -> None:
    """Be the exporter: follow the journal, and end the run when the training ends."""
    said, sys.stdout = sys.stdout, sys.stderr  # what others print is not read
    os.nice(5)  # a training with a thread a core goes first
    job = json.loads(sys.stdin.readline())
    told, fault = 0, ""
    for told, fault, silent in _follow(job):  # noqa: B007  the last ones count
        print(json.dumps([told, fault]), file=said, flush=True)
    signal.alarm(PATIENCE_S)  # ends this process wherever it hangs
    ended = json.loads(sys.stdin.readline() or '{"status": "KILLED"}')
    try:
        if fault and silent:
            sys.exit(1)
        _end(job | ended)
    except Exception as error:
        print(json.dumps([told, str(error)]), file=said, flush=True)
        sys.exit(1)


def _follow(job: dict) -> Iterator[tuple[int, str, bool]]:
    """Tell what is new until the training ends; yield how many values are told, the fault, and if it was silence."""
    from stepladder import sync, tracking

    entry, tracker, told, faults, wait = _begun(job), None, -1, 0, 0.0
    while not select.select([sys.stdin], [], [], wait)[0]:
        asked, fault = time.monotonic(), ""
        try:
            grown = sync.grown(entry)
            if len(grown.history) > told:
                tracker = tracker or tracking.of(job["sections"]["runtime"])
                tracker.tell(grown, status="RUNNING")
                told, faults = len(grown.history), 0
        except Exception as error:  # MLflow, its database and its file store each raise their own
            faults, fault = faults + 1, str(error)
        took = time.monotonic() - asked
        wait = max(min(EVERY_S * 2**faults, LONGEST_S), took / SHARE)
        yield max(told, 0), fault, took >= TIMEOUT_S


def _end(job: dict) -> None:
    """Complete the run of a finished training from its files, and end another with what its journal holds."""
    from stepladder import sync, tracking

    if job["status"] != "FINISHED":
        sync.end(tracking.of(job["sections"]["runtime"]), _begun(job), status=job["status"])
    elif job["output"]:
        sync.by_hand(job["sections"], job["files"], Path(job["output"]), job["scores"])
    else:
        sync.tell([job["sections"]["candidate"]], scored=False)


def _begun(job: dict):
    from stepladder import sync

    return sync.begun(job["sections"], job["files"], job["output"] and Path(job["output"]))


def _say(process: subprocess.Popen, words: dict) -> None:
    with suppress(OSError):  # it is gone
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()


def _wait(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _warn(job: dict, said: TextIO) -> None:
    """Say in one line what is not tracked, and keep the words of a run by hand, which no other file holds."""
    said.seek(0)
    told, fault = json.loads(["[0, null]", *(line for line in said if line.endswith("]\n"))][-1])
    folder = Path(job["output"], "model") if job["output"] else Path("models", job["sections"]["candidate"])
    file = folder / candidates.HISTORY
    left = len(file.read_text().splitlines()) - told if file.is_file() else 0
    if job["output"]:
        records.write_json(job, store.root() / WAITING / f"{time.time_ns()}.json")
    why = " ".join((fault or "no answer in time").split())
    print(f"warning: {left} values in the journal are not tracked ({why}); {CURE}", file=sys.stderr, flush=True)
