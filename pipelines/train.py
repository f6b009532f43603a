"""Train: fit a candidate with its tuned sections and predict val; the tracking store hears of it as it goes.

python -m pipelines.train -cd build -cn lora                   models/lora/, predictions/val/lora.parquet
python -m pipelines.train level=finetune model=minilm method=full trainer.max_epochs=1      a run folder in outputs/
"""

from pathlib import Path

from pipelines import stage
from stepladder import candidates


@stage
def main(config: dict) -> float:
    """Train one candidate and return the val metric for sweepers."""
    if config["candidate"]:
        from stepladder import exporter

        with exporter.beside(candidates.tuned(config), candidates.inputs(config).files):
            scores = candidates.train(config)
    else:
        from hydra.core.hydra_config import HydraConfig

        from stepladder import by_hand

        hydra = HydraConfig.get()
        words = {key: hydra.sweeper.get(key) for key in ("storage", "study_name", "pruner")}
        pruned = words["pruner"] not in (None, "none")
        trial = by_hand.Trial(**words, number=int(hydra.sweep.subdir)) if pruned else None
        scores = by_hand.train(config, Path(hydra.runtime.output_dir), trial=trial)
    return scores[config["task"]["metric"]]


if __name__ == "__main__":
    main()
