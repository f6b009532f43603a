"""Every job beside what a user would pick instead, into benchmarks/results/.

python -m benchmarks quick                  make bench: one thread, two rounds after the warm-up
python -m benchmarks full                   make bench-full: five rounds, and five more at two threads
python -m benchmarks quick scoring fits     these alone; the other rows of the last table stay
python -m benchmarks smoke scoring          over a few rows, printed and not kept: does it run?
"""

import importlib
import os
import sys
import traceback
from contextlib import ExitStack

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from benchmarks import rounds, table
from benchmarks.clocks import Clock

FAMILIES = ("stages", "features", "pretraining", "scoring", "fits", "sweeps")
PLANS = {"smoke": [(1, 1)], "quick": [(1, 2)], "full": [(1, 5), (2, 5)]}  # threads and rounds


def main(plan: str, chosen: list[str]) -> int:
    """Run the chosen families of jobs; return 1 where one of them could not be run."""
    names, smoke = chosen or FAMILIES, plan == "smoke"
    rows, failed = table.kept(names) if chosen and not smoke else [], False
    for threads, number in PLANS[plan]:
        for name in names:
            try:
                found = family(name, Clock(threads), number, small=smoke)
            except Exception as error:  # of one family, which must not cost the results of the others
                traceback.print_exc()
                print(f"{name}: failed: {type(error).__name__}: {error}", flush=True)
                failed = True
                continue
            rows += [{"family": name, **row} for row in found]
            failed |= any(row.get("missing", "").startswith((rounds.MISSING, rounds.FAILED)) for row in found)
            if not smoke:
                table.write(rows)
    print(table.markdown(rows) if rows else "no rows", flush=True)
    return int(failed)


def family(name: str, clock: Clock, number: int, *, small: bool = False) -> list[dict]:
    """Return the rows of a family of jobs at the clock's number of threads."""
    found = []
    with ExitStack() as stack:
        for contest in importlib.import_module(f"benchmarks.{name}").contests(clock, stack):
            about = {"clock": clock.name, "threads": clock.threads, **table.circumstances()}
            found += [{**row, **about} for row in rounds.play(contest, number=number, small=small)]
    return found


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in PLANS or set(sys.argv[2:]) - set(FAMILIES):
        raise SystemExit(f"python -m benchmarks {'|'.join(PLANS)} [{'|'.join(FAMILIES)} ...]")
    raise SystemExit(main(sys.argv[1], sys.argv[2:]))
