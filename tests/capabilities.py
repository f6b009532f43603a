"""Capabilities: the table of what the pipeline can do, made from tests that passed and from nothing else.

pytest -m capability --capabilities=docs/capabilities        make capabilities

A test names the rows it shows, `@pytest.mark.capability(7)`; tests/capabilities.yaml says what each row asks for.
The table is written as PATH.md and PATH.json, a list of {row, name, proven, test}.
"""

import json
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

ROWS = {
    number: dict(zip(("name", "asked"), row, strict=True))
    for number, row in yaml.safe_load((Path(__file__).parent / "capabilities.yaml").read_text()).items()
}
MARK = "capability"
HEAD = """# Capabilities

Made by `make capabilities`: a row is proven when every test that carries its number ran and passed.
{proven} of {rows} rows are proven.

| row | capability | what must be seen | proven | tests |
|--:|---|---|---|---|
"""


class Capabilities:
    """Collects the outcome of every test with the mark `capability`."""

    def __init__(self, path: str | None):
        self.path, self.outcomes = path, defaultdict(dict)

    @pytest.hookimpl
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        for row in named(item):
            assert row in ROWS, f"{item.nodeid}: no row {row} in tests/capabilities.yaml"
            item.user_properties.append((MARK, row))  # which a report brings along, also from another process

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for row in (value for key, value in report.user_properties if key == MARK):
            passed = self.outcomes[row].get(report.nodeid, True)
            self.outcomes[row][report.nodeid] = passed and report.outcome == "passed"

    def pytest_terminal_summary(self, terminalreporter) -> None:
        if self.path:
            table = self.table()
            Path(f"{self.path}.json").write_text(json.dumps(table, indent=1) + "\n")
            Path(f"{self.path}.md").write_text(page(table))
            missing = [str(row["row"]) for row in table if not row["proven"]]
            terminalreporter.section("capabilities")
            terminalreporter.line(f"{len(table) - len(missing)} of {len(table)} proven; not: {', '.join(missing)}")

    def table(self) -> list[dict]:
        """Return each row with the functions that show it, each once, as pytest takes them."""
        found = []
        for number, row in ROWS.items():
            outcomes = self.outcomes.get(number, {})
            tests = sorted({node.partition("[")[0] for node in outcomes})
            proven = bool(outcomes) and all(outcomes.values())
            found.append({"row": number, "name": row["name"], "proven": proven, "test": " ".join(tests)})
        return found


def page(table: list[dict]) -> str:
    """Return the table in Markdown."""
    lines = [
        f"| {row['row']} | {row['name']} | {ROWS[row['row']]['asked']} | {'yes' if row['proven'] else 'no'} | "
        f"{' '.join(f'`{test}`' for test in row['test'].split())} |\n"
        for row in table
    ]
    return HEAD.format(proven=sum(row["proven"] for row in table), rows=len(table)) + "".join(lines)


def named(item: pytest.Item) -> list[int]:
    """Return the rows that a test shows."""
    return sorted({row for mark in item.iter_markers(MARK) for row in mark.args})
