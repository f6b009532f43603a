"""Split: records -> train, val and test, with no group and no equal input on two sides.

python -m pipelines.split -cd build/data -cn reviews
writes data/reviews/{train,val,test}.parquet and reports/data/reviews_split.json
"""

from pathlib import Path

from pipelines import stage
from stepladder import records, splits


@stage
def main(config: dict) -> None:
    """Divide one data set and report the shares."""
    name, split = config["data"]["name"], config["split"]
    frame = records.read(Path("data", name, "records.parquet"))
    shares = {"val": split["val"], "test": split["test"]}
    parts = splits.partition(frame, shares, name=split["name"], seed=config["seed"], column=split["column"])
    summary = splits.describe(parts, name=split["name"], task=config["task"]["name"])
    for part, rows in parts.items():
        records.write(rows, Path("data", name, f"{part}.parquet"))
    records.write_json(summary, Path("reports", "data", f"{name}_split.json"))


if __name__ == "__main__":
    main()
