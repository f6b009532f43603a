"""Scoreboard: what the tests that inject a fault add up to, told at the end of a run and, if wished, kept in a file.

pytest -m fault --scoreboard=docs/scoreboard.json        make faults

A test names the faults it injects, `@pytest.mark.fault("B3")`, and is chosen by them, `pytest -k B3`. What it counted
it says by the fixture `tally`. The ids and what each asks for stand in tests/faults/faults.yaml.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

FAULTS = yaml.safe_load((Path(__file__).parent / "faults" / "faults.yaml").read_text())
MARK = "fault"
LOST = ("rows_lost", "metrics_lost", "checkpoints_lost", "models_lost", "tracebacks")
COUNTED = (*LOST, "resumes", "bit_exact_resumes")


class Scoreboard:
    """Collects the outcome of every test with the mark `fault`."""

    def __init__(self, file: str | None):
        self.file, self.outcomes, self.counts = file, defaultdict(dict), Counter(dict.fromkeys(COUNTED, 0))

    @pytest.hookimpl
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        for name in named(item):
            assert name in FAULTS, f"{item.nodeid}: no fault {name} in tests/faults/faults.yaml"
            item.extra_keyword_matches.add(name)
            item.user_properties.append((MARK, name))  # which a report brings along, also from another process

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        names = [value for key, value in report.user_properties if key == MARK]
        if not names:
            return
        held = self.outcomes[report.nodeid]
        held["faults"] = names
        held["passed"] = held.get("passed", True) and report.outcome == "passed"
        held["ran"] = held.get("ran", False) or report.when == "call"
        if report.when == "teardown":
            for key, value in report.user_properties:
                if key in COUNTED:
                    self.counts[key] += value

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if not self.outcomes:
            return
        board = self.summary()
        terminalreporter.section("scoreboard")
        for key, value in board.items():
            if key != "faults":
                terminalreporter.line(f"{key:20} {value}")
        for state, title in {"lost": "not survived", "missing": "no test ran for"}.items():
            names = [name for name, fault in board["faults"].items() if fault["state"] == state]
            terminalreporter.line(f"{title:20} {', '.join(names) or 'none'}")
        if self.file:
            Path(self.file).write_text(json.dumps(board, indent=1) + "\n")

    def summary(self) -> dict:
        """Return the sums and, for each fault, its state: survived, lost or missing, and in how many cases."""
        ran = [held for held in self.outcomes.values() if held["ran"] or not held["passed"]]
        faults = {}
        for name, asked in FAULTS.items():
            passed = [held["passed"] for held in ran if name in held["faults"]]
            state = "missing" if not passed else "survived" if all(passed) else "lost"
            faults[name] = {"fault": asked, "state": state, "cases": len(passed)}
        injected = [fault for fault in faults.values() if fault["state"] != "missing"]
        return {
            "faults_known": len(FAULTS),
            "faults_injected": len(injected),
            "survived": sum(fault["state"] == "survived" for fault in injected),
            "cases": len(ran),
            **self.counts,
            "faults": faults,
        }


def named(item: pytest.Item) -> list[str]:
    """Return the ids of the faults that a test injects."""
    return sorted({name for mark in item.iter_markers(MARK) for name in mark.args})


@pytest.fixture
def tally(record_property: Callable) -> Callable[..., None]:
    """Return a function that adds to the sums: tally(resumes=1, bit_exact_resumes=1, rows_lost=0)."""

    def add(**counts: int) -> None:
        for name, value in counts.items():
            assert name in COUNTED, f"{name}: not counted; one of {', '.join(COUNTED)}"
            record_property(name, value)

    return add
