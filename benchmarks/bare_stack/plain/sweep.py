"""A search by hydra-optuna-sweeper, as its documentation shows it; each trial adds a line to `tried`.

python sweep.py -m        eight trials
"""

import time
from pathlib import Path

import hydra

TRIED = Path(__file__).parent / "tried"


@hydra.main(version_base="1.3", config_path=".", config_name="sweep")
def main(config) -> float:
    """Return what is minimised."""
    with TRIED.open("a") as file:
        print(config.rate, file=file)
    time.sleep(0.5)
    return (config.rate - 0.3) ** 2


if __name__ == "__main__":
    main()
