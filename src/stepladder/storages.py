"""Storages: where a study of Optuna lies: a journal file, which one process asks, or a database, which many may ask.

hydra.sweeper.storage=postgresql+psycopg://me@host/studies        the extra `postgres` installs the driver
Source: https://optuna.readthedocs.io/en/v5.0.0/reference/storages.html
"""

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from stepladder import store
from stepladder.errors import BusyError, ConfigError, RemoteError

BEAT_S, SILENT_S = 15, 60  # between two signs of life of a worker; without one, after which it is dead
ATTEMPTS = 5  # to make the tables of a database, which several workers that start at once make under each other


def where(storage: str | None, name: str) -> Path | str:
    """Return where a study lies: the journal file or the database's URL that is named, else a file of its own.

    Raises ConfigError for a URL with a password: it would stand in the files of each run.
    """
    if storage and "://" in storage:
        name, at, host = storage.rpartition("@")
        if at and ":" in name.partition("://")[2]:
            cure = "let PGPASSWORD or ~/.pgpass hold it"
            raise ConfigError(f"hydra.sweeper.storage: a password for {host} is kept with each run; {cure}")
        return storage
    return Path(storage or store.root() / "state" / "studies" / f"{name}.log").resolve()


@contextmanager
def exclusive(place: Path | str) -> Iterator[None]:
    """Let one process at a time ask the study of a journal file; BusyError for another. A database serves many."""
    if isinstance(place, str):
        yield
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(place.with_name(f".{place.name}.busy"), timeout=0):
            yield
    except Timeout:
        raise BusyError(f"{place}: another process is at this study; wait for it, or end it") from None


def open_at(place: Path | str):
    """Return the storage of a study that this process is going to ask."""
    if isinstance(place, Path):
        _mend(place)
    return join_at(place)


def join_at(place: Path | str):
    """Return the storage of a study that another process may ask."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if isinstance(place, str):
        return _database(place)
    return JournalStorage(JournalFileBackend(str(place.resolve())))  # the lock beside it is a link by its whole path


@contextmanager
def quiet() -> Iterator[None]:
    """Let Optuna use its heartbeats without a warning that they are an experiment."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _database(url: str, attempts: int = ATTEMPTS):
    """Return the storage of Optuna that a URL names, its tables made where there are none.

    Raises ConfigError where its driver is not installed, RemoteError where the database does not answer.
    """
    from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
    from sqlalchemy.exc import DBAPIError

    warnings.filterwarnings("ignore", "Heartbeat of storage is supposed", UserWarning)  # workers.py beats
    beats = {"heartbeat_interval": BEAT_S, "grace_period": SILENT_S}
    alive = {"pool_pre_ping": True}  # a database that was started anew is asked anew
    try:
        with quiet():
            return RDBStorage(url, alive, heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(), **beats)
    except ImportError as error:
        cure = "pip install -e '.[postgres]'" if "postgres" in url else "install it"
        raise ConfigError(f"{url}: its driver is missing ({error.__cause__}); {cure}") from None
    except DBAPIError as error:
        if attempts == 1:
            raise RemoteError(f"{url}: {' '.join(str(error.orig).split())}") from None
        time.sleep(1)
        return _database(url, attempts - 1)


def _mend(journal: Path) -> None:
    """Take back what a killed process left: its lock, and half a line, behind which the next would be written."""
    journal.parent.mkdir(parents=True, exist_ok=True)
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if journal.is_file():
        with journal.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
