"""Evaluate: open the test split once and keep what the candidate answers.

python -m pipelines.evaluate -cd build -cn lora        predictions/test/lora.parquet
"""

from pipelines import stage
from stepladder import candidates


@stage
def main(config: dict) -> None:
    """Predict the test split with a trained candidate."""
    candidates.evaluate(config)


if __name__ == "__main__":
    main()
