"""The command line of the comparison.

python -m benchmarks.bare_stack                  all groups, printed and written to docs/
python -m benchmarks.bare_stack X8 X14           these two, printed
python -m benchmarks.bare_stack X8 --write       printed, and its row in docs/ replaced
"""

import argparse
import functools
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bare_stack import processes, table
from benchmarks.bare_stack.faults import groups
from benchmarks.bare_stack.outcomes import NotRunError, not_run
from benchmarks.bare_stack.stacks import ROOT, Bare, Ours, Stack


def main() -> None:
    """Inject the chosen groups into both stacks and print the table."""
    known, chosen = groups(), _words(groups())
    names = [name for name in known if not chosen.groups or name in map(str.upper, chosen.groups)]
    sides = [kind for kind in (Bare, Ours) if chosen.only in (None, kind.name)]
    with tempfile.TemporaryDirectory(prefix="bare-stack-") as temporary:
        kept = Path(chosen.projects or temporary).resolve()
        template = functools.cache(lambda kind: _unbroken(kind, kept / f"{kind.name}-whole"))
        rows = []
        for name in names:
            row = {"id": name, "fault": known[name].__doc__.splitlines()[0], "date": str(datetime.now(UTC).date())}
            row |= _both(known[name], sides, template, Path(temporary, name))
            rows.append(row)
            if chosen.write or not chosen.groups:
                table.write([row], ROOT / "docs", order=list(known))
    if len(sides) == 2:
        print(table.text(rows))


def _both(fault, sides: list[type[Stack]], template: Callable, folder: Path) -> dict[str, dict]:
    """Return {"bare": what came out, "ours": ...} of one group, a core for each stack."""
    with ThreadPoolExecutor() as pool:
        places = [folder.with_name(f"{folder.name}-{kind.name}") for kind in sides]
        found = list(pool.map(lambda kind, place: _injected(fault, template(kind), place), sides, places))
    for kind, outcome in zip(sides, found, strict=True):
        print(f"{folder.name} {kind.name}: {outcome['handled']}: {outcome['observed']}", flush=True)
    return {kind.name: outcome for kind, outcome in zip(sides, found, strict=True)}


def _words(known: dict) -> argparse.Namespace:
    words = argparse.ArgumentParser(prog="python -m benchmarks.bare_stack")
    words.add_argument("groups", nargs="*", metavar="X8", help=f"of {' '.join(known)}; none: all, written to docs/")
    words.add_argument("--only", choices=["bare", "ours"], help="one stack alone")
    words.add_argument("--write", action="store_true", help="replace these rows in docs/")
    words.add_argument("--projects", help="a folder in which the two unbroken projects are kept for the next call")
    chosen = words.parse_args()
    if unknown := sorted({name.upper() for name in chosen.groups} - known.keys()):
        words.error(f"no group named {', '.join(unknown)}; known: {' '.join(known)}")
    return chosen


def _unbroken(kind: type[Stack], folder: Path) -> Stack:
    """Return the finished project that every fault gets a copy of; one that was kept is not made again."""
    made = folder / "made"
    if made.is_file():
        stack = kind(folder / "project")
        stack.whole = made.read_text()
        return stack
    folder.mkdir(parents=True)
    stack = kind.make(folder / "project").unbroken()
    made.write_text(stack.whole)
    return stack


def _injected(fault, template: Stack, folder: Path) -> dict:
    """Run one group in a folder of its own; a fault of this harness is told as such, never as an outcome."""
    started = time.monotonic()
    folder.mkdir()
    try:
        found = fault(template.copy(folder / "project", finished=getattr(fault, "finished", False))).row()
    except NotRunError as reason:
        found = not_run(str(reason))
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        found = not_run(f"the harness failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}")
    processes.end_all(folder)
    shutil.rmtree(folder, ignore_errors=True)
    return found | {"seconds": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    main()
