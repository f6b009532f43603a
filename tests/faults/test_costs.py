"""What a finished project cost: the files of runs/, the ledger of the leaderboard and its CSV tell the same sums."""

import csv
import json

import pytest

from stepladder.ledger import MADE_BY, STAGES
from tests.faults.workshop import PARAMS, Workshop

pytestmark = [pytest.mark.slow, pytest.mark.capability(30)]


def test_the_files_of_runs_add_up_to_the_ledger_and_the_csv(finished_workshop: Workshop) -> None:
    root = finished_workshop.path
    board = json.loads((root / "reports/leaderboard.json").read_text())
    with (root / "reports/leaderboard.csv").open() as file:
        lines = {line["candidate"]: line for line in csv.DictReader(file)}
    an_hour, a_kwh = board["price"]["machine_hour"], board["price"]["kwh"]
    assert lines.keys() == board["prices"].keys() == PARAMS["candidates"].keys()
    for name, price in board["prices"].items():
        files = [root / f"runs/{name}/{stage}.json" for stage in STAGES]
        costs = {file.stem: json.loads(file.read_text()) for file in files if file.exists()}
        assert {"train", "evaluate"} <= costs.keys() == price["ledger"].keys() - {"total"}
        seconds = {stage: cost["seconds"] + cost.get("earlier_seconds", 0) for stage, cost in costs.items()}
        total = price["ledger"]["total"]
        assert total["seconds"] == pytest.approx(sum(seconds.values()), rel=1e-9)
        assert 3600 * total["cpu_hours"] == pytest.approx(sum(cost["cpu_seconds"] for cost in costs.values()), rel=1e-9)
        assert total["tokens"] == sum(cost.get("tokens", 0) for cost in costs.values())
        paid = {
            stage: an_hour * seconds[stage] / 3600 + a_kwh * (costs[stage].get("energy_kwh") or 0) for stage in costs
        }
        assert total["money"] == pytest.approx(sum(paid.values()), rel=1e-9)
        made = sum(paid.get(stage, 0) for stage in MADE_BY)
        assert float(lines[name]["money"]) == pytest.approx(made, rel=1e-9)
        assert float(lines[name]["train_seconds"]) == costs["train"]["fit_seconds"]
        peak = max(cost["peak_memory_bytes"] for cost in costs.values())
        assert total["peak_memory_bytes"] == price["peak_memory_bytes"] == peak
    counted = {path.parent.name for path in root.glob("runs/*/train.json")}
    assert counted == lines.keys(), "a cost of nobody, or nobody's cost"
