"""Prepare: source -> clean records and the data report.

python -m pipelines.prepare -cd build/data -cn reviews    data/reviews/records.parquet, reports/data/reviews.{json,html}
"""

from pathlib import Path

from pipelines import stage
from stepladder import records, targets
from stepladder.report import data as report


@stage
def main(config: dict) -> None:
    """Read, clean and report one data set."""
    data, task = config["data"], config["task"]
    name = data["name"]
    path = records.locate(name, path=data["path"], assets=Path("assets", "data", f"{name}.json"))
    rows, reading = records.collect(path, source=data["source"], columns=data["columns"], options=data["options"])
    rows = targets.parsed(rows, name=name, task=task)
    frame, ledger = records.clean(rows, name=name, task=task["name"], labels=task["labels"])
    summary = report.summarise(frame, ledger, name=name, task=task["name"], reading=reading)
    records.write(frame, Path("data", name, "records.parquet"))
    records.write_json(summary, Path("reports", "data", f"{name}.json"))
    records.write_text(report.page(summary), Path("reports", "data", f"{name}.html"))


if __name__ == "__main__":
    main()
