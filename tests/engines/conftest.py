"""Engines: servers and clusters that are started for real on this machine, and sweeps that run on them."""

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from glob import glob
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.stories.conftest import baselines, new_project  # noqa: F401  fixtures

HERE = Path(__file__).parent
POSTGRES = HERE / "postgres.sh"
SLURM = "slurm-wlm slurmdbd munge mariadb-server"


def needs(module: str, program: str, *, extra: str, debian: str) -> None:
    """Skip what cannot run here, and say what is to be installed."""
    missing = [] if find_spec(module) else [f"pip install -e '.[{extra}]'"]
    missing += [] if shutil.which(program) or glob(program) else [f"apt-get install {debian}"]
    if missing:
        pytest.skip(f"wants {' and '.join(missing)}")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[str, Path]]:
    """The URL of an empty database of a server that was started for this session, and its folder."""
    needs("psycopg", "/usr/lib/postgresql/*/bin/pg_ctl", extra="postgres", debian="postgresql")
    folder = Path(tempfile.mkdtemp(prefix="stepladder-")) / "postgres"
    folder.parent.chmod(0o755)  # the server's user walks through it
    words = ["start", folder, str(free_port())]
    done = subprocess.run([POSTGRES, *words], stdout=subprocess.PIPE, text=True, check=True)
    yield done.stdout.strip(), folder
    subprocess.run([POSTGRES, "stop", folder], check=True)
    folder.parent.rmdir()


@pytest.fixture
def postgres(server) -> str:
    return server[0]


@pytest.fixture
def restart(server) -> Callable[[], None]:
    """Start the server of the database again, which ends all connections to it."""
    return lambda: subprocess.run([POSTGRES, "restart", server[1]], check=True)


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The environment in which a Slurm cluster of two nodes, started for this session, is asked."""
    needs("hydra_plugins.hydra_submitit_launcher", "slurmctld", extra="slurm", debian=SLURM)
    folder, port = Path(tempfile.mkdtemp(prefix="stepladder-"), "slurm"), free_port()
    script = HERE / "slurm.sh"
    subprocess.run([script, "start", folder, str(port)], check=True, timeout=120)
    yield {"SLURM_CONF": str(folder / "slurm.conf")}
    subprocess.run([script, "stop", folder], check=True)
    folder.parent.rmdir()
