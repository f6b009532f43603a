"""Score: metrics from saved predictions.

python -m pipelines.score -cd build -cn lora        metrics/lora.json
"""

from pathlib import Path

from pipelines import stage
from stepladder import metrics, predictions, records


@stage
def main(config: dict) -> None:
    """Score the validation and test predictions of one candidate."""
    name, task = config["candidate"], config["task"]["name"]
    parts = predictions.read_parts(Path("predictions"), name, task)
    scores = {part: metrics.evaluate(frame, task) for part, frame in parts.items()}
    scores["num_rows"] = {part: len(frame) for part, frame in parts.items()}
    records.write_json(scores, Path("metrics", f"{name}.json"))


if __name__ == "__main__":
    main()
