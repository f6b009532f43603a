"""A10, B3, B5 with DVC itself: what it takes on trust is hashed again, and verify says what to type."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stepladder import store
from tests.faults.test_files import altered
from tests.stories.conftest import PARAMS, Project, new_project, surroundings  # noqa: F401  a fixture

pytestmark = pytest.mark.story

OUTPUT, STAGE = "data/sample_reviews/train.parquet", "split@sample_reviews"
DIES = """
import os, signal, sys
from dvc.dvcfile import Lockfile
Lockfile.dump_stages = lambda *_, **options: os.kill(os.getpid(), signal.SIGKILL)
from dvc.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def split(new_project: Callable[..., Project]) -> Project:  # noqa: F811
    """A project whose data is prepared and divided by DVC."""
    candidates = {"majority": {"level": "baseline", "model": "majority"}}
    given = {"datasets": [], "candidates": candidates, "set": {"split": {"name": "stratified"}}}
    project = new_project("cache", PARAMS | given)
    project.works("dvc", "repro", STAGE)
    return project


@pytest.fixture
def project(split: Project, tmp_path: Path) -> Project:
    made = split.copy(tmp_path / "repository")
    made.works("dvc", "status")  # DVC has seen every file here
    return made


def kept(project: Project, name: str) -> Path:
    """Return the object of DVC's cache that holds an output."""
    md5 = subprocess.run(["md5sum", project.path / name], capture_output=True, text=True, check=True).stdout.split()[0]
    return project.path / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def damaged(file: Path) -> None:
    altered(file, "flipped")
    file.chmod(0o444)


def typed(project: Project, said: str) -> None:
    """Type the commands that a fault's line ends with."""
    command = said.strip().splitlines()[-1].rpartition(": ")[2]
    subprocess.run(command, shell=True, cwd=project.path, env=surroundings(), check=True, capture_output=True)


@pytest.mark.fault("B3")
@pytest.mark.parametrize("whole", [True, False], ids=["output whole", "output damaged too"])
def test_a_damaged_object_is_named_with_file_stage_and_the_command_that_mends_it(whole, project):
    assert "every file is the one that was made" in project.works("-m", "pipelines.verify")
    before, file = store.sha256(project.path / OUTPUT), kept(project, OUTPUT)
    damaged(file)
    if not whole:
        (project.path / OUTPUT).unlink()
        project.works("dvc", "checkout", OUTPUT)
        assert store.sha256(project.path / OUTPUT) != before, "DVC notices nothing"
    done = project.run("-m", "pipelines.verify")
    assert done.code == 4 and "Traceback" not in done.err
    assert (
        f".dvc/cache/files/md5/{file.parent.name}/{file.name}: expected md5 {file.parent.name}{file.name}" in done.err
    )
    assert OUTPUT in done.err and STAGE in done.err
    typed(project, done.err)
    project.works("-m", "pipelines.verify")
    assert store.sha256(project.path / OUTPUT) == before == store.sha256(file)


@pytest.mark.fault("B3")
@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "without the guard"])
def test_a_good_output_is_not_replaced_by_a_damaged_object_of_its_name(guarded, project):
    before, file = store.sha256(project.path / OUTPUT), kept(project, OUTPUT)
    damaged(file)
    if not guarded:
        project.edit("pipelines/__init__.py", "integrity.drop_damaged(stage)", "()")
    said = project.works("dvc", "repro", "--force", "--single-item", STAGE)
    if guarded:
        assert f"removed, so that {OUTPUT} takes its place" in said
        assert store.sha256(project.path / OUTPUT) == before == store.sha256(file)
    else:
        assert store.sha256(project.path / OUTPUT) != before, "DVC no longer does this; the guard may go"


@pytest.mark.fault("B3")
def test_a_damaged_object_that_dvc_restored_is_used_by_no_stage(project):
    damaged(kept(project, OUTPUT))
    (project.path / OUTPUT).unlink()
    project.works("dvc", "checkout", OUTPUT)
    done = project.run("dvc", "repro", "--single-item", "--force", "assign")
    assert done.code != 0 and "Traceback" not in done.err
    assert f"error[4] {OUTPUT}: stage {STAGE} made md5 " in done.err and "&& dvc repro" in done.err


@pytest.mark.fault("B5")
def test_an_input_that_was_edited_with_its_size_and_time_kept_is_noticed(project):
    altered(project.path / "samples" / "reviews.csv", "flipped")
    assert STAGE not in project.works("dvc", "status", "prepare@sample_reviews"), "DVC notices it; the guard may go"
    done = project.run("-m", "pipelines.verify")
    assert done.code == 4 and "error[4] samples: stage prepare@sample_reviews read md5 " in done.err
    typed(project, done.err)
    assert "split@sample_reviews" in project.status(), "its stage did not run again"
    project.works("dvc", "repro", STAGE)
    project.works("-m", "pipelines.verify")


@pytest.mark.fault("A10")
def test_a_kill_between_the_outputs_and_the_lock_file_ends_with_the_same_bytes(project):
    before, lock = store.hashes(project.path / "data"), (project.path / "dvc.lock").read_text()
    words = [sys.executable, "-c", DIES, "repro", "--force", "--single-item", STAGE]
    assert subprocess.run(words, cwd=project.path, env=surroundings(), capture_output=True).returncode == -9
    assert (project.path / "dvc.lock").read_text() == lock
    project.works("dvc", "repro", STAGE)
    assert store.hashes(project.path / "data") == before
    project.works("-m", "pipelines.verify")
