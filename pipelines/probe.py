"""Probe: ask a trained candidate what its test set does not: bias, forgetting, memorisation, robustness.

python -m pipelines.probe -cd build -cn lora_smollm2     reports/probes/lora_smollm2.{json,parquet}; `probe:` in its row
"""

from pipelines import stage
from stepladder import probing


@stage
def main(config: dict) -> None:
    """Run the probes of one candidate; without any it is a matter of two empty files."""
    probing.run(config)


if __name__ == "__main__":
    main()
