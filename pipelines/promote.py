"""Promote: the challenger becomes the champion, or any version does, also an older one again.

python -m pipelines.promote                 the version that `register` let pass last
python -m pipelines.promote --to 3          this one; also back
"""

import argparse
from pathlib import Path

from pipelines import worded_stage


@worded_stage
def main(words: argparse.ArgumentParser) -> None:
    """Move the alias `champion` of the registered model."""
    words.add_argument("--to", metavar="VERSION", help="the version to serve; without it the challenger")
    words.add_argument("--model", help="the registered model; without it that of the scored data set")
    chosen = words.parse_args()
    from stepladder import champion, leaderboard

    model = chosen.model or f"stepladder_{leaderboard.configured(Path())['data']['name']}"
    print(champion.promote(model, version=chosen.to), flush=True)


if __name__ == "__main__":
    main()
