"""Sweep: search over the values of conf/sweep/ on train and val; a candidate without a sweep keeps what it has.

python -m pipelines.sweep -cd build -cn lora        tuned/lora.yaml, reports/trials/lora.parquet
"""

from pipelines import stage
from stepladder import compose, search


@stage
def main(config: dict) -> None:
    """Try the candidate's points and write the sections of the best."""
    search.sweep(config, compose.trial)


if __name__ == "__main__":
    main()
