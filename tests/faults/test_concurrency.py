"""H: two processes at the same work, searches that are killed, and clocks that lie."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from stepladder import store
from tests.faults import hooks, workshop
from tests.faults.workshop import Workshop
from tests.stories.conftest import ROOT

pytestmark = pytest.mark.slow

TRAINED, SEARCHED = ("models/lora", "predictions/val/lora.parquet"), ("tuned/lora.yaml", "reports/trials/lora.parquet")
SHORT = partial(hooks.patience, 0.3)
LONG = partial(hooks.patience, 120.0)
NUM_BUILDERS = 8


@pytest.fixture
def made(finished_workshop: Workshop, tmp_path: Path) -> Workshop:
    return finished_workshop.copy(tmp_path / "project")


def checkpoints(made: Workshop) -> list[Path]:
    return sorted(made.path.glob("state/train/lora-*/fit/*-*.ckpt"))


@pytest.mark.fault("H2", "H6")
def test_a_second_trainer_is_refused_until_the_first_is_dead(made, tally):
    """The kernel lets go of the lock of a dead process: nobody has to remove a file."""
    before, words = made.hashes(*TRAINED), ("train", *made.of("lora"))
    orphan = made.start(*words, STEPLADDER_FRESH="1")
    orphan.until(lambda: len(checkpoints(made)) > 1)
    orphan.send(signal.SIGSTOP)
    second = made.run(*words, fault=SHORT)
    assert second.process.exitcode == 75 and "Traceback" not in second.said
    assert f"process {orphan.process.pid} on {os.uname().nodename} is at it" in second.said
    orphan.send(signal.SIGKILL)
    orphan.wait()
    assert "going on from" in made.run(*words, fault=SHORT).said
    assert made.hashes(*TRAINED) == before
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("H6")
def test_a_lock_that_another_host_holds_is_said_with_its_host_and_stays(made):
    (folder,) = [path for path in made.path.glob("state/train/lora-*") if path.is_dir()]
    note = folder.with_name(f"{folder.name}.pid")
    note.write_text("4711 on elsewhere")
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stage = made.run("train", *made.of("lora"), fault=SHORT, STEPLADDER_FRESH="1")
    assert stage.process.exitcode == 75 and "process 4711 on elsewhere is at it" in stage.said
    assert note.read_text() == "4711 on elsewhere" and folder.is_dir()


@pytest.fixture
def searching(made: Workshop) -> Workshop:
    """The same project with a search of four trials, none of them tried."""
    shutil.rmtree(made.path / "state" / "sweep")
    old = "    optimizer.learning_rate:\n    - 0.00025\n    - 0.0005\n"
    made.edit("build/lora.yaml", old, old + "    - 0.001\n    - 0.002\n")
    return made


def tried(made: Workshop) -> dict[int, str]:
    """Return the finished trials and when each was told, as Optuna's journal says."""
    lines = [line for file in made.path.glob("state/sweep/lora-*/study.log") for line in file.read_text().splitlines()]
    told = [json.loads(line) for line in lines if '"datetime_complete"' in line and line.endswith("}")]
    return {line["trial_id"]: line["datetime_complete"] for line in told}


@pytest.mark.fault("H4", "A1")
def test_a_search_that_is_killed_behind_each_trial_repeats_none(searching, tally):
    words = ("sweep", *searching.of("lora"))
    searching.works(*words, STEPLADDER_FRESH="1")
    before = searching.hashes(*SEARCHED)
    for path in (*searching.path.glob("state/sweep/lora-*"), *map(searching.path.joinpath, SEARCHED)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = {}
    for number in (1, 2, 3):
        stage = searching.start(*words)
        stage.until(lambda number=number: len(tried(searching)) == number)
        stage.send(signal.SIGKILL)
        stage.wait()
        assert tried(searching).items() >= found.items(), "a finished trial was repeated"
        found = tried(searching)
    searching.works(*words)
    assert tried(searching).items() >= found.items() and len(tried(searching)) == 4
    assert searching.hashes(*SEARCHED) == before
    tally(resumes=3, bit_exact_resumes=3)


@pytest.mark.fault("H3")
def test_of_two_searches_at_once_one_waits_or_is_refused_and_both_find_the_same(searching, tally):
    words = ("sweep", *searching.of("lora"))
    first = searching.start(*words, STEPLADDER_FRESH="1")
    first.until(lambda: tried(searching))
    first.send(signal.SIGSTOP)
    refused = searching.run(*words, fault=SHORT)
    assert refused.process.exitcode == 75 and f"process {first.process.pid} on" in refused.said
    found = tried(searching)
    waiting = searching.start(*words, fault=LONG)
    first.send(signal.SIGKILL)
    assert (first.wait(), waiting.wait()) == (-9, 0)
    assert tried(searching).items() >= found.items() and len(tried(searching)) == 4
    before = searching.hashes(*SEARCHED)
    searching.works(*words, STEPLADDER_FRESH="1")
    assert searching.hashes(*SEARCHED) == before, "an unbroken search finds the same"
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("H7")
def test_of_eight_processes_that_fill_one_folder_one_writes_and_the_others_wait(tmp_path):
    folder, told = tmp_path / "store" / "base", tmp_path / "told.txt"
    processes = [workshop.process(settles, folder, told) for _ in range(NUM_BUILDERS)]
    for each in processes:
        each.start()
    for each in processes:
        each.join(60)
    assert [each.exitcode for each in processes] == [0] * NUM_BUILDERS
    assert len(told.read_text().splitlines()) == 1, "more than one wrote"
    store.verify(folder)
    assert (folder / "weights").read_bytes() == b"w" * 100_000


def settles(folder: Path, told: Path) -> None:
    """Settle a folder whose making takes a while and is noted."""

    def build(part: Path) -> None:
        with told.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)
        (part / "weights").write_bytes(b"w" * 100_000)

    store.settle(folder, build)


@pytest.mark.fault("H5")
def test_a_clock_that_jumps_changes_no_byte_and_frees_no_lock(made, tally):
    """A year passes while another process waits for the lock; the run that goes on lives an hour before it all.

    libfaketime would do so for a whole process, but Python's sleep fails under it (clock_nanosleep, EINVAL).
    """
    before, words, clock = made.hashes(*TRAINED), ("train", *made.of("lora")), made.path / "clock"
    clock.write_text("0")
    first = made.start(*words, fault=partial(hooks.clock, clock), STEPLADDER_FRESH="1", TZ="Pacific/Chatham")
    first.until(lambda: len(checkpoints(made)) > 1)
    clock.write_text(f"{365 * 86400}")
    number = len(checkpoints(made))
    first.until(lambda: checkpoints(made)[-1].name[:8] > f"{number + 2:08d}")
    first.send(signal.SIGSTOP)
    second = made.run(*words, fault=partial(hooks.clock, clock, seconds=0.3))
    assert second.process.exitcode == 75 and "is at it" in second.said
    first.send(signal.SIGKILL)
    first.wait()
    newest = checkpoints(made)[-1].name
    clock.write_text("-3600")
    last = made.run(*words, fault=partial(hooks.clock, clock), TZ="America/St_Johns")
    assert last.process.exitcode == 0 and newest in last.said, last.said
    assert made.hashes(*TRAINED) == before
    tally(resumes=1, bit_exact_resumes=1)


@pytest.mark.fault("C4")
def test_another_day_zone_folder_hash_seed_and_number_of_workers_change_no_byte(made):
    names = ("zero_shot", "frozen", "full", "lora", "scratch")
    outputs = [place.format(name) for name in names for place in ("models/{}", "predictions/val/{}.parquet")]
    before = made.hashes(*outputs)
    for name in names:
        made.edit(f"build/{name}.yaml", "num_workers: 0", "num_workers: 2")
    path = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    command = [sys.executable, "-m", "tests.faults.elsewhen", str(made.path), *names]
    elsewhere = {"PYTHONPATH": path, "PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1", "TZ": "America/St_Johns"}
    done = subprocess.run(command, env=os.environ | elsewhere, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert made.hashes(*outputs) == before
