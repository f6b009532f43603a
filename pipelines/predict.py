"""Predict: the champion answers the rows of a CSV, JSONL or Parquet file; stopped, the same command goes on.

python -m pipelines.predict data/raw/new.csv answers.parquet --column text
"""

import argparse
from pathlib import Path

from pipelines import worded_stage


@worded_stage
def main(words: argparse.ArgumentParser) -> None:
    """Write the rows with their answers and, where there are labels, the share of each."""
    words.add_argument("source", type=Path)
    words.add_argument("target", type=Path)
    words.add_argument("--column", default="input", help="the column of texts")
    words.add_argument("--model", help="an address that MLflow knows; without it the champion of the scored data set")
    chosen = words.parse_args()
    from stepladder import asking, champion, leaderboard

    model = chosen.model or f"models:/stepladder_{leaderboard.configured(Path())['data']['name']}@champion"
    address, ask = champion.opened(model)
    number = asking.file(chosen.source, chosen.target, column=chosen.column, model=address, ask=ask)
    print(f"{chosen.target}: {number:,} rows answered by {address}", flush=True)


if __name__ == "__main__":
    main()
