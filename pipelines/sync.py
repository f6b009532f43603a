"""Sync: tell the tracking store whatever the files hold and it does not, for example after it was lost.

python -m pipelines.sync        reads build/, models/ and metrics/; safe to repeat
"""

from pathlib import Path

import yaml

from pipelines import plain_stage


@plain_stage
def main() -> None:
    """Complete the runs of all candidates."""
    from stepladder import sync

    compared = yaml.safe_load(Path("build", "compare", "compare.yaml").read_text())
    told = sync.tell(compared["candidates"])
    print(f"{len(told)} of {len(compared['candidates'])} candidates are tracked", flush=True)


if __name__ == "__main__":
    main()
