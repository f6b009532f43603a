"""Soak: random kills over all stages, many times; each is drawn from its number, which repeats it.

make soak                               1,000 of them
python -m tests.faults.soak 20 [340]    twenty, the first one number 340
"""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.faults import kills

NUM_KILLS = 1000


@pytest.mark.slow
@pytest.mark.fault("A1", "A2")
@pytest.mark.timeout(0)
def test_every_stage_that_was_killed_ends_with_the_bytes_of_an_unbroken_run(finished_workshop, tmp_path, tally):
    number, first = map(int, os.environ["STEPLADDER_SOAK"].split())
    targets, failed, slowest = {}, Counter(), 0.0
    for count, seed in enumerate(range(first, first + number), start=1):
        names, sent, share = kills.drawn(seed)
        if names not in targets:
            targets[names] = kills.target(finished_workshop.copy(tmp_path / "-".join(names)), *names)
        target = targets[names]
        told = f"{count:,}/{number:,}  {seed}: {' '.join(names)}, {sent.name} at {share:.2f} of {target.seconds:.1f} s"
        try:
            slowest = max(slowest, target.kill(sent, share))
            target.again()
            print(f"{told}: the same bytes", flush=True)
        except AssertionError as error:
            failed[" ".join(names)] += 1
            print(f"{told}: FAILED\n{error}", flush=True)
    same = number - failed.total()
    print(f"{number:,} kills, {same:,} with the same bytes, the slowest end took {slowest:.1f} s", flush=True)
    tally(resumes=number, bit_exact_resumes=same)
    assert not failed, f"repeat them by their numbers: {dict(failed)}"


if __name__ == "__main__":
    words = [int(word) for word in sys.argv[1:]] + [NUM_KILLS, 0][len(sys.argv) - 1 :]
    os.environ["STEPLADDER_SOAK"] = " ".join(map(str, words))
    sys.exit(pytest.main([str(Path(__file__)), "-q", "-s", "-p", "no:cacheprovider"]))
