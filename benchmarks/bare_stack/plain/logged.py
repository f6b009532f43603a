"""Log to MLflow by its client, in the ways that a fault asks for.

python logged.py replay sqlite:///x.db      one batch three times, then what the store changes or refuses
python logged.py hang sqlite:///x.db        begin a run, log, and wait to be killed
"""

import json
import sys
import time

from mlflow import MlflowClient
from mlflow.entities import Metric, Param


def replay(client: MlflowClient) -> dict:
    """Return what the store made of the same rows told three times and of values that it does not take as they are."""
    run = client.create_run("0").info.run_id
    rows = [Metric("loss", 1.0 / (step + 1), 1, step) for step in range(20)]
    for _ in range(3):
        client.log_batch(run, metrics=rows)
    client.log_batch(run, metrics=[Metric("huge", float("inf"), 1, 0)], params=[Param("long", "x" * 7000)])
    try:
        client.log_batch(run, metrics=[Metric("acc #1", 1.0, 1, 0)])
        refused = False
    except Exception:
        refused = True
    told = client.get_run(run).data
    return {
        "rows": len(client.get_metric_history(run, "loss")),
        "inf": told.metrics.get("huge"),
        "long": len(told.params.get("long", "")),
        "name_refused": refused,
    }


def main(word: str, uri: str) -> None:
    """Do what the word says."""
    client = MlflowClient(uri)
    if word == "replay":
        print(json.dumps(replay(client)))
        return
    run = client.create_run("0").info.run_id
    for step in range(10):
        client.log_metric(run, "loss", 1.0, step=step)
    print("logged", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
