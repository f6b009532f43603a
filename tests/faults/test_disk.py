"""A9, B: a full or read-only disk is one line with code 5, odd names work, and what dead processes left is cleared."""

import ctypes
import json
import os
import platform
import re
import resource
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.workshop import Workshop

pytestmark = pytest.mark.slow

ROOM_BYTES = 2500  # smaller than any checkpoint, table or model, larger than what a stage says
STAGES = [
    ("prepare", "sample_reviews", "data/sample_reviews/records.parquet"),
    ("split", "sample_reviews", "data/sample_reviews/train.parquet"),
    ("sweep", "lora", "state/sweep/lora-"),
    ("train", "majority", "val.parquet"),
    ("train", "frozen", "state/train/frozen-"),
    ("train", "scratch", "state/train/scratch-"),
    ("evaluate", "lora", "predictions/test/lora.parquet"),
    ("score", "lora", "metrics/lora.json"),
    ("compare", "compare", "reports/leaderboard.json"),
    ("register", "compare", "input/output error"),
]
COMMITS = [  # stage, candidate, and how many renames at least
    ("sweep", "lora", 7), ("train", "scratch", 8), ("evaluate", "lora", 2), ("compare", "compare", 3),
    ("register", "compare", 1),
]  # fmt: skip
LONG = [pytest.mark.long, pytest.mark.story]
NAMES = ("a space, \N{SNOWMAN} 😀 ü\nand a new line", "a" * 255, "[x]*?$HOME;#'")
TRAINED = ("models/lora", "predictions/val/lora.parquet")


def full() -> None:
    """Let no file grow beyond the room: as on a full disk, write(2) fails, with EFBIG."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM_BYTES, ROOM_BYTES))


def nearly_full() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))


def little_room() -> None:
    shutil.disk_usage = lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)


def powerless() -> None:
    """Let permission bits count for root as well: drop all capabilities (capset(2))."""
    if os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, none) == 0


def winning(made) -> None:
    """Let the gate pass a candidate, so that there is something to register."""
    file = made.path / "reports" / "leaderboard.json"
    board = json.loads(file.read_text())
    board["registration"] |= {"passed": True, "candidate": "frozen"}
    file.write_text(json.dumps(board))


@pytest.mark.fault("B1")
@pytest.mark.parametrize(("stage", "candidate", "place"), STAGES)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    stage, candidate, place, finished_workshop, tmp_path, tally
):
    made = finished_workshop.copy(tmp_path / "project")
    winning(made)
    before = made.hashes("models", "predictions", "metrics", "data", "tuned", "reports/leaderboard.csv")
    done = made.run(stage, *made.of(candidate), fault=nearly_full if stage == "score" else full, STEPLADDER_FRESH="1")
    tally(tracebacks="Traceback" in done.said)
    assert done.process.exitcode == 5 and "Traceback" not in done.said
    (line,) = [line for line in done.said.splitlines() if line.startswith("error[5] ")]
    assert place in line
    assert "bytes are free" in line or stage in ("score", "register"), line
    made.works(stage, *made.of(candidate))
    after = made.hashes(*before)
    tally(models_lost=after["models"] != before["models"])
    assert after == before
    assert not list(made.path.rglob("*.tmp")) and not list(made.path.rglob(".part-*"))


@pytest.fixture
def small_disk(finished_workshop, tmp_path) -> Iterator[tuple[Workshop, Path]]:
    """A finished project whose state/train is a file system of 256 kB."""
    made = finished_workshop.copy(tmp_path / "project")
    state = made.path / "state" / "train"
    shutil.rmtree(state)
    state.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", state], capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    yield made, state
    subprocess.run(["umount", state], check=True)


@pytest.mark.fault("B1")
def test_a_disk_that_fills_up_leaves_the_old_checkpoints_and_training_goes_on_from_them(small_disk, tally):
    made, state = small_disk
    before, ballast = made.hashes(*TRAINED), state / "ballast"
    stage = made.start("train", *made.of("lora"))
    stage.until(lambda: len(list(state.glob("lora-*/fit/*-*.ckpt"))) == 2)
    stage.send(signal.SIGSTOP)
    kept = {file: file.read_bytes() for file in state.glob("lora-*/fit/*-*.ckpt")}
    ballast.write_bytes(bytes(shutil.disk_usage(state).free))
    stage.send(signal.SIGCONT)
    assert stage.wait() == 5 and "Traceback" not in stage.said
    assert "no space left on device" in stage.said and " bytes are free" in stage.said
    lost = [file for file, content in kept.items() if not file.exists() or file.read_bytes() != content]
    ballast.unlink()
    resumed = made.works("train", *made.of("lora"))
    exact = made.hashes(*TRAINED) == before
    tally(checkpoints_lost=len(lost), resumes=1, bit_exact_resumes=exact)
    assert not lost and "going on from" in resumed and exact


@pytest.mark.fault("B1")
def test_a_training_that_does_not_fit_on_the_disk_is_refused_before_its_first_step(workshop):
    workshop.works("sweep", *workshop.of("lora"))
    done = workshop.run("train", *workshop.of("lora"), fault=little_room)
    assert done.process.exitcode == 5 and "Traceback" not in done.said
    assert re.search(
        r"fit: training, with its checkpoints and its result, needs [\d,]+ bytes, 1,000 are free", done.said
    )
    assert not list(workshop.path.glob("state/train/lora-*/fit/*.ckpt"))


@pytest.mark.fault("B2")
@pytest.mark.parametrize("folder", [".", "state", "models", "predictions", "runs", ".dvc/cache"])
def test_a_folder_that_takes_no_files_is_named_before_anything_is_computed(folder, workshop):
    (workshop.path / folder).mkdir(parents=True, exist_ok=True)
    (workshop.path / folder).chmod(0o555)
    try:
        done = workshop.run("train", *workshop.of("lora"), fault=powerless)
    finally:
        (workshop.path / folder).chmod(0o755)
    shown = str(workshop.path) if folder == "." else folder
    assert done.process.exitcode == 5 and "Traceback" not in done.said
    assert f"error[5] {shown}: not writable by this user" in done.said and "train rows" not in done.said


@pytest.mark.fault("B2")
def test_a_home_and_a_temporary_folder_that_take_no_files_are_not_needed(finished_workshop, tmp_path):
    made, shut = finished_workshop.copy(tmp_path / "project"), tmp_path / "shut"
    winning(made)
    shut.mkdir(mode=0o555)
    places = {name: str(shut) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "MPLCONFIGDIR")}
    before = made.hashes(*TRAINED)
    for stage, candidate in (("train", "lora"), ("compare", "compare"), ("register", "compare")):
        done = made.run(stage, *made.of(candidate), fault=powerless, STEPLADDER_FRESH="1", **places)
        assert done.process.exitcode == 0, done.said
    assert made.hashes(*TRAINED) == before


@pytest.mark.fault("B9")
@pytest.mark.parametrize("name", [NAMES[0], *(pytest.param(name, marks=LONG) for name in NAMES[1:])], ids=ascii)
def test_a_project_may_have_any_name(name, workshop, tmp_path):
    made = workshop.copy(tmp_path / name)
    for stage in ("sweep", "train", "evaluate", "score", "probe"):
        made.works(stage, *made.of("lora"))
    assert (made.path / "metrics" / "lora.json").is_file()


@pytest.mark.fault("B9")
def test_folders_that_are_links_out_of_the_project_work(finished_workshop, tmp_path):
    made, outside = finished_workshop.copy(tmp_path / "project"), tmp_path / "outside"
    before = made.hashes(*TRAINED)
    for name in ("state", "models", "predictions", "data"):
        shutil.move(made.path / name, outside / name)
        (made.path / name).symlink_to(outside / name)
    for stage in ("train", "evaluate"):
        made.works(stage, *made.of("lora"), STEPLADDER_FRESH="1")
    assert made.hashes(*TRAINED) == before


@pytest.mark.fault("B10")
def test_what_a_dead_process_left_is_cleared_and_said(finished_workshop, tmp_path):
    made = finished_workshop.copy(tmp_path / "project")
    before, state = made.hashes(*TRAINED), made.path / "state" / "train"
    shutil.rmtree(state)
    stage = made.start("train", *made.of("lora"))
    stage.until(lambda: list(state.glob("lora-*/fit/*-*.ckpt")))
    stage.send(signal.SIGKILL)
    assert stage.wait() == -9 and list(state.glob("lora-*/.part-result-*")) and list(state.glob("lora-*.pid"))
    torn = made.path / "predictions" / "val" / f".lora.parquet.{stage.process.pid}.tmp"
    torn.write_bytes(b"half")
    said = made.works("train", *made.of("lora"))
    assert (
        f"process {stage.process.pid} on {platform.node()} died at it" in said
        and "left by a process that died; removed" in said
    )
    assert not torn.exists() and not list(state.rglob(".part-*")) and not list(state.glob("*.pid"))
    assert made.hashes(*TRAINED) == before


def audited() -> None:
    """Note in synced.txt every rename, what of it was not brought to the disk before, and every folder that was.

    {"to": target, "unsynced": [files written after their last fsync]} or {"fsync": folder}
    """
    synced, fsync, notes = {}, os.fsync, os.open("synced.txt", os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(**found):
        os.write(notes, json.dumps(found).encode() + b"\n")

    def watched_fsync(opened):
        fsync(opened)
        held = os.fstat(opened)
        synced[held.st_ino] = held.st_mtime_ns
        if stat.S_ISDIR(held.st_mode):
            note(fsync=os.readlink(f"/proc/self/fd/{opened}"))

    def watched(rename):
        def renamed(source, target, **options):
            files = [file for file in (Path(source), *Path(source).rglob("*")) if file.is_file()]
            late = [file.name for file in files if synced.get(file.stat().st_ino, 0) < file.stat().st_mtime_ns]
            rename(source, target, **options)
            note(to=str(Path(target).absolute()), unsynced=late)

        return renamed

    os.fsync, os.replace, os.rename = watched_fsync, watched(os.replace), watched(os.rename)


def careless() -> None:
    """The negative control: nothing is brought to the disk before it gets its name."""
    from stepladder import disk

    audited()
    disk.sync = lambda path: None


def points_of_no_return(made: Workshop) -> tuple[int, list[str]]:
    """Return how many renames the audit saw, and the faults: files not synced before, folders not synced after."""
    notes = [json.loads(line) for line in (made.path / "synced.txt").read_text().splitlines()]
    (made.path / "synced.txt").unlink()
    ours = [found.get("to", "").startswith(str(made.path)) for found in notes]  # what MLflow copies it can be told anew
    ours = [own and ".log.lock" not in found["to"] for own, found in zip(ours, notes, strict=True)]  # a lock of Optuna
    renames = [(number, found) for number, found in enumerate(notes) if ours[number] and "damaged" not in found["to"]]
    faults = [f"{found['to']}: {name} not synced" for _, found in renames for name in found["unsynced"]]
    for number, found in renames:
        if not any(later.get("fsync") == str(Path(found["to"]).parent) for later in notes[number:]):
            faults.append(f"{found['to']}: folder not synced")
    return len(renames), faults


@pytest.mark.fault("A9")
@pytest.mark.parametrize(("stage", "candidate", "least"), COMMITS)
def test_every_point_of_no_return_stands_behind_fsync_of_file_and_folder(
    stage, candidate, least, finished_workshop, tmp_path
):
    made = finished_workshop.copy(tmp_path / "project")
    winning(made)
    done = made.run(stage, *made.of(candidate), fault=audited, STEPLADDER_FRESH="1")
    seen, faults = points_of_no_return(made)
    assert done.process.exitcode == 0 and not faults and seen >= least, done.said


@pytest.mark.fault("A9")
def test_the_audit_notices_what_is_not_synced(finished_workshop, tmp_path):
    made = finished_workshop.copy(tmp_path / "project")
    made.run("evaluate", *made.of("lora"), fault=careless)
    seen, faults = points_of_no_return(made)
    assert seen and any("not synced" in fault for fault in faults)
