"""Assign: which files each candidate reads, by path and sha256, so that a candidate re-runs when its own data changes.

python -m pipelines.assign -cd build/compare -cn compare        writes inputs/<candidate>.json
"""

from pathlib import Path

import yaml

from pipelines import stage
from stepladder import records, splits


@stage
def main(config: dict) -> None:
    """Note the train, val and test file, and the corpus and further data, of each candidate."""
    for candidate in config["candidates"]:
        chosen = yaml.safe_load(Path("build", f"{candidate}.yaml").read_text())
        files = splits.assign(chosen["data"]["name"], chosen["corpus"], list(chosen["tasks"]))
        records.write_json(files, Path("inputs", f"{candidate}.json"))


if __name__ == "__main__":
    main()
