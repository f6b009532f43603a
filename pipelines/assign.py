"""Assign: which files each candidate reads, by path and sha256, so that a candidate re-runs when its own data changes.

python -m pipelines.assign -cd build/compare -cn compare    inputs/<candidate>.json and inputs/probes/<candidate>.json
"""

from pathlib import Path

import yaml

from pipelines import stage
from stepladder import records, splits


@stage
def main(config: dict) -> None:
    """Note train, val, test, corpus and further data of each candidate, and the test part that a probe reads."""
    for candidate in config["candidates"]:
        chosen = yaml.safe_load(Path("build", f"{candidate}.yaml").read_text())
        files = splits.assign(chosen["data"]["name"], chosen["corpus"], list(chosen["tasks"]))
        records.write_json(files, Path("inputs", f"{candidate}.json"))
        asked = {probe["data"] for probe in (chosen["probe"] or {}).values() if "data" in probe}
        named = {name: splits.assign(name, None)["test"] for name in sorted(asked)}
        records.write_json({"files": named}, Path("inputs", "probes", f"{candidate}.json"))


if __name__ == "__main__":
    main()
