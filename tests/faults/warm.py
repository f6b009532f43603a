"""Warm: an exporter forked from its stage, where MLflow lies in memory already, in the place of a new interpreter.

A new one imports for three seconds, beside trainings of one second. Stages that are told of a tracking server start it
as it is: what an exporter does there is tested there.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
from typing import TextIO

from stepladder import exporter, interruption

IMPORTS = ["stepladder.sync", "stepladder.exporter", "mlflow.store.tracking.sqlalchemy_store"]


class Forked:
    """What `exporter.beside` uses of a Popen."""

    def __init__(self, said: TextIO):
        reader, writer = os.pipe()
        self.stdin = os.fdopen(writer, "w")
        self.process = multiprocessing.get_context("fork").Process(target=self._become, args=(reader, said.fileno()))
        self.process.start()
        os.close(reader)

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def wait(self, seconds: float | None = None) -> None:
        self.process.join(seconds)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("exporter", seconds)

    def kill(self) -> None:
        self.process.kill()

    def _become(self, reader: int, said: int) -> None:
        """Be the exporter: a session, streams and signals of its own, as those of a new process."""
        os.close(self.stdin.fileno())  # else it would never see its end
        os.setsid()
        for number in interruption.CODES:
            signal.signal(number, signal.SIG_DFL)
        for stream, target in ((reader, 0), (said, 1), (os.open(os.devnull, os.O_WRONLY), 2)):
            os.dup2(stream, target)
        os.environ |= exporter.ENVIRONMENT
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        exporter.main()
