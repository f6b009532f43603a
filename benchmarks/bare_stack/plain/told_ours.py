"""Tell Stepladder's tracker one entry three times, and one with values that MLflow does not take as they are.

PYTHONPATH=. python told_ours.py        in a project; the same words as logged.py replay
"""

import json

import pipelines  # noqa: F401  puts the project's own src/ first
from stepladder.tracking import Entry, Tracker


def main() -> None:
    """Print what the store holds."""
    history = [{"name": "loss", "value": 1.0 / (step + 1), "step": step} for step in range(20)]
    for _ in range(3):
        tracker = Tracker(experiment="told")
        tracker.tell(Entry(name="a", key="told-a", params={"long": "x" * 7000}, history=history))
    extreme = Entry(name="b", key="told-b", params={}, metrics={"huge": float("inf")})
    other = Entry(name="c", key="told-c", params={}, metrics={"acc #1": 1.0})
    (run,) = tracker.client.search_runs([tracker.experiment])
    found = {
        "rows": len(tracker.client.get_metric_history(run.info.run_id, "loss")),
        "long": len(run.data.params["long"]),
    }
    found["inf"] = tracker.client.get_run(tracker.tell(extreme)).data.metrics.get("huge")
    try:
        tracker.tell(other)
        found["name_refused"] = False
    except Exception:
        found["name_refused"] = True
    print(json.dumps(found))


if __name__ == "__main__":
    main()
