"""Processes: start, watch and end what a fault needs, so that nothing outlives it (Linux: workers from /proc)."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LONG_S = 240.0  # no command of a fault takes so long on two busy cores
FOLDERS = r"(?<![\w:/.])(/[\w.+-]+)+/"  # of absolute paths, which say nothing to another machine
DROPPED = ("DVC_", "MLFLOW_", "HYDRA_", "SLURM_", "STEPLADDER_", "PYTHON", "TMPDIR")


@dataclass(frozen=True)
class Done:
    """Exit code (None: still running at the limit, then ended), everything said, and the seconds it took."""

    code: int | None
    said: str
    seconds: float

    @property
    def last(self) -> str:
        """The last line that says something: of a crash, the error itself."""
        lines = [line.strip() for line in self.said.splitlines() if line.strip()]
        return lines[-1] if lines else ""

    @property
    def error(self) -> str:
        """The first line that begins with error[, as stages of Stepladder end, else the last; cut, without folders."""
        found = [line for line in self.said.splitlines() if line.startswith("error[")]
        return re.sub(FOLDERS, "", found[0] if found else self.last)[:200]


class Running:
    """A command in a group of its own, whose words go to a file."""

    def __init__(self, words: list[str], *, folder: Path, environment: dict[str, str]):
        self.file = folder / f"said-{time.monotonic_ns()}.log"
        self.started = time.monotonic()
        with self.file.open("w") as log:
            self.process = subprocess.Popen(
                words, cwd=folder, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self.file.read_text(errors="replace")

    def find(self, pattern: str) -> str | None:
        """Return the first group of the first match in what was said so far."""
        found = re.search(pattern, self.said)
        return found and found.group(1)

    def send(self, sent: signal.Signals) -> None:
        """Send a signal to the command alone."""
        if self.process.poll() is None:
            os.kill(self.process.pid, sent)

    def wait(self, timeout: float = LONG_S) -> Done:
        """Return how it ended; at the limit its whole group is killed and the code is None."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            code = None
        seconds = time.monotonic() - self.started
        if code is None:
            self.kill()
        return Done(code, self.said, seconds)

    def kill(self) -> None:
        """End the command and its group."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


def python(*words: str) -> list[str]:
    """Return a command of this interpreter."""
    return [sys.executable, "-W", "ignore", *words]


def surroundings(**more: str) -> dict[str, str]:
    """Return an environment without a trace of the caller's settings, on one thread, off-line."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(DROPPED)}
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DVC_NO_ANALYTICS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return kept | quiet | {"DO_NOT_TRACK": "1", "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"} | path | more


def within(folder: Path, pattern: str = "") -> list[int]:
    """Return the ids of the processes that work in `folder` and whose command line matches."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            where = (place / "cwd").resolve()
        except OSError:
            continue
        if words and where.is_relative_to(folder) and re.search(pattern, words) and int(place.name) != os.getpid():
            found.append(int(place.name))
    return sorted(found)


def end_all(folder: Path) -> None:
    """Kill what still works in `folder`: orphans of a fault."""
    for process in within(folder):
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            continue


def waited(condition: Callable, seconds: float = LONG_S):
    """Return what the condition says as soon as it is true, or at the limit."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def send(process: int, sent: signal.Signals) -> None:
    """Send a signal to a process that may have ended."""
    try:
        os.kill(process, sent)
    except ProcessLookupError:
        return
