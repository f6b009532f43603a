"""Serve: the champion answers over HTTP, by MLflow's own server; POST /invocations, GET /health.

python -m pipelines.serve --port 5000
curl localhost:5000/invocations -H 'Content-Type: application/json' -d '{"dataframe_records": [{"input": "fine film"}]}'
"""

import argparse
from pathlib import Path

from pipelines import worded_stage


@worded_stage
def main(words: argparse.ArgumentParser) -> None:
    """Become `mlflow models serve` in this environment."""
    words.add_argument("--port", default="5000")
    words.add_argument("--host", default="127.0.0.1")
    words.add_argument("--model", help="an address that MLflow knows; without it the champion of the scored data set")
    chosen = words.parse_args()
    from stepladder import champion, leaderboard

    model = chosen.model or f"models:/stepladder_{leaderboard.configured(Path())['data']['name']}@champion"
    champion.serve(model, host=chosen.host, port=chosen.port)


if __name__ == "__main__":
    main()
