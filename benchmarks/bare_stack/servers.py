"""Servers: an MLflow server of one's own on a free port of this machine, and what its database holds."""

import socket
import sqlite3
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.bare_stack.processes import Running, python, surroundings, waited


class Server:
    """`mlflow server` with its defaults over the SQLite file `folder`/server.db; begun again, it serves the same."""

    def __init__(self, folder: Path, *, words: tuple[str, ...] = ("server",)):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.words, self.database = folder, words, folder / "server.db"
        with socket.socket() as opened:
            opened.bind(("127.0.0.1", 0))
            self.port = opened.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Begin, and wait until it answers."""
        stored = (
            "--backend-store-uri",
            f"sqlite:///{self.database}",
            "--artifacts-destination",
            str(self.folder / "a"),
        )
        words = python("-m", "mlflow", *self.words, *stored, "--port", str(self.port), "--workers", "1")
        self.running = Running(words, folder=self.folder, environment=surroundings())
        if not waited(lambda: self.asked("/health")[0] == 200, 120):
            raise RuntimeError(f"mlflow server did not start: {self.running.said[-300:]}")

    def kill(self) -> None:
        """Kill the server and its workers at once."""
        self.running.kill()

    def asked(self, path: str, *, body: bytes | None = None, host: str | None = None) -> tuple[int, str]:
        """Return the status and text of an answer, (0, reason) without one."""
        headers = {"Content-Type": "application/json"} | ({"Host": host} if host else {})
        asking = urllib.request.Request(self.uri + path, data=body, headers=headers)
        try:
            with urllib.request.urlopen(asking, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError as error:
            return 0, str(error)


def rows(database: Path, query: str) -> list[tuple]:
    """Return the rows of a query to a store's SQLite file; none while its tables are made."""
    if not database.is_file():
        return []
    opened = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
    try:
        return opened.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []
    finally:
        opened.close()
