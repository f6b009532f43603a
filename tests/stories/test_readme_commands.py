"""The README's commands, typed as they stand there, on a finished run."""

import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest

from tests.stories.conftest import surroundings
from tests.test_readme import COMMANDS

pytestmark = [pytest.mark.story, pytest.mark.long]

OF_A_FINISHED_RUN = [c for c in COMMANDS if c.startswith("dvc ") or c == "python -m pipelines.verdict"]
LONGEST_S = 90


@pytest.fixture(scope="module")
def project(story, tmp_path_factory):
    return story.copy(tmp_path_factory.mktemp("readme") / "repository")


@pytest.mark.parametrize("command", OF_A_FINISHED_RUN)
def test_a_command_works_as_it_stands(project, command):
    done = subprocess.run(command, shell=True, cwd=project.path, env=surroundings(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "Traceback" not in done.stderr


def test_the_tracked_runs_are_served_to_a_browser(project):
    (command,) = [command for command in COMMANDS if command.startswith("mlflow ui")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [*command.split(), "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        words, cwd=project.path, env=surroundings(), start_new_session=True, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert "stepladder" in answer(f"http://127.0.0.1:{port}/ajax-api/2.0/mlflow/experiments/search?max_results=9")
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def answer(address: str) -> str:
    until = time.monotonic() + LONGEST_S
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5) as reply:
                return reply.read().decode()
        except OSError:
            assert time.monotonic() < until, f"{address} does not answer"
            time.sleep(1)
