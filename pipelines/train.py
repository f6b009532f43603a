"""Train: fit a candidate with its tuned sections and predict val.

python -m pipelines.train -cd build -cn lora                   models/lora/, predictions/val/lora.parquet
python -m pipelines.train level=finetune model=minilm method=full trainer.max_epochs=1      a run folder in outputs/
"""

from pathlib import Path

from pipelines import stage
from stepladder import candidates


@stage
def main(config: dict) -> float:
    """Train one candidate, tell the tracking store, and return the val metric for sweepers."""
    if config["candidate"]:
        from stepladder import sync

        scores = candidates.train(config)
        with sync.forgiving("what was trained is kept; to track it: python -m pipelines.sync"):
            sync.tell([config["candidate"]], scored=False)
    else:
        from hydra.core.hydra_config import HydraConfig

        from stepladder import by_hand

        scores = by_hand.train(config, Path(HydraConfig.get().runtime.output_dir))
    return scores[config["task"]["metric"]]


if __name__ == "__main__":
    main()
