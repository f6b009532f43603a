"""The ledger against what the operating system says of the processes that it is about."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stepladder import ledger, runs

PRICE = {"currency": "USD", "machine_hour": 3.6, "gpu_hour": 36.0, "kwh": 2.0, "tokens": []}
WORK = """
import subprocess, sys, time
from pathlib import Path
from stepladder import runs
seconds = float(sys.argv[1])
busy = "import sys, time\\nwhile time.process_time() < float(sys.argv[1]): pass"
with runs.measured(Path("train.json")) as cost:
    subprocess.run([sys.executable, "-c", busy, str(seconds / 4)], check=True)
    until = time.process_time() + 3 * seconds / 4
    while time.process_time() < until: pass
    cost["key"] = "k"
Path("ended").write_text(str(time.time()))
"""


def worked(folder: Path, seconds: float) -> tuple[dict, dict]:
    """Return what the ledger tells of a process and what the system does; a quarter of its work is a child's."""
    folder.mkdir()
    started = time.time()
    process = subprocess.Popen([sys.executable, "-c", WORK, str(seconds)], cwd=folder)
    _, code, used = os.wait4(process.pid, 0)  # with the children that it waited for
    process.returncode = code
    assert code == 0
    told = ledger.of({"train": json.loads((folder / "train.json").read_text())}, PRICE)["total"]
    true = {"cpu": used.ru_utime + used.ru_stime, "seconds": float((folder / "ended").read_text()) - started}
    return told, true | {"peak_memory_bytes": used.ru_maxrss * 1024}


@pytest.mark.capability(30)
def test_the_ledger_tells_what_the_operating_system_tells_of_a_process(tmp_path):
    told, true = worked(tmp_path / "work", 2.0)
    assert 3600 * told["cpu_hours"] == pytest.approx(true["cpu"], rel=0.01, abs=0.5)  # all but its end
    assert told["seconds"] == pytest.approx(true["seconds"], rel=0.01, abs=0.15)
    assert told["peak_memory_bytes"] == pytest.approx(true["peak_memory_bytes"], rel=0.02)
    assert told["money"] == pytest.approx(told["seconds"] / 1000)


@pytest.mark.slow
@pytest.mark.capability(30)
def test_the_ledger_is_within_a_hundredth_of_what_the_operating_system_tells(tmp_path):
    """What a process takes to end is that of one without work; the rest is told to 1 %, imports and child included."""
    nothing, empty = worked(tmp_path / "nothing", 0.0)
    told, true = worked(tmp_path / "work", 8.0)
    ending = empty["cpu"] - 3600 * nothing["cpu_hours"]
    assert 0 <= ending < 0.5
    assert 3600 * told["cpu_hours"] == pytest.approx(true["cpu"] - ending, rel=0.01)
    assert told["seconds"] == pytest.approx(true["seconds"], rel=0.01)


def test_work_is_counted_once_where_a_process_does_several(tmp_path):
    for name in ("a", "b"):
        with runs.measured(tmp_path / f"{name}.json"):
            sum(range(2_000_000))
    before = time.process_time()
    with runs.measured(tmp_path / "c.json"):
        until = time.process_time() + 0.3
        while time.process_time() < until:
            pass
    cost = json.loads((tmp_path / "c.json").read_text())
    assert 0.3 <= cost["cpu_seconds"] <= time.process_time() - before + 0.05 and cost["seconds"] < 5


def test_a_result_that_was_only_published_again_keeps_what_it_cost(tmp_path):
    file = tmp_path / "train.json"
    with runs.measured(file) as cost:
        cost |= {"key": "k", "fit_seconds": 12.0}
    first = file.read_text()
    with runs.measured(file) as cost:
        cost |= {"key": "k", "fit_seconds": 12.0, "again": True}
    assert file.read_text() == first
    with runs.measured(file) as cost:
        cost |= {"key": "other", "again": True}
    assert json.loads(file.read_text())["key"] == "other"


def test_gpus_and_power_have_their_price_and_what_was_not_metered_is_unknown():
    cost = {"seconds": 1800.0, "cpu_seconds": 3600.0, "gpu_seconds": 900.0, "peak_memory_bytes": 7, "tokens": 5}
    told = ledger.of({"train": cost | {"energy_kwh": 0.25}, "evaluate": cost | {"peak_memory_bytes": 9}}, PRICE)
    assert told["train"]["money"] == pytest.approx(1.8 + 9.0 + 0.5) and told["evaluate"]["money"] == pytest.approx(10.8)
    total = told["total"]
    assert (total["energy_kwh"], total["tokens"], total["peak_memory_bytes"]) == (None, 10, 9)
    assert (total["cpu_hours"], total["gpu_hours"]) == (2.0, 0.5)


@pytest.mark.capability(30)
def test_energy_follows_the_work(tmp_path):
    def drawn(name: str, busy: bool) -> float:
        file = Path(tmp_path, f"{name}.json")
        with runs.measured(file, metered=True):
            until = time.monotonic() + 3.0
            while time.monotonic() < until:
                time.sleep(0.0 if busy else 0.5)
        return json.loads(file.read_text())["energy_kwh"]

    idle, busy = drawn("idle", busy=False), drawn("busy", busy=True)
    assert 0 < idle < busy < 1e-3, "less than a machine of 1.2 kW draws in three seconds"
