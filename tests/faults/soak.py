"""Soak: random kills over all stages, many times; each is drawn from its number, which repeats it.

make soak                                             1,000 of them
python -m tests.faults.soak --first 340 --kills 20    twenty, the first one number 340: a soak that was stopped goes on
A line tells each kill, a table at the end each stage; exit 1 names the numbers that ended otherwise.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import kills
from tests.faults.workshop import Workshop

FIRST, NUM_KILLS = 0, 1000


@pytest.mark.slow
@pytest.mark.fault("A1", "A2")
@pytest.mark.timeout(0)
def test_every_stage_that_was_killed_ends_with_the_bytes_of_an_unbroken_run(finished_workshop, tmp_path, tally):
    first, number = map(int, os.environ["STEPLADDER_SOAK"].split())
    ends, failed = defaultdict(list), []
    for seed, names, end_s, fault in killed(range(first, first + number), finished_workshop, tmp_path):
        ends[names].append(end_s)
        failed += [seed] if fault else []
    for names, seconds in sorted(ends.items()):
        print(f"{' '.join(names):24} {len(seconds):4} kills, the slowest end {max(seconds):4.1f} s")
    same = number - len(failed)
    print(f"{number:,} kills, {same:,} with the same bytes", flush=True)
    tally(resumes=number, bit_exact_resumes=same)
    assert not failed, f"repeat them by their numbers: {failed}"


def killed(seeds: range, finished: Workshop, folder: Path) -> Iterator[tuple[int, tuple[str, str], float, str]]:
    """Kill the stage that each number draws, run it again, say so; yield number, stage, seconds to its end, fault."""
    targets, started = {}, time.monotonic()
    for count, seed in enumerate(seeds, start=1):
        names, sent, share = kills.drawn(seed)
        if names not in targets:
            targets[names] = kills.target(finished.copy(folder / "-".join(names)), *names)
        end_s, fault = 0.0, ""
        try:
            end_s = targets[names].kill(sent, share)
            targets[names].again()
        except AssertionError as error:
            fault = str(error)
        at = f"{sent.name} at {share:.2f} of {targets[names].seconds:.1f} s"
        told = f"FAILED, repeat it with --first {seed} --kills 1\n{fault}" if fault else "the same bytes"
        left_min = (time.monotonic() - started) / 60 / count * (len(seeds) - count)
        place = f"{count:,}/{len(seeds):,}, {left_min:.0f} min left"
        print(f"{place}  {seed}: {' '.join(names)}, {at}: {told}", flush=True)
        yield seed, names, end_s, fault


def main() -> int:
    asked = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__.splitlines()[0])
    asked.add_argument("--first", type=int, default=FIRST, help="number of the first kill")
    asked.add_argument("--kills", type=int, default=NUM_KILLS, help="how many")
    words = asked.parse_args()
    os.environ["STEPLADDER_SOAK"] = f"{words.first} {words.kills}"
    return pytest.main([str(Path(__file__)), "-q", "-s", "-p", "no:cacheprovider"])


if __name__ == "__main__":
    sys.exit(main())
