"""A: whatever is killed, and whenever, the same command again ends with the bytes of an unbroken run."""

import random
import signal
import time

import pytest

pytestmark = pytest.mark.slow

OUTPUTS = {"train": ("models/{}", "predictions/val/{}.parquet")}


@pytest.mark.fault("A1")
@pytest.mark.parametrize("candidate", ["lora"])
def test_a_stage_that_was_killed_at_a_random_moment_ends_with_the_same_bytes(candidate, finished_workshop, tmp_path):
    made = finished_workshop.copy(tmp_path / "project")
    before = made.hashes(*(place.format(candidate) for place in OUTPUTS["train"]))
    stage = made.start("train", *made.of(candidate), STEPLADDER_FRESH="1")
    time.sleep(random.Random(0).uniform(0, 3))
    stage.send(signal.SIGKILL)
    assert stage.wait() in (-9, 0)
    made.works("train", *made.of(candidate))
    assert made.hashes(*before) == before
